"""Scales, minima and zero points of groups as streams: one number each, as it is, or as the difference to the base.

Scales lie on grids of their own: where weights were bfloat16, a scale that is their largest by 127 takes 128 values an
octave of float16's 1024. Bins of an entropy coder do not see that; a dictionary does: the values that occur, rising,
and for each group the rank of its value. The packer tries both, and the better with and without contexts: classes of
groups that both ends know, or, of whole scales, loud and quiet rows and columns of groups (`grid`). The form of a field
in the parameters:

    0       1     number of cuts; 0x80 on top: a dictionary; 0x40: a grid, and no cuts
    1       n     first class of each bucket but the first
    1       n     of a grid: size of what `contextual` says of it, its streams, and what it says

Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import numbers, streams
from protocol.codec.contexts import contextual
from protocol.codec.contexts.buckets import Cuts
from protocol.codec.contexts.choosing import choose_grid
from protocol.codec.contexts.grid import Grid
from protocol.codec.fourbit import grouped
from protocol.codec.fourbit.grouped import Classes, StreamReader
from protocol.codec.numbers import Reader
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

_DTYPES: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_RANKS_MAX = 2**16
_LEVEL_OF_TRIAL = 8  # of whole fields: quick, and within a thousandth
_LEVEL_IF_WHOLE = 10  # more bins save a few bytes in 100,000, and take twice the time
_LEVEL_IF_DELTA = 12  # rare differences need bins of their own
_TABLE_PAYS = 2**13  # values: from there on a table of all words is faster than a sort
_DENSE, _SPARSE = (
    0.9,
    0.6,
)  # of the words in a range: beyond, a coder's bins know as much as a dictionary; below it wins
_CERTAIN = 8  # values for each word
_SAMPLE = 4096  # values
_HAS_DICTIONARY, _HAS_GRID = 0x80, 0x40  # beside the number of cuts, which is below
_GRID_SIZE_MAX, _GRID_STREAMS_MAX = 1024, 64
_SYMBOL_BITS = 7  # of a value, as the choice of a grid looks at it

Bytes = NDArray[np.uint8]
Values = NDArray[Any]  # unsigned


@dataclass(frozen=True, slots=True)
class Form:
    """How a field is coded.

    Attributes:
        cuts: of its classes.
        has_dictionary: whether its values are ranks in a dictionary.
        grid: what `contextual` says, if rows and columns are told apart.
        num_grid_streams: that it has.
    """

    cuts: Cuts = ()
    has_dictionary: bool = False
    grid: bytes = b""
    num_grid_streams: int = 0

    def encode(self) -> bytes:
        """Return the bytes of the form."""
        packed = grouped.pack_cuts(self.cuts)
        flags = _HAS_DICTIONARY * self.has_dictionary | _HAS_GRID * bool(self.grid)
        said = numbers.pack(len(self.grid), self.num_grid_streams) + self.grid if self.grid else b""
        return bytes([packed[0] | flags]) + packed[1:] + said

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read a form from the front; return it and the rest.

        Raises:
            DecodeError: it is none.
        """
        if not data:
            raise DecodeError("the form of a field is missing")
        has_dictionary, has_grid = bool(data[0] & _HAS_DICTIONARY), data[0] & _HAS_GRID
        cuts, rest = grouped.read_cuts(bytes([data[0] & ~_HAS_DICTIONARY & ~_HAS_GRID]) + data[1:])
        if not has_grid:
            return cls(cuts, has_dictionary), rest
        if cuts:
            raise DecodeError(f"a grid of rows and columns, and {len(cuts)} cuts")
        reader = Reader(rest, "the form of a field")
        size, num_streams = reader.number(_GRID_SIZE_MAX), reader.number(_GRID_STREAMS_MAX)
        return cls((), has_dictionary, reader.take(size), num_streams), reader.rest()


def encode(
    new: Values, old: Values | None, classes: Classes, *, level: int, columns: int = 0
) -> tuple[Form, list[Stream]]:
    """Return the form and streams of one value for each group. No values make no stream.

    Args:
        new: uint8, uint16 or uint32.
        old: the base's, for a delta.
        classes: one for each group.
        level: see `streams.encode`.
        columns: groups in a row, if the groups are rows of so many; else 0.
    """
    if not new.size:
        return Form(), []
    values = new if old is None else new - old
    ways = _ways(values, classes, level) if old is None and values.itemsize > 1 else []
    if not ways:
        ways.append(_plain(values, classes, is_delta=old is not None))
    if old is None:
        trial, level = _LEVEL_OF_TRIAL, min(level, _LEVEL_IF_WHOLE)
    else:
        trial = level = max(level, _LEVEL_IF_DELTA)
    best, made = _smallest(ways, classes, columns if old is None else 0, trial)
    return best.encode(classes, level) if made is None or best.dictionary else made


def decode(source: StreamReader, old: Values | None, classes: Classes, form: Form, size: int) -> Values:
    """Return the values; undoes `encode`.

    Args:
        source: where the streams come from.
        old: as for `encode`.
        classes: likewise.
        form: as `encode` returned it.
        size: of a value in bytes.

    Raises:
        DecodeError: the streams are not those of such values.
    """
    values: Values
    if form.has_dictionary:
        dictionary = _decode_dictionary(source, size, classes.size)
        ranks = _decode_values(source, classes, form, 2)
        if ranks.max() >= dictionary.size:
            raise DecodeError(f"rank {ranks.max()} in a dictionary of {dictionary.size}")
        values = np.take(dictionary, ranks)  # in half the time of an index
    else:
        values = _decode_values(source, classes, form, size)
    return values if old is None else values + old


_Made = tuple[Form, list[Stream]]


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to code a field.

    Attributes:
        cuts: of the classes.
        values: as they are, differences, or ranks.
        dictionary: its stream, if there is one.
        grid: tells rows and columns apart, instead of classes.
    """

    cuts: Cuts
    values: Values
    dictionary: tuple[Stream, ...] = ()
    grid: Grid | None = None

    def encode(self, classes: Classes, level: int) -> tuple[Form, list[Stream]]:
        """Return the form and streams."""
        if self.grid is None:
            form = Form(self.cuts, bool(self.dictionary))
            return form, [*self.dictionary, *grouped.encode_values(self.values, classes, self.cuts, level=level)]
        said, coded = contextual.encode(self.values, self.grid, level)
        return Form((), bool(self.dictionary), said, len(coded)), [*self.dictionary, *coded]

    def variants(self, columns: int) -> Iterator["_Way"]:
        """Yield what else may be tried with the same values: no classes, rows and columns of a grid."""
        if self.cuts:
            yield replace(self, cuts=())
        grid = _choose_grid(self.values, columns) if columns else None
        if grid is not None:
            yield replace(self, cuts=(), grid=grid)


def _plain(values: Values, classes: Classes, *, is_delta: bool) -> _Way:
    return _Way(grouped.choose_cuts(_outline(values, is_delta=is_delta)[:, None], classes), values)


def _ways(values: Values, classes: Classes, level: int) -> list[_Way]:
    """Return what is worth a trial: values as they are, unless they lie on a grid; by dictionary, unless they do not.

    None: as they are, there is nothing to try.
    """
    words = _words_of(values)
    if not 2 * words.size < values.size or words.size > _RANKS_MAX:
        return []
    share, is_certain = _density(values, words)
    if share > _DENSE:
        return []
    gaps = streams.encode(np.diff(words, prepend=words.dtype.type(0)), level=level)
    ranks = _rank(values, words)
    cuts = grouped.choose_cuts((ranks * 255 // words.size).astype(np.uint8)[:, None], classes)
    ranked = _Way(cuts, ranks.astype(np.uint16), (gaps,))
    return [ranked] if share < _SPARSE and is_certain else [_plain(values, classes, is_delta=False), ranked]


def _density(values: Values, words: Values) -> tuple[float, bool]:
    """Return how many of the words between the values of the middle half occur, and whether they tell."""
    sample = np.sort(values[:: max(1, values.size // _SAMPLE)])
    low, high = int(sample[sample.size // 4]), int(sample[3 * sample.size // 4])
    between = np.count_nonzero((words >= low) & (words <= high))
    return between / (high - low + 1), values.size > _CERTAIN * (high - low + 1)


def _choose_grid(values: Values, columns: int) -> Grid | None:
    """Return what tells rows and columns apart; None if that promises nothing."""
    lowest = values.min()
    surplus = (int(values.max()) - int(lowest)).bit_length() - _SYMBOL_BITS
    symbols = ((values - lowest) >> max(0, surplus)).astype(np.uint8)
    shape = (-1, columns)
    return choose_grid(symbols.reshape(shape), values.reshape(shape))[0]


def _decode_values(source: StreamReader, classes: Classes, form: Form, size: int) -> Values:
    if not form.grid:
        return grouped.decode_values(source, classes, form.cuts, _DTYPES[size])
    coded = tuple(source.take() for _ in range(form.num_grid_streams))
    return contextual.decode(form.grid, coded, size, classes.size)


def _smallest(ways: list[_Way], classes: Classes, columns: int, level: int) -> tuple[_Way, _Made | None]:
    """Return the way that takes the fewest bytes, as far as trials tell: of the ways, then of the variants of the best.

    Args:
        ways: at least one.
        classes: one for each group.
        columns: of a grid that may be tried; 0: none may.
        level: of the trials.

    Returns:
        It, and what its trial made, if it took one. More bins pay for ranks only: 1-2 %, else a thousandth.
    """
    if len(ways) == 1 and not ways[0].cuts and not columns:
        return ways[0], None
    tried = [(way, way.encode(classes, level)) for way in ways]
    best, made = min(tried, key=lambda pair: _size(pair[1]))
    tried = [(best, made), *((other, other.encode(classes, level)) for other in best.variants(columns))]
    return min(tried, key=lambda pair: _size(pair[1]))


def _size(made: _Made) -> tuple[int, bytes]:
    """Return the bytes that it takes, and something to break a tie by."""
    form, own = made
    said = form.encode()
    return len(said) + sum(stream.stored_size for stream in own), said


def _words_of(values: Values) -> Values:
    """Return the values that occur, rising."""
    if values.itemsize > 2 or values.size < _TABLE_PAYS:
        return np.unique(values)
    is_there = np.zeros(2**16, np.bool_)
    is_there[values] = True
    return np.flatnonzero(is_there).astype(values.dtype)


def _rank(values: Values, words: Values) -> NDArray[np.intp]:
    """Return the place of each value among all that occur."""
    if values.itemsize > 2 or values.size < _TABLE_PAYS:
        return np.searchsorted(words, values)
    ranks = np.empty(2**16, np.intp)
    ranks[words] = np.arange(words.size)
    return np.take(ranks, values)


def _decode_dictionary(source: StreamReader, size: int, num_values: int) -> Values:
    stream = source.take()
    if not 1 <= stream.count <= min(num_values, _RANKS_MAX):
        raise DecodeError(f"a dictionary of {stream.count} for {num_values} values")
    dtype = _DTYPES[size]
    dictionary: Values = np.cumsum(streams.decode(stream, dtype, stream.count), dtype=dtype)
    return dictionary


def _outline(values: Values, *, is_delta: bool) -> Bytes:
    """Return what the packer looks at to cut classes of values that may be wider than a byte."""
    if is_delta:
        values = np.minimum(values, ~values + values.dtype.type(1)).clip(max=255)
    elif values.itemsize > 1:
        values = values >> (8 * values.itemsize - 8)
    outline: Bytes = values.astype(np.uint8)
    return outline
