"""Four-bit codes, two in a byte, with the scales and zero points of their groups, as GPTQ and others pack them.

A piece is a slab of a quantized matrix: its codes, then the scales and the zero points of exactly these codes, if the
file has them. Scales and zero points come first in the streams; they are the context of the codes:

- whole: codes are split by the zero point of their group, and by how loud its scale is beside its row and column;
- delta: the old code of each weight is carried over to the new grid where scale or zero point changed (`affine`), and
  the difference to it is split by whether the group changed.

Inside, every packing is the same: *cells*, one row of bytes for each group, so that contexts permute whole rows.
Any bytes come back as they were: what is no sensible scale only predicts badly.

Pure. It does not know tensors or files.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import cells, grouped, loudness
from protocol.codec.affine import FRACTION_BITS, Number, Shift
from protocol.codec.grouped import Classes, Cuts, StreamReader
from protocol.codec.loudness import LEVELS, Loudness
from protocol.codec.nibble_layout import NibbleLayout, Packing, Zeros
from protocol.codec.nibble_slab import DTYPES, Bytes, Fields, Values, read_cells, read_fields, write_cells, write_fields
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

__all__ = ["NibbleLayout", "Packing", "Zeros", "decode", "encode"]

CODE_MAX = 15
_MIDDLE = 8  # code of weight zero where zero points are floats
_CENTRES = 32  # of a group's codes; LEVELS times as many are CLASSES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameters:
    """What a piece says besides its streams: the layout, and how its classes are cut."""

    layout: NibbleLayout
    thresholds: Loudness
    scale_cuts: Cuts = ()
    zero_cuts: Cuts = ()
    code_cuts: Cuts = ()

    def encode(self) -> bytes:
        cuts = (self.scale_cuts, self.zero_cuts, self.code_cuts)
        return self.layout.encode() + self.thresholds.encode() + b"".join(grouped.pack_cuts(each) for each in cuts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        at = NibbleLayout.SIZE + Loudness.SIZE
        if len(data) < at:
            raise DecodeError(f"nibbles: {len(data)} bytes of parameters")
        scale_cuts, zero_cuts, code_cuts = grouped.read_cuts(data[at:], 3)
        return cls(
            layout=NibbleLayout.decode(data[: NibbleLayout.SIZE]),
            thresholds=Loudness.decode(data[NibbleLayout.SIZE : at]),
            scale_cuts=scale_cuts,
            zero_cuts=zero_cuts,
            code_cuts=code_cuts,
        )


def encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: NibbleLayout, *, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and streams of a slab.

    Args:
        news: its extents: codes, then scales and zeros as far as the layout has them.
        olds: the same extents of the base, for a delta.
        layout: what they look like.
        level: of the entropy coder.
    """
    assert layout.is_possible
    assert [new.size for new in news] == layout.sizes
    fields, table = read_fields(news, layout), read_cells(news[0], layout)
    base = change = None
    if olds is not None:
        base = read_fields(olds, layout)
        change = _compare(layout, fields, base)
        table = cells.subtract(table, _predict(olds[0], layout, change))
    thresholds, levels = _choose_levels(layout, fields)
    scales = _encode_field(fields.scales, None if base is None else base.scales, _scale_classes(layout, base), level)
    zeros = _encode_field(
        fields.zeros, None if base is None else base.zeros, _zero_classes(fields, base, levels), level
    )
    classes = _code_classes(layout, fields, change, levels)
    code_cuts = grouped.choose_cuts(table, classes, is_packed=True)
    codes = grouped.encode_rows(table, classes, code_cuts, is_packed=True, level=level)
    parameters = _Parameters(
        layout=layout, thresholds=thresholds, scale_cuts=scales[0], zero_cuts=zeros[0], code_cuts=code_cuts
    )
    return parameters.encode(), (*scales[1], *zeros[1], *codes)


def decode(parameters: bytes, streams: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Return the extents of a slab.

    Args:
        parameters: as `encode` made them; authenticated, but checked all the same.
        streams: likewise.
        sizes: of the extents.
        olds: extents of the base, for a delta; of the same sizes.

    Raises:
        DecodeError: they do not make such extents.
    """
    said = _Parameters.decode(parameters)
    layout = said.layout
    if layout.sizes != sizes:
        raise DecodeError(f"nibbles: extents of {sizes} bytes where {layout.sizes} belong")
    source = StreamReader(streams)
    base = None if olds is None else read_fields(olds, layout)
    fields, levels = _decode_fields(source, said, base)
    change = table = None
    if olds is not None and base is not None:
        change = _compare(layout, fields, base)
        table = _predict(olds[0], layout, change)
    table = _decode_cells(source, _code_classes(layout, fields, change, levels), said, table)
    source.finish()
    return [write_cells(table, layout), *write_fields(fields, layout)]


def _decode_fields(source: StreamReader, said: _Parameters, base: Fields | None) -> tuple[Fields, Classes]:
    """Return scales and zero points, and the level of each group."""
    layout, nothing = said.layout, np.empty(0, np.uint8)
    classes = _scale_classes(layout, base)
    scales = _decode_field(source, None if base is None else base.scales, classes, said.scale_cuts, layout.scale_size)
    fields = Fields(scales, nothing)
    levels = said.thresholds.levels(_measure(layout, fields))
    if layout.zeros is Zeros.NONE:
        return fields, levels
    classes = _zero_classes(fields, base, levels)
    zeros = _decode_field(source, None if base is None else base.zeros, classes, said.zero_cuts, layout.zero_size)
    return Fields(scales, zeros), levels


def _encode_field(new: Values, old: Values | None, classes: Classes, level: int) -> tuple[Cuts, list[Stream]]:
    """Code one value for each group, or its difference to the base."""
    if not new.size:
        return (), []
    values = new if old is None else new - old
    cuts = grouped.choose_cuts(_outline(values, is_delta=old is not None)[:, None], classes)
    return cuts, grouped.encode_values(values, classes, cuts, level=level)


def _decode_field(source: StreamReader, old: Values | None, classes: Classes, cuts: Cuts, size: int) -> Values:
    """Undo `_encode_field`; `size` is that of a value in bytes."""
    values = grouped.decode_values(source, classes, cuts, DTYPES[size])
    return values if old is None else values + old


def _outline(values: Values, *, is_delta: bool) -> Bytes:
    """Return what the packer looks at to cut classes of values that are wider than a byte."""
    if values.itemsize == 1:
        return values.astype(np.uint8)
    if is_delta:
        values = np.minimum(values, ~values + values.dtype.type(1)).clip(max=255)
    else:
        values = values >> (8 * values.itemsize - 8)
    outline: Bytes = values.astype(np.uint8)
    return outline


def _decode_cells(source: StreamReader, classes: Classes, said: _Parameters, predicted: Bytes | None) -> Bytes:
    """Return the cells of a slab; `predicted` is used up."""
    width = said.layout.group // 2
    table = np.empty((classes.size, width), np.uint8) if predicted is None else predicted
    for groups, rows in grouped.decode_rows(source, classes, said.code_cuts, width, is_packed=True):
        if predicted is None:
            grouped.put_rows(table, groups, rows)
        elif rows.any():
            grouped.put_rows(table, groups, cells.add(grouped.take_rows(predicted, groups), rows))
    return table


@dataclass(frozen=True, slots=True)
class _Change:
    """What became of the groups of the base.

    Attributes:
        kinds: of each group: 0 as it was, 1 changed, 2 changed so that codes land elsewhere.
        moving: groups of kind 2.
        shift: of these.
    """

    kinds: NDArray[np.uint8]
    moving: NDArray[np.intp]
    shift: Shift


def _compare(layout: NibbleLayout, fields: Fields, base: Fields) -> _Change:
    changed = np.zeros(layout.num_groups, np.bool_)
    for new, old in ((fields.scales, base.scales), (fields.zeros, base.zeros)):
        if new.size:
            changed |= new != old
    groups = np.flatnonzero(changed)
    shift = _shift(layout, fields.take(groups), base.take(groups))
    kinds = changed.astype(np.uint8)
    moving = np.flatnonzero(shift.is_moving(CODE_MAX))
    kinds[groups[moving]] = 2
    return _Change(kinds, groups[moving], shift.take(moving))


def _shift(layout: NibbleLayout, new: Fields, old: Fields) -> Shift:
    """Return where codes land that stand for the same weights: (code - old zero) * old scale / new scale + new zero."""
    one, middle = np.int64(1 << FRACTION_BITS), np.int64(_MIDDLE)
    old_zero: Any = middle
    new_zero: Any = middle
    factor: Any = np.full(max(new.scales.size, new.zeros.size), one)
    moved: Any = np.int64(0)
    if layout.scales is not None:
        scale = Number.of(new.scales, layout.scales)
        factor = Number.of(old.scales, layout.scales).over(scale)
        if layout.zeros is Zeros.FLOATS:
            moved = Number.of(old.zeros, layout.scales).minus(Number.of(new.zeros, layout.scales)).over(scale)
    if layout.zeros in {Zeros.PACKED, Zeros.BYTES}:
        old_zero, new_zero = (each.zeros.view(np.int8).astype(np.int64) for each in (old, new))
    return Shift(factor, new_zero * one - old_zero * factor + moved)


def _predict(codes: Bytes, layout: NibbleLayout, change: _Change) -> Bytes:
    """Return the base's cells with its codes where they land on the new scales and zero points."""
    table = read_cells(codes, layout)
    if change.moving.size:
        moving = grouped.take_rows(table, change.moving)
        codes = cells.split(moving.reshape(-1)).reshape(2, change.moving.size, -1)
        landed = np.stack([change.shift.apply(half, CODE_MAX) for half in codes])
        grouped.put_rows(table, change.moving, cells.join(landed.reshape(-1)).reshape(moving.shape))
    return table


def _choose_levels(layout: NibbleLayout, fields: Fields) -> tuple[Loudness, Classes]:
    measured = _measure(layout, fields)
    thresholds = Loudness.of(measured)
    return thresholds, thresholds.levels(measured)


def _measure(layout: NibbleLayout, fields: Fields) -> NDArray[np.int32]:
    if layout.scales is None:
        return np.zeros(layout.num_groups, np.int32)
    return loudness.measure(fields.scales, layout.scales, layout.grid)


def _scale_classes(layout: NibbleLayout, base: Fields | None) -> Classes:
    """By the exponent of the old scale: what is stored coarsely changes rarely."""
    if layout.scales is None:
        return np.zeros(0, np.uint8)
    if base is None:
        return np.zeros(layout.num_groups, np.uint8)
    classes: Classes = (base.scales >> layout.scales.mantissa_bits).astype(np.uint8)
    return classes


def _zero_classes(fields: Fields, base: Fields | None, levels: Classes) -> Classes:
    """By level; in a delta, only where the scale changed."""
    if base is None or not fields.scales.size:
        return levels
    return np.where(fields.scales != base.scales, levels + 1, 0).astype(np.uint8)


def _code_classes(layout: NibbleLayout, fields: Fields, change: _Change | None, levels: Classes) -> Classes:
    """By the centre of the codes of a group, in a delta by what became of it; and by its level."""
    kinds = _centres(layout, fields) if change is None else change.kinds
    return kinds * np.uint8(LEVELS) + levels


def _centres(layout: NibbleLayout, fields: Fields) -> Bytes:
    """Return the code of weight zero of each group, 0 .. _CENTRES - 1; of floats in half steps."""
    if layout.zeros is Zeros.NONE:
        return np.zeros(layout.num_groups, np.uint8)
    if layout.zeros is not Zeros.FLOATS or layout.scales is None:
        return fields.zeros.astype(np.uint8) % np.uint8(_CENTRES)
    offset = Number.of(fields.zeros, layout.scales).over(Number.of(fields.scales, layout.scales))
    centres: Bytes = np.clip(2 * _MIDDLE - (offset >> (FRACTION_BITS - 1)), 0, _CENTRES - 1).astype(np.uint8)
    return centres
