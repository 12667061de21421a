"""INTEGERS and INTEGERS_DELTA: one integer in each item, of 8, 16 or 32 bits: int8 codes above all.

Whole: mapped to unsigned integers that rise with the number. Contexts: a `grid` where rows or columns are louder than
others. Delta: (new - old) modulo 2**bits, the sign folded in (0, -1, 1, -2 ...). Most codes stay; in loud rows and
columns (`grid`) and far from the centre (magnitude as key) more of them do.

Parameters:

    0       1     bits of an item   8, 16 or 32; 0x80 on top: signed
    1       ...   context           `contextual`, of a delta with `still_rows`; the key is the old code's magnitude, and
                                    only of a delta of 8 bits

The magnitude of an unsigned code is its distance to 128. Scales and zero points that are integers come here as well.
Pure, integers only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from protocol.codec import still_rows, streams
from protocol.codec.contexts import contextual
from protocol.codec.contexts.choosing import choose_firsts, choose_grid
from protocol.codec.contexts.partition import CHUNK_SIZE
from protocol.codec.payload import Stream
from protocol.codec.values import Bytes, Values, fold, from_bytes, to_bytes, unfold
from protocol.errors import DecodeError

_BITS = (8, 16, 32)
_SIGNED = 0x80
_MAGNITUDES_MAX = 4  # classes: they have most of the gain
_MAGNITUDES_WORTH = 0.03  # of the bits: to sort values by key takes the decoder longer than all the rest
_LOUDNESS = 16 * np.log2(np.arange(129) + 0.5)  # of a magnitude


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLayout:
    """What the encoder is told.

    Attributes:
        bits: of an item: 8, 16 or 32.
        is_signed: two's complement, else unsigned.
        columns: items in a row, if the bytes are whole rows of a matrix; else 0.
    """

    bits: int
    is_signed: bool
    columns: int = 0


def encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: IntegerLayout, *, level: int = streams.LEVEL_DEFAULT
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and the streams.

    Args:
        news: the bytes of each extent, whole items.
        olds: the base's, extent by extent of the same size; None without a base.
        layout: what they are.
        level: of pcodec.
    """
    new = from_bytes(news, layout.bits // 8)
    head = bytes([layout.bits | _SIGNED * layout.is_signed])
    if olds is None:
        parameters, coded = _encode_whole(new, layout, level)
    else:
        parameters, coded = _encode_delta(new, from_bytes(olds, layout.bits // 8), layout, level)
    return head + parameters, coded


def decode(parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Undo `encode`.

    Raises:
        DecodeError: parameters, streams and sizes do not go together.
    """
    bits, is_signed = parameters[0] & ~_SIGNED if parameters else 0, bool(parameters[:1] >= b"\x80")
    if bits not in _BITS or any(8 * size % bits for size in sizes):
        raise DecodeError(f"integers of {bits} bits in extents of {sizes} bytes")
    size, count = bits // 8, 8 * sum(sizes) // bits
    if olds is None:
        return to_bytes(_rising(contextual.decode(parameters[1:], coded, size, count), is_signed), sizes)
    return to_bytes(_decode_delta(parameters[1:], coded, from_bytes(olds, size), is_signed), sizes)


def _encode_whole(new: Values, layout: IntegerLayout, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    rising, grid = _rising(new, layout.is_signed), None
    if _is_matrix(new, layout):
        shape = (-1, layout.columns)
        loudness = _LOUDNESS[_magnitudes(new, layout.is_signed)]
        # Loud rows are wider, not of another shape: a quarter of the codes tells as much, and estimates tables better.
        symbols: Bytes = rising >> np.uint8(2)
        grid, _ = choose_grid(symbols.reshape(shape), loudness.reshape(shape))
    return contextual.encode(rising, grid, level)


def _encode_delta(new: Values, old: Values, layout: IntegerLayout, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    folded = fold(new - old)
    moved = still_rows.find(folded, layout.columns)
    if moved is None:
        return _encode_moved(folded, old, layout, level)
    coded = _encode_moved(still_rows.take(folded, moved), still_rows.take(old, moved), layout, level)
    return still_rows.encode(moved, layout.columns, *coded, level)


def _encode_moved(folded: Values, old: Values, layout: IntegerLayout, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    if layout.bits != 8:
        return contextual.encode(folded, None, level)
    keys = _magnitudes(old, layout.is_signed)
    # Classes may begin at multiples of four: finer ones gain nothing, and take long to choose among.
    fours, key_bits, best_bits = choose_firsts(keys >> np.uint8(2), folded, _MAGNITUDES_MAX)
    firsts = tuple(4 * first for first in fours)
    grid = None
    if _is_matrix(folded, layout):
        shape = (-1, layout.columns)
        grid, best_bits = choose_grid(folded.reshape(shape), np.minimum(folded, 3).reshape(shape))
    if key_bits < (1 - _MAGNITUDES_WORTH) * best_bits:
        return contextual.encode_by_key(folded, keys, firsts, level)
    return contextual.encode(folded, grid, level)


def _decode_delta(parameters: bytes, coded: tuple[Stream, ...], old: Values, is_signed: bool) -> Values:
    moved, parameters, coded = still_rows.decode(parameters, coded, old.size)
    if moved is not None:
        values = _decode_delta(parameters, coded, still_rows.take(old, moved), is_signed)
        return still_rows.put(old, values, moved)
    if not contextual.is_by_key(parameters):
        values = unfold(contextual.decode(parameters, coded, old.itemsize, old.size))
        values += old
        return values
    if old.itemsize != 1:
        raise DecodeError(f"integers of {8 * old.itemsize} bits have no magnitudes")
    return _decode_by_magnitude(parameters, coded, old, is_signed)


def _decode_by_magnitude(parameters: bytes, coded: tuple[Stream, ...], old: Values, is_signed: bool) -> Values:
    values = old.copy()
    for places, folded in contextual.decode_by_key(parameters, coded, 1, old.size, _magnitude_chunks(old, is_signed)):
        values[places] += unfold(folded)
    return values


def _magnitude_chunks(old: Values, is_signed: bool) -> Iterator[Bytes]:
    for start in range(0, old.size, CHUNK_SIZE):
        yield _magnitudes(old[start : start + CHUNK_SIZE], is_signed)


def _is_matrix(values: Values, layout: IntegerLayout) -> bool:
    return layout.bits == 8 and 0 < layout.columns < values.size and not values.size % layout.columns


def _rising(values: Values, is_signed: bool) -> Values:
    """Swap the order of the halves of two's complement, there and back."""
    return values ^ values.dtype.type(1 << (8 * values.itemsize - 1)) if is_signed else values


def _magnitudes(codes: Bytes, is_signed: bool) -> Bytes:
    """Return how far 8-bit codes are from 0, or from 128; 0 .. 128."""
    centred = codes if is_signed else codes ^ np.uint8(128)
    return np.abs(centred.view(np.int8)).view(np.uint8)
