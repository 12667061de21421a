"""How loud a group is: its scale beside those of its row and its column, in a few levels. A context, integers only.

The bits of a positive float, read as an integer, are a logarithm of it with straight lines between the powers of two:
good enough to take the row's and the column's mean off it. A group that is louder than its neighbours holds one large
weight and many small ones; a quiet group is fuller. Worth 0.2-0.8 % of four-bit codes.

Pure.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import numbers
from protocol.codec.fourbit.affine import Float
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError

LEVELS = 8
_BITS = 18  # of a magnitude, and one for its sign; of a logarithm as few as its type has
_THRESHOLD_MAX = 2**31


class Loudness:
    """Thresholds between the levels: the packer takes octiles, and the piece carries them. None: all are of level 0."""

    def __init__(self, thresholds: tuple[int, ...] = ()) -> None:
        self.thresholds = thresholds

    @classmethod
    def of(cls, measured: NDArray[np.int32]) -> tuple[Self, NDArray[np.uint8]]:
        """Choose thresholds so that as many groups are of each level, as nearly as may be; return the levels, too."""
        ranks = np.arange(1, LEVELS) * measured.size // LEVELS
        chosen = cls(tuple(int(value) for value in np.partition(measured, ranks)[ranks]))
        return chosen, chosen.levels(measured.size, lambda: measured)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read thresholds from the front; return them and the rest.

        Raises:
            DecodeError: they are not LEVELS - 1 or none.
        """
        reader = Reader(data, "thresholds of loudness")
        count = reader.number(LEVELS - 1)
        if not count:
            return cls(), reader.rest()
        if count != LEVELS - 1:
            raise DecodeError(f"{count} thresholds of loudness")
        thresholds = [reader.signed(_THRESHOLD_MAX)]
        for _ in range(count - 1):
            thresholds.append(thresholds[-1] + reader.number(_THRESHOLD_MAX))
        if thresholds[-1] >= _THRESHOLD_MAX:
            raise DecodeError(f"a threshold of loudness of {thresholds[-1]}")
        return cls(tuple(thresholds)), reader.rest()

    def encode(self) -> bytes:
        """Return the bytes of the thresholds: how many, the lowest, then by how much each rises."""
        if not self.thresholds:
            return numbers.pack(0)
        rises = (above - below for below, above in pairwise(self.thresholds))
        return numbers.pack(len(self.thresholds)) + numbers.pack_signed(self.thresholds[0]) + numbers.pack(*rises)

    def levels(self, num_groups: int, measured: Callable[[], NDArray[np.int32]]) -> NDArray[np.uint8]:
        """Return the level of each group, 0 .. LEVELS - 1; they are measured only if there are thresholds."""
        levels = np.zeros(num_groups, np.uint8)
        if self.thresholds:
            loud = measured()
            for threshold in self.thresholds:
                levels += (loud >= threshold).view(np.uint8)
        return levels


def measure(bits: NDArray[np.uint16] | NDArray[np.uint32], kind: Float, grid: tuple[int, int]) -> NDArray[np.int32]:
    """Return how loud each group is: about the logarithm of its scale less the means of its row and column.

    Args:
        bits: of the scales.
        kind: how they are written.
        grid: rows and columns of groups.
    """
    magnitude = (bits & 0x7FFFFFFF) >> 13 if kind is Float.F32 else bits & 0x7FFF
    return stand_out(magnitude.astype(np.int32), grid)


def stand_out(magnitude: NDArray[np.int32] | NDArray[np.int16], grid: tuple[int, int]) -> NDArray[np.int32]:
    """Return each value less the means of its row and its column.

    Args:
        magnitude: below 2**_BITS, rows one after another.
        grid: rows and columns.
    """
    bits = 16 if magnitude.dtype == np.int16 else 1 + _BITS
    wide = np.int32 if max(grid) <= 2 ** (32 - bits) else np.int64  # the same sums, in half the time
    table = magnitude.astype(np.int32).reshape(grid)
    # A sum along rows as short as most of these are takes np.sum four times as long.
    rows = np.einsum("ij->i", table, dtype=wide, casting="safe") // grid[1]
    columns = np.einsum("ij->j", table, dtype=wide, casting="safe") // grid[0]
    beside: NDArray[np.int32] = table - rows.astype(np.int32)[:, None]
    beside -= columns.astype(np.int32)
    return beside.reshape(-1)
