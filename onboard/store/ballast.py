"""Space held back for the day on which the disk is full and something small must be written all the same.

A file that nobody reads, its blocks reserved. It is let go of when a lost copy of the trust record finds no space to be
written again, and taken up again at the next start that has room for it. Whoever reserves space for a release leaves
`RESERVE_BYTES` beside it (`installer.assemble`), so that a full disk still takes bundles, and the command to give up.
"""

from pathlib import Path

from onboard.errors import StoreError
from onboard.store.disk import Disk, RealDisk
from protocol.limits import MIB

BALLAST_SIZE = 1 * MIB
RESERVE_BYTES = 16 * MIB  # what the inbox wants to see free before it stores everything, see `receiver.keeper`
RESERVE_FILES = 64  # a bundle in the inbox has up to 16 blocks with two files each; messages and metadata come beside


class Ballast:
    """The file.

    Args:
        path: of it.
        disk: where it lies.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, self._disk = path, disk or RealDisk()

    def hold(self) -> bool:
        """Reserve the space, unless it is; returns whether it is reserved now. A full disk is no error."""
        try:
            handle = self._disk.open(self._path, create=True)
            try:
                self._disk.allocate(handle, 0, BALLAST_SIZE)
                self._disk.sync(handle)
            finally:
                self._disk.close(handle)
            self._disk.sync_directory(self._path.parent)
        except StoreError:
            self.drop()
            return False
        return True

    def drop(self) -> bool:
        """Let go of the space; returns whether there was any."""
        try:
            self._disk.close(self._disk.open(self._path))
            self._disk.unlink(self._path)
            self._disk.sync_directory(self._path.parent)
        except (FileNotFoundError, StoreError):
            return False
        return True
