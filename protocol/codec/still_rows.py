"""Rows that did not change at all: a delta says which they are, and goes on as if they were not there.

A fine-tune leaves most rows of an input embedding as they were (tokens that never came), or the layers of a frozen
expert. Told apart by one bit a row, they cost nothing, and values of the others are not mixed with their zeros.

On the wire, in front of what `contextual` says:

    0       1     context as there; 0x80 on top: some rows are still
    1       n     only then: columns
    ...     ...   as there

and in front of the other streams one of a byte for each row: 1 if it moved, else 0. Pure.
"""

import numpy as np

from protocol.codec import numbers, streams
from protocol.codec.numbers import Reader
from protocol.codec.payload import Stream
from protocol.codec.values import Bytes, Values
from protocol.errors import DecodeError

_FLAG = 0x80
_COLUMNS_MAX = 2**32 - 1
_COLUMNS_MIN = 16  # of shorter rows many are still by chance
_SHARE_MIN = 1 / 64


def find(folded: Values, columns: int) -> Bytes | None:
    """Return 1 for each row that moved and 0 for each that did not; None if too few are still to be worth it.

    Args:
        folded: differences.
        columns: in a row; 0 if there are no rows.
    """
    if columns < _COLUMNS_MIN or folded.size % columns:
        return None
    moved: Bytes = np.any(folded.reshape(-1, columns), axis=1).astype(np.uint8)
    is_worth_it = moved.size - np.count_nonzero(moved) >= max(1, _SHARE_MIN * moved.size)
    return moved if is_worth_it else None


def encode(
    moved: Bytes, columns: int, parameters: bytes, coded: tuple[Stream, ...], level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    """Say which rows moved, in front of the parameters and the streams of those that did."""
    head = bytes([parameters[0] | _FLAG]) + numbers.pack(columns)
    return head + parameters[1:], (streams.encode(moved, level=level), *coded)


def decode(parameters: bytes, coded: tuple[Stream, ...], count: int) -> tuple[Values | None, bytes, tuple[Stream, ...]]:
    """Undo `encode`.

    Args:
        parameters: as `contextual` has them, perhaps with more in front.
        coded: streams.
        count: values of all rows.

    Returns:
        For each row whether it moved, or None if nothing is said of that; parameters and streams without it.

    Raises:
        DecodeError: it is said, but there are no such rows.
    """
    if not parameters or not parameters[0] & _FLAG:
        return None, parameters, coded
    reader = Reader(parameters[1:], "still rows")
    columns = reader.number(_COLUMNS_MAX)
    if not columns or count % columns or not coded:
        raise DecodeError(f"still rows of {columns} columns among {count} values")
    moved = streams.decode(coded[0], np.uint8, count // columns)
    return moved, bytes([parameters[0] & ~_FLAG]) + reader.rest(), coded[1:]


def take(values: Values, moved: Bytes) -> Values:
    """Return the values of the rows that moved."""
    rows: Values = values.reshape(moved.size, -1)[moved != 0]
    return rows.reshape(-1)


def put(old: Values, values: Values, moved: Bytes) -> Values:
    """Return the old values, with those of the rows that moved in their places."""
    new = old.reshape(moved.size, -1).copy()
    new[moved != 0] = values.reshape(-1, new.shape[1])
    return new.reshape(-1)
