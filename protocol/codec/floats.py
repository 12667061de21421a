"""FLOATS and FLOATS_DELTA: bf16, fp16, fp32 and fp8, bit for bit, whatever the bits mean.

Whole: the sign goes from the highest to the lowest bit, so that the value counts up with the magnitude; pcodec's bins
then follow exponent and mantissa alike, and the sign is one of the bits that they leave alone. Contexts: `grid`.

Delta: both are mapped to integers that rise with the number (negative ones with all bits but the sign flipped),
subtracted, and the sign of the difference folded in (0, -1, 1, -2 ...). A step of the optimizer is as large for small
weights as for large ones, so its size in such integers doubles with each exponent less: the exponent of the old value
is the key of a `partition`, or where whole rows and columns changed more than others, a `grid` is laid.

Parameters:

    0       1     format    `FloatFormat`
    1       ...   context   `contextual`, of a delta with `still_rows` and `row_classes`; the key, of a delta only, is
                            the old exponent

Integers only; NaN payloads, denormals and zeros of both signs are bits like all others. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np

from protocol.codec import row_classes, still_rows, streams
from protocol.codec.contexts import contextual
from protocol.codec.contexts.choosing import choose_firsts, choose_grid
from protocol.codec.contexts.grid import Grid
from protocol.codec.contexts.partition import CHUNK_SIZE
from protocol.codec.payload import Stream
from protocol.codec.values import Bytes, Values, fold, from_bytes, to_bytes, unfold
from protocol.errors import DecodeError

_EXPONENT_CLASSES_MAX = 9  # twelve would save 0.1 % of a delta and cost the decoder 4 % of its time


class FloatFormat(IntEnum):
    """How the bits of a number are laid out: sign, exponent, mantissa from the top."""

    BF16 = 0
    FP16 = 1
    FP32 = 2
    FP8_E4M3 = 3
    FP8_E5M2 = 4

    @property
    def size(self) -> int:
        """Bytes of a value."""
        return (2, 2, 4, 1, 1)[self]

    @property
    def mantissa_bits(self) -> int:
        """Bits below the exponent."""
        return (7, 10, 23, 3, 2)[self]


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
    new = from_bytes(news, layout.format.size)
    if olds is None:
        parameters, coded = contextual.encode(rotate_left(new), _choose_grid(new, layout), level)
    else:
        parameters, coded = _encode_delta(new, from_bytes(olds, layout.format.size), layout, level)
    return bytes([layout.format]) + parameters, coded


def decode(parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Undo `encode`.

    Raises:
        DecodeError: parameters, streams and sizes do not go together.
    """
    number = parameters[0] if parameters else -1
    if number not in _FORMATS or any(size % _FORMATS[number].size for size in sizes):
        raise DecodeError(f"floats of format {number} in extents of {sizes} bytes")
    kind, rest = _FORMATS[number], parameters[1:]
    count = sum(sizes) // kind.size
    if olds is None:
        values = rotate_right(contextual.decode(rest, coded, kind.size, count))
    else:
        values = _decode_delta(rest, coded, from_bytes(olds, kind.size), kind)
    return to_bytes(values, sizes)


def rotate_left(values: Values) -> Values:
    """Return the bits with the sign below all others."""
    rotated: Values = values * values.dtype.type(2) | values >> _sign_bit(values)
    return rotated


def rotate_right(values: Values) -> Values:
    """Undo `rotate_left`."""
    # A product takes numpy a tenth of the time of a shift to the left.
    rotated: Values = values >> 1 | values * values.dtype.type(1 << _sign_bit(values))
    return rotated


def to_rising(values: Values) -> Values:
    """Return integers modulo 2**bits that rise with the numbers; applied again, it undoes itself."""
    signed: Values = values.view(f"i{values.itemsize}")
    rising = signed >> _sign_bit(values)
    rising &= np.iinfo(signed.dtype).max
    rising ^= signed
    return rising.view(values.dtype)


def add(old: Values, folded: Values) -> Values:
    """Return the new values, given folded differences."""
    values = to_rising(old)
    values += unfold(folded)
    return to_rising(values)


def _encode_delta(new: Values, old: Values, layout: FloatLayout, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    folded = fold(to_rising(new) - to_rising(old))
    moved = still_rows.find(folded, layout.columns)
    if moved is not None:
        folded, old = still_rows.take(folded, moved), still_rows.take(old, moved)
    keys = _exponents(old, layout.format)
    parameters, coded = _encode_rows(folded, keys, layout.columns, level)
    if moved is not None:
        return still_rows.encode(moved, layout.columns, parameters, coded, level)
    return parameters, coded


def _encode_rows(folded: Values, keys: Bytes, columns: int, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    """Code the rows that moved, those that moved far apart from the others where that pays."""
    classes = None
    if columns and folded.size and not folded.size % columns:
        exponents = keys.astype(np.int32) - int(keys.max())
        distance = np.ldexp(folded.astype(np.float32), exponents).reshape(-1, columns)
        classes = row_classes.choose(distance.mean(axis=1, dtype=np.float64), partial(_bits, folded, keys))
    if classes is None:
        return _encode_by_exponent(folded, keys, level)
    coded = [
        _encode_by_exponent(_take(folded, classes, own), _take(keys, classes, own), level)
        for own in range(int(classes.max()) + 1)
    ]
    return row_classes.encode(classes, columns, coded, level)


def _encode_by_exponent(folded: Values, keys: Bytes, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    firsts, _, _ = choose_firsts(keys, folded, _EXPONENT_CLASSES_MAX)
    return contextual.encode_by_key(folded, keys, firsts, level)


def _bits(folded: Values, keys: Bytes, classes: Bytes | None) -> float:
    """Estimate the bits of values, the rows of each class apart."""
    if classes is None:
        return choose_firsts(keys, folded, _EXPONENT_CLASSES_MAX)[1]
    parts = ((_take(keys, classes, own), _take(folded, classes, own)) for own in np.unique(classes))
    return sum(choose_firsts(own_keys, own, _EXPONENT_CLASSES_MAX)[1] for own_keys, own in parts)


def _take(values: Values, classes: Bytes, own: int) -> Values:
    """Return the values of the rows of a class."""
    return still_rows.take(values, (classes == own).view(np.uint8))


def _decode_delta(parameters: bytes, coded: tuple[Stream, ...], old: Values, kind: FloatFormat) -> Values:
    moved, parameters, coded = still_rows.decode(parameters, coded, old.size)
    if moved is not None:
        values = _decode_delta(parameters, coded, still_rows.take(old, moved), kind)
        return still_rows.put(old, values, moved)
    if row_classes.is_there(parameters):
        return row_classes.decode(parameters, coded, old, partial(_decode_rows, kind=kind))
    return _decode_rows(parameters, coded, old, kind)


def _decode_rows(parameters: bytes, coded: tuple[Stream, ...], old: Values, kind: FloatFormat) -> Values:
    if contextual.is_by_key(parameters):
        return _decode_by_exponent(parameters, coded, old, kind)
    return add(old, contextual.decode(parameters, coded, kind.size, old.size))


def _decode_by_exponent(parameters: bytes, coded: tuple[Stream, ...], old: Values, kind: FloatFormat) -> Values:
    values = old.copy()
    chunks = contextual.decode_by_key(parameters, coded, old.itemsize, old.size, _exponent_chunks(old, kind))
    for places, folded in chunks:
        values[places] = add(old[places], folded)
    return values


def _exponent_chunks(old: Values, kind: FloatFormat) -> Iterator[Bytes]:
    for start in range(0, old.size, CHUNK_SIZE):
        yield _exponents(old[start : start + CHUNK_SIZE], kind)


def _choose_grid(values: Values, layout: FloatLayout) -> Grid | None:
    if not 0 < layout.columns < values.size or values.size % layout.columns:
        return None
    # Bits without the sign count up with the logarithm of the magnitude; the upper 15 are plenty.
    loudness = values << 1 >> max(1, _sign_bit(values) - 14)
    shape = (-1, layout.columns)
    return choose_grid(_exponents(values, layout.format).reshape(shape), loudness.reshape(shape))[0]


def _exponents(values: Values, kind: FloatFormat) -> Bytes:
    bits = _sign_bit(values) - kind.mantissa_bits
    shifted = (values >> kind.mantissa_bits).astype(np.uint8)
    return shifted if bits == 8 else shifted & np.uint8((1 << bits) - 1)


def _sign_bit(values: Values) -> int:
    return 8 * values.itemsize - 1
