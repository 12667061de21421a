"""Four-bit codes, two in a byte, with the scales and zero points of their groups, as GPTQ and others pack them.

A piece is a slab of a quantized matrix: its codes, then the scales and the zero points of exactly these codes, if the
file has them; or a stack of such slabs, which share their tables. Scales and zero points come first in the streams;
they are the context of the codes:

- whole: codes are split by the zero point of their group, and by how loud its scale is beside its row and column;
- delta: the old code of each weight is carried over to the new grid where scale or zero point changed (`affine`), and
  the difference to it is split by whether the group changed.

Inside, every packing is the same: *cells*, one row of bytes for each group, so that contexts permute whole rows.
Any bytes come back as they were: what is no sensible scale only predicts badly.

Parameters:

    0       n     `nibble_layout`; bit 7 of its first byte: `still_rows` in front
    ...     1+n   number of thresholds between levels of loudness (0 or 7), the lowest, and by how much each rises
    ...     1+n   scales, zero points: their forms (`coded_fields`)
    ...     1+n   codes: `coded_rows`

Streams: scales, zero points, codes; of each the dictionary if there is one, then one for each bucket that is not empty.
One of codes has all low nibbles of its bucket and then all high ones, or the bytes as they are: its count tells.

Pure. It does not know tensors or files.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts import loudness
from protocol.codec.contexts.loudness import LEVELS, Loudness
from protocol.codec.fourbit import coded_fields, coded_rows, still_units
from protocol.codec.fourbit.affine import FRACTION_BITS, Number, Shift
from protocol.codec.fourbit.carrying import Change
from protocol.codec.fourbit.coded_fields import Form
from protocol.codec.fourbit.coded_rows import HALF_OCTAVES, Contexts, Plan
from protocol.codec.fourbit.grouped import Classes, StreamReader
from protocol.codec.fourbit.nibble_layout import NibbleLayout, Packing, Zeros
from protocol.codec.fourbit.nibble_slab import Bytes, Fields, read_cells, read_fields, write
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

__all__ = ["NibbleLayout", "Packing", "Zeros", "decode", "encode"]

CODE_MAX = 15
_MIDDLE = 8  # code of weight zero where zero points are floats
_CENTRES = 32  # of a group's codes, in half steps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameters:
    """What a piece says besides its streams: the layout, and how its classes are cut."""

    layout: NibbleLayout
    thresholds: Loudness
    scale_form: Form
    zero_form: Form
    code_plan: Plan

    def encode(self) -> bytes:
        forms = self.scale_form.encode() + self.zero_form.encode()
        return self.layout.encode() + self.thresholds.encode() + forms + self.code_plan.encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        layout, rest = NibbleLayout.decode(data)
        thresholds, rest = Loudness.decode(rest)
        scale_form, rest = Form.decode(rest)
        zero_form, rest = Form.decode(rest)
        code_plan, rest = Plan.decode(rest)
        if rest:
            raise DecodeError(f"nibbles: {len(rest)} bytes of parameters too many")
        return cls(
            layout=layout, thresholds=thresholds, scale_form=scale_form, zero_form=zero_form, code_plan=code_plan
        )


def encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: NibbleLayout, *, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and streams of a slab or a stack.

    Args:
        news: its extents: codes, then scales and zeros as far as the layout has them.
        olds: the same extents of the base, for a delta.
        layout: what they look like.
        level: of the entropy coder.
    """
    assert layout.is_possible
    assert [new.size for new in news] == layout.sizes
    moved = None if olds is None else still_units.find(news, olds, layout.num_units)
    if olds is None or moved is None:
        return _encode(news, olds, layout, level)
    rows = layout.rows // layout.num_units * int(np.count_nonzero(moved))
    inner = replace(layout, rows=rows)
    return still_units.encode(moved, news, olds, lambda new, old: _encode(new, old, inner, level), level)


def _encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: NibbleLayout, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    fields, table = read_fields(news, layout), read_cells(news, layout)
    base = change = predicted = None
    if olds is not None:
        base = read_fields(olds, layout)
        change = _compare(layout, fields, base)
        predicted = _predict(olds, layout, change)
    thresholds, levels = Loudness.of(_measure(layout, fields))
    old_scales, old_zeros = (None, None) if base is None else (base.scales, base.zeros)
    columns = 0 if layout.more else layout.grid[1]
    scales = coded_fields.encode(fields.scales, old_scales, _scale_classes(layout, base), level=level, columns=columns)
    zeros = coded_fields.encode(fields.zeros, old_zeros, _zero_classes(fields, base, levels), level=level)
    known = _contexts(layout, fields, change, predicted, levels)
    codes = coded_rows.encode(table, known, code_max=CODE_MAX, is_packed=True, levels=LEVELS, level=level)
    if not _uses_levels(zeros[0], codes[0]):
        thresholds = Loudness()
    parameters = _Parameters(
        layout=layout, thresholds=thresholds, scale_form=scales[0], zero_form=zeros[0], code_plan=codes[0]
    )
    return parameters.encode(), (*scales[1], *zeros[1], *codes[1])


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
    if olds is None:
        return _decode(parameters, streams, sizes, None)
    return still_units.decode(parameters, streams, sizes, olds, _decode)


def _decode(parameters: bytes, streams: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    said = _Parameters.decode(parameters)
    layout = said.layout
    if layout.sizes != sizes:
        raise DecodeError(f"nibbles: extents of {sizes} bytes where {layout.sizes} belong")
    source = StreamReader(streams)
    base = None if olds is None else read_fields(olds, layout)
    fields, levels = _decode_fields(source, said, base)
    change = predicted = None
    if olds is not None and base is not None:
        change = _compare(layout, fields, base)
        predicted = _predict(olds, layout, change)
    known = _contexts(layout, fields, change, predicted, levels)
    table = coded_rows.decode(source, known, said.code_plan, width=layout.group // 2, code_max=CODE_MAX, is_packed=True)
    source.finish()
    return write(table, fields, layout)


def _decode_fields(source: StreamReader, said: _Parameters, base: Fields | None) -> tuple[Fields, Classes]:
    """Return scales and zero points, and the level of each group."""
    layout, nothing = said.layout, np.empty(0, np.uint8)
    old_scales, old_zeros = (None, None) if base is None else (base.scales, base.zeros)
    classes = _scale_classes(layout, base)
    scales = coded_fields.decode(source, old_scales, classes, said.scale_form, layout.scale_size)
    fields = Fields(scales, nothing)
    levels = said.thresholds.levels(layout.num_groups, lambda: _measure(layout, fields))
    if layout.zeros is Zeros.NONE:
        return fields, levels
    classes = _zero_classes(fields, base, levels)
    zeros = coded_fields.decode(source, old_zeros, classes, said.zero_form, layout.zero_size)
    if layout.zeros is Zeros.PACKED and zeros.max() > CODE_MAX:
        raise DecodeError(f"nibbles: a zero point of {zeros.max()}")
    return Fields(scales, zeros), levels


def _compare(layout: NibbleLayout, fields: Fields, base: Fields) -> Change:
    changed = np.zeros(layout.num_groups, np.bool_)
    for new, old in ((fields.scales, base.scales), (fields.zeros, base.zeros)):
        if new.size:
            changed |= new != old
    return Change.of(changed, lambda groups: _shift(layout, fields.take(groups), base.take(groups)), CODE_MAX)


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


def _predict(olds: list[Bytes], layout: NibbleLayout, change: Change) -> Bytes:
    """Return the base's cells with its codes where they land on the new scales and zero points."""
    table = read_cells(olds, layout)
    change.carry(table, CODE_MAX, is_packed=True)
    return table


def _measure(layout: NibbleLayout, fields: Fields) -> NDArray[np.int32]:
    if layout.scales is None:
        return np.zeros(layout.num_groups, np.int32)
    measured, done = [], 0
    for slab in layout.slabs:
        own = fields.scales[done : done + slab.num_groups]
        measured.append(loudness.measure(own, layout.scales, slab.grid))
        done += slab.num_groups
    return np.concatenate(measured)


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
    classes: Classes = levels + np.uint8(1)
    if base is not None and fields.scales.size:
        classes[fields.scales == base.scales] = 0
    return classes


def _uses_levels(zero_form: Form, code_plan: Plan) -> bool:
    """Tell whether any two levels are in different buckets."""
    if any(cut > 1 for cut in zero_form.cuts):
        return True
    return code_plan.lots is None and any(cut % LEVELS for cut in code_plan.cuts)


def _contexts(
    layout: NibbleLayout, fields: Fields, change: Change | None, predicted: Bytes | None, levels: Classes
) -> Contexts:
    """By the centre of the codes of a group, in a delta by what became of it; and by its level, or by its scale."""
    kinds, turned = _centres(layout, fields) if change is None else (change.kinds, None)
    return Contexts(
        turned=turned,
        predicted=predicted,
        classes=lambda: kinds * np.uint8(LEVELS) + levels,
        classes_of_few=lambda: kinds * np.uint8(HALF_OCTAVES) + _half_octaves(layout, fields),
    )


def _half_octaves(layout: NibbleLayout, fields: Fields) -> Classes:
    """Return in which half octave each scale is, modulo HALF_OCTAVES."""
    if layout.scales is None:
        return np.zeros(layout.num_groups, np.uint8)
    steps = (fields.scales >> (layout.scales.mantissa_bits - 1)).astype(np.uint8)
    return steps & np.uint8(HALF_OCTAVES - 1)


def _centres(layout: NibbleLayout, fields: Fields) -> tuple[Bytes, Bytes | None]:
    """Return how far from the middle the code of weight zero is, of each group, in half steps; and whether it is above.

    Codes of groups where it is above are turned round, so that they look like others.
    """
    if layout.zeros is Zeros.NONE:
        return np.zeros(layout.num_groups, np.uint8), None
    if layout.zeros is not Zeros.FLOATS or layout.scales is None:
        halves = fields.zeros.astype(np.uint8)
        halves &= np.uint8(_CENTRES // 2 - 1)
        halves *= np.uint8(2)
    else:
        offset = Number.of(fields.zeros, layout.scales).over(Number.of(fields.scales, layout.scales))
        halves = np.clip(2 * _MIDDLE - (offset >> (FRACTION_BITS - 1)), 0, _CENTRES - 1).astype(np.uint8)
    is_above = halves > CODE_MAX
    from_middle = np.abs(halves.view(np.int8) - np.int8(CODE_MAX)).view(np.uint8)
    return from_middle, is_above.view(np.uint8)
