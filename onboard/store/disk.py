"""The disk seam: the few operations the store uses, the real ones, and the recipes made of them.

Everything that must survive a power cut goes through a `Disk`. `RealDisk` is the operating system; the tests bring
one that can be cut at every operation, and one that fails. An error comes out as StoreFullError (no space: may be
tried again) or StoreFailedError (anything else: final for that handle). See `layout` for what is assumed.

What it does not know: what is in the files.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from onboard.errors import StoreFailedError, StoreFullError

TEMPORARY_SUFFIX = ".new"
FILES_UNBOUNDED = 1 << 32
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TRIES = 3
_T = TypeVar("_T")


class Disk(Protocol):
    """What the store asks of a disk. Handles are small integers; offsets and sizes are bytes."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing; FileNotFoundError if it is not there and `create` is false."""
        ...

    def open_log(self, path: Path) -> int:
        """Open for appending; made if it is not there."""
        ...

    def close(self, handle: int) -> None:
        """Let go of a handle. Makes nothing durable, never fails."""
        ...

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """Read at most `size` bytes; fewer may come before the end, none after it."""
        ...

    def size(self, handle: int) -> int:
        """How long the file is."""
        ...

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        """Write at the end (of a log) or at the position; may write less than all, says how much."""
        ...

    def write_at(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at an offset; may write less than all, says how much."""
        ...

    def allocate(self, handle: int, offset: int, size: int) -> None:
        """Reserve space, extending the file where needed."""
        ...

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file to a size."""
        ...

    def sync(self, handle: int) -> None:
        """Return when bytes and size are durable. The file's name is not meant."""
        ...

    def forget(self, handle: int) -> None:
        """Let the next read come from the medium, as far as the file is synced and nobody maps it."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name, replacing a file that has it."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        ...

    def symlink(self, target: Path, path: Path) -> None:
        """Make a symbolic link; `target` is what it says, seen from where it lies."""
        ...

    def unlink(self, path: Path) -> None:
        """Delete a file, if it is there."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a directory, if it is not there."""
        ...

    def remove_directory(self, path: Path) -> None:
        """Delete an empty directory, if it is there."""
        ...

    def list_directory(self, path: Path) -> list[str]:
        """Names in a directory, sorted; none if it is not there."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are durable."""
        ...

    def free_bytes(self, path: Path) -> int:
        """How much may still be written near that path."""
        ...

    def free_files(self, path: Path) -> int:
        """How many files may still be made near that path; FILES_UNBOUNDED where the file system has no such number."""
        ...


class RealDisk:
    """The operating system's files."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Disk`."""
        with _translated("open", path):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)

    def open_log(self, path: Path) -> int:
        """See `Disk`."""
        with _translated("open", path):
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self, handle: int) -> None:
        """See `Disk`."""
        with contextlib.suppress(OSError):
            os.close(handle)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """See `Disk`."""
        with _translated("read", handle):
            return tried(partial(os.pread, handle, size, offset))

    def size(self, handle: int) -> int:
        """See `Disk`."""
        with _translated("stat", handle):
            return os.fstat(handle).st_size

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> int:
        """See `Disk`."""
        with _translated("write", handle):
            return os.write(handle, data)

    def write_at(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """See `Disk`."""
        with _translated("write", handle):
            return os.pwrite(handle, data, offset)

    def allocate(self, handle: int, offset: int, size: int) -> None:
        """See `Disk`."""
        with _translated("reserve", handle):
            os.posix_fallocate(handle, offset, size)

    def truncate(self, handle: int, size: int) -> None:
        """See `Disk`."""
        with _translated("truncate", handle):
            os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """See `Disk`."""
        with _translated("sync", handle):
            os.fdatasync(handle)

    def forget(self, handle: int) -> None:
        """See `Disk`."""
        with contextlib.suppress(OSError):  # a file system without a cache has nothing to forget
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        with _translated("rename", source):
            os.rename(source, target)  # noqa: PTH104 - one system call each, as the sweep counts them

    def link(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        with _translated("link", source):
            target.hardlink_to(source)

    def symlink(self, target: Path, path: Path) -> None:
        """See `Disk`."""
        with _translated("symlink", path):
            path.symlink_to(target)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        with _translated("unlink", path):
            path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        with _translated("mkdir", path):
            path.mkdir(mode=0o700, exist_ok=True)

    def remove_directory(self, path: Path) -> None:
        """See `Disk`."""
        with _translated("rmdir", path), contextlib.suppress(FileNotFoundError):
            path.rmdir()

    def list_directory(self, path: Path) -> list[str]:
        """See `Disk`."""
        with _translated("list", path), contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(path))  # noqa: PTH208 - names are all we want
        return []

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        with _translated("sync", path):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def free_bytes(self, path: Path) -> int:
        """See `Disk`."""
        with _translated("statvfs", path):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def free_files(self, path: Path) -> int:
        """See `Disk`."""
        with _translated("statvfs", path):
            found = os.statvfs(path)
        return found.f_favail if found.f_files else FILES_UNBOUNDED  # btrfs, say, makes inodes as it goes


def write_all(disk: Disk, handle: int, data: bytes | bytearray | memoryview) -> None:
    """Append all of the data; a short write is legal and goes on.

    Raises:
        StoreFullError: no space. A part may have been written.
        StoreFailedError: the disk refused.
    """
    written = 0
    with memoryview(data) as view:  # let go of even if the traceback of an error is kept: `data` may grow later
        while written < len(view):
            with view[written:] as rest:
                written += disk.write(handle, rest)


def write_all_at(disk: Disk, handle: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of the data at an offset. Raises as `write_all`."""
    written = 0
    with memoryview(data) as view:
        while written < len(view):
            with view[written:] as rest:
                written += disk.write_at(handle, rest, offset + written)


def replace_file(path: Path, data: bytes, disk: Disk | None = None) -> None:
    """Put a file in the place of another; after a power cut it is the old one or the new one.

    Raises:
        StoreFullError: no space; the old file is untouched.
        StoreFailedError: the disk refused; old or new.
    """
    disk = disk or RealDisk()
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    disk.unlink(temporary)
    try:
        handle = disk.open(temporary, create=True)
        try:
            write_all(disk, handle, data)
            disk.sync(handle)
        finally:
            disk.close(handle)
    except StoreFullError:
        disk.unlink(temporary)
        raise
    disk.rename(temporary, path)
    disk.sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    RealDisk().sync_directory(path)


def reserve(handle: int, size_bytes: int, offset: int = 0) -> None:
    """Reserve space for an open file.

    Raises:
        StoreFullError: there is not that much.
    """
    RealDisk().allocate(handle, offset, size_bytes)


def free_bytes(path: Path) -> int:
    """How much may still be written near a path."""
    return RealDisk().free_bytes(path)


def tried(call: Callable[[], _T]) -> _T:
    """Make a call that changes nothing, such as a read, up to three times: one that fails once says little of a medium.

    Raises:
        OSError: of the last time.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(OSError):
            return call()
    return call()


def read_start(path: Path, size_max: int) -> bytes:
    """Read a small file; one byte more than `size_max` says that it is longer.

    Raises:
        OSError: it is not there, or cannot be read.
    """

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(size_max + 1)

    return tried(read)


@contextlib.contextmanager
def _translated(verb: str, what: Path | int) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFullError(
                f"{verb} {_name(what)}: {error.strerror}", hint="free some space; what is durable is kept"
            ) from error
        raise StoreFailedError(
            f"{verb} {_name(what)}: {error.strerror}", hint="check the medium and its mount options"
        ) from error


def _name(what: Path | int) -> str:
    if isinstance(what, Path):
        return str(what)
    try:
        return os.readlink(f"/proc/self/fd/{what}")  # noqa: PTH115 - not a path of ours
    except OSError:
        return f"handle {what}"
