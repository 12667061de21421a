"""Codes in groups: a quantized matrix as groups of codes that share a scale, each group of one class.

The classes are the contexts of the entropy coder: the zero point of a group, how loud it is beside its neighbours,
whether its scale changed. All codes of a group are of one class, so contexts cost one permutation of whole groups
instead of one of values. Both ends compute the class of every group from what is decoded before its codes; the packer
joins neighbouring classes into *buckets* where that saves bytes, and says so by the first class of each bucket but the
first (`cuts`).

Pure. It knows nothing of formats; `nibbles` and `gguf` cut theirs into groups.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.contexts import buckets
from protocol.codec.contexts.buckets import BUCKETS_MAX, Cuts
from protocol.codec.fourbit import cells
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

CLASSES_MAX = 256
_LEVEL_MIN = 12  # as many bins as pcodec makes: with fewer, rare codes share one. Costs no time
_SCANS_MAX = 10  # buckets: a sort takes as long as that many scans
_SMALL_ITEM = 16
_FEW_CODES = 4096  # below, a class shares a stream with its neighbour
_FEW_VALUES = 512

_T = TypeVar("_T", np.uint8, np.uint16, np.uint32)
Bytes = NDArray[np.uint8]
Index = NDArray[np.intp] | slice
Classes = NDArray[np.uint8]


class StreamReader:
    """Takes the streams of a piece one after another."""

    def __init__(self, source: Sequence[Stream]) -> None:
        self._source, self._at = source, 0

    def take(self) -> Stream:
        """Return the next stream.

        Raises:
            DecodeError: there is none.
        """
        if self._at == len(self._source):
            raise DecodeError(f"{self._at} streams where more belong")
        self._at += 1
        return self._source[self._at - 1]

    def finish(self) -> None:
        """Check that every stream was taken.

        Raises:
            DecodeError: some are left.
        """
        if self._at != len(self._source):
            raise DecodeError(f"{len(self._source)} streams where {self._at} belong")


def choose_cuts(rows: Bytes, classes: Classes, *, is_packed: bool = False, levels: int = 1) -> Cuts:
    """Return where to cut the classes into buckets so that streams and their tables take the fewest bytes.

    Args:
        rows: one for each group, of codes.
        classes: one for each group.
        is_packed: whether a byte of the rows holds two codes.
        levels: classes that are one but for their level; cut only if that saves enough to be worth their time.
    """
    firsts = np.flatnonzero(np.bincount(classes, minlength=1))
    members = _members(classes, tuple(range(1, CLASSES_MAX)))
    tables = {
        int(first): _count(take_rows(rows, groups), is_packed) for first, groups in zip(firsts, members, strict=True)
    }
    return buckets.choose(tables, least=_FEW_CODES if rows.shape[1] > 1 else _FEW_VALUES, levels=levels)


def encode_rows(rows: Bytes, classes: Classes, cuts: Cuts, *, is_packed: bool, level: int) -> list[Stream]:
    """Code the groups of each bucket as a stream of bytes; an empty bucket has none.

    Args:
        rows: one for each group.
        classes: one for each group.
        cuts: first class of each bucket but the first, rising.
        is_packed: whether a byte of the rows holds two codes: then the stream has all low ones first.
        level: see `streams.encode`; rare codes need a high one.
    """
    parts = (take_rows(rows, groups).reshape(-1) for groups in _members(classes, cuts))
    return [streams.encode(cells.split(part) if is_packed else part, level=max(level, _LEVEL_MIN)) for part in parts]


def decode_rows(
    source: StreamReader, classes: Classes, cuts: Cuts, width: int, *, is_packed: bool
) -> Iterator[tuple[Index, Bytes]]:
    """Return for each bucket that is not empty which groups are in it, and their rows.

    Args:
        source: where the streams come from, in the order that `encode_rows` made them.
        classes: one for each group.
        cuts: as for `encode_rows`.
        width: bytes of a row.
        is_packed: likewise.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    for groups in _members(classes, cuts):
        values = streams.decode(source.take(), np.uint8, _count_of(groups) * width * (1 + is_packed))
        yield groups, (cells.join(values) if is_packed else values).reshape(-1, width)


def encode_values(values: NDArray[_T], classes: Classes, cuts: Cuts, *, level: int) -> list[Stream]:
    """Code one value for each group; as `encode_rows`."""
    return [streams.encode(values[groups], level=max(level, _LEVEL_MIN)) for groups in _members(classes, cuts)]


def decode_values(source: StreamReader, classes: Classes, cuts: Cuts, dtype: type[_T]) -> NDArray[_T]:
    """Return one value for each group; undoes `encode_values`.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    values = np.empty(classes.size, dtype)
    for groups in _members(classes, cuts):
        values[groups] = streams.decode(source.take(), dtype, _count_of(groups))
    return values


def take_rows(rows: Bytes, groups: Index) -> Bytes:
    """Return some rows; a view if `groups` is a slice. Rows are moved whole: 25 times as fast as by their bytes."""
    if isinstance(groups, slice):
        return rows[groups]
    taken: Bytes = np.take(_as_items(rows), groups).view(np.uint8)
    return taken.reshape(groups.size, rows.shape[1])


def put_rows(rows: Bytes, groups: Index, new: Bytes) -> None:
    """Overwrite some rows. Which of numpy's ways is fast depends on the size of an item: by a factor of up to 6."""
    if isinstance(groups, slice):
        rows[groups] = new
    elif rows.shape[1] <= _SMALL_ITEM:
        _as_items(rows)[groups] = _as_items(new)
    else:
        np.put(_as_items(rows), groups, _as_items(new))


def _as_items(rows: Bytes) -> NDArray[np.void]:
    """Return each row as one item of as many bytes."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").reshape(-1)


def pack_cuts(cuts: Cuts) -> bytes:
    """Return the cuts as bytes: how many, then one each."""
    return bytes((len(cuts), *cuts))


def read_cuts(data: bytes) -> tuple[Cuts, bytes]:
    """Return cuts from the front, and the rest; undoes `pack_cuts`.

    Raises:
        DecodeError: they do not rise, are too many, or cut off.
    """
    end = 1 + data[0] if data else 1
    cuts = data[1:end]
    if end > len(data) or len(cuts) >= BUCKETS_MAX or any(cut <= before for before, cut in pairwise(b"\0" + cuts)):
        raise DecodeError(f"{len(cuts)} cuts of the classes do not rise")
    return tuple(cuts), data[end:]


def _members(classes: Classes, cuts: Cuts) -> list[Index]:
    """Return the groups of each bucket, in their order; only of buckets that are not empty."""
    if not cuts:
        return [slice(0, classes.size)] if classes.size else []
    if len(cuts) < _SCANS_MAX:
        found = [np.flatnonzero(inside) for inside in _each_inside(classes, cuts)]
    else:
        table = np.zeros(CLASSES_MAX, np.uint8)
        for cut in cuts:
            table[cut:] += 1
        bucket_of = np.take(table, classes)
        ends = np.cumsum(np.bincount(bucket_of, minlength=len(cuts) + 1))
        found = np.split(np.argsort(bucket_of, kind="stable"), ends[:-1])
    return [groups for groups in found if groups.size]


def _each_inside(classes: Classes, cuts: Cuts) -> Iterator[NDArray[np.bool_]]:
    """Tell for each bucket which groups are in it."""
    above = np.ones(classes.size, np.bool_)
    for cut in cuts:
        beyond = classes >= cut
        yield above & ~beyond
        above = beyond
    yield above


def _count_of(groups: Index) -> int:
    return groups.stop - groups.start if isinstance(groups, slice) else groups.size


def _count(rows: Bytes, is_packed: bool) -> NDArray[np.float64]:
    """Return how often each code occurs."""
    table = np.bincount(rows.reshape(-1), minlength=256).astype(np.float64)
    if is_packed:
        pairs = table.reshape(16, 16)
        table = pairs.sum(axis=0) + pairs.sum(axis=1)
    return table
