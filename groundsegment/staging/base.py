"""Which release an update builds on, and whether its files are still what they were.

A delta against the wrong bytes is worth nothing in orbit, so a base is used only after every byte of it was hashed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.errors import GroundError, InputError
from groundsegment.models.release import ReleaseSource, digest_files, scan_release
from protocol.manifest import FileEntry, release_digest
from protocol.report import NO_HANDLE

AUTO, NONE, CURRENT = "auto", "none", "current"


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


def hash_release(path: Path, on_bytes: Callable[[int], None]) -> HashedRelease:
    """Check a release and hash all its files.

    Raises:
        InputError: it cannot fly, or changed meanwhile.
    """
    source = scan_release(path)
    stamps = _stamps(source)
    listed = digest_files(source, on_bytes)
    files = tuple(FileEntry(name=name, size_bytes=size, sha256=bytes.fromhex(sha256)) for name, size, sha256 in listed)
    return HashedRelease(source=source, files=files, digest=release_digest(files), stamps=stamps)


def choose_base(depot: Depot, satellite: str, wanted: str, on_bytes: Callable[[int], None]) -> ChosenBase:
    """Return the base for an update.

    Args:
        depot: knows what the satellite serves and where releases are.
        satellite: whom the update is for.
        wanted: AUTO (what it serves, or none), CURRENT (what it serves, or an error), NONE, or a directory.
        on_bytes: called with the number of bytes just read.

    Raises:
        InputError: the wanted base is not to be had.
    """
    if wanted == NONE:
        return ChosenBase(release=None, reason="full update, as asked")
    if wanted not in {AUTO, CURRENT}:
        release = hash_release(Path(wanted), on_bytes)
        return ChosenBase(release=release, reason=f"base {release.source.release_name}, as asked")
    chosen = _serving(depot, satellite, on_bytes)
    if chosen.release is None and wanted == CURRENT:
        hint = "--base DIR names the base's files; --base none sends everything"
        raise InputError(f"no base for {satellite}: {chosen.reason}", hint=hint)
    if chosen.release is None:
        return ChosenBase(release=None, reason=f"full update: {chosen.reason}")
    return chosen


def _serving(depot: Depot, satellite: str, on_bytes: Callable[[int], None]) -> ChosenBase:
    received = depot.journal.last_report(satellite)
    if received is None:
        return ChosenBase(release=None, reason=f"no report of {satellite} yet, so its release is not known")
    serving = received.report.serving
    if serving == NO_HANDLE:
        return ChosenBase(release=None, reason=f"{satellite} last reported that nothing serves")
    known = depot.find_release(serving)
    if known is None:
        return ChosenBase(
            release=None, reason=f"{satellite} serves release {serving.hex()}, whose files are not known here"
        )
    try:
        release = hash_release(known.path, on_bytes)
    except (GroundError, OSError) as error:
        return ChosenBase(release=None, reason=f"{satellite} serves {known.name}, whose files are gone: {error}")
    if release.digest != known.digest:
        return ChosenBase(release=None, reason=f"{satellite} serves {known.name}, whose files have changed since")
    return ChosenBase(release=release, reason=f"base {known.name}, which {satellite} reported serving")


def _stamps(source: ReleaseSource) -> tuple[tuple[int, int, int], ...]:
    stats = (file.path.stat() for file in source.files)
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)
