"""The encoder's choices of contexts: which rows and columns are loud, and which keys may share a stream.

Ground only, estimates from histograms: the decoder reads the choice from the wire and never repeats it, so this may
use floating point and may change between versions. It promises good choices, not the best; nothing here affects
whether a segment decodes. Costs some 10 ns a value.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts.grid import CLASSES_MAX, Grid
from protocol.codec.contexts.partition import KEYS

NUM_CONTEXTS = 8  # of a grid: 6 and 12 differ by 0.02 % of the size
STREAM_BITS = 8 * 60  # head and tables of one more stream
SYMBOL_BITS = 14  # of one more symbol in a stream's table
_SAMPLE_SIZE = 2**17  # values that an estimate looks at: some 0.3 % off at most
_SHAPES = ((16, 16), (16, 1), (1, 16), (4, 1))  # classes of rows and columns that are tried

Floats = NDArray[np.float64]


def entropy_bits(counts: NDArray[np.int64]) -> Floats:
    """Return the bits that symbols of these counts take at order 0, along the last axis."""
    weights = np.maximum(counts, 1).astype(np.float64)
    totals = np.maximum(counts.sum(axis=-1), 1)
    # One of a count that is 0 adds 1 * log2(1).
    return np.asarray(totals * np.log2(totals) - (weights * np.log2(weights)).sum(axis=-1))


def choose_grid(symbols: NDArray[np.uint8], loudness: NDArray[Any]) -> tuple[Grid | None, float]:
    """Return the grid that promises the fewest bits, None if one stream does as well; and those bits.

    Args:
        symbols: rows by columns; what stands for the values in the estimate, like their exponents.
        loudness: of the same shape, roughly the logarithm of the magnitudes.
    """
    rows, columns = symbols.shape
    row_means = loudness.mean(axis=1, dtype=np.float64)
    column_means = loudness.mean(axis=0, dtype=np.float64)
    column_means -= column_means.mean()
    step = 1 + symbols.size // _SAMPLE_SIZE
    sample = symbols[::step]
    scale = symbols.size / sample.size
    best, best_bits = None, _stream_bits(np.bincount(sample.ravel(), minlength=KEYS), scale).sum()
    for num_rows, num_columns in _SHAPES:
        if num_rows <= rows and num_columns <= columns:
            grid = _make_grid(row_means, column_means, num_rows, num_columns)
            bits = _stream_bits(_count(grid, sample, step), scale).sum() + _table_bits(grid)
            if bits < best_bits:
                best, best_bits = grid, bits
    return best, float(best_bits)


def choose_firsts(
    keys: NDArray[np.uint8], magnitudes: NDArray[Any], num_classes: int = CLASSES_MAX
) -> tuple[tuple[int, ...], float, float]:
    """Return the first keys of the classes of `partition`, and the bits with them and without any.

    Neighbours share a class where apart they would cost more.

    Args:
        keys: of the values, like the exponents of old ones.
        magnitudes: of the values, like differences with their sign folded in; small ones more frequent.
        num_classes: at most.
    """
    step = 1 + magnitudes.size // _SAMPLE_SIZE
    keys, magnitudes, scale = keys[::step], magnitudes[::step], float(step)
    # Quarters of octaves: exact up to 7, and what is within a bucket costs the same however keys are grouped.
    buckets = magnitudes.astype(np.float32).view(np.uint32) >> np.uint32(21)
    buckets = np.maximum(buckets, 507) - np.uint32(507)
    joint = np.bincount(keys.astype(np.uint32) << np.uint32(8) | buckets, minlength=KEYS * KEYS).reshape(KEYS, KEYS)
    firsts = np.flatnonzero(joint.any(axis=1)).tolist()
    table = joint[firsts][:, joint.any(axis=0)]
    counts, bits = list(table), _stream_bits(table, scale).tolist()
    merged = _stream_bits(table[:-1] + table[1:], scale).tolist()
    while len(firsts) > 1:
        gains = [one + other - both for (one, other), both in zip(pairwise(bits), merged, strict=True)]
        at = max(range(len(gains)), key=gains.__getitem__)
        if gains[at] <= 0 and len(firsts) <= num_classes:
            break
        counts[at : at + 2] = [counts[at] + counts[at + 1]]
        bits[at : at + 2] = [merged[at]]
        del firsts[at + 1], merged[at]
        for near in (at - 1, at):
            if 0 <= near < len(merged):
                merged[near] = float(_stream_bits(counts[near] + counts[near + 1], scale))
    return (0, *firsts[1:]), sum(bits), float(_stream_bits(joint.sum(axis=0), scale))


def _make_grid(row_means: Floats, column_means: Floats, num_rows: int, num_columns: int) -> Grid:
    row_classes, row_levels = _quantiles(row_means, num_rows)
    column_classes, column_levels = _quantiles(column_means, num_columns)
    levels = row_levels[:, None] + column_levels[None, :]
    weights = np.outer(np.bincount(row_classes), np.bincount(column_classes))
    order = np.argsort(levels, axis=None)
    shares = np.cumsum(weights.ravel()[order]) / weights.sum()
    low, high = levels.ravel()[order][np.searchsorted(shares, [0.01, 0.99])]
    steps = min(NUM_CONTEXTS, levels.size)
    contexts = np.clip((levels - low) / max(high - low, 1e-9) * steps, 0, steps - 1).astype(np.uint8)
    _, contexts = np.unique(contexts, return_inverse=True)  # without gaps
    return Grid(
        row_classes=row_classes, column_classes=column_classes, contexts=contexts.reshape(levels.shape).astype(np.uint8)
    )


def _quantiles(means: Floats, num_classes: int) -> tuple[NDArray[np.uint8], Floats]:
    """Return each one's class, as many in one class as in another, and the classes' mean."""
    classes = np.empty(means.size, np.uint8)
    classes[np.argsort(means, kind="stable")] = np.arange(means.size) * num_classes // means.size
    return classes, np.bincount(classes, weights=means) / np.bincount(classes)


def _count(grid: Grid, sample: NDArray[np.uint8], step: int) -> NDArray[np.int64]:
    """Return how often each symbol is in each context, in every `step`-th row."""
    contexts = grid.contexts[grid.row_classes[::step]][:, grid.column_classes].astype(np.uint16)
    joint = np.bincount((contexts << np.uint16(8) | sample).ravel(), minlength=grid.num_contexts * KEYS)
    return joint.reshape(-1, KEYS)


def _table_bits(grid: Grid) -> float:
    num_rows, num_columns = grid.contexts.shape
    tables = grid.row_classes.size * np.log2(num_rows) + grid.column_classes.size * np.log2(num_columns)
    return float(tables + 8 * grid.contexts.size)


def _stream_bits(counts: NDArray[np.int64], scale: float = 1.0) -> Floats:
    """Return the bits of streams, along the last axis; counts stand for `scale` times as many."""
    tables = STREAM_BITS + SYMBOL_BITS * (counts > 0).sum(axis=-1)
    return np.asarray(scale * entropy_bits(counts) + tables)
