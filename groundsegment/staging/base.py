"""Which release an update builds on, and whether its files are still what they were.

A delta against the wrong bytes is worth nothing in orbit, so a base is used only after every byte of it was hashed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from groundsegment.damage import damage_of
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, Update
from groundsegment.errors import GroundError, InputError
from groundsegment.models.release import ReleaseSource, digest_files, scan_release
from protocol.adapters import base_note
from protocol.adapters.errors import AdapterError
from protocol.adapters.names import NOTE_NAME
from protocol.errors import DecodeError
from protocol.frame import HANDLE_SIZE
from protocol.manifest import FileEntry, Manifest, release_digest
from protocol.report import NO_HANDLE, Reason, Report, UpdateState

AUTO, NONE, CURRENT = "auto", "none", "current"
_SCRUBBED = "is damaged on board, as its scrub found"
_BASE_TROUBLES = {Reason.BASE_MISSING.name: "is not on board", Reason.BASE_DAMAGED.name: "is damaged on board"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedRelease:
    """A release on disk with the digest of every file.

    Attributes:
        source: where it is.
        files: as manifests list them.
        digest: of the release.
        stamps: inode, size and time of change of every file when they were hashed.
    """

    source: ReleaseSource
    files: tuple[FileEntry, ...]
    digest: bytes
    stamps: tuple[tuple[int, int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return self.source.size_bytes

    @property
    def paths(self) -> dict[str, Path]:
        """Where each file is, by name."""
        return {entry.name: file.path for entry, file in zip(self.files, self.source.files, strict=True)}

    def check_unchanged(self) -> None:
        """Make sure that what was packed is what was hashed.

        Raises:
            InputError: a file was touched since.
        """
        for file, before, now in zip(self.source.files, self.stamps, _stamps(self.source), strict=True):
            if before != now:
                hint = "do not touch the files of a release while it is staged; run the same command again"
                raise InputError(f"{file.path}: changed while it was staged", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBase:
    """The base that was chosen, and why; no release means a full update."""

    release: HashedRelease | None
    reason: str


def asked_base(asked: str, on_bytes: Callable[[int], None]) -> ChosenBase | None:
    """Return the base whose directory the operator named; None if it is for the depot to say.

    Args:
        asked: a directory, or AUTO, CURRENT, NONE.
        on_bytes: called with the number of bytes just read.

    Raises:
        InputError: it is no release.
    """
    if asked in {AUTO, CURRENT, NONE}:
        return None
    release = hash_release(Path(asked), on_bytes)
    return ChosenBase(release=release, reason=f"base {release.source.release_name}, as asked")


def hash_release(path: Path, on_bytes: Callable[[int], None]) -> HashedRelease:
    """Check a release and hash all its files.

    Raises:
        InputError: it cannot fly, or changed meanwhile.
    """
    return hash_source(scan_release(path), on_bytes)


def hash_source(source: ReleaseSource, on_bytes: Callable[[int], None]) -> HashedRelease:
    """Hash all files of a release that was checked.

    Raises:
        InputError: one changed meanwhile.
    """
    stamps = _stamps(source)
    listed = digest_files(source, on_bytes)
    files = tuple(FileEntry(name=name, size_bytes=size, sha256=bytes.fromhex(sha256)) for name, size, sha256 in listed)
    return HashedRelease(source=source, files=files, digest=release_digest(files), stamps=stamps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A release that is, or should be, on board.

    Attributes:
        digest_start: of the release: all of its digest, or what a report carries of it.
        known_by: why it should be there, in words that follow its name.
        trouble: why it is of no use as a base all the same; empty if nothing is known against it.
    """

    digest_start: bytes
    known_by: str
    trouble: str = ""


def candidates(depot: Depot, satellite: str) -> tuple[Candidate, ...]:
    """Releases that a satellite should have, the one that serves first; none before its first report.

    Besides the serving one that is the one confirmed last before it: a satellite keeps it to go back to, unless a
    floor forbids it. In an adapter's place comes the base that it is served with. What an update found missing or
    damaged is of no use until another update brought it again; what was forgotten on board is not there.
    """
    received = depot.journal.last_report(satellite)
    if received is None or received.report.serving == NO_HANDLE:
        return ()
    serving = received.report.serving
    found = [Candidate(digest_start=serving, known_by=f"which {satellite} reported serving")]
    confirmed = depot.updates(satellite, [FlightState.CONFIRMED])
    floor = max((_floor_of(update) for update in confirmed), default=0)
    others = [
        update
        for update in sorted(confirmed, key=lambda update: update.sequence, reverse=True)
        if not update.release_digest.startswith(serving) and update.sequence >= floor
    ]
    found += [
        Candidate(digest_start=update.release_digest, known_by=f"which {satellite} confirmed before and keeps")
        for update in others[:1]
        if not update.is_forgotten_on_board
    ]
    models: dict[bytes, Candidate] = {}
    for candidate in (_model_of(depot, candidate) for candidate in found):
        models.setdefault(candidate.digest_start[:HANDLE_SIZE], candidate)
    troubles = _troubles(depot, satellite, received.report)
    return tuple(
        replace(candidate, trouble=words) if (words := _trouble_of(candidate, troubles)) else candidate
        for candidate in models.values()
    )


def open_candidate(depot: Depot, candidate: Candidate, on_bytes: Callable[[int], None]) -> ChosenBase:
    """Find and hash the files of a candidate; without a release, the reason says why it cannot be used."""
    known = depot.find_release(candidate.digest_start)
    name = known.name if known else f"release {candidate.digest_start.hex()}"
    what = f"{name}, {candidate.known_by}"
    if candidate.trouble:
        return ChosenBase(release=None, reason=f"{what}, {candidate.trouble}")
    if known is None:
        return ChosenBase(release=None, reason=f"{what}: its files are not known here")
    try:
        release = hash_release(known.path, on_bytes)
    except (GroundError, OSError) as error:
        return ChosenBase(release=None, reason=f"{what}: its files are gone: {error}")
    if release.digest != known.digest:
        return ChosenBase(release=None, reason=f"{what}: its files have changed since")
    return ChosenBase(release=release, reason=f"base {what}")


def _model_of(depot: Depot, candidate: Candidate) -> Candidate:
    """Return the base of a release that is itself an adapter served beside one: it is on board with it."""
    known = depot.find_release(candidate.digest_start)
    if known is None:
        return candidate
    try:
        digest = base_note.decode((known.path / NOTE_NAME).read_bytes())
    except (OSError, AdapterError):
        return candidate
    return replace(candidate, digest_start=digest, known_by=f"the base of {known.name}, {candidate.known_by}")


def why_no_candidates(depot: Depot, satellite: str) -> str:
    """Say why nothing is known to be on board."""
    if depot.journal.last_report(satellite) is None:
        return f"no report of {satellite} yet, so its release is not known"
    return f"{satellite} last reported that nothing serves"


def _troubles(depot: Depot, satellite: str, report: Report) -> Mapping[bytes, str]:
    """What scrubs found, and what updates said of the releases they build on, unless it was mended; by digest."""
    updates = depot.updates(satellite)
    troubles = {known.report.release: _SCRUBBED for known in damage_of(depot, satellite)}
    for update in updates:
        status = report.status_of(update.handle)
        reason = status.reason.name if status and status.state is UpdateState.BLOCKED else update.reason
        words = next((words for trouble, words in _BASE_TROUBLES.items() if trouble in reason), None)
        if update.base_digest is None or words is None:
            continue
        is_mended = any(
            other.release_digest == update.base_digest
            and other.sequence > update.sequence
            and other.state is FlightState.CONFIRMED
            for other in updates
        )
        if not is_mended:
            troubles[update.base_digest] = f"{words}, as update {update.handle.hex()} found"
    return troubles


def _trouble_of(candidate: Candidate, troubles: Mapping[bytes, str]) -> str:
    return next((words for digest, words in troubles.items() if digest.startswith(candidate.digest_start)), "")


def _floor_of(update: Update) -> int:
    try:
        return Manifest.decode(update.manifest_path.read_bytes()).floor
    except (OSError, DecodeError):
        return 0  # its files may be deleted once it is confirmed


def _stamps(source: ReleaseSource) -> tuple[tuple[int, int, int], ...]:
    stats = (file.path.stat() for file in source.files)
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
