"""Reading what the medium holds, and not what the kernel remembers of it.

`O_DIRECT` goes past the page cache: it sees a flipped byte of the medium even while the file is mapped and cached.
Where a file system refuses it, clean pages are dropped first (`POSIX_FADV_DONTNEED`), which does nothing while
somebody maps the file: `is_direct` says which of the two it is. A disk of the tests is read as it is.

A sector that the medium does not give back is no error here: its bytes are zeros, and its hash will tell.
"""

import contextlib
import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from onboard.scrub.core import LEAF_SIZE
from onboard.store.disk import Disk, RealDisk

READ_SIZE = 1024 * 1024
_REFUSED = {errno.EINVAL, errno.ENOTSUP}
# What a sector that cannot be read says: past the page cache the block layer's own words come through.
_UNREADABLE = {errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, errno.EBADMSG, errno.ETIMEDOUT}


OnStep = Callable[[int], None]
"""Called with the number of bytes just read: it may pause, or raise to stop."""


class Medium(Protocol):
    """A file, read from the medium."""

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    def read(self, offset: int, size: int) -> memoryview:
        """Read at most READ_SIZE bytes from a multiple of LEAF_SIZE on; valid until the next read, short at the end."""
        ...


class DirectMedium:
    """A file of the operating system.

    Args:
        path: of the file; FileNotFoundError if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            self.is_direct = True
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.is_direct = False
        self._buffer = mmap.mmap(-1, READ_SIZE)  # at a page's start, as O_DIRECT wants it
        self.size_bytes = os.fstat(self._handle).st_size

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def read(self, offset: int, size: int) -> memoryview:
        """See `Medium`."""
        assert offset % LEAF_SIZE == 0
        assert size <= READ_SIZE
        size = max(0, min(size, self.size_bytes - offset))
        view = memoryview(self._buffer)
        try:
            self._fill(offset, size, view)
        except OSError as error:
            if self.is_direct and error.errno in _REFUSED:  # it opens so, and does not read so
                handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # first: what is closed twice is somebody's
                os.close(self._handle)
                self._handle, self.is_direct = handle, False
                return self.read(offset, size)
            if error.errno not in _UNREADABLE:
                raise
            self._fill_in_pieces(offset, size, view)
        return view[:size]

    def _fill(self, offset: int, size: int, view: memoryview) -> None:
        if not self.is_direct:
            os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_DONTNEED)
        aligned, done = -(-size // LEAF_SIZE) * LEAF_SIZE, 0
        while done < size:
            got = os.preadv(self._handle, [view[done:aligned]], offset + done)
            if not got:
                raise OSError(errno.EIO, "it ends early", str(self._path))
            if self.is_direct and got % LEAF_SIZE and done + got < size:
                got -= got % LEAF_SIZE  # a short read: the next one must begin at a multiple again
                if not got:
                    raise OSError(errno.EIO, "it gives less than a leaf", str(self._path))
            done += got

    def _fill_in_pieces(self, offset: int, size: int, view: memoryview) -> None:
        for at in range(0, size, LEAF_SIZE):
            length = min(LEAF_SIZE, size - at)
            try:
                self._fill(offset + at, length, view[at : at + LEAF_SIZE])
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                view[at : at + length] = bytes(length)


class _DiskMedium:
    """A file on a disk of the tests."""

    def __init__(self, disk: Disk, handle: int) -> None:
        self._disk, self._handle = disk, handle
        self.size_bytes = disk.size(handle)

    def read(self, offset: int, size: int) -> memoryview:
        """See `Medium`."""
        return memoryview(self._disk.read(self._handle, size, offset))


class _Nothing:
    """A file that is not there."""

    size_bytes = 0

    def read(self, offset: int, size: int) -> memoryview:
        """See `Medium`."""
        return memoryview(b"")


@contextlib.contextmanager
def open_medium(path: Path, disk: Disk) -> Iterator[Medium]:
    """Open a file for reading from the medium; one that is not there has no bytes."""
    try:
        if isinstance(disk, RealDisk):
            medium = DirectMedium(path)
        else:
            handle = disk.open(path)
    except FileNotFoundError:
        yield _Nothing()
        return
    if isinstance(disk, RealDisk):
        try:
            yield medium
        finally:
            medium.close()
        return
    try:
        yield _DiskMedium(disk, handle)
    finally:
        disk.close(handle)


def read_whole(path: Path, disk: Disk, *, size_max: int) -> bytes:
    """Read a small file from the medium; at most `size_max` bytes of it."""
    parts = []
    with open_medium(path, disk) as medium:
        for at in range(0, min(medium.size_bytes, size_max), READ_SIZE):
            parts.append(bytes(medium.read(at, min(READ_SIZE, size_max - at))))
    return b"".join(parts)


def hash_medium(path: Path, disk: Disk, on_step: OnStep) -> tuple[int, bytes]:
    """Return size and SHA-256 of a file, as the medium has it."""
    digest, size = hashlib.sha256(), 0
    with open_medium(path, disk) as medium:
        for at in range(0, medium.size_bytes, READ_SIZE):
            data = medium.read(at, READ_SIZE)
            digest.update(data)
            size += len(data)
            on_step(len(data))
    return size, digest.digest()


def forget_cached(directory: Path) -> None:
    """Have the kernel drop what it remembers of the files in a directory, as far as nobody maps them."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
