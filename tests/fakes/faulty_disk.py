"""The real disk, until a test says otherwise: full, failing to sync, or writing less than it is given."""

from onboard.errors import StoreFailedError, StoreFullError
from onboard.store.disk import RealDisk


class FaultyDisk(RealDisk):
    """A real disk with switches.

    Attributes:
        room_bytes: that may still be written; None for no bound.
        room_files: that are free, as the file system tells; None for what it really tells.
        sync_fails: every sync of a file fails, with `sync_error`.
        write_max: bytes of one write at most.
    """

    def __init__(self):
        self.room_bytes = self.room_files = None
        self.sync_fails, self.sync_error = False, StoreFailedError
        self.write_max = None

    def write(self, handle, data):
        return super().write(handle, self._what_fits(data))

    def write_at(self, handle, data, offset):
        return super().write_at(handle, self._what_fits(data), offset)

    def allocate(self, handle, offset, size):
        if self.room_bytes is not None and size > self.room_bytes:
            raise StoreFullError("reserve: no space (a test says so)")
        super().allocate(handle, offset, size)

    def sync(self, handle):
        if self.sync_fails:
            raise self.sync_error("sync: refused (a test says so)")
        super().sync(handle)

    def free_bytes(self, path):
        return super().free_bytes(path) if self.room_bytes is None else self.room_bytes

    def free_files(self, path):
        return super().free_files(path) if self.room_files is None else self.room_files

    def _what_fits(self, data):
        data = bytes(data)[: self.write_max]
        if self.room_bytes is None:
            return data
        if not self.room_bytes:
            raise StoreFullError("write: no space (a test says so)")
        data = data[: self.room_bytes]
        self.room_bytes -= len(data)
        return data
