"""Staging a LoRA adapter: what flies is the adapter, what is signed is the release that comes of it on board.

- beside (the default): the release is the adapter and a note that names its base; it is served with the base, which
  stays on board as long as it does.
- merge: the release is the base with the adapter merged in. Its digests are worked out here by the code that makes it
  there, the twin makes it once more, and it is kept in the depot so that later updates can build on it:

    adapters/DIGEST16/     the release, as the satellite has it; `prune_adapters` deletes it once nothing builds on it

An adapter needs its base on board: without one there is nothing to stage, and no full update in its place.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, RegisteredRelease
from groundsegment.errors import GroundError, InputError
from groundsegment.models.adapter import AdapterSource, Merging, check_fits, lay_beside, scan_adapter
from groundsegment.models.release import ReleaseFile, ReleaseSource
from groundsegment.packer.packing import Sources, fitting_bundle_size
from groundsegment.packer.plan import PackPlan
from groundsegment.staging.base import (
    AUTO,
    NONE,
    ChosenBase,
    HashedRelease,
    asked_base,
    candidates,
    hash_source,
    open_candidate,
    why_no_candidates,
)
from groundsegment.staging.planning import plan_packing
from groundsegment.staging.records import StageOptions
from protocol.adapters import base_note
from protocol.adapters.names import NOTE_NAME
from protocol.manifest import AdapterEntry, AdapterUse, FileEntry, release_digest
from protocol.report import NO_HANDLE

OnBytes = Callable[[int], None]
_DIRECTORY, _NAME_LENGTH = "adapters", 16
_READ_SIZE = 1 << 20
_RECENT_S = 3600  # a dry run may still be reading what it laid out
_LOST_MAX = 0.25  # of an adapter's change, in its norm
_CONFIRMED_KEPT = 3  # what serves, what it may go back to, and one more
_BASE_HINT = "--base DIR names the model that it was trained on, which must be on board"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChoice:
    """An adapter, its base, and what is made of them.

    Attributes:
        source: the adapter.
        base: what it builds on; there is one.
        release: what is to be on board.
        entry: what the manifest says of it.
        plan: to pack the adapter.
        sources: where its files are.
        merging: how to make the release; None if it is made.
        is_base_known: whether the satellite should have the base.
    """

    source: AdapterSource
    base: ChosenBase
    release: HashedRelease
    entry: AdapterEntry
    plan: PackPlan
    sources: Sources
    merging: Merging | None
    is_base_known: bool = True

    @property
    def warnings(self) -> Iterator[str]:
        """What the operator may not expect."""
        for file in self.source.skipped:
            yield f"{file.name} does not fly: {file.reason}"
        if self.merging is not None and self.merging.lost_share > _LOST_MAX:
            yield (
                f"merging keeps to the steps of the base's int8 codes: {self.merging.lost_share:.0%} of the adapter's "
                f"change is below them and lost, {self.merging.moved_share:.2%} of its codes move; --adapter beside "
                "loses nothing"
            )
        if not self.is_base_known:
            yield "the satellite last reported serving another release than the base: is the base on board?"

    def lay_out(self, on_bytes: OnBytes) -> None:
        """Have the release in the depot, if it is not there.

        Raises:
            InputError: base or adapter changed meanwhile.
            DiskError: there is no room.
        """
        path = self.release.source.path
        if self.merging is not None and not _is_whole(path, self.release.digest):
            self.merging.write(self.release.files, path, on_bytes)

    def register_base(self, depot: Depot, utc: datetime) -> None:
        """Have the depot know the base: the next adapter is of the same one, though nobody staged it, perhaps."""
        base = self.base.release
        if base is not None and depot.find_release(base.digest) is None:
            depot.register_release(
                RegisteredRelease(
                    digest=base.digest,
                    name=base.source.release_name,
                    path=base.source.path.resolve(),
                    size_bytes=base.size_bytes,
                    registered_utc=utc,
                )
            )


def choose_adapter(depot: Depot, path: Path, options: StageOptions, on_bytes: OnBytes) -> AdapterChoice:
    """Check an adapter, find its base, and plan to pack it. One that is to be served beside its base is laid out.

    Raises:
        InputError: it is not plain LoRA, its base is not to be had, or they do not go together.
    """
    source = scan_adapter(path)
    base = _choose_base(depot, source, options, on_bytes)
    assert base.release is not None
    known = [candidate.digest_start for candidate in candidates(depot, options.satellite)]
    make = _merged if options.adapter is AdapterUse.MERGE else _beside
    made = make(depot, source, base.release, on_bytes)
    size_bytes = options.bundle_size_bytes or fitting_bundle_size(sum(entry.size_bytes for entry in made.files))
    # Packed whole: some MB of which no base knows anything.
    plan, sources = plan_packing(
        made.release.digest, made.files, made.paths, None, options, bundle_size_bytes=size_bytes
    )
    return AdapterChoice(
        source=source,
        base=base,
        release=made.release,
        entry=made.entry,
        plan=plan,
        sources=sources,
        merging=made.merging,
        is_base_known=not known or any(base.release.digest.startswith(digest_start) for digest_start in known),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What comes of an adapter and its base, and which files fly for it."""

    release: HashedRelease
    entry: AdapterEntry
    files: tuple[FileEntry, ...]
    paths: tuple[Path, ...]
    merging: Merging | None = None


def prune_adapters(depot: Depot, utc: datetime) -> None:
    """Delete releases that adapters made and on which nothing is to build any more. The caller holds the `stage` lock.

    What serves, what was confirmed last, what is on its way and what these build on stays; anything else can be made
    again from base and adapter.
    """
    kept = set(_needed(depot))
    for path in (depot.path / _DIRECTORY).glob("*"):
        is_needed = any(path.name.startswith(digest[: len(path.name)]) for digest in kept)
        if not is_needed and path.stat().st_mtime < utc.timestamp() - _RECENT_S:
            shutil.rmtree(path, ignore_errors=True)


def _needed(depot: Depot) -> Iterator[str]:
    """Yield the digests of releases to keep, or what is known of them, in hex."""
    for satellite in depot.satellites():
        received = depot.journal.last_report(satellite.name)
        if received is not None and received.report.serving != NO_HANDLE:
            yield received.report.serving.hex()
        confirmed = sorted(depot.updates(satellite.name, [FlightState.CONFIRMED]), key=lambda update: update.sequence)
        for update in (*depot.open_updates(satellite.name), *confirmed[-_CONFIRMED_KEPT:]):
            yield update.release_digest.hex()
            if update.base_digest is not None:
                yield update.base_digest.hex()


def _merged(depot: Depot, source: AdapterSource, old: HashedRelease, on_bytes: OnBytes) -> _Made:
    merging = Merging(source, old.paths)
    files = merging.entries(old.files, on_bytes)
    digest = release_digest(files)
    # The files are not there yet; what must not change meanwhile is the base that they are made of.
    release = replace(
        old, files=files, digest=digest, source=replace(old.source, path=_directory(depot, digest), skipped=())
    )
    carried = tuple(_entry(file.path, on_bytes) for file in source.files)
    return _Made(
        release=release,
        entry=AdapterEntry.to_merge(carried),
        files=carried,
        paths=tuple(file.path for file in source.files),
        merging=merging,
    )


def _beside(depot: Depot, source: AdapterSource, old: HashedRelease, on_bytes: OnBytes) -> _Made:
    note = base_note.encode(old.digest)
    entries = [_entry(file.path, on_bytes) for file in source.files]
    entries.append(FileEntry(name=NOTE_NAME, size_bytes=len(note), sha256=hashlib.sha256(note).digest()))
    digest = release_digest(entries)
    directory = _directory(depot, digest)
    if not _is_whole(directory, digest):
        lay_beside(source, old.digest, directory)
    release = hash_source(_listed(directory, source.release_name), on_bytes)
    return _Made(
        release=release,
        entry=AdapterEntry(use=AdapterUse.BESIDE),
        files=release.files,
        paths=tuple(release.paths.values()),
    )


def _choose_base(depot: Depot, source: AdapterSource, options: StageOptions, on_bytes: OnBytes) -> ChosenBase:
    if options.base == NONE:
        raise InputError(f"{source.path}: an adapter, which cannot fly without a base", hint=_BASE_HINT)
    asked = asked_base(options.base, on_bytes)
    if asked is not None:
        return _fitting(source, asked)
    known = candidates(depot, options.satellite)
    refused: list[str] = []
    for candidate in known if options.base == AUTO else known[:1]:
        base = open_candidate(depot, candidate, on_bytes)
        if base.release is None:
            refused.append(base.reason)
            continue
        try:
            return _fitting(source, base)
        except InputError as error:
            refused.append(f"{base.reason}: {error}")
    reason = "; ".join(refused) or why_no_candidates(depot, options.satellite)
    raise InputError(f"no base for {source.path}: {reason}", hint=_BASE_HINT)


def _fitting(source: AdapterSource, base: ChosenBase) -> ChosenBase:
    assert base.release is not None
    if base.release.source.kind != "huggingface":
        hint = f"fly it as a model directory first: skyload model import {base.release.source.path} --out DIR"
        raise InputError(f"{base.release.source.path}: a GGUF file, which takes no adapter", hint=hint)
    check_fits(source, base.release.paths)
    return base


def _directory(depot: Depot, digest: bytes) -> Path:
    return (depot.path / _DIRECTORY / digest.hex()[:_NAME_LENGTH]).resolve()


def _listed(directory: Path, name: str) -> ReleaseSource:
    files = tuple(
        ReleaseFile(name=path.name, path=path, size_bytes=path.stat().st_size) for path in sorted(directory.iterdir())
    )
    return ReleaseSource(path=directory, kind="huggingface", release_name=name, files=files)


def _is_whole(directory: Path, digest: bytes) -> bool:
    if not directory.is_dir():
        return False
    try:
        return hash_source(_listed(directory, ""), lambda _: None).digest == digest
    except (GroundError, OSError):
        return False


def _entry(path: Path, on_bytes: OnBytes) -> FileEntry:
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_SIZE):
            digest.update(block)
            size += len(block)
            on_bytes(len(block))
    return FileEntry(name=path.name, size_bytes=size, sha256=digest.digest())
