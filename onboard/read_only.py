"""A state directory whose file system has become read-only: telling that it has, reading it, and where to run instead.

ext4 mounted with errors=remount-ro stops taking writes after an error of the medium, and so may whoever mounts disks.
What was durable can be read still. Nothing here writes to such a disk but one touch that is to be refused: since Linux
6.13 ext4 does not show in its flags that it takes no writes. Sockets and logs go to memory, in a directory of our own.

Driven by `skyloadd run` (`serve_only`) and by the commands that look beside it. It does not know what serves.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onboard.errors import StoreFailedError
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout

RUN_PLACES = (Path("/run"), Path("/dev/shm"), Path("/tmp"))  # noqa: S108 - of our own there, or not taken
_OURS_ONLY = 0o077


class ReadOnlyDisk(RealDisk):
    """The operating system's files, to be read: what opens them asks for no more, and a sync has nothing to do."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Disk`."""
        assert not create
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreFailedError(f"open {path}: {error.strerror}", hint="check the medium") from error

    def sync(self, handle: int) -> None:
        """See `Disk`. An ext4 that gave up refuses every sync; nobody acts on what is read, so none is needed."""


def is_read_only(directory: Path) -> bool:
    """Whether the file system of a directory refuses every write as read-only."""
    try:
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return True
        os.utime(directory)
    except OSError as error:  # not there, or not ours to write: whoever tries to will say so
        return error.errno == errno.EROFS
    return False


def reading_disk(directory: Path) -> RealDisk:
    """The disk to read a state directory with."""
    return ReadOnlyDisk() if is_read_only(directory) else RealDisk()


def make_run_directory(layout: StateLayout) -> Path:
    """Make, or take again, the directory for sockets and logs while the state directory takes nothing.

    Raises:
        StoreFailedError: there is no place for it.
    """
    for path in _candidates(layout):
        with contextlib.suppress(OSError):
            path.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(path) and not is_read_only(path):
                return path
    raise StoreFailedError(
        f"{layout.state_dir} is read-only, and no directory for sockets can be made elsewhere",
        hint=f"let one of {', '.join(map(str, RUN_PLACES))} be writable: a tmpfs is enough",
    )


def find_run_directory(layout: StateLayout) -> Path | None:
    """Where a daemon that cannot write its state directory has its sockets, None if none ever was there."""
    return next((path for path in _candidates(layout) if _is_ours(path)), None)


def _candidates(layout: StateLayout) -> Iterator[Path]:
    name = hashlib.sha256(os.fsencode(layout.state_dir.resolve())).hexdigest()[:16]
    for place in RUN_PLACES:
        yield place / f"skyloadd-{os.geteuid()}-{name}"


def _is_ours(path: Path) -> bool:
    """Whether it is a directory, no link, and nobody else's: anybody may have made that name first."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OURS_ONLY
