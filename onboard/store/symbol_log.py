"""The symbol log: the symbols of one block, in the order they came, in groups that are each whole or not at all.

A log is a row of records of one size, 4 + T bytes. A group is one record for each symbol and one that closes it:

    offset  size  symbol                            close
    0       1     0                                 0xFF
    1       3     esi, big-endian                   symbols of the group, big-endian
    4       T     symbol                            sum of the group's records (8), zeros

A symbol's record is what the codec takes (RFC 6330, 3.2: source block number and ESI before the symbol), so a log is
read back without touching a byte, and summed a group at a time. Records have one size and a close counts backwards, so
damage costs the group that it hits and hides no other. What follows the last good close is torn.

The sum is the first 8 bytes of an AES-256-GCM tag over the records, with the SHA-256 of b"symbol log", the handle and
the block (1) as key, and a nonce of zeros. Neither is secret: it tells damage, like a CRC, at a fifth of its cost; and
whose log it is, so that a stray page of another file does not pass for a group.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from onboard.store.disk import Disk
from onboard.store.shape import ObjectShape

RECORD_OVERHEAD = 4
_CLOSE = 0xFF
_SUM_SIZE = 8
_NONCE = bytes(12)
_READ_BYTES = 1 << 20  # with smaller ones, which lie between the symbols in memory, the solver was no faster
_GROUP_BYTES_MAX = 4 << 20  # no writer makes larger ones; bounds what a damaged log takes in memory

Sum = Callable[[bytearray | memoryview], bytes]


def record_size(shape: ObjectShape) -> int:
    """Bytes of one record."""
    return shape.symbol_size + RECORD_OVERHEAD


def sum_of(shape: ObjectShape, block: int) -> Sum:
    """What makes the sums of a log's groups."""
    tag = AESGCM(hashlib.sha256(b"symbol log" + shape.handle + bytes([block])).digest()).encrypt
    return lambda records: tag(_NONCE, b"", records)[:_SUM_SIZE]


def pack_group(make_sum: Sum, parts: list[bytes]) -> bytearray:
    """Return a group.

    Args:
        make_sum: of the log (`sum_of`).
        parts: ESI (4 bytes) and symbol in turn.
    """
    group = bytearray().join(parts)  # grows by the close without being copied
    num_symbols, size = len(parts) // 2, len(parts[0]) + len(parts[1])
    close = (_CLOSE << 24 | num_symbols).to_bytes(RECORD_OVERHEAD, "big") + make_sum(group)
    group += close.ljust(size, b"\0")
    return group


def read_groups(disk: Disk, path: Path, shape: ObjectShape, block: int) -> Iterator[tuple[int, memoryview]]:
    """Read the good groups of a log.

    Yields:
        (offset after the group, its records one after another), in the order they were written.

    Raises:
        FileNotFoundError: there is no such log.
        StoreFailedError: the disk refused.
    """
    size, make_sum = record_size(shape), sum_of(shape, block)
    handle = disk.open(path)
    try:
        pending, offset = b"", 0
        while data := disk.read(handle, _READ_BYTES, offset + len(pending)):
            pending = pending + data if pending else data
            records = memoryview(pending)
            firsts = pending[: len(pending) // size * size : size]
            used, at = 0, firsts.find(_CLOSE)
            while at >= 0:
                group = _closed_group(records, at, size, make_sum)
                used = at + 1
                if group:
                    yield offset + used * size, group
                at = firsts.find(_CLOSE, used)
            used = max(used, len(firsts) - _GROUP_BYTES_MAX // size)
            pending, offset = pending[used * size :], offset + used * size
    finally:
        disk.close(handle)


def read_symbols(disk: Disk, path: Path, shape: ObjectShape, block: int) -> Iterator[tuple[int, bytes]]:
    """Read the good symbols of a log: (ESI, symbol). Raises as `read_groups`."""
    size = record_size(shape)
    for _, group in read_groups(disk, path, shape, block):
        for at in range(0, len(group), size):
            symbol = bytes(group[at + RECORD_OVERHEAD : at + size])
            yield int.from_bytes(group[at : at + RECORD_OVERHEAD], "big"), symbol


def _closed_group(records: memoryview, at: int, size: int, make_sum: Sum) -> memoryview:
    """The group that the record with that number closes, empty if it is not good."""
    close = records[at * size : at * size + RECORD_OVERHEAD + _SUM_SIZE]
    num_symbols = int.from_bytes(close[1:RECORD_OVERHEAD], "big")
    if num_symbols > at:
        return records[:0]
    group = records[(at - num_symbols) * size : at * size]
    return group if make_sum(group) == close[RECORD_OVERHEAD:] else records[:0]
