"""The packer's choice for `few_changes`: whether few enough changed, which groups share a bucket, which codes a lot.

Ground only: the piece says what was chosen. Pure.
"""

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts.buckets import Cuts
from protocol.codec.fourbit import cells
from protocol.codec.fourbit.few_changes import NUM_LOTS, WIDTH_MAX, Bytes, Lots

_TRIED_MAX = 0.012  # of bytes: above, contexts save little, and each change takes the decoder 100 ns
_BUCKET_BITS = 48  # how many changes are in each of its sequences, and what is lost to a parameter that is a power of 2
_LOT_BITS = 24
_BUCKETS_MAX = 12
_CODES = 16

Counts = NDArray[np.float64]


def choose(differences: Bytes, predicted: Bytes, classes: Bytes) -> tuple[Cuts, Lots] | None:
    """Return where to cut the classes of groups into buckets, and the lots; None if too many codes changed.

    Args:
        differences: modulo 16, two in a byte; a row for each group.
        predicted: codes, likewise.
        classes: one for each group, below 256.
    """
    if not 0 < differences.shape[1] <= WIDTH_MAX:
        return None
    groups, columns = np.nonzero(differences)
    if groups.size > _TRIED_MAX * differences.size:
        return None
    said = cells.nibbles_of(differences[groups, columns])
    codes = cells.nibbles_of(predicted[groups, columns])[said > 0]
    said = said[said > 0]
    return _choose_cuts(differences, groups, classes), _choose_lots(predicted, codes, said)


def _choose_cuts(differences: Bytes, groups: NDArray[np.intp], classes: Bytes) -> Cuts:
    sizes = np.bincount(classes, minlength=1) * (2.0 * differences.shape[1])
    changes = np.bincount(classes[groups], minlength=sizes.size).astype(np.float64)
    firsts = np.flatnonzero(sizes)
    joined = _join(sizes[firsts], changes[firsts], _BUCKET_BITS, _BUCKETS_MAX)
    return tuple(int(firsts[members[0]]) for members in joined[1:])


def _choose_lots(predicted: Bytes, codes: Bytes, said: Bytes) -> Lots:
    table = np.bincount(predicted.reshape(-1), minlength=256).reshape(_CODES, _CODES)
    sizes = (table.sum(axis=0) + table.sum(axis=1)).astype(np.float64)
    changes = np.bincount(codes, minlength=_CODES).astype(np.float64)
    order = np.argsort(changes / np.maximum(sizes, 1), kind="stable")
    lot_of = np.zeros(_CODES, np.uint8)
    for lot, members in enumerate(_join(sizes[order], changes[order], _LOT_BITS, NUM_LOTS)):
        lot_of[order[members]] = lot
    upward = np.bincount(codes, weights=np.where(said < 8, 1, -1), minlength=_CODES)
    return Lots(lot_of, (upward < 0).astype(np.uint8))


def _join(sizes: Counts, changes: Counts, overhead_bits: int, most: int) -> list[list[int]]:
    """Join neighbours while that saves bits, or there are too many; return the members of each."""
    members = [[at] for at in range(sizes.size)]
    parts = list(zip(sizes.tolist(), changes.tolist(), strict=True))
    while len(parts) > 1:
        costs = [_bits(*part) for part in parts]
        both = [(parts[at][0] + parts[at + 1][0], parts[at][1] + parts[at + 1][1]) for at in range(len(parts) - 1)]
        losses = [_bits(*both[at]) - costs[at] - costs[at + 1] - overhead_bits for at in range(len(both))]
        at = min(range(len(losses)), key=losses.__getitem__)
        if losses[at] > 0 and len(parts) <= most:
            break
        parts[at : at + 2] = [both[at]]
        members[at : at + 2] = [members[at] + members[at + 1]]
    return members


def _bits(size: float, changes: float) -> float:
    """Return the bits that tell which of so many changed."""
    if not 0 < changes < size:
        return 0.0
    share = changes / size
    return float(-size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)))
