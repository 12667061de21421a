"""The long values of a GGUF's metadata: where vocabulary, merges and scores lie.

As parts of their own they meet the base's by key, whatever stands before them; within one run of bytes a changed name
of the model would shift them all, and a tokenizer of megabytes would fly again. Walks a file that `read_gguf` accepted,
with its bounds; keeps no value.
"""

import mmap
import struct
from pathlib import Path

LONG_BYTES = 1 << 12
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


def long_values(path: Path) -> list[tuple[str, int, int]]:
    """Return (key, offset, size) of each value of at least LONG_BYTES, its type and length not included."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (num_keys,) = _U64.unpack_from(data, 16)
        found, at = [], 24
        for _ in range(num_keys):
            at, end = at + 8, at + 8 + _U64.unpack_from(data, at)[0]
            key = data[at:end].decode("utf-8")
            kind, at = _U32.unpack_from(data, end)[0], end + 4
            start, end = _value(data, kind, at)
            if end - start >= LONG_BYTES:
                found.append((key, start, end - start))
            at = end
        return found


def _value(data: mmap.mmap, kind: int, at: int) -> tuple[int, int]:
    """Return where the contents of a value start and end."""
    if kind == _STRING:
        return at + 8, at + 8 + _U64.unpack_from(data, at)[0]
    if kind != _ARRAY:
        return at, at + _SIZES[kind]
    item, count, start = _U32.unpack_from(data, at)[0], _U64.unpack_from(data, at + 4)[0], at + 12
    if item != _STRING:
        return start, start + count * _SIZES[item]
    end = start
    for _ in range(count):
        end += 8 + _U64.unpack_from(data, end)[0]
    return start, end
