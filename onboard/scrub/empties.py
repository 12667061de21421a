"""Files of a release that are empty: they have no block to compare, but may be gone, or not be empty any more.

What they should be is known, so they are always undone, without parity and without the ground.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from onboard.scrub.damage import Flip
from onboard.scrub.repair import REPAIR_NAME
from onboard.store.disk import Disk
from protocol.manifest import FileEntry

_EMPTY_SHA256 = hashlib.sha256().digest()


def damaged_empties(directory: Path, files: Iterable[FileEntry], disk: Disk) -> list[str]:
    """Return the names of the files that should be empty, and are not, or are gone."""
    return [
        entry.name for entry in files if entry.sha256 == _EMPTY_SHA256 and not _is_empty(directory / entry.name, disk)
    ]


def mend_empties(directory: Path, files: Iterable[FileEntry], disk: Disk) -> list[Flip]:
    """Write such files anew, each beside its name first; returns what was wrong, a file as one flip.

    Raises:
        StoreFullError, StoreFailedError: the disk refused.
    """
    flips = []
    for name in damaged_empties(directory, files, disk):
        new = directory / REPAIR_NAME
        disk.unlink(new)
        handle = disk.open(new, create=True)
        try:
            disk.sync(handle)
        finally:
            disk.close(handle)
        disk.rename(new, directory / name)
        disk.sync_directory(directory)
        flips.append(Flip(file=name, offset=0, num_bits=1, is_repaired=True))
    return flips


def _is_empty(path: Path, disk: Disk) -> bool:
    try:
        handle = disk.open(path)
    except FileNotFoundError:
        return False
    try:
        return disk.size(handle) == 0
    finally:
        disk.close(handle)
