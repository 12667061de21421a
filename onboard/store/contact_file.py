"""The file that says in which contact each ground station was heard last. A shell over `disk`.

    0     16 x 8   generation of the station's key, number of the contact (u32 each, big-endian)
    128   4        CRC-32 of that

Written some time after a contact began, and replaced as a whole. What a power cut or damage takes of it is found again
by search (`receiver.contact_search`): an older number is no fault, so nothing waits for it. Until then, frames recorded
since that contact would be taken once more.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from onboard.store.disk import Disk, read_start, replace_file
from protocol.limits import STATIONS_MAX

_ENTRIES = struct.Struct(f">{2 * STATIONS_MAX}I")
_CRC = struct.Struct(">I")

Heard = tuple[int, int]  # generation, contact
NOTHING_HEARD: tuple[Heard, ...] = ((0, 0),) * STATIONS_MAX


def read_contacts(path: Path) -> tuple[Heard, ...]:
    """What is known of each station; nothing if the file is not there or damaged."""
    try:
        data = read_start(path, _ENTRIES.size + _CRC.size)
    except OSError:
        return NOTHING_HEARD
    if len(data) != _ENTRIES.size + _CRC.size:
        return NOTHING_HEARD
    entries, crc = data[: _ENTRIES.size], data[_ENTRIES.size :]
    if _CRC.pack(zlib.crc32(entries)) != crc:
        return NOTHING_HEARD
    numbers = _ENTRIES.unpack(entries)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def write_contacts(path: Path, heard: Sequence[Heard], disk: Disk) -> None:
    """Replace the file.

    Raises:
        StoreError: the disk refused; the file is the old one or the new one.
    """
    entries = _ENTRIES.pack(*(number for entry in heard for number in entry))
    replace_file(path, entries + _CRC.pack(zlib.crc32(entries)), disk)
