"""Codes in groups: a quantized matrix as groups of codes that share a scale, each group of one class.

The classes are the contexts of the entropy coder: the zero point of a group, how loud it is beside its neighbours,
whether its scale changed. All codes of a group are of one class, so contexts cost one permutation of whole groups
instead of one of values. Both ends compute the class of every group from what is decoded before its codes; the packer
joins neighbouring classes into *buckets* where that saves bytes, and says so by the first class of each bucket but the
first (`cuts`). A group may be *turned*: its codes are coded as the highest code less them. In a bucket turned groups
come after the others, so that they are turned back in one run; all groups keep their order else (`ordering`).

Pure. It knows nothing of formats; `nibbles` and `gguf` cut theirs into groups.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.contexts import buckets
from protocol.codec.contexts.buckets import BUCKETS_MAX, Cuts
from protocol.codec.fourbit import cells, ordering, paired
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

CLASSES_MAX = 256
_LEVEL_MIN = 12  # as many bins as pcodec makes: with fewer, rare codes share one. Costs no time where codes are bytes
SPEED_BUDGET = 0.0015  # share of the bytes of codes that may be spent on the decoder's time
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


def encode_rows(
    rows: Bytes,
    classes: Classes,
    cuts: Cuts,
    *,
    is_packed: bool,
    level: int,
    turned: Bytes | None = None,
    budget: float = SPEED_BUDGET,
) -> list[Stream]:
    """Code the groups of each bucket as a stream of bytes; an empty bucket has none.

    Args:
        rows: one for each group; those that are turned are so already.
        classes: one for each group.
        cuts: first class of each bucket but the first, rising.
        is_packed: whether a byte of the rows holds two codes; see `paired`.
        level: see `streams.encode`; rare codes need a high one.
        turned: 1 for each group that is, else 0; None: none is.
        budget: of `paired`.
    """
    order, buckets_of = ordering.sort(classes, cuts, turned)
    ordered = rows if order is None else take_rows(rows, order)
    ends = np.cumsum([bucket.num_groups for bucket in buckets_of])[:-1]
    parts = [part.reshape(-1) for part in np.split(ordered, ends)] if buckets_of else []
    if is_packed:
        return paired.encode(parts, level=level, budget=budget)
    return [streams.encode(part, level=max(level, _LEVEL_MIN)) for part in parts]


def decode_rows(
    source: StreamReader,
    classes: Classes,
    cuts: Cuts,
    width: int,
    *,
    is_packed: bool,
    turned: Bytes | None = None,
    code_max: int = 0xFF,
) -> Bytes:
    """Return the rows of all groups, none of them turned any more; undoes `encode_rows`.

    Args:
        source: where the streams come from, in the order that `encode_rows` made them.
        classes: one for each group.
        cuts: as for `encode_rows`.
        width: bytes of a row.
        is_packed: likewise.
        turned: likewise.
        code_max: highest code of a byte that holds one.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    order, parts = ordering.sort(classes, cuts, turned)
    rows = np.empty((classes.size, width), np.uint8)
    flat, done, mask = rows.reshape(-1), 0, np.uint8(0xFF if is_packed else code_max)
    for bucket in parts:
        part = flat[done : done + bucket.num_groups * width]
        done += part.size
        _decode_part(source.take(), part, code_max, is_packed=is_packed)
        if bucket.num_turned:
            part[-bucket.num_turned * width :] ^= mask
    if order is not None:
        return _restore(rows, order)
    if turned is not None:
        turn(rows, turned, int(mask))
    return rows


def _decode_part(stream: Stream, part: Bytes, code_max: int, *, is_packed: bool) -> None:
    if is_packed and stream.count != part.size:
        cells.join(streams.decode(stream, np.uint8, 2 * part.size), part)
        return
    streams.decode_into(stream, part)
    if not is_packed and code_max < 0xFF and part.max() > code_max:
        raise DecodeError(f"a code of {part.max()} where {code_max} is the highest")


def turn(rows: Bytes, turned: Bytes, mask: int) -> None:
    """Turn the codes of some rows round, in place; again, and they are as they were.

    Args:
        rows: one for each group.
        turned: 1 for each group that is to be turned, else 0.
        mask: code_max, or twice it where a byte holds two codes.
    """
    width = rows.shape[1]
    if width % 8:
        rows ^= (turned * np.uint8(mask))[:, None]
        return
    masks = turned.astype(np.uint64) * np.uint64(int.from_bytes(bytes([mask] * 8), "big"))
    words = rows.view(np.uint64)
    for column in range(width // 8):  # a tenth of the time of masks repeated
        words[:, column] ^= masks


def encode_values(values: NDArray[_T], classes: Classes, cuts: Cuts, *, level: int) -> list[Stream]:
    """Code one value for each group; as `encode_rows`."""
    order, parts = ordering.sort(classes, cuts)
    ends = np.cumsum([part.num_groups for part in parts])[:-1]
    return [streams.encode(part, level=level) for part in np.split(values if order is None else values[order], ends)]


def decode_values(source: StreamReader, classes: Classes, cuts: Cuts, dtype: type[_T]) -> NDArray[_T]:
    """Return one value for each group; undoes `encode_values`.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    order, parts = ordering.sort(classes, cuts)
    values, done = np.empty(classes.size, dtype), 0
    for part in parts:
        streams.decode_into(source.take(), values[done : done + part.num_groups])
        done += part.num_groups
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


def _restore(ordered: Bytes, order: Index) -> Bytes:
    """Put rows back that were taken in an order of all of them."""
    if ordered.shape[1] <= _SMALL_ITEM:
        rows = np.empty_like(ordered)
        put_rows(rows, order, ordered)
        return rows
    places = np.empty_like(order)
    places[order] = np.arange(order.size)
    return take_rows(ordered, places)


def _count(rows: Bytes, is_packed: bool) -> NDArray[np.float64]:
    """Return how often each code occurs."""
    table = np.bincount(rows.reshape(-1), minlength=256).astype(np.float64)
    return paired.nibbles_of(table) if is_packed else table
