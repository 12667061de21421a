"""The base's codes carried over to new scales and offsets: the prediction of a delta, and what became of each group.

Pure; integers only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec.fourbit import cells, grouped
from protocol.codec.fourbit.affine import Shift

# Codes are 64 bits wide while they move: a whole segment of them would take 60 MB at a time, and groups may be long.
_CHUNK_GROUPS, _CHUNK_SIZE = 2048, 2**17
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the groups of the base.

    Attributes:
        kinds: of each group: 0 as it was, 1 changed, 2 changed so that codes land elsewhere.
        moving: groups of kind 2.
        shift: of these.
    """

    kinds: Bytes
    moving: NDArray[np.intp]
    shift: Shift

    @classmethod
    def of(cls, changed: NDArray[np.bool_], shift_of: Callable[[NDArray[np.intp]], Shift], code_max: int) -> Self:
        """Look at every group that changed.

        Args:
            changed: whether a group has another scale, offset or zero point.
            shift_of: where the codes of some groups land.
            code_max: highest code.
        """
        groups = np.flatnonzero(changed)
        shift = shift_of(groups)
        landing = np.flatnonzero(shift.is_moving(code_max))
        kinds = changed.astype(np.uint8)
        kinds[groups[landing]] = 2
        return cls(kinds, groups[landing], shift.take(landing))

    def carry(self, rows: Bytes, code_max: int, *, is_packed: bool) -> None:
        """Overwrite the base's codes with where they land.

        Args:
            rows: one for each group.
            code_max: highest code.
            is_packed: whether a byte of the rows holds two codes.
        """
        number = max(1, min(_CHUNK_GROUPS, _CHUNK_SIZE // rows.shape[1]))
        for start in range(0, self.moving.size, number):
            chunk = slice(start, start + number)
            _carry(rows, self.moving[chunk], self.shift.take(chunk), code_max, is_packed)


def _carry(rows: Bytes, groups: NDArray[np.intp], shift: Shift, code_max: int, is_packed: bool) -> None:
    moving = grouped.take_rows(rows, groups)
    if is_packed:
        low, high = cells.split(moving.reshape(-1)).reshape(2, *moving.shape)
        landed = np.stack([shift.apply(low, code_max), shift.apply(high, code_max)])
        cells.join(landed.reshape(-1), moving.reshape(-1))
        grouped.put_rows(rows, groups, moving)
    else:
        grouped.put_rows(rows, groups, shift.apply(moving, code_max))
