"""Rows of a slab of codes that did not change at all, left out of a delta: `still_rows` for pieces of several extents.

A unit is as many rows as all extents can be cut at: one, or eight where zero points are packed down the rows. Most of
an embedding is still after a fine-tune.

Pure.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from protocol.codec import still_rows
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

_SHARE_MIN = 1 / 64
Bytes = NDArray[np.uint8]
Extents = list[Bytes]
Coded = tuple[bytes, tuple[Stream, ...]]


def find(news: Extents, olds: Extents, num_units: int) -> Bytes | None:
    """Return 1 for each unit that moved and 0 for each that did not; None if too few are still, or none moved.

    Where changes are few and scattered, some units are still by chance: saying so would cost more than it saves.
    """
    moved = np.zeros(num_units, np.bool_)
    num_changes = 0
    for new, old in zip(news, olds, strict=True):
        changes = new != old
        num_changes += int(np.count_nonzero(changes))
        moved |= np.any(changes.reshape(num_units, -1), axis=1)
    still = 1 - np.count_nonzero(moved) / num_units
    by_chance = float(np.exp(-num_changes / num_units))
    return moved.astype(np.uint8) if _SHARE_MIN + 2 * by_chance < still < 1 else None


def encode(moved: Bytes, news: Extents, olds: Extents, inner: Callable[[Extents, Extents], Coded], level: int) -> Coded:
    """Code the units that moved, and say which they are.

    Args:
        moved: as `find` returned it.
        news: extents of all units.
        olds: likewise.
        inner: codes the extents of those that moved.
        level: of the entropy coder.
    """
    parameters, coded = inner([_take(new, moved) for new in news], [_take(old, moved) for old in olds])
    return still_rows.encode(moved, news[0].size // moved.size, parameters, coded, level)


def decode(
    parameters: bytes,
    coded: tuple[Stream, ...],
    sizes: list[int],
    olds: Extents,
    inner: Callable[[bytes, tuple[Stream, ...], list[int], Extents], Extents],
) -> Extents:
    """Undo `encode`; where nothing was left out, only decode what is there.

    Raises:
        DecodeError: they are not such units.
    """
    moved, parameters, coded = still_rows.decode(parameters, coded, sizes[0])
    if moved is None:
        return inner(parameters, coded, sizes, olds)
    num_moved = int(np.count_nonzero(moved))
    if any(size % moved.size for size in sizes) or not num_moved or moved.max() > 1:
        raise DecodeError(f"{num_moved} of {moved.size} units moved in extents of {sizes} bytes")
    taken = [_take(old, moved) for old in olds]
    made = inner(parameters, coded, [old.size for old in taken], taken)
    return [still_rows.put(old, new, moved) for old, new in zip(olds, made, strict=True)]


def _take(extent: Bytes, moved: Bytes) -> Bytes:
    rows: Bytes = extent.reshape(moved.size, -1)[moved != 0]
    return rows.reshape(-1)
