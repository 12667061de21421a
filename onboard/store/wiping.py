"""Overwriting small files before they go, so that what they held is not left in free blocks."""

from pathlib import Path

from onboard.errors import StoreFailedError
from onboard.store.disk import Disk, write_all_at


def wipe_file(path: Path, disk: Disk) -> bool:
    """Overwrite a file with zeros, durably, then delete it; False if it is not there.

    Raises:
        StoreError: the disk refused.
    """
    try:
        overwrite_file(path, disk)
    except FileNotFoundError:
        return False
    disk.unlink(path)
    disk.sync_directory(path.parent)
    return True


def overwrite_file(path: Path, disk: Disk) -> None:
    """Overwrite a file with zeros, durably.

    Raises:
        FileNotFoundError: it is not there.
        StoreError: the disk refused.
    """
    try:
        handle = disk.open(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreFailedError(f"{path}: {error.strerror}", hint="what is to be forgotten is still there") from error
    try:
        write_all_at(disk, handle, bytes(disk.size(handle)), 0)
        disk.sync(handle)
    finally:
        disk.close(handle)
