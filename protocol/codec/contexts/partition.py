"""Contexts by partition: values split by class, each class a stream of its own, and put back in order.

What an entropy coder calls a context (this weight is of a loud row, that one had an old exponent of 121) is a class
per value here, that both ends can compute: a key of 8 bits, and a rising table of the first key of each class. Values
of a class are in the order of their chunk, then key, then place, so the decoder only needs the keys to put all back.
That is cheaper than a coder with adaptive contexts: one stable sort of bytes per chunk, about 5 ns a value; in chunks
of 64 Ki values, because a sort over a whole tensor misses the caches (14 ns).

Pure. Counts are checked: parts that do not fit their keys are a DecodeError.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.errors import DecodeError

KEYS = 256
CHUNK_SIZE = 64 * 1024
_FEW = 6  # values that are not 0 are worth picking out where they are fewer than one in so many

_T = TypeVar("_T", np.uint8, np.uint16, np.uint32)
Places = slice | NDArray[np.intp]


def chunks(keys: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Cut keys into the chunks that partition works in."""
    return (keys[start : start + CHUNK_SIZE] for start in range(0, keys.size, CHUNK_SIZE))


def check_firsts(firsts: Sequence[int]) -> None:
    """Raise DecodeError unless these are the first keys of classes: 0, then rising."""
    if not firsts or firsts[0] or any(a >= b for a, b in pairwise(firsts)) or firsts[-1] >= KEYS:
        raise DecodeError(f"classes cannot begin at {list(firsts)}")


def partition(values: NDArray[_T], keys: NDArray[np.uint8], firsts: Sequence[int]) -> list[NDArray[_T]]:
    """Split values by class.

    Args:
        values: one axis.
        keys: one for each value.
        firsts: the first key of each class, rising from 0; `range(n)` where a key is a class.
    """
    assert values.shape == keys.shape
    parts: list[list[NDArray[_T]]] = [[values[:0]] for _ in firsts]
    start = 0
    for chunk in chunks(keys):
        order, ends = _sort(chunk, firsts)
        ordered = values[start : start + chunk.size][order]
        for index, end in enumerate(ends):
            parts[index].append(ordered[ends[index - 1] if index else 0 : end])
        start += chunk.size
    return [np.concatenate(part) for part in parts]


def unpartition(parts: Sequence[NDArray[_T]], keys: NDArray[np.uint8], firsts: Sequence[int]) -> NDArray[_T]:
    """Put the values of all classes back in order; undoes `partition`.

    Raises:
        DecodeError: a part has more or fewer values than there are of its class.
    """
    values = np.zeros(keys.size, parts[0].dtype)
    for places, found in merge(parts, chunks(keys), firsts):
        values[places] = found
    return values


def merge(
    parts: Sequence[NDArray[_T]], keys: Iterable[NDArray[np.uint8]], firsts: Sequence[int]
) -> Iterator[tuple[Places, NDArray[_T]]]:
    """Like `unpartition`, chunk by chunk, for keys that are made on the way and values that are worked on.

    Args:
        parts: the values of each class, all of one dtype.
        keys: chunks of CHUNK_SIZE, the last may be shorter.
        firsts: the first key of each class.

    Yields:
        Where values go, and the values of each chunk; they are overwritten by the next. Where most are 0, only the
        others: all that is to be done with them is done with fewer.

    Raises:
        DecodeError: a part has more or fewer values than there are of its class; at the end at the latest.
    """
    assert len(parts) == len(firsts)
    done = [0] * len(parts)
    sorted_values = np.empty(CHUNK_SIZE, parts[0].dtype)
    values = np.empty(CHUNK_SIZE, parts[0].dtype)
    start = 0
    for chunk in keys:
        order, ends = _sort(chunk, firsts)
        at = 0
        for index, end in enumerate(ends):
            begin = done[index]
            done[index] += end - at
            if done[index] > parts[index].size:
                raise DecodeError(f"class {index} has only {parts[index].size} values")
            sorted_values[at:end] = parts[index][begin : done[index]]
            at = end
        found = sorted_values[: chunk.size]
        if _FEW * np.count_nonzero(found) < chunk.size:
            ranks = np.flatnonzero(found != 0)  # of truth values: a sixth of the time
            yield order[ranks] + start, found[ranks]
        else:
            values[: chunk.size][order] = found
            yield slice(start, start + chunk.size), values[: chunk.size]
        start += chunk.size
    if done != [part.size for part in parts]:
        raise DecodeError(f"classes of {[part.size for part in parts]} values where {done} belong")


def _sort(keys: NDArray[np.uint8], firsts: Sequence[int]) -> tuple[NDArray[np.intp], list[int]]:
    """Return the places of all values by their keys, and where each class ends among them."""
    order = np.argsort(keys, kind="stable")
    ends = [bisect_left(order, first, key=keys.item) for first in firsts[1:]]
    return order, [*ends, keys.size]
