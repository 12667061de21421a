"""Codes in groups: a quantized matrix as groups of codes that share a scale, each group of one class.

The classes are the contexts of the entropy coder: the zero point of a group, how loud it is beside its neighbours,
whether its scale changed. All codes of a group are of one class, so contexts cost one permutation of whole groups
instead of one of values. Both ends compute the class of every group from what is decoded before its codes; the packer
joins neighbouring classes into *buckets* where that saves bytes, and says so by the first class of each bucket but the
first (`cuts`).

Pure. It knows nothing of formats; `nibbles` and `gguf` cut theirs into groups.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.contexts import buckets
from protocol.codec.contexts.buckets import BUCKETS_MAX, Cuts
from protocol.codec.fourbit import cells
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

CLASSES_MAX = 256
_LEVEL_MIN = 12  # as many bins as pcodec makes: with fewer, rare codes share one. Costs no time where codes are bytes
_LEVEL_IF_NONE_RARE = 8  # smaller tables, that are filled and read faster
_SCANS_MAX = 4  # buckets: a sort takes as long as that many scans
_BIN_BITS = 23  # of pcodec's table, about one symbol
_NEAR = 1.002  # estimates further apart than that need no trying
_FASTER = 8000  # bytes may take that share of themselves more than codes: they decode in half the time
_SMALL_ITEM = 16
_FEW_CODES = 4096  # below, a class shares a stream with its neighbour
_FEW_VALUES = 512

_T = TypeVar("_T", np.uint8, np.uint16, np.uint32)
Bytes = NDArray[np.uint8]
Index = NDArray[np.intp]
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


def choose_cuts(
    rows: Bytes,
    classes: Classes,
    *,
    is_packed: bool = False,
    levels: int = 1,
    gain_min: float = buckets.LEVELS_GAIN_MIN,
) -> Cuts:
    """Return where to cut the classes into buckets so that streams and their tables take the fewest bytes.

    Args:
        rows: one for each group, of codes.
        classes: one for each group.
        is_packed: whether a byte of the rows holds two codes.
        levels: classes that are one but for their level; cut only if that saves enough to be worth their time.
        gain_min: what is enough, of the bits.
    """
    counts = np.bincount(classes)
    ends, ordered = np.cumsum(counts).tolist(), take_rows(rows, np.argsort(classes, kind="stable"))
    tables = {
        first: _count(ordered[ends[first] - counts[first] : ends[first]], is_packed)
        for first in np.flatnonzero(counts).tolist()
    }
    least = _FEW_CODES if rows.shape[1] > 1 else _FEW_VALUES
    return buckets.choose(tables, least=least, levels=levels, gain_min=gain_min)


def encode_rows(rows: Bytes, classes: Classes, cuts: Cuts, *, is_packed: bool, level: int) -> list[Stream]:
    """Code the groups of each bucket as a stream of bytes; an empty bucket has none.

    Args:
        rows: one for each group.
        classes: one for each group.
        cuts: first class of each bucket but the first, rising.
        is_packed: whether a byte of the rows holds two codes: then the stream has all low ones first, or, where that is
            no larger, the bytes as they are: half as many values to decode.
        level: see `streams.encode`; rare codes need a high one.
    """
    encode = _encode_packed if is_packed else _encode_bytes
    return [encode(part.reshape(-1), max(level, _LEVEL_MIN)) for part in _split(rows, classes, cuts)]


def decode_rows(source: StreamReader, classes: Classes, cuts: Cuts, width: int, *, is_packed: bool) -> Bytes:
    """Return the rows of all groups; undoes `encode_rows`.

    Args:
        source: where the streams come from, in the order that `encode_rows` made them.
        classes: one for each group.
        cuts: as for `encode_rows`.
        width: bytes of a row.
        is_packed: likewise.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    order, counts = _sort(classes, cuts)
    rows = np.empty((classes.size, width), np.uint8)
    flat, done = rows.reshape(-1), 0
    for count in counts:
        part = flat[done : done + count * width]
        done += part.size
        stream = source.take()
        if is_packed and stream.count != part.size:
            cells.join(streams.decode(stream, np.uint8, 2 * part.size), part)
        else:
            streams.decode_into(stream, part)
    return rows if order is None else _restore(rows, order)


def encode_values(values: NDArray[_T], classes: Classes, cuts: Cuts, *, level: int) -> list[Stream]:
    """Code one value for each group; as `encode_rows`."""
    order, counts = _sort(classes, cuts)
    parts = np.split(values if order is None else values[order], np.cumsum(counts)[:-1])
    return [streams.encode(part, level=level) for part in parts]


def decode_values(source: StreamReader, classes: Classes, cuts: Cuts, dtype: type[_T]) -> NDArray[_T]:
    """Return one value for each group; undoes `encode_values`.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    order, counts = _sort(classes, cuts)
    values, done = np.empty(classes.size, dtype), 0
    for count in counts:
        streams.decode_into(source.take(), values[done : done + count])
        done += count
    if order is None:
        return values
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def take_rows(rows: Bytes, groups: Index) -> Bytes:
    """Return some rows. Rows are moved whole: 25 times as fast as by their bytes."""
    taken: Bytes = np.take(_as_items(rows), groups).view(np.uint8)
    return taken.reshape(groups.size, rows.shape[1])


def put_rows(rows: Bytes, groups: Index, new: Bytes) -> None:
    """Overwrite some rows. Which of numpy's ways is fast depends on the size of an item: by a factor of up to 6."""
    if rows.shape[1] <= _SMALL_ITEM:
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


def _sort(classes: Classes, cuts: Cuts) -> tuple[Index | None, list[int]]:
    """Return all groups, bucket after bucket (None: in their own order), and how many are in each that is not empty."""
    if not cuts:
        return None, [classes.size] if classes.size else []
    bucket_of, beyond = np.zeros(classes.size, np.uint8), [classes.size]
    for cut in cuts:  # a comparison of bytes takes a tenth of a look-up in a table
        is_beyond = classes >= np.uint8(cut)
        bucket_of += is_beyond.view(np.uint8)
        beyond.append(int(np.count_nonzero(is_beyond)))
    counts = [more - less for more, less in pairwise([*beyond, 0])]
    if len(counts) <= _SCANS_MAX:
        order = np.concatenate([np.flatnonzero(bucket_of == np.uint8(bucket)) for bucket in range(len(counts))])
    else:
        order = np.argsort(bucket_of, kind="stable")
    return order, [count for count in counts if count]


def members(classes: Classes, cuts: Cuts) -> list[Index]:
    """Return the groups of each bucket that is not empty, rising."""
    order, counts = _sort(classes, cuts)
    if order is None:
        order = np.arange(classes.size)
    return np.split(order, np.cumsum(counts)[:-1]) if counts else []


def _split(rows: Bytes, classes: Classes, cuts: Cuts) -> list[Bytes]:
    """Return the rows of each bucket that is not empty."""
    order, counts = _sort(classes, cuts)
    ends = np.cumsum(counts).tolist()
    ordered = rows if order is None else take_rows(rows, order)
    return [ordered[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _restore(ordered: Bytes, order: Index) -> Bytes:
    """Put rows back that were taken in an order of all of them."""
    if ordered.shape[1] <= _SMALL_ITEM:
        rows = np.empty_like(ordered)
        put_rows(rows, order, ordered)
        return rows
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return take_rows(ordered, places)


def _encode_bytes(part: Bytes, level: int) -> Stream:
    return streams.encode(part, level=level)


def _encode_packed(part: Bytes, level: int) -> Stream:
    """Code bytes of two codes each as codes or as bytes."""
    table = np.bincount(part, minlength=256)
    as_bytes, as_codes = _bits(table), _bits(_nibbles_of(table))
    tried = []
    if as_bytes <= as_codes * _NEAR + 8 * part.size / _FASTER:
        tried.append(_encode_bytes(part, level))
    if not tried or as_codes <= as_bytes * _NEAR:
        codes = _nibbles_of(table)
        has_rare = codes[codes > 0].min() << _LEVEL_IF_NONE_RARE < codes.sum()
        tried.append(streams.encode(cells.split(part), level=level if has_rare else _LEVEL_IF_NONE_RARE))
    return min(tried, key=lambda stream: len(stream.data) - (stream.count == part.size) * part.size // _FASTER)


def _bits(table: NDArray[np.intp]) -> float:
    """Estimate the bits of a stream with such frequencies."""
    seen = table[table > 0].astype(np.float64)
    total = seen.sum()
    return float(total * np.log2(total) - (seen * np.log2(seen)).sum() + _BIN_BITS * seen.size) if total else 0.0


def _nibbles_of(table: NDArray[Any]) -> NDArray[Any]:
    """Return how often each nibble occurs in bytes of such frequencies."""
    pairs = table.reshape(16, 16)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1))


def _count(rows: Bytes, is_packed: bool) -> NDArray[np.float64]:
    """Return how often each code occurs."""
    table = np.bincount(rows.reshape(-1), minlength=256).astype(np.float64)
    return _nibbles_of(table) if is_packed else table
