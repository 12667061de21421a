"""Which classes share a stream: the packer's choice of buckets, from how often each code occurs in each class.

A stream of its own costs its entry, its headers and its tables; classes that are much alike are cheaper together. The
decoder is told the outcome, so nothing here has to come out the same on two machines.

Pure.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS_MAX = 48  # of one field: a piece has at most five fields and 255 streams
LEVELS_GAIN_MIN = 0.002  # of the bits; telling levels apart takes a tenth of the decoder's time
_STREAM_BITS = 8 * 40  # of a stream that holds next to nothing: its entry, pcodec's headers
_SYMBOL_BITS = 18  # that a table says about one symbol

Table = NDArray[np.float64]
Cuts = tuple[int, ...]


def choose(tables: dict[int, Table], *, least: int, levels: int, gain_min: float = LEVELS_GAIN_MIN) -> Cuts:
    """Return the first class of each bucket but the first.

    Args:
        tables: how often each code occurs, by class; classes rise.
        least: codes of a class that may have a bucket to itself.
        levels: classes that are one but for their level; cut only if that saves enough to be worth the decoder's time.
        gain_min: what is enough, of the bits.
    """
    fine_cuts, fine_bits = _join(_gather(tables, least, 1))
    if levels == 1:
        return fine_cuts
    coarse_cuts, coarse_bits = _join(_gather(tables, least, levels))
    return coarse_cuts if coarse_bits <= fine_bits * (1 + gain_min) else fine_cuts


def _gather(tables: dict[int, Table], least: int, levels: int) -> dict[int, Table]:
    """Join classes that differ by their level only, and small ones with those after them."""
    gathered: dict[int, Table] = {}
    last, size = -1, 0.0
    for first, table in tables.items():
        if last < 0 or (size >= least and first // levels != last // levels):
            last, size = first - first % levels, 0.0
            gathered[last] = np.zeros_like(table)
        gathered[last] += table
        size += float(table.sum())
    return gathered


def _join(gathered: dict[int, Table]) -> tuple[Cuts, float]:
    """Join the two neighbours that save the most bits, until joining saves none; return the cuts and the bits."""
    firsts, tables = list(gathered), list(gathered.values())
    costs, joined = _costs(tables), _costs(_pairs(tables))
    while joined:
        savings = [costs[at] + costs[at + 1] - joined[at] for at in range(len(joined))]
        at = max(range(len(savings)), key=savings.__getitem__)
        if savings[at] <= 0 and len(firsts) <= BUCKETS_MAX:
            break
        tables[at : at + 2] = [tables[at] + tables[at + 1]]
        costs[at : at + 2] = [joined[at]]
        del firsts[at + 1]
        start = max(at - 1, 0)
        joined[start : at + 2] = _costs(_pairs(tables[start : at + 2]))
    return tuple(firsts[1:]), sum(costs)


def _pairs(tables: list[Table]) -> list[Table]:
    return [tables[at] + tables[at + 1] for at in range(len(tables) - 1)]


def _costs(tables: Sequence[Table]) -> list[float]:
    """Return the bits of a stream of each table, nearly."""
    if not tables:
        return []
    stacked = np.stack(tables)
    totals, seen = stacked.sum(axis=1), stacked > 0
    entropy = _plogp(totals) - _plogp(stacked).sum(axis=1)
    bits: list[float] = (entropy + _STREAM_BITS + _SYMBOL_BITS * seen.sum(axis=1)).tolist()
    return bits


def _plogp(counts: Table) -> Table:
    logarithms: Table = np.log2(np.maximum(counts, 1))
    return counts * logarithms
