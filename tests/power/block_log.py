"""A disk that remembers every write and every flush: a file in FUSE, under a loop device, under a file system.

What lies on a medium after a power cut is everything that was written before the last flush, and anything of what was
written since, in any order. From the log each such medium can be made: that reaches states that shutting a file system
down never shows. Stands in for dm-log-writes, which wants a device mapper.

    python -m tests.power.block_log IMAGE LOG MOUNT_POINT        serves MOUNT_POINT/disk.img; started by `LoggedDisk`
"""

import contextlib
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct(">cQI")
_WRITE, _FLUSH = b"W", b"F"
_NAME = "disk.img"
_BLOCK = 4096  # a write of many blocks may arrive in part


def missing() -> str | None:
    """Why there can be none here; None if there can."""
    if not Path("/dev/fuse").exists():
        return "needs /dev/fuse"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError):  # OSError: no libfuse
        return "needs mfusepy and libfuse"
    return None if shutil.which("fusermount3") or shutil.which("fusermount") else "needs fusermount"


@dataclass(frozen=True, slots=True)
class Entry:
    """One request to the disk; a flush has no data.

    Attributes:
        end: where it ends in the log, bytes.
        offset: on the disk.
        data: what was written.
    """

    end: int
    offset: int = 0
    data: bytes = b""

    @property
    def is_flush(self) -> bool:
        """Whether what was written before is on the medium from here on."""
        return not self.data


def read_log(path: Path) -> list[Entry]:
    """Return a log's entries."""
    data, at, entries = path.read_bytes(), 0, []
    while at < len(data):
        kind, offset, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size + size
        entries.append(Entry(at, offset, data[at - size : at] if kind == _WRITE else b""))
    return entries


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashState:
    """A medium as a power cut may leave it.

    Attributes:
        after: how many entries of the log had been asked for.
        flushed: how many of these were flushed for sure.
        kept: blocks of the others that are there as well: (entry, offset in it).
    """

    after: int
    flushed: int
    kept: tuple[tuple[int, int], ...]


def crash_state(entries: list[Entry], after: int, rng: random.Random) -> CrashState:
    """Return some state after so many entries: all, none or any of what was not flushed is there."""
    flushed = next((number + 1 for number in reversed(range(after)) if entries[number].is_flush), 0)
    blocks = [(number, at) for number in range(flushed, after) for at in range(0, len(entries[number].data), _BLOCK)]
    share = rng.choice((0.0, 0.5, 0.5, 0.5, 0.9, 1.0))
    kept = tuple(block for block in blocks if rng.random() < share)
    return CrashState(after=after, flushed=flushed, kept=kept)


def make_medium(base: Path, entries: list[Entry], state: CrashState, target: Path) -> None:
    """Write the image of a state."""
    subprocess.run(["cp", "--sparse=always", str(base), str(target)], check=True)
    handle = os.open(target, os.O_RDWR)
    try:
        for entry in entries[: state.flushed]:
            os.pwrite(handle, entry.data, entry.offset)
        for number, at in state.kept:
            entry = entries[number]
            os.pwrite(handle, entry.data[at : at + _BLOCK], entry.offset + at)
    finally:
        os.close(handle)


class LoggedDisk:
    """A copy of an image whose writes are logged, for as long as the context lasts."""

    def __init__(self, image: Path, directory: Path) -> None:
        self.log = directory / "log"
        self._image, self._mount_point = image, directory / "fuse"

    @property
    def path(self) -> Path:
        """The disk, to be mounted."""
        return self._mount_point / _NAME

    @contextlib.contextmanager
    def running(self) -> Iterator["LoggedDisk"]:
        """Serve it."""
        self._mount_point.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        command = [
            sys.executable,
            "-m",
            "tests.power.block_log",
            str(self._image),
            str(self.log),
            str(self._mount_point),
        ]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            while not self.path.exists():
                assert process.poll() is None, "the logging disk did not start"
                time.sleep(0.01)
            yield self
        finally:
            unmount = shutil.which("fusermount3") or "fusermount"
            subprocess.run([unmount, "-u", "-z", str(self._mount_point)], check=False, capture_output=True)
            process.wait(20)


def main(image: Path, log: Path, mount_point: Path) -> None:
    """Serve."""
    import mfusepy

    disk = bytearray(image.read_bytes())
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)

    class OneFile(mfusepy.Operations):  # type: ignore[misc] # untyped
        """One file, of fixed size."""

        use_ns = True

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path != f"/{_NAME}":
                raise mfusepy.FuseOSError(2)
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": len(disk)}

        def readdir(self, path, fh):
            return [".", "..", _NAME]

        def open(self, path, flags):
            return 0

        def read(self, path, size, offset, fh):
            return bytes(disk[offset : offset + size])

        def write(self, path, data, offset, fh):
            disk[offset : offset + len(data)] = data
            os.write(handle, _RECORD.pack(_WRITE, offset, len(data)) + data)
            return len(data)

        def fsync(self, path, datasync, fh):
            os.write(handle, _RECORD.pack(_FLUSH, 0, 0))
            return 0

        def fallocate(self, path, mode, offset, length, fh):
            raise mfusepy.FuseOSError(95)  # discards would have to be logged

    mfusepy.FUSE(OneFile(), str(mount_point), foreground=True, nothreads=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
