"""Rebuilds a release from bundles, segment by segment, straight into `releases/DIGEST16.part/`.

Driven by the installer (bundles as they arrive) and by the twin on the ground (`rehearse`): the same code, so what
the ground rehearsed is what happens on board. Blocking; call it in a thread. zstd and AES let other threads run.

    .part/.progress    what is durably done (`progress`), under the name of what is built of what: so an update that was
                       signed again goes on where it was
    .part/NAME         files of the release, at full size from the start: their space is reserved before the first
                       byte, so a full disk is met at once and not hours later
    .part/.adapter_*    an adapter that `verify` merges into its base (`adapter`); let go by `seal`
    .part/.metadata.skm, .sha256sums    written by `seal`, before the rename

Promises: memory is bounded by a few segments and one bundle's table; a bundle counts as installed only once its
bytes are durable, and installing one again is harmless; nothing is parsed before its digest is right (`received`); a
base file is used only after its digest was checked, once for each update. After a crash at any point `Assembly.open`
goes on.

It does not know trust, engines, or the link. Names with a leading dot cannot collide with a release's files.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from onboard.errors import InstallError, StoreError, StoreFullError
from onboard.installer.adapter import AdapterStep, carried_files, laid_out_files
from onboard.installer.progress import IDENTITY_SIZE, PROGRESS_NAME, Progress
from onboard.installer.received import open_bundle, read_checked_head, read_piece
from onboard.installer.release import (
    METADATA_NAME,
    SUMS_NAME,
    ReleaseDirectory,
    delete_tree,
    hash_file,
    hash_files,
    write_file,
)
from onboard.installer.threads import check_stop
from onboard.scrub.guard import Guard
from onboard.scrub.medium import hash_medium
from onboard.scrub.repair import REPAIR_NAME
from onboard.scrub.scan import read_right
from onboard.store.ballast import RESERVE_BYTES, RESERVE_FILES
from onboard.store.disk import Disk, RealDisk, write_all_at
from protocol.bundle import BundleHeader, head_size, peek_num_segments
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.manifest import FileEntry, Manifest, SizedFile, release_digest
from protocol.report import Reason
from protocol.segment import SegmentCipher, SegmentCodec, SegmentRow, expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be rebuilt, all of it trusted.

    Attributes:
        manifest: the trusted manifest.
        release_key: unwrapped.
        base: the base release, if the manifest names one.
    """

    manifest: Manifest
    release_key: bytes
    base: ReleaseDirectory | None = None

    @property
    def identity(self) -> bytes:
        """Equal for plans that put the same bundles together to the same files; the signature may differ."""
        manifest = self.manifest
        digest = hashlib.sha256(manifest.release_digest + (manifest.base or bytes(len(manifest.release_digest))))
        for entry in manifest.bundles:
            digest.update(entry.digest)
        for file in laid_out_files(manifest):
            digest.update(f"{file.size_bytes} {file.name}\n".encode())
        return digest.digest()[:IDENTITY_SIZE]


class Assembly:
    """One release being rebuilt; made by `open`."""

    def __init__(self, part: Path, plan: Plan, disk: Disk, besides: Mapping[str, int]) -> None:
        self.part, self.plan = part, plan
        self._disk = disk
        self._progress = Progress(
            part,
            plan.identity,
            disk,
            num_bundles=len(plan.manifest.bundles),
            num_base_files=len(plan.base.files) if plan.base else 0,
            num_merged_files=len(plan.manifest.files) if plan.manifest.is_merged else 0,
        )
        self._carried = carried_files(plan.manifest)
        self._sizes = {entry.name: entry.size_bytes for entry in laid_out_files(plan.manifest)} | dict(besides)
        self.installed = self._progress.installed
        self._verified: tuple[FileEntry, ...] = ()
        self._guard: Guard | None = None  # of the release that is to be repaired
        self._cipher = SegmentCipher(plan.release_key, plan.manifest.release_digest)

    @classmethod
    def open(
        cls, part: Path, plan: Plan, *, disk: Disk | None = None, besides: Mapping[str, int] = MappingProxyType({})
    ) -> "Assembly":
        """Go on where the progress says, or start anew, with all space reserved.

        Args:
            part: the directory to build in.
            plan: what.
            disk: where it lies.
            besides: names and sizes of files that `seal` will add, for which space is to be reserved too.

        Raises:
            InstallError: DISK_FULL (nothing is left behind then), DISK_FAILED.
        """
        assembly = cls(part, plan, disk or RealDisk(), besides)
        with _disk_reasons():
            if not assembly._has_all_files() or not assembly._progress.replay():
                assembly._start()
            else:  # whoever made them may have been killed before their names were durable
                assembly._sync_names()
        return assembly

    @property
    def is_complete(self) -> bool:
        """Whether every bundle is installed."""
        return len(self.installed) == len(self.plan.manifest.bundles)

    def install(self, bundle: Path, number: int) -> None:
        """Put the bytes of a bundle where they belong; it is installed when this returns.

        Args:
            bundle: a file with the digest that the manifest gives bundle `number`, when it was received.
            number: which bundle.

        Raises:
            BundleSpoiltError: it has another digest now, or cannot be read.
            InstallError: BUNDLE_DAMAGED (final), BASE_MISSING, BASE_DAMAGED, DISK_FULL, DISK_FAILED.
        """
        if number in self.installed:
            return
        with _disk_reasons(), open_bundle(bundle, number) as source:
            header = self._read_header(source, number)
            try:
                self._install_bundle(source, header)
            except InstallError as error:
                if error.reason is Reason.BUNDLE_DAMAGED:  # what was signed, or what became of it just now?
                    self._read_header(source, number)
                raise
            self._progress.note_installed(number)

    def _install_bundle(self, source: BinaryIO, header: BundleHeader) -> None:
        at = header.size_bytes
        for index, rows in groupby(header.rows, key=lambda row: row.file):
            at = self._install_rows(source, header.number, at, self._carried[index], list(rows))

    def verify(self) -> tuple[FileEntry, ...]:
        """Do what an adapter needs (`adapter`), then read all files back: their digests make that of the release.

        Returns the files with their digests.

        Raises:
            InstallError: DIGEST_MISMATCH (final), DISK_FAILED; of an adapter also BASE_DAMAGED, BUNDLE_DAMAGED (final).
        """
        self._verified = ()
        with _disk_reasons():
            if self.plan.manifest.adapter is not None:
                self._adapter_step().run()
            found = hash_files(self._disk, self.part, self.plan.manifest.files)
        if release_digest(found) != self.plan.manifest.release_digest:
            problem = f"its {len(found)} files are not what was signed"
            raise InstallError(problem, reason=Reason.DIGEST_MISMATCH, hint="stage it again")
        self._verified = found
        return found

    def seal(self, target: Path, metadata: bytes, *, add: Callable[[Path], None] = lambda part: None) -> None:
        """Give the release, which `verify` found right, its name; after a power cut it has it, or is still a `.part`.

        Args:
            target: the release's directory; whatever has that name is deleted.
            metadata: the update's metadata object, kept beside the files as evidence.
            add: puts more into the `.part`, before its names are made durable.

        Raises:
            InstallError: DISK_FULL, DISK_FAILED.
        """
        assert self._verified
        with _disk_reasons():
            write_file(self._disk, self.part / METADATA_NAME, metadata)
            write_file(self._disk, self.part / SUMS_NAME, ReleaseDirectory.sums(self._verified))
            add(self.part)
            self._disk.sync_directory(self.part)
            if self.plan.manifest.is_repair:
                self._put_back(target)
                return
            delete_tree(target, self._disk)
            self._disk.rename(self.part, target)
            self._disk.sync_directory(target.parent)
            # Only now: without it a cut before the rename would have to begin all over again.
            self._disk.unlink(target / PROGRESS_NAME)
            if self.plan.manifest.is_merged:
                for entry in self._carried:
                    self._disk.unlink(target / entry.name)

    def _put_back(self, target: Path) -> None:
        """Let files take the place of damaged ones: the release is never away, and cut anywhere it is no worse.

        They keep their first name until all have their second: else a cut in between would cost all that was received.
        """
        new = target / REPAIR_NAME
        for entry in self._verified:
            if not self._is_right(target / entry.name, entry):
                self._disk.unlink(new)
                self._disk.link(self.part / entry.name, new)
                self._disk.rename(new, target / entry.name)
        self._disk.sync_directory(target)
        delete_tree(self.part, self._disk)
        self._disk.sync_directory(self.part.parent)  # once VERIFIED is recorded nobody looks for it any more

    def _is_right(self, path: Path, entry: FileEntry) -> bool:
        try:
            self._disk.close(self._disk.open(path))  # a file that is gone has the bytes of one that is empty
        except FileNotFoundError:
            return False
        return hash_medium(path, self._disk, _no_pause) == (entry.size_bytes, entry.sha256)

    def discard(self) -> None:
        """Delete what was rebuilt."""
        with _disk_reasons():
            delete_tree(self.part, self._disk)

    # -- beginning -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        delete_tree(self.part, self._disk)
        self._check_room()
        try:
            self._disk.make_directory(self.part)
            for name, size in self._sizes.items():
                handle = self._disk.open(self.part / name, create=True)
                try:
                    if size:
                        self._disk.allocate(handle, 0, size)
                    self._disk.sync(handle)
                finally:
                    self._disk.close(handle)
            self._progress.begin()
            self._sync_names()
        except StoreFullError:
            delete_tree(self.part, self._disk)  # reserved space would starve the inbox
            raise

    def _sync_names(self) -> None:
        self._disk.sync_directory(self.part)
        self._disk.sync_directory(self.part.parent)

    def _check_room(self) -> None:
        """Leave room for the bundles that are to fill the reserved space, and for whatever has to end it.

        Asked of the file system, not added up: what was deleted but is still mapped by a worker takes its space.
        """
        manifest = self.plan.manifest
        beside = RESERVE_BYTES + 2 * max((entry.size_bytes for entry in manifest.bundles), default=0)  # log and data
        needed = sum(self._sizes.values()) + beside
        free = self._disk.free_bytes(self.part.parent)
        if free < needed:
            raise StoreFullError(
                f"{needed} bytes are needed, {beside} of them to receive it, and {free} are free",
                hint="it is tried again when a release has gone",
            )
        needed, free = len(self._sizes) + RESERVE_FILES, self._disk.free_files(self.part.parent)
        if free < needed:
            raise StoreFullError(
                f"{needed} files are to be made, {RESERVE_FILES} of them to receive it, and {free} may be",
                hint="free some inodes; it is tried again when a release has gone",
            )

    def _has_all_files(self) -> bool:
        return all(self._size_of(entry.name) == entry.size_bytes for entry in laid_out_files(self.plan.manifest))

    def _size_of(self, name: str) -> int | None:
        try:
            handle = self._disk.open(self.part / name)
        except FileNotFoundError:
            return None
        try:
            return self._disk.size(handle)
        finally:
            self._disk.close(handle)

    # -- segments ------------------------------------------------------------------------------------------

    def _read_header(self, source: BinaryIO, number: int) -> BundleHeader:
        manifest = self.plan.manifest
        entry = manifest.bundles[number]
        expected = entry.num_segments
        head = read_checked_head(source, entry, number, head_size(expected))
        try:
            header = BundleHeader.decode(head[: head_size(peek_num_segments(head))])
        except DecodeError as error:
            raise _damaged(number, str(error)) from error
        if (header.release_digest, header.number) != (manifest.release_digest, number):
            raise _damaged(number, "it is of another release, or has another number")
        if manifest.is_repair and self.plan.base and _names(manifest.files) != _names(self.plan.base.files):
            raise _damaged(number, "its manifest has other files than the release that it repairs")
        if len(header.rows) != expected or header.rows[0].number != manifest.first_segment(number):
            raise _damaged(number, f"expected {expected} segments from {manifest.first_segment(number)} on")
        for row in header.rows:
            if row.file >= len(self._carried) or _first_end(row) > self._carried[row.file].size_bytes:
                raise _damaged(number, f"segment {row.number} lies outside its file")
        return header

    def _install_rows(self, source: BinaryIO, number: int, at: int, entry: SizedFile, rows: list[SegmentRow]) -> int:
        """Write the segments of one file and make them durable; returns where the next one is stored."""
        handle = self._disk.open(self.part / entry.name)
        try:
            for row in rows:
                check_stop()
                for offset, raw in self._expand(row, read_piece(source, at, row.stored_size, number)):
                    if offset + len(raw) > entry.size_bytes:
                        raise InstallError(
                            f"segment {row.number} writes outside its file", reason=Reason.BUNDLE_DAMAGED
                        )
                    write_all_at(self._disk, handle, raw, offset)
                at += row.stored_size
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        return at

    def _expand(self, row: SegmentRow, stored: bytes) -> Sequence[tuple[int, bytes | memoryview]]:
        """Return the runs of bytes that a segment turns into, each with its offset in the file."""
        try:
            payload = b"" if row.codec is SegmentCodec.COPY else self._cipher.open(row, stored)
            if row.codec is SegmentCodec.TENSOR:
                runs = rebuild(payload, row.raw_size, partial(self._read_base, row.number))
                return [(offset, run.data) for offset, run in runs]
            old = self._read_base(row.number, row.base_file, row.base_offset, row.raw_size) if row.needs_base else None
            return [(row.offset, expand(row, payload, old))]
        except DecodeError as error:
            raise InstallError(str(error), reason=Reason.BUNDLE_DAMAGED, hint="stage the update again") from error

    def _read_base(self, number: int, file: int, offset: int, size: int) -> bytes:
        """Read bytes of the base for a segment; the file they come from was verified, once for this update."""
        base = self.plan.base
        if base is None:
            raise InstallError("the release it builds on is not on board", reason=Reason.BASE_MISSING)
        if file >= len(base.files):
            raise InstallError(f"segment {number}: its base has no file {file}", reason=Reason.BUNDLE_DAMAGED)
        path = base.directory / base.files[file].name
        if self.plan.manifest.is_repair:
            _check_end(number, offset + size, self.plan.manifest.files[file].size_bytes)
            return self._read_whole_part(base, file, offset, size)
        self._verify_base(base, file)
        with _base_reasons(path.name), path.open("rb") as source:
            end = os.fstat(source.fileno()).st_size
            if offset + size > end:  # has it been cut short since it was verified, or was more signed than there is?
                self._progress.verified_base.discard(file)
                self._verify_base(base, file)
                _check_end(number, offset + size, end)
            return _read_exactly(source, offset, size)

    def _read_whole_part(self, base: ReleaseDirectory, file: int, offset: int, size: int) -> bytes:
        """Read bytes of the release that is to be repaired, which have to be right, though the file is not."""
        if self._guard is None:
            self._guard = Guard.open(base.directory, base.digest, self._disk)
        name = base.files[file].name
        if self._guard is None:  # the files' digests will tell
            with _base_reasons(name), (base.directory / name).open("rb") as source:
                return _read_exactly(source, offset, size)
        data = read_right(self._guard, file, offset, size)
        if data is None:
            raise InstallError(f"more of {name} is damaged than was asked for", reason=Reason.BASE_DAMAGED)
        return data

    def _adapter_step(self) -> AdapterStep:
        base = self.plan.base
        if base is None:
            raise InstallError("the release it builds on is not on board", reason=Reason.BASE_MISSING)

        def read(file: int, offset: int, size: int) -> bytes:
            with _base_reasons(base.files[file].name), (base.directory / base.files[file].name).open("rb") as source:
                return _read_exactly(source, offset, size)

        return AdapterStep(
            part=self.part,
            manifest=self.plan.manifest,
            base=base,
            disk=self._disk,
            progress=self._progress,
            verify_base=partial(self._verify_base, base),
            read_base=read,
        )

    def _verify_base(self, base: ReleaseDirectory, index: int) -> None:
        if index in self._progress.verified_base:
            return
        entry = base.files[index]
        with _base_reasons(entry.name):
            size, sha256 = hash_file(base.directory / entry.name)
        if sha256 != entry.sha256:
            raise InstallError(
                f"{entry.name} of the base has {size} bytes with another digest", reason=Reason.BASE_DAMAGED
            )
        self._progress.note_verified(index)


def _names(files: Sequence[SizedFile]) -> list[str]:
    return [file.name for file in files]


def _check_end(number: int, end: int, size: int) -> None:
    if end > size:
        raise InstallError(
            f"segment {number}: it asks for bytes after the end of its base", reason=Reason.BUNDLE_DAMAGED
        )


def _no_pause(num_bytes: int) -> None:
    check_stop()


def _first_end(row: SegmentRow) -> int:
    """Where the bytes that a row itself speaks of end; other extents of a tensor are checked when they are known."""
    return row.offset + (1 if row.codec is SegmentCodec.TENSOR else row.raw_size)


def _read_exactly(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read `size` bytes; a short read is legal and goes on, an end is damage."""
    parts, at = [], offset
    while at < offset + size:
        part = os.pread(file.fileno(), offset + size - at, at)
        if not part:
            raise DecodeError(f"the file ends at {at}, {offset + size} were expected")
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _damaged(number: int, problem: str) -> InstallError:
    return InstallError(f"bundle {number}: {problem}", reason=Reason.BUNDLE_DAMAGED, hint="stage the update again")


@contextlib.contextmanager
def _base_reasons(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, DecodeError) as error:
        raise InstallError(f"{name} of the base cannot be read: {error}", reason=Reason.BASE_DAMAGED) from error


@contextlib.contextmanager
def _disk_reasons() -> Iterator[None]:
    """Turn what the disk did into the reason a report gives."""
    try:
        yield
    except StoreFullError as error:
        raise InstallError(str(error), reason=Reason.DISK_FULL, hint=error.hint) from error
    except (StoreError, OSError) as error:
        raise InstallError(str(error), reason=Reason.DISK_FAILED, hint="check the medium") from error
