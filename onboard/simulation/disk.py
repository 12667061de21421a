"""A disk that never waits and can lose power: real files, on which `sync` is only remembered.

It promises that after `lose_power` no file is longer than at its last sync that counted. With `hold`, syncs count only
once `settle` is called, as on a medium that takes its time. Names survive always, and so do bytes that were written
over others: the receiver must stand both outcomes of those, and the crash tests try them.
"""

import os
from pathlib import Path

from onboard.store.disk import RealDisk


class ForgetfulDisk(RealDisk):
    """See the module."""

    def __init__(self) -> None:
        self._durable: dict[int, int] = {}  # inode: bytes
        self._held: dict[int, int] | None = None

    def open(self, path: Path, *, create: bool = False) -> int:
        """See `Disk`."""
        return self._opened(super().open(path, create=create))

    def open_log(self, path: Path) -> int:
        """See `Disk`."""
        return self._opened(super().open_log(path))

    def sync(self, handle: int) -> None:
        """Remember how long the file is."""
        found = os.fstat(handle)
        (self._durable if self._held is None else self._held)[found.st_ino] = found.st_size

    def sync_directory(self, path: Path) -> None:
        """Names survive anyway."""

    def hold(self) -> None:
        """From now on syncs do not count yet."""
        self._held = {}

    def release(self) -> dict[int, int]:
        """From now on they count at once again; what was held is returned, for `settle`."""
        held, self._held = self._held or {}, None
        return held

    def settle(self, held: dict[int, int]) -> None:
        """What was held counts now."""
        for inode, size in held.items():
            self._durable[inode] = max(size, self._durable.get(inode, 0))

    def lose_power(self, root: Path) -> None:
        """Cut every file below a directory to what is durable of it."""
        for directory, _, names in os.walk(root):
            for name in names:
                path = Path(directory, name)
                found = path.stat()
                durable = self._durable.get(found.st_ino, 0)
                if found.st_size > durable:
                    os.truncate(path, durable)

    def _opened(self, handle: int) -> int:
        found = os.fstat(handle)
        if not found.st_size:
            self._durable.pop(found.st_ino, None)  # a new file may have the number of one that is gone
        return handle
