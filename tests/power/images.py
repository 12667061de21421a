"""Disks whose power can really be cut: images of ext4 and XFS on loop devices, shut down by their own ioctl.

The ioctl drops whatever is not on the "disk". How much that is, is up to `Cut`: LOST is a plain power cut; JOURNALED
one right after somebody else made the file system write its journal, so names survive that nobody synced, and bytes do
not.

A new image file for each cut: a loop device that is let go of lazily could still write into one that is used again.
And none is used again while somebody holds on to it: a mount namespace made meanwhile (`ip netns exec`, a container)
keeps a copy of the mount, so the file system that was shut down lives on; mounted again it is that very one, and
refuses everything.

Needs root and loop devices; `missing` says what is not there.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
_MIB = 1 << 20


class Cut(IntEnum):
    """What a power cut leaves; the flags of the ioctl."""

    LOST = 2  # only what was synced
    JOURNALED = 1  # and what the journal knows of names and sizes, but no bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """A kind of file system.

    Attributes:
        name: for people.
        make: the command that makes one in a file.
        size_mib: of the image.
        options: to mount it with.
    """

    name: str
    make: tuple[str, ...]
    size_mib: int
    options: str = "loop"


EXT4 = FileSystem(name="ext4", make=("mkfs.ext4", "-q", "-F", "-J", "size=4"), size_mib=64)
# Without the help that ext4 gives to programs that forget to sync.
EXT4_PLAIN = FileSystem(
    name="ext4-plain",
    make=EXT4.make,
    size_mib=EXT4.size_mib,
    options="loop,noauto_da_alloc,data=writeback",
)
# `nouuid`: a mount namespace that another test made meanwhile may hold on to the disk that this one is a copy of.
XFS = FileSystem(name="xfs", make=("mkfs.xfs", "-q", "-f", "--unsupported"), size_mib=128, options="loop,nouuid")
FILE_SYSTEMS = (EXT4, EXT4_PLAIN, XFS)


def missing(kind: FileSystem) -> str | None:
    """Why no disk of that kind can be had here; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which(kind.make[0]) is None:
        return f"needs {kind.make[0]}"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    return None


def quick_place() -> Path | None:
    """A directory in memory, where syncs of images cost nothing; None if there is none."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


@dataclass(slots=True)
class Lab:
    """A place for images of one kind of file system, and where they are mounted.

    Attributes:
        kind: of file system.
        directory: for the images; in memory it is quickest.
        mount_point: made if missing.
        held_s_max: how long to wait for somebody else who holds on to an image.
    """

    kind: FileSystem
    directory: Path
    mount_point: Path
    held_s_max: float = 30.0
    _num_made: int = field(default=0)

    def make(self, prepare: Callable[[Path], None]) -> Path:
        """Return a new image, with what `prepare` writes to it."""
        image = self._new_path()
        with image.open("wb") as file:
            file.truncate(self.kind.size_mib * _MIB)
        subprocess.run([*self.kind.make, str(image)], check=True, capture_output=True)
        with self.mounted(image) as directory:
            prepare(directory)
        return image

    def copy(self, image: Path) -> Path:
        """Return a new image like another."""
        target = self._new_path()
        subprocess.run(["cp", "--sparse=always", str(image), str(target)], check=True)
        return target

    @contextlib.contextmanager
    def mounted(self, image: Path) -> Iterator[Path]:
        """Mount an image; its journal is replayed, as after a power cut."""
        self.mount_point.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-o", self.kind.options, str(image), str(self.mount_point)], check=True)
        try:
            yield self.mount_point
        finally:
            self._unmount()
            self._wait_until_free(image)

    def _unmount(self) -> None:
        """Processes that were killed with the power may take a moment to let go."""
        for _ in range(3000):
            done = subprocess.run(["umount", str(self.mount_point)], check=False, capture_output=True, text=True)
            if done.returncode == 0:
                return
            time.sleep(0.02)
        subprocess.run(["umount", "--lazy", str(self.mount_point)], check=False)
        raise RuntimeError(f"umount {self.mount_point}: {done.stderr}")

    def _wait_until_free(self, image: Path) -> None:
        until = time.monotonic() + self.held_s_max
        while _is_held(image):
            if time.monotonic() > until:
                raise RuntimeError(f"{image} is still mounted in another mount namespace: what was cut there stays cut")
            time.sleep(0.02)

    def _new_path(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._num_made += 1
        return self.directory / f"{self.kind.name}-{os.getpid()}-{self._num_made}.img"


def _is_held(image: Path) -> bool:
    """Whether a loop device still has an image, because a file system on it is mounted somewhere."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it was let go of just now
            if path.read_text().rstrip("\n") == str(image):
                return True
    return False


def cut_power(mount_point: Path, how: Cut) -> None:
    """Drop whatever is not on the medium; from now on the file system refuses everything."""
    handle = os.open(mount_point, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", how))
    finally:
        os.close(handle)
