"""Cells: the codes of a slab of four-bit codes as one row of bytes for each group, whatever the file's packing.

Cells are ordered as their groups are in the grid: (row, group of the row) where groups lie along rows, (group of rows,
column) where they run down the columns; AWQ's columns stay in the order of its nibbles. Both ways are views and copies
of integers; nothing is lost.

Pure.
"""

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DecodeError

Bytes = NDArray[np.uint8]
_LOW, _HIGH = np.uint8(0x0F), np.uint8(0xF0)
_SIXTEEN = np.uint8(16)
_CHUNK = 2**17
_TOPS, _REST = np.uint8(0x88), np.uint8(0x77)  # the highest bit of each nibble, and the others


def split(packed: Bytes) -> Bytes:
    """Return the codes of bytes: all low nibbles first, then all high ones."""
    codes = np.empty(2 * packed.size, np.uint8)
    np.bitwise_and(packed, _LOW, out=codes[: packed.size])
    np.right_shift(packed, 4, out=codes[packed.size :])
    return codes


def join(codes: Bytes, packed: Bytes) -> None:
    """Write the bytes of codes; undoes `split`.

    Args:
        codes: all low nibbles, then all high ones.
        packed: half as many; written to.

    Raises:
        DecodeError: a code is above 15.
    """
    if codes.size and codes.max() > _LOW:
        raise DecodeError(f"a code of {codes.max()} where four bits belong")
    # A shift of bytes to the left takes numpy ten times as long as a product.
    np.multiply(codes[codes.size // 2 :], _SIXTEEN, out=packed)
    np.bitwise_or(packed, codes[: codes.size // 2], out=packed)


def add(cells: Bytes, differences: Bytes) -> None:
    """Add differences to nibbles, each modulo 16, in place; the differences are used up. Both are contiguous."""
    left, right = cells.reshape(-1), differences.reshape(-1)
    signs = np.empty(min(_CHUNK, left.size), np.uint8)
    for start in range(0, left.size, _CHUNK):  # that stays in the cache for five passes
        one, other = left[start : start + _CHUNK], right[start : start + _CHUNK]
        own = signs[: one.size]
        np.bitwise_xor(one, other, out=own)
        own &= _TOPS
        one &= _REST
        other &= _REST
        one += other
        one ^= own


def subtract(cells: Bytes, others: Bytes) -> Bytes:
    """Return the nibble-wise difference modulo 16; undoes `add`."""
    total: Bytes = (cells | _TOPS) - (others & _REST)
    total ^= (cells ^ ~others) & _TOPS
    return total


def from_words(words: Bytes, rows: int, columns: int, group: int) -> Bytes:
    """Return the cells of int32 words that hold 8 rows of one column each.

    Args:
        words: rows / 8 by columns of them, as bytes.
        rows: of codes.
        columns: of codes.
        group: rows of a group.
    """
    table = words.view("<u4").reshape(rows // group, group // 8, columns)
    return table.transpose(0, 2, 1).copy().view(np.uint8).reshape(-1, group // 2)


def to_words(cells: Bytes, rows: int, columns: int, group: int) -> Bytes:
    """Undo `from_words`."""
    table = cells.view("<u4").reshape(rows // group, columns, group // 8)
    return np.ascontiguousarray(table.transpose(0, 2, 1)).view(np.uint8).reshape(-1)


def from_rows(data: Bytes, rows: int, columns: int, group: int) -> Bytes:
    """Return the cells of rows of nibbles whose groups run down the columns.

    Args:
        data: rows of columns / 2 bytes.
        rows: of codes.
        columns: of codes.
        group: rows of a group, even.
    """
    table = data.reshape(rows // group, group // 2, 2, columns // 2)
    upper, lower = table[:, :, 0], table[:, :, 1]
    cells = np.empty((rows // group, columns // 2, 2, group // 2), np.uint8)
    cells[:, :, 0] = ((upper & _LOW) | (lower * _SIXTEEN)).transpose(0, 2, 1)
    cells[:, :, 1] = ((upper >> 4) | (lower & _HIGH)).transpose(0, 2, 1)
    return cells.reshape(-1, group // 2)


def to_rows(cells: Bytes, rows: int, columns: int, group: int) -> Bytes:
    """Undo `from_rows`."""
    table = cells.reshape(rows // group, columns // 2, 2, group // 2)
    even = np.ascontiguousarray(table[:, :, 0].transpose(0, 2, 1))
    odd = np.ascontiguousarray(table[:, :, 1].transpose(0, 2, 1))
    data = np.empty((rows // group, group // 2, 2, columns // 2), np.uint8)
    np.bitwise_or(even & _LOW, odd * _SIXTEEN, out=data[:, :, 0])
    np.bitwise_or(even >> 4, odd & _HIGH, out=data[:, :, 1])
    return data.reshape(-1)


def nibbles_of(data: Bytes) -> Bytes:
    """Return the nibbles of bytes, the low one of each first."""
    nibbles = np.empty((data.size, 2), np.uint8)
    np.bitwise_and(data, _LOW, out=nibbles[:, 0])
    np.right_shift(data, 4, out=nibbles[:, 1])
    return nibbles.reshape(-1)


def bytes_of(nibbles: Bytes) -> Bytes:
    """Undo `nibbles_of`; of bytes above 15 the upper half is cut off."""
    pairs = nibbles.reshape(-1, 2)
    return (pairs[:, 0] & _LOW) | (pairs[:, 1] * _SIXTEEN)
