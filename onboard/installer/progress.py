"""What of a release is durably built: a log beside its files, one entry for each thing done, synced after that thing.

    offset  size  field
    0       4     magic "SKP1"
    4       16    identity: of what is built of what (`assemble.Plan`); the log of anything else is not ours

    entry:  0     1     kind      1 = bundle installed, 2 = base file verified, 3 = file merged
            1     3     zero
            4     4     number    big-endian
            8     4     CRC-32    of the header and bytes 0 .. 8

A torn end is cut off when the log is read: what it spoke of is done again. It does not know bundles or files.
"""

import struct
import zlib
from pathlib import Path

from onboard.installer.release import write_file
from onboard.store.disk import Disk, write_all
from protocol.ranges import RangeSet

PROGRESS_NAME = ".progress"
IDENTITY_SIZE = 16
_MAGIC = b"SKP1"
_ENTRY = struct.Struct(">B3xI")
_ENTRY_SIZE = _ENTRY.size + 4
_INSTALLED, _BASE_VERIFIED, _MERGED = 1, 2, 3


class Progress:
    """See the module.

    Args:
        part: directory of the release that is built.
        identity: of what is built of what.
        disk: where it lies.
        num_bundles: of the update.
        num_base_files: of the release it builds on.
        num_merged_files: of the release, if it is made of its base and an adapter.
    """

    def __init__(
        self,
        part: Path,
        identity: bytes,
        disk: Disk,
        *,
        num_bundles: int,
        num_base_files: int,
        num_merged_files: int = 0,
    ) -> None:
        self._path, self._header, self._disk = part / PROGRESS_NAME, _MAGIC + identity, disk
        self._highest = {_INSTALLED: num_bundles, _BASE_VERIFIED: num_base_files, _MERGED: num_merged_files}
        self.installed = RangeSet()
        """Bundles in place."""
        self.verified_base: set[int] = set()
        """Files of the base whose digest was right."""
        self.merged: set[int] = set()
        """Files of the release that were made of base and adapter."""

    def begin(self) -> None:
        """Make an empty log; its name is for the caller to sync."""
        write_file(self._disk, self._path, self._header)

    def replay(self) -> bool:
        """Read what is done; False if there is no log of this release."""
        try:
            handle = self._disk.open(self._path)
        except FileNotFoundError:
            return False
        try:
            return self._replay_from(handle)
        finally:
            self._disk.close(handle)

    def note_installed(self, number: int) -> None:
        """A bundle is durably in place."""
        self._append(_INSTALLED, number)
        self.installed.add(number)

    def note_verified(self, number: int) -> None:
        """A file of the base is what it was."""
        self._append(_BASE_VERIFIED, number)
        self.verified_base.add(number)

    def note_merged(self, number: int) -> None:
        """A file of the release was made, durably."""
        self._append(_MERGED, number)
        self.merged.add(number)

    def _replay_from(self, handle: int) -> bool:
        # Whoever wrote it may have been killed, or refused, before the sync: what is only remembered is not done.
        self._disk.sync(handle)
        self._disk.forget(handle)
        data = self._disk.read(handle, self._disk.size(handle), 0)
        if data[: len(self._header)] != self._header:
            return False
        at = len(self._header)
        while (entry := self._decode(data[at : at + _ENTRY_SIZE])) is not None:
            kind, number = entry
            if kind == _INSTALLED:
                self.installed.add(number)
            else:
                (self.verified_base if kind == _BASE_VERIFIED else self.merged).add(number)
            at += _ENTRY_SIZE
        if at != len(data):  # torn by a power cut: whatever comes next must not follow rubbish
            self._disk.truncate(handle, at)
            self._disk.sync(handle)
        return True

    def _decode(self, data: bytes) -> tuple[int, int] | None:
        checksum = int.from_bytes(data[_ENTRY.size :], "big")
        if len(data) != _ENTRY_SIZE or zlib.crc32(self._header + data[: _ENTRY.size]) != checksum:
            return None
        kind, number = _ENTRY.unpack_from(data)
        return (kind, number) if number < self._highest.get(kind, 0) else None

    def _append(self, kind: int, number: int) -> None:
        body = _ENTRY.pack(kind, number)
        handle = self._disk.open_log(self._path)
        try:
            write_all(self._disk, handle, body + zlib.crc32(self._header + body).to_bytes(4, "big"))
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
