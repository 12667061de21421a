"""In which order the streams of a field hold the groups: bucket after bucket, in each those that are not turned first.

Both ends sort by what they know of every group. Within that, groups stay in their own order.

Pure.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts.buckets import Cuts

_SCANS_MAX = 4  # parts: a sort takes as long as that many scans
_CLASSES = np.arange(256, dtype=np.uint8)

Bytes = NDArray[np.uint8]
Index = NDArray[np.intp]


class Part(NamedTuple):
    """What one bucket holds.

    Attributes:
        num_groups: in it.
        num_turned: of these, at their end.
    """

    num_groups: int
    num_turned: int = 0


def sort(classes: Bytes, cuts: Cuts, turned: Bytes | None = None) -> tuple[Index | None, list[Part]]:
    """Return all groups, bucket after bucket (None: in their own order), and each bucket that is not empty.

    Args:
        classes: one for each group.
        cuts: first class of each bucket but the first, rising. None: there is one bucket, and groups are not moved.
        turned: 1 for each group that is, else 0; None: none is.
    """
    if not cuts:
        return None, [Part(classes.size)] if classes.size else []
    keys = _keys(classes, cuts)
    num_keys = len(cuts) + 1
    if turned is not None:
        keys, num_keys = keys + keys + turned, 2 * num_keys
    order, counts = _by_scans(keys, num_keys) if num_keys <= _SCANS_MAX else _by_sort(keys, num_keys)
    if turned is None:
        parts = [Part(count) for count in counts]
    else:
        parts = [Part(plain + other, other) for plain, other in zip(counts[::2], counts[1::2], strict=True)]
    return order, [part for part in parts if part.num_groups]


def members(classes: Bytes, cuts: Cuts) -> list[Index]:
    """Return the groups of each bucket that is not empty, rising."""
    order, parts = sort(classes, cuts)
    if order is None:
        order = np.arange(classes.size)
    return np.split(order, np.cumsum([part.num_groups for part in parts])[:-1]) if parts else []


def _keys(classes: Bytes, cuts: Cuts) -> Bytes:
    """Return the bucket of each group."""
    if len(cuts) < _SCANS_MAX:
        keys = np.zeros(classes.size, np.uint8)
        for cut in cuts:
            keys += (classes >= np.uint8(cut)).view(np.uint8)
        return keys
    table = np.searchsorted(np.array(cuts, np.uint8), _CLASSES, side="right").astype(np.uint8)
    return np.frombuffer(classes.tobytes().translate(table.tobytes()), np.uint8)


def _by_scans(keys: Bytes, num_keys: int) -> tuple[Index, list[int]]:
    found = [np.flatnonzero(keys == np.uint8(key)) for key in range(num_keys)]
    return np.concatenate(found), [each.size for each in found]


def _by_sort(keys: Bytes, num_keys: int) -> tuple[Index, list[int]]:
    order = np.argsort(keys, kind="stable")
    starts = [bisect_left(order, key, key=keys.item) for key in range(num_keys)]
    return order, [end - start for start, end in zip(starts, [*starts[1:], keys.size], strict=True)]
