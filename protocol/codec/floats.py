"""FLOATS and FLOATS_DELTA: bf16, fp16, fp32 and fp8, bit for bit, whatever the bits mean.

Whole: the sign goes from the highest to the lowest bit, so that the value counts up with the magnitude; pcodec's bins
then follow exponent and mantissa alike, and the sign is one of the bits that they leave alone. Contexts: `grid`.

Delta: both are mapped to integers that rise with the number (negative ones with all bits but the sign flipped),
subtracted, and the sign of the difference folded in (0, -1, 1, -2 ...). A step of the optimizer is as large for small
weights as for large ones, so its size in such integers doubles with each exponent less: the exponent of the old value
is the key of a `partition`, or where whole rows and columns changed more than others, a `grid` is laid.

Parameters:

    0       1     format           `FloatFormat`
    1       1     context          0 none: one stream; 1 grid; 2 old exponent (delta only)
    2       ...   grid: its head; old exponent: the first exponent of each class, rising from 0, one byte each

Integers only; NaN payloads, denormals and zeros of both signs are bits like all others. Pure.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.contexts import choose_firsts, choose_grid
from protocol.codec.grid import Grid
from protocol.codec.partition import CHUNK_SIZE, check_firsts, merge, partition
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

_HEAD = struct.Struct(">BB")
Values = NDArray[Any]  # uint8, uint16 or uint32, as wide as the format
Bytes = NDArray[np.uint8]


class FloatFormat(IntEnum):
    """How the bits of a number are laid out: sign, exponent, mantissa from the top."""

    BF16 = 0
    FP16 = 1
    FP32 = 2
    FP8_E4M3 = 3
    FP8_E5M2 = 4

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian unsigned integers of the same size."""
        return np.dtype(("<u2", "<u2", "<u4", "<u1", "<u1")[self])

    @property
    def mantissa_bits(self) -> int:
        """Bits below the exponent."""
        return (7, 10, 23, 3, 2)[self]


class Context(IntEnum):
    """By what values are told apart."""

    NONE = 0
    GRID = 1
    EXPONENT = 2


_FORMATS = {int(kind): kind for kind in FloatFormat}


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatLayout:
    """What the encoder is told.

    Attributes:
        format: of every value.
        columns: values in a row, if the bytes are whole rows of a matrix; else 0.
    """

    format: FloatFormat
    columns: int = 0


def encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: FloatLayout, *, level: int = streams.LEVEL_DEFAULT
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and the streams.

    Args:
        news: the bytes of each extent, whole values of one format.
        olds: the base's, extent by extent of the same size; None without a base.
        layout: what they are.
        level: of pcodec.
    """
    new = _values(news, layout.format)
    is_matrix = layout.columns > 0 and new.size > layout.columns and new.size % layout.columns == 0
    if olds is None:
        symbols = _exponents(new, layout.format)
        grid = _choose_grid(symbols, new, layout) if is_matrix else None
        return _encode_grid(layout.format, rotate_left(new), grid, level)
    old = _values(olds, layout.format)
    folded = fold(to_rising(new) - to_rising(old))
    keys = _exponents(old, layout.format)
    firsts = choose_firsts(keys, folded)
    if len(firsts) == 1:
        return _encode_grid(layout.format, folded, None, level)
    coded = tuple(streams.encode(part, level=level) for part in partition(folded, keys, firsts))
    return _HEAD.pack(layout.format, Context.EXPONENT) + bytes(firsts), coded


def decode(parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Undo `encode`.

    Raises:
        DecodeError: parameters, streams and sizes do not go together.
    """
    if len(parameters) < _HEAD.size:
        raise DecodeError(f"floats with {len(parameters)} parameter bytes")
    kind, context = _HEAD.unpack_from(parameters)
    if kind not in _FORMATS or any(size % _FORMATS[kind].dtype.itemsize for size in sizes):
        raise DecodeError(f"floats of format {kind} in extents of {sizes} bytes")
    format_, rest = _FORMATS[kind], parameters[_HEAD.size :]
    count = sum(sizes) // format_.dtype.itemsize
    old = None if olds is None else _values(olds, format_)
    if context == Context.EXPONENT and old is not None:
        values = _decode_by_exponent(list(rest), coded, old, format_)
    else:
        values = _decode_grid(rest, coded, count, format_, context)
        values = rotate_right(values) if old is None else add(old, values)
    raw = values.astype(format_.dtype, copy=False).view(np.uint8)
    return np.split(raw, np.cumsum(sizes)[:-1])


def rotate_left(values: Values) -> Values:
    """Return the bits with the sign below all others."""
    return values << 1 | values >> _sign_bit(values)


def rotate_right(values: Values) -> Values:
    """Undo `rotate_left`."""
    return values >> 1 | values << _sign_bit(values)


def to_rising(values: Values) -> Values:
    """Return integers modulo 2**bits that rise with the numbers; applied again, it undoes itself."""
    signed: Values = values.view(f"i{values.itemsize}")
    rising = signed >> _sign_bit(values)
    rising &= np.iinfo(signed.dtype).max
    rising ^= signed
    return rising.view(values.dtype)


def fold(differences: Values) -> Values:
    """Return 0, 1, 2, 3 ... for differences of 0, -1, 1, -2 ..."""
    signed = differences.view(f"i{differences.itemsize}")
    return (signed << 1 ^ signed >> _sign_bit(differences)).view(differences.dtype)


def unfold(folded: Values) -> Values:
    """Undo `fold`."""
    values: Values = folded & 1
    np.negative(values, out=values)
    values ^= folded >> 1
    return values


def add(old: Values, folded: Values) -> Values:
    """Return the new values, given folded differences."""
    values = to_rising(old)
    values += unfold(folded)
    return to_rising(values)


def _decode_by_exponent(firsts: list[int], coded: tuple[Stream, ...], old: Values, format_: FloatFormat) -> Values:
    check_firsts(firsts)
    if len(coded) != len(firsts) or sum(stream.count for stream in coded) != old.size:
        raise DecodeError(f"floats of {len(firsts)} classes in {len(coded)} streams")
    parts = [streams.decode(stream, old.dtype.type, stream.count) for stream in coded]
    values = np.empty_like(old)
    start = 0
    for folded in merge(parts, _exponent_chunks(old, format_), firsts):
        values[start : start + folded.size] = add(old[start : start + folded.size], folded)
        start += folded.size
    return values


def _exponent_chunks(old: Values, format_: FloatFormat) -> Iterator[Bytes]:
    for start in range(0, old.size, CHUNK_SIZE):
        yield _exponents(old[start : start + CHUNK_SIZE], format_)


def _decode_grid(head: bytes, coded: tuple[Stream, ...], count: int, format_: FloatFormat, context: int) -> Values:
    dtype = format_.dtype.newbyteorder("=").type
    if context == Context.NONE and not head and len(coded) == 1:
        return streams.decode(coded[0], dtype, count)
    if context != Context.GRID:
        raise DecodeError(f"floats of context {context} with {len(head)} bytes of it and {len(coded)} streams")
    grid = Grid.decode(head, coded, count)
    if sum(stream.count for stream in coded[2:]) != count:
        raise DecodeError(f"floats of {count} values in streams of other sizes")
    return grid.join([streams.decode(stream, dtype, stream.count) for stream in coded[2:]])


def _encode_grid(
    format_: FloatFormat, values: Values, grid: Grid | None, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    if grid is None:
        return _HEAD.pack(format_, Context.NONE), (streams.encode(values, level=level),)
    head, tables = grid.encode(level)
    parts = tuple(streams.encode(part, level=level) for part in grid.split(values))
    return _HEAD.pack(format_, Context.GRID) + head, tables + parts


def _choose_grid(symbols: Bytes, values: Values, layout: FloatLayout) -> Grid | None:
    # Bits without the sign count up with the logarithm of the magnitude; the upper 15 are plenty.
    loudness = values << 1 >> max(1, _sign_bit(values) - 14)
    shape = (-1, layout.columns)
    return choose_grid(symbols.reshape(shape), loudness.reshape(shape))


def _exponents(values: Values, format_: FloatFormat) -> Bytes:
    bits = _sign_bit(values) - format_.mantissa_bits
    shifted = (values >> format_.mantissa_bits).astype(np.uint8)
    return shifted if bits == 8 else shifted & np.uint8((1 << bits) - 1)


def _sign_bit(values: Values) -> int:
    return 8 * values.itemsize - 1


def _values(extents: list[Bytes], format_: FloatFormat) -> Values:
    """Return the values of all extents in the machine's order."""
    raw = extents[0] if len(extents) == 1 else np.concatenate(extents)
    return np.ascontiguousarray(raw).view(format_.dtype).astype(format_.dtype.newbyteorder("="), copy=False)
