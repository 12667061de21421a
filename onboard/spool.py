"""The spool: objects that came as files and wait for the daemon, or for the update they belong to.

    STATE_DIR/import/
        NUMBER-SHA256.skm       one object, whole and checked; NUMBER (8 digits) is the order in which they came
        NUMBER-SHA256.new       being written; worth nothing
        lock                    held by the one `skyloadd import` that writes

Files are written by `skyloadd import`, and taken and deleted by the daemon; either may be killed at any moment. It
promises: what `put` has returned survives a power cut, whole; nothing else is ever found under a final name. Its files
together stay under a quota. It does not know what is in an object, beyond its prefix, or whom to trust.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from onboard.errors import StoreFailedError, StoreFullError
from onboard.store.disk import TEMPORARY_SUFFIX, Disk, write_all
from protocol.file_names import SUFFIXES
from protocol.limits import MIB
from protocol.objects import ObjectKind, handle_of_digest

LOCK_NAME = "lock"
_NAME = re.compile(r"([0-9]{8})-([0-9a-f]{64})\.(sk[mbc])", re.ASCII)
_KINDS = {suffix: kind for kind, suffix in SUFFIXES.items()}
_ORDER = (ObjectKind.METADATA, ObjectKind.COMMAND, ObjectKind.BUNDLE)  # bundles are used up once metadata is there
_READ_BYTES = 1 << 20
_FLOOR_BYTES = 16 * MIB  # stays free: the trust record, the release being built and its symbols need room, too


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledFile:
    """One object that waits.

    Attributes:
        path: its file.
        number: in the order of their coming.
        kind: by its prefix.
        sha256: of all its bytes.
        size_bytes: of the file.
    """

    path: Path
    number: int
    kind: ObjectKind
    sha256: bytes
    size_bytes: int

    @property
    def handle(self) -> bytes:
        """Of the object."""
        return handle_of_digest(self.sha256)

    @classmethod
    def parse(cls, path: Path, size_bytes: int) -> Self | None:
        """Read a file's name; None if it is not one of the spool's."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        number, sha256, suffix = match.groups()
        return cls(
            path=path,
            number=int(number),
            kind=_KINDS[f".{suffix}"],
            sha256=bytes.fromhex(sha256),
            size_bytes=size_bytes,
        )


class SourceChangedError(Exception):
    """What was copied is not what was looked at before."""


class Spool:
    """See the module.

    Args:
        directory: the spool's.
        disk: where it lies.
        bytes_max: of all files together.
    """

    def __init__(self, directory: Path, disk: Disk, *, bytes_max: int) -> None:
        self._directory, self._disk, self._bytes_max = directory, disk, bytes_max

    def prepare(self) -> None:
        """Make the directory, if it is not there, and delete what an interrupted `put` left. One writer at a time.

        Raises:
            StoreError: the disk refused.
        """
        self._disk.make_directory(self._directory)
        self._disk.sync_directory(self._directory.parent)
        for name in self._disk.list_directory(self._directory):
            if name.endswith(TEMPORARY_SUFFIX):
                self._disk.unlink(self._directory / name)

    def files(self) -> list[SpooledFile]:
        """What waits, in the order in which it is best taken."""
        paths = (self._directory / name for name in self._disk.list_directory(self._directory) if _NAME.fullmatch(name))
        found = [file for path in paths if (file := SpooledFile.parse(path, self._size_of(path))) is not None]
        return sorted(found, key=lambda file: (_ORDER.index(file.kind), file.number))

    def find(self, sha256: bytes) -> SpooledFile | None:
        """The object with that digest, if it waits here."""
        return next((file for file in self.files() if file.sha256 == sha256), None)

    def has(self, file: SpooledFile) -> bool:
        """Whether it still waits."""
        return file.path.name in self._disk.list_directory(self._directory)

    def put(self, kind: ObjectKind, sha256: bytes, size_bytes: int, chunks: Iterable[bytes]) -> SpooledFile:
        """Keep an object; one that waits already is not kept twice. What `chunks` raises comes out.

        Raises:
            SourceChangedError: the chunks are not `size_bytes` with that digest; nothing of it stays.
            StoreFullError: over the quota, or no space; nothing of it stays.
            StoreFailedError: the disk refused; nothing of it counts.
        """
        waiting = self.files()
        same = next((file for file in waiting if file.sha256 == sha256), None)
        if same is not None:
            self._disk.sync_directory(self._directory)  # whoever put it may have been killed before its own
            return same
        self._check_room(size_bytes, sum(file.size_bytes for file in waiting))
        number = max((file.number for file in waiting), default=0) + 1
        temporary = self._directory / f"{number:08d}{TEMPORARY_SUFFIX}"
        try:
            self._write(temporary, sha256, size_bytes, chunks)
        except StoreFailedError:
            raise
        except BaseException:
            self._disk.unlink(temporary)
            raise
        path = self._directory / f"{number:08d}-{sha256.hex()}{SUFFIXES[kind]}"
        self._disk.rename(temporary, path)
        self._disk.sync_directory(self._directory)
        return SpooledFile(path=path, number=number, kind=kind, sha256=sha256, size_bytes=size_bytes)

    def is_whole(self, file: SpooledFile) -> bool:
        """Whether its bytes are still what its name says. Slow.

        Raises:
            StoreError: the disk refused.
        """
        digest, offset = hashlib.sha256(), 0
        try:
            handle = self._disk.open(file.path)
        except FileNotFoundError:
            return False
        try:
            while data := self._disk.read(handle, _READ_BYTES, offset):
                digest.update(data)
                offset += len(data)
        finally:
            self._disk.close(handle)
        return digest.digest() == file.sha256

    def remove(self, file: SpooledFile) -> None:
        """Delete an object: it was used, or is worth nothing. It may come back after a power cut, and does no harm."""
        self._disk.unlink(file.path)

    def _check_room(self, size_bytes: int, waiting_bytes: int) -> None:
        if waiting_bytes + size_bytes > self._bytes_max:
            raise StoreFullError(
                f"{waiting_bytes // MIB} MiB wait already, at most {self._bytes_max // MIB} MiB may",
                hint="import the metadata of their update (.skm) and start the daemon: then they are used up",
            )
        free_bytes = self._disk.free_bytes(self._directory)
        if free_bytes < size_bytes + _FLOOR_BYTES:
            raise StoreFullError(f"{free_bytes // MIB} MiB are free on board", hint="free some space")

    def _write(self, path: Path, sha256: bytes, size_bytes: int, chunks: Iterable[bytes]) -> None:
        digest, left = hashlib.sha256(), size_bytes
        handle = self._disk.open(path, create=True)
        try:
            self._disk.truncate(handle, 0)
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
                write_all(self._disk, handle, chunk)
                digest.update(chunk)
            if left or digest.digest() != sha256:
                raise SourceChangedError
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)

    def _size_of(self, path: Path) -> int:
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            return 0
        try:
            return self._disk.size(handle)
        finally:
            self._disk.close(handle)
