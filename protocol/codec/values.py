"""Bytes of a file as unsigned integers, and differences that small numbers stand for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]  # uint8, uint16 or uint32, in the machine's byte order
Bytes = NDArray[np.uint8]


def from_bytes(extents: list[Bytes], size: int) -> Values:
    """Return the little-endian values of all extents, one after another.

    Args:
        extents: together whole values.
        size: bytes of a value: 1, 2 or 4.
    """
    raw = extents[0] if len(extents) == 1 else np.concatenate(extents)
    values: Values = np.ascontiguousarray(raw).view(f"<u{size}")
    # A tensor may begin anywhere in its file, but foreign code wants its arrays aligned.
    return np.require(values, dtype=f"u{size}", requirements=("C", "A"))


def to_bytes(values: Values, sizes: list[int]) -> list[Bytes]:
    """Return the bytes of each extent; undoes `from_bytes`."""
    raw = values.astype(f"<u{values.itemsize}", copy=False).view(np.uint8)
    return np.split(raw, np.cumsum(sizes)[:-1])


def fold(differences: Values) -> Values:
    """Return 0, 1, 2, 3 ... for differences of 0, -1, 1, -2 ..."""
    signs = differences.view(f"i{differences.itemsize}") >> (8 * differences.itemsize - 1)
    folded: Values = differences << 1
    folded ^= signs.view(differences.dtype)
    return folded


def unfold(folded: Values) -> Values:
    """Undo `fold`."""
    differences: Values = folded & 1
    np.negative(differences, out=differences)
    differences ^= folded >> 1
    return differences
