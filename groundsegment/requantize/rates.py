"""What a change of codes costs in a delta: the entropy coder's price, before there is a delta. Pure.

The weight codec codes the difference of each code to the base's within some per cent of its entropy, given the old
code, or given how busy its row and its column are. So minus log2 of how often a difference occurs there is what one
more of it costs, and the sum of it what the delta will take.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STREAM_BYTES = 48  # of one tensor's streams and tables, whatever is in it
_CHANGED_GUESS = 0.02  # before anything has changed
_FEW = 4.0  # changes of a row or column that say little yet
_CLASS_BITS = 3.0  # to say how busy a row or column is
_PRIOR_WEIGHT = 0.02  # of the whole model's differences beside a matrix's own

Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What differences cost in one matrix, in bits.

    Attributes:
        bits: of every difference, from -reach to reach.
        rows: more (or less, below 0) for any change in a row, (R,).
        columns: the same of a column, (C,).
    """

    bits: NDArray[np.float32]
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


class Prices:
    """Bits for each difference to the base, of a matrix whose codes changed so far as they did.

    A pass over all matrices learns from those before it; what a matrix itself looks like counts most.

    Args:
        num_bits: of a code.
    """

    def __init__(self, num_bits: int) -> None:
        self.reach = (1 << num_bits) - 1
        ahead = np.arange(1, self.reach + 1, dtype=np.float64)
        half = 0.5 * _CHANGED_GUESS * 0.95 * 0.05 ** (ahead - 1)
        self._shares = np.concatenate([half[::-1], [1.0 - _CHANGED_GUESS], half])
        self._shares = np.maximum(self._shares, 1e-7)

    def learn(self, new: Codes, old: Codes) -> None:
        """Remember what a matrix's differences became."""
        self._shares = 0.9 * self._shares + 0.1 * self._count(new, old) / new.size

    def tariff(self, new: Codes, old: Codes) -> Tariff:
        """Return what differences cost where they lie as they do: busy rows and columns are cheaper."""
        own = self._count(new, old) / new.size
        weight = _PRIOR_WEIGHT if own[self.reach] < 1 else 1.0
        shares = (1 - weight) * own + weight * self._shares
        bits: NDArray[np.float64] = -np.log2(np.maximum(shares, 1e-8))
        rows, columns = (-np.log2(_busyness(count)).astype(np.float32) for count in _changes(new, old))
        return Tariff(bits=bits.astype(np.float32), rows=rows, columns=columns)

    def _count(self, new: Codes, old: Codes) -> NDArray[np.int64]:
        difference = new.astype(np.int16) - old.astype(np.int16)
        return np.bincount((difference + self.reach).ravel(), minlength=2 * self.reach + 1)


def delta_bytes(new: Mapping[str, Codes], old: Mapping[str, Codes]) -> int:
    """Estimate the delta of all codes, tensor by tensor: entropy given the old code, or given row and column."""
    return sum(_delta_bytes(new[name], old[name]) for name in new)


def share_changed(new: Mapping[str, Codes], old: Mapping[str, Codes]) -> float:
    """Return the share of codes that differ."""
    return sum(int(np.count_nonzero(new[name] != old[name])) for name in new) / sum(old[name].size for name in new)


def bits_delta_bytes(new: NDArray[np.uint16], old: NDArray[np.uint16]) -> int:
    """Estimate the delta of bfloat16 values: entropy of the ordered difference given the old exponent."""
    if np.array_equal(new, old):
        return 0
    difference = ordered(new) - ordered(old)
    exponent = (old >> np.uint16(7)) & np.uint16(0xFF)
    return _STREAM_BYTES + int(sum(_entropy_bits(difference[exponent == value]) for value in np.unique(exponent)) / 8)


def ordered(bits: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Map bfloat16 bits to integers in the order of their values."""
    wide = bits.astype(np.int64)
    return np.where(wide & 0x8000, 0x8000 - wide, wide)


def _delta_bytes(new: Codes, old: Codes) -> int:
    if np.array_equal(new, old):
        return 0
    # Old code and difference as one number: both entropies from one count.
    key = (old.astype(np.int32) + 128) * 512 + (new.astype(np.int32) - old + 256)
    counts = np.bincount(key.ravel(), minlength=256 * 512).reshape(256, 512).astype(np.float64)
    totals = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    seen = counts > 0
    given_old = float((counts[seen] * np.log2(totals[seen] / counts[seen])).sum())
    return _STREAM_BYTES + int(min(given_old, _bits_given_place(new, old, counts.sum(axis=0))) / 8)


def _bits_given_place(new: Codes, old: Codes, counts: NDArray[np.float64]) -> float:
    """Return the bits if changes come by chance, as often as their row and their column say (and that is sent)."""
    order0 = _entropy_of(counts)
    saved = 0.0
    for changes in _changes(new, old):
        saved += float((changes * np.log2(_busyness(changes))).sum()) - _CLASS_BITS * changes.size
    return order0 - saved


def _changes(new: Codes, old: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    changed = new != old
    return np.count_nonzero(changed, axis=1), np.count_nonzero(changed, axis=0)


def _busyness(changes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how many times as many changes as the mean there are, drawn towards 1 where few are to judge by."""
    busyness: NDArray[np.float64] = (changes + _FEW) / (changes.mean() + _FEW)
    return busyness


def _entropy_of(counts: NDArray[np.float64]) -> float:
    seen = counts[counts > 0]
    return float((seen * np.log2(seen.sum() / seen)).sum())


def _entropy_bits(values: NDArray[np.int64]) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float((counts * np.log2(counts.sum() / counts)).sum())
