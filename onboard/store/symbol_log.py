"""The symbol log: the symbols of one block, in the order they came, each whole or not at all.

    offset  size  field
    0       3     esi, big-endian
    3       T     symbol
    3+T     4     CRC-32 over handle, block (1), esi and symbol, big-endian

Entries have one size, so a damaged one hides no other: it is skipped. What is no whole entry at the end is torn. The
handle in the sum keeps a stray page of another file from passing for an entry.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

from onboard.store.disk import Disk
from onboard.store.shape import ObjectShape

ENTRY_OVERHEAD = 7
_ESI_SIZE = 3
_CRC_SIZE = 4
_READ_BYTES = 1 << 20


def entry_size(shape: ObjectShape) -> int:
    """Bytes of one entry."""
    return shape.symbol_size + ENTRY_OVERHEAD


def seed_of(shape: ObjectShape, block: int) -> int:
    """Where the sum of an entry starts."""
    return zlib.crc32(shape.handle + bytes([block]))


def pack_entry(seed: int, esi: int, symbol: bytes) -> bytes:
    """Return one entry."""
    head = esi.to_bytes(_ESI_SIZE, "big")
    return head + symbol + zlib.crc32(symbol, zlib.crc32(head, seed)).to_bytes(_CRC_SIZE, "big")


def read_entries(disk: Disk, path: Path, shape: ObjectShape, block: int) -> Iterator[tuple[int, int, bytes]]:
    """Read the good entries of a log.

    Yields:
        (offset after the entry, esi, symbol), in the order they were written.

    Raises:
        FileNotFoundError: there is no such log.
        StoreFailedError: the disk refused.
    """
    size, seed = entry_size(shape), seed_of(shape, block)
    at_once = max(1, _READ_BYTES // size) * size
    handle = disk.open(path)
    try:
        offset = 0
        while data := _read_whole(disk, handle, at_once, offset):
            for start in range(0, len(data) - size + 1, size):
                entry = data[start : start + size]
                if zlib.crc32(entry[:-_CRC_SIZE], seed) == int.from_bytes(entry[-_CRC_SIZE:], "big"):
                    esi = int.from_bytes(entry[:_ESI_SIZE], "big")
                    yield offset + start + size, esi, entry[_ESI_SIZE:-_CRC_SIZE]
            offset += len(data)
    finally:
        disk.close(handle)


def _read_whole(disk: Disk, handle: int, size: int, offset: int) -> bytes:
    parts = []
    while size and (data := disk.read(handle, size, offset)):
        parts.append(data)
        size, offset = size - len(data), offset + len(data)
    return b"".join(parts)
