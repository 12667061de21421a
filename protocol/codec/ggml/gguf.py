"""ggml's quantized blocks: codes, scales and minima apart, each in the context of what is known before it.

A piece is a run of whole blocks of one tensor, one extent. Whole: codes are split by the code that stands for zero in
their group, as its scale and minimum say, and by how loud the group is beside its row and column. Delta: as in
`nibbles`, the old codes are carried over to the new scales, and the difference is split by what became of the group.

Any bytes come back: what is no sensible scale only predicts badly.

Parameters:

    0       1     ggml's number of the type; bit 7: `still_rows` in front
    1       n     weights in a row, 0 if rows are not known
    ...     1+n   number of thresholds between levels of loudness (0 or 7), the lowest, and by how much each rises
    ...     1+n   four times, for scales, minima, factors and factors of minima: the form (`coded_fields`). Types that
                  lack a field say 0
    ...     1+n   codes: `coded_rows`

Streams: the fields in this order, then the codes; of each the dictionary if there is one, then one for each bucket that
is not empty. One of codes of four bits has all low nibbles of its bucket and then all high ones, or the bytes as they
are: its count tells.

Pure. It does not know GGUF files, only blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import numbers
from protocol.codec.contexts import logarithms, loudness
from protocol.codec.contexts.logarithms import Logarithms
from protocol.codec.contexts.loudness import LEVELS, Loudness
from protocol.codec.fourbit import coded_fields, coded_rows, grouped, still_units
from protocol.codec.fourbit.affine import FRACTION_BITS, Float, Number, Shift
from protocol.codec.fourbit.carrying import Change
from protocol.codec.fourbit.coded_fields import Form
from protocol.codec.fourbit.coded_rows import HALF_OCTAVES, Contexts, Plan
from protocol.codec.fourbit.grouped import Classes, StreamReader
from protocol.codec.ggml.gguf_blocks import FORMATS, BlockFormat, BlockType, Fields, join_blocks, split_blocks
from protocol.codec.numbers import Reader
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

__all__ = ["BlockType", "GgufLayout", "decode", "encode"]

_LOGARITHM_MAX = 4 * logarithms.OCTAVE  # of a code of four bits
_HALF_STEPS = logarithms.nearest_halves(_LOGARITHM_MAX)
_MIDDLE_HALVES = np.int8(15)  # 7.5 is the middle of four bits
_SIX_BITS_MAX = 63
_STEP_BITS = np.int16((logarithms.OCTAVE // 8).bit_length() - 1)  # of an eighth of an octave
_LEVELS_GAIN_MIN = 0.003  # more than elsewhere: blocks with factors have twice as many fields to decode
_LEVELS_GAIN_MIN_OF_PLAIN = 0.0013  # less: turned round, they have half as many streams
_SPEED_BUDGET_OF_PLAIN = 0.0002
_COLUMNS_MAX = 2**32 - 1
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufLayout:
    """What a run of blocks looks like.

    Attributes:
        block_type: of each block.
        columns: weights in a row of the tensor, if the piece is made of whole rows of whole blocks; 0: not known.
    """

    block_type: BlockType
    columns: int = 0

    @property
    def format(self) -> BlockFormat:
        """The facts of the type."""
        return FORMATS[self.block_type]

    def fits(self, size: int) -> bool:
        """Tell whether this many bytes can be such blocks."""
        blocks, rest = divmod(size, self.format.size)
        if self.columns % self.format.num_values or rest or not blocks:
            return False
        return not self.columns or blocks % (self.columns // self.format.num_values) == 0

    def num_rows(self, size: int) -> int:
        """Return the rows in this many bytes; 1 if rows are not known."""
        return self.grid(size // self.format.size)[0] // self.format.outer

    def grid(self, num_blocks: int) -> tuple[int, int]:
        """Return rows and columns of groups, in the order in which blocks are taken apart."""
        row = self.columns // self.format.num_values or num_blocks
        return num_blocks // row * self.format.outer, row * self.format.inner

    def encode(self) -> bytes:
        """Return the bytes of the layout."""
        return bytes([self.block_type]) + numbers.pack(self.columns)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read a layout from the front; return it and the rest.

        Raises:
            DecodeError: the type is not known.
        """
        reader = Reader(data, "layout of blocks")
        number, columns = reader.take(1)[0], reader.number(_COLUMNS_MAX)
        try:
            return cls(block_type=BlockType(number), columns=columns), reader.rest()
        except ValueError as error:
            raise DecodeError(f"gguf: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameters:
    """What a piece says besides its streams: the layout, and how each field is coded. All types have all forms."""

    layout: GgufLayout
    thresholds: Loudness
    forms: tuple[Form, ...]
    code_plan: Plan

    def encode(self) -> bytes:
        forms = b"".join(form.encode() for form in self.forms)
        return self.layout.encode() + self.thresholds.encode() + forms + self.code_plan.encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        layout, rest = GgufLayout.decode(data)
        thresholds, rest = Loudness.decode(rest)
        forms = []
        for _ in _FIELDS:
            form, rest = Form.decode(rest)
            forms.append(form)
        code_plan, rest = Plan.decode(rest)
        if rest:
            raise DecodeError(f"gguf: {len(rest)} bytes of parameters too many")
        return cls(layout=layout, thresholds=thresholds, forms=tuple(forms), code_plan=code_plan)


def encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: GgufLayout, *, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and streams of a run of blocks.

    Args:
        news: its one extent.
        olds: the same extent of the base, for a delta.
        layout: what it looks like.
        level: of the entropy coder.
    """
    assert len(news) == 1
    assert layout.fits(news[0].size)
    moved = None if olds is None else still_units.find(news, olds, layout.num_rows(news[0].size))
    if olds is None or moved is None:
        return _encode(news, olds, layout, level)
    return still_units.encode(moved, news, olds, lambda new, old: _encode(new, old, layout, level), level)


def _encode(
    news: list[Bytes], olds: list[Bytes] | None, layout: GgufLayout, level: int
) -> tuple[bytes, tuple[Stream, ...]]:
    new, facts = split_blocks(news[0], layout.block_type), layout.format
    old = None if olds is None else split_blocks(olds[0], layout.block_type)
    logs = _Logs(facts)
    thresholds, levels = Loudness.of(_measure(layout, new, logs))
    forms, made = [], []
    for field in _FIELDS:
        form = Form()
        if field.is_in(facts):
            values, base = getattr(new, field.name), None if old is None else getattr(old, field.name)
            columns = layout.columns // facts.num_values if field.name == "scales" else 0
            classes = field.classes(facts, new, old, logs)
            form, field_streams = coded_fields.encode(values, base, classes, level=level, columns=columns)
            made += field_streams
        forms.append(form)
    plan, code_streams = coded_rows.encode(
        new.rows,
        _foresee(layout, new, old, levels, logs),
        code_max=facts.code_max,
        is_packed=facts.is_packed,
        levels=LEVELS,
        level=level,
        gain_min=_LEVELS_GAIN_MIN if facts.has_factors else _LEVELS_GAIN_MIN_OF_PLAIN,
        budget=grouped.SPEED_BUDGET if facts.has_factors else _SPEED_BUDGET_OF_PLAIN,
    )
    if plan.lots is not None or not any(cut % LEVELS for cut in plan.cuts):
        thresholds = Loudness()
    parameters = _Parameters(layout=layout, thresholds=thresholds, forms=tuple(forms), code_plan=plan)
    return parameters.encode(), (*made, *code_streams)


def decode(parameters: bytes, streams: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Return the extent of a run of blocks.

    Args:
        parameters: as `encode` made them; authenticated, but checked all the same.
        streams: likewise.
        sizes: of the one extent.
        olds: the extent of the base, for a delta; of the same size.

    Raises:
        DecodeError: they do not make such an extent.
    """
    if olds is None:
        return _decode(parameters, streams, sizes, None)
    return still_units.decode(parameters, streams, sizes, olds, _decode)


def _decode(parameters: bytes, streams: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    said = _Parameters.decode(parameters)
    layout, facts, source = said.layout, said.layout.format, StreamReader(streams)
    if len(sizes) != 1 or not layout.fits(sizes[0]):
        raise DecodeError(f"gguf: extents of {sizes} bytes are not blocks of {layout}")
    old, logs = None if olds is None else split_blocks(olds[0], layout.block_type), _Logs(facts)
    fields = _decode_fields(source, said, old, sizes[0] // facts.size, logs)
    num_groups = fields.num_blocks * facts.num_groups
    levels = said.thresholds.levels(num_groups, lambda: _measure(layout, fields, logs))
    rows = coded_rows.decode(
        source,
        _foresee(layout, fields, old, levels, logs),
        said.code_plan,
        width=facts.width,
        code_max=facts.code_max,
        is_packed=facts.is_packed,
    )
    source.finish()
    return [join_blocks(replace(fields, rows=rows), layout.block_type)]


def _decode_fields(
    source: StreamReader, said: _Parameters, old: Fields | None, num_blocks: int, logs: "_Logs"
) -> Fields:
    """Return all fields but the codes."""
    facts = said.layout.format
    fields = Fields.of_none(num_blocks)
    for field, form in zip(_FIELDS, said.forms, strict=True):
        if field.is_in(facts):
            base = None if old is None else getattr(old, field.name)
            values = coded_fields.decode(source, base, field.classes(facts, fields, old, logs), form, field.size)
            if values.max() > field.highest(facts):
                raise DecodeError(f"gguf: {values.max()} among {field.name}")
            fields = replace(fields, **{field.name: values})  # type: ignore[arg-type]
    return fields


def _foresee(layout: GgufLayout, fields: Fields, old: Fields | None, levels: Classes, logs: "_Logs") -> Contexts:
    """Return the classes of the codes and, in a delta, the old ones where they land. The old rows are used up."""
    facts = layout.format
    if old is None:
        kinds, turned = _centres(facts, fields, logs)
        return _contexts(fields, kinds, None, levels, logs, turned)
    blocks = fields.num_blocks
    changed = _differs(fields.scales, old.scales, blocks) | _differs(fields.minima, old.minima, blocks)
    changed = facts.spread(changed)
    changed |= _differs(fields.factors, old.factors, changed.size)
    changed |= _differs(fields.min_factors, old.min_factors, changed.size)
    change = Change.of(changed, lambda groups: _shift(facts, fields, old, groups), facts.code_max)
    change.carry(old.rows, facts.code_max, is_packed=facts.is_packed)
    return _contexts(fields, change.kinds, old.rows, levels, logs)


def _contexts(
    fields: Fields,
    kinds: Bytes,
    predicted: Bytes | None,
    levels: Classes,
    logs: "_Logs",
    turned: Bytes | None = None,
) -> Contexts:
    return Contexts(
        turned=turned,
        predicted=predicted,
        classes=lambda: kinds * np.uint8(LEVELS) + levels,
        classes_of_few=lambda: kinds * np.uint8(HALF_OCTAVES) + _half_octaves(fields, logs),
    )


def _half_octaves(fields: Fields, logs: "_Logs") -> Classes:
    """Return in which half octave each group's scale is, modulo HALF_OCTAVES."""
    halves = logs.scales(fields) >> np.int16(7)  # of an octave of 256
    return (halves & np.int16(HALF_OCTAVES - 1)).astype(np.uint8)


def _differs(new: NDArray[Any], old: NDArray[Any], num_values: int) -> NDArray[np.bool_]:
    """Tell where a field differs; nowhere if there is no such field."""
    return np.not_equal(new, old) if new.size else np.zeros(num_values, np.bool_)


def _shift(facts: BlockFormat, new: Fields, old: Fields, groups: NDArray[np.intp]) -> Shift:
    """Return where codes land that stand for the same weights."""
    blocks = facts.block_of(groups, new.num_blocks)
    scale, old_scale = _scale(facts, new, groups, blocks), _scale(facts, old, groups, blocks)
    factor = old_scale.over(scale)
    if facts.has_minima:
        moved = _offset(facts, old, groups, blocks).minus(_offset(facts, new, groups, blocks))
        return Shift(factor, moved.over(scale))
    return Shift(factor, np.int64(facts.middle) * ((1 << FRACTION_BITS) - factor))


def _scale(facts: BlockFormat, fields: Fields, groups: NDArray[np.intp], blocks: NDArray[np.intp]) -> Number:
    """Return by what the codes of some groups, in these blocks, are multiplied."""
    if not facts.has_factors:
        return Number.of(fields.scales[groups], Float.F16)
    factors = fields.factors[groups]
    signed = (factors if facts.has_minima else factors.view(np.int8)).astype(np.int64)
    return Number.of(fields.scales, Float.F16).take(blocks).times(signed)


def _offset(facts: BlockFormat, fields: Fields, groups: NDArray[np.intp], blocks: NDArray[np.intp]) -> Number:
    """Return what is added to them."""
    if not facts.has_min_factors:
        return Number.of(fields.minima[groups], Float.F16)
    factors = -fields.min_factors[groups].astype(np.int64)
    return Number.of(fields.minima, Float.F16).take(blocks).times(factors)


def _measure(layout: GgufLayout, fields: Fields, logs: "_Logs") -> NDArray[np.int32]:
    """Return how loud each group is; see `loudness`."""
    return loudness.stand_out(logs.scales(fields), layout.grid(fields.scales.size))


class _Logs:
    """Logarithms of the fields of some blocks, that several contexts want: each is looked up once, when it is known."""

    def __init__(self, facts: BlockFormat) -> None:
        self._facts = facts
        self._scales: Logarithms | None = None
        self._minima: Logarithms | None = None

    def scales(self, fields: Fields) -> Logarithms:
        """Return that of the scale of each group, its factor included; not to be written to."""
        if self._scales is None:
            scales = logarithms.of_float16(fields.scales)
            if self._facts.has_factors:
                is_signed = not self._facts.has_minima
                factors = np.abs(fields.factors.view(np.int8)).view(np.uint8) if is_signed else fields.factors
                of_groups = logarithms.of_byte(factors)
                scales = np.add(*_beside_blocks(self._facts, of_groups, scales)).reshape(-1)
            self._scales = scales
        return self._scales

    def minima(self, fields: Fields) -> Logarithms:
        """Return that of the minimum of each block, without factors; not to be written to."""
        if self._minima is None:
            self._minima = logarithms.of_float16(fields.minima)
        return self._minima


def _beside_blocks(facts: BlockFormat, groups: Logarithms, blocks: Logarithms) -> tuple[Logarithms, Logarithms]:
    """Return what is said of groups, and what of their blocks, so that numpy puts one beside the other."""
    return groups.reshape(facts.outer, -1, facts.inner), blocks[:, None]


def _centres(facts: BlockFormat, fields: Fields, logs: _Logs) -> tuple[Bytes, Bytes | None]:
    """Return how far from the middle the code is that stands for weight zero, of each group; and whether it is above.

    In half steps of four-bit codes. Codes of groups where it is above are turned round, so that they look like others.
    """
    if facts.has_minima:
        centres = logs.minima(fields)
        if facts.has_min_factors:
            factors = logarithms.of_byte(fields.min_factors)
            centres = np.add(*_beside_blocks(facts, factors, centres)).reshape(-1)
        centres = centres - logs.scales(fields)
        centres -= np.int16((facts.bits - 4) * logarithms.OCTAVE)
        halves = np.take(_HALF_STEPS, centres, mode="clip")
        from_middle = np.abs(halves.view(np.int8) - _MIDDLE_HALVES).view(np.uint8)
        return from_middle, (halves > _MIDDLE_HALVES).view(np.uint8)
    if facts.has_factors:
        signs: Bytes = fields.factors >> np.uint8(7)
        return signs, None  # that of Q6_K's scales turns the codes round
    return np.zeros(fields.scales.size, np.uint8), None


def _classes_of_scales(facts: BlockFormat, known: Fields, old: Fields | None, logs: _Logs) -> Classes:
    """In a delta by the old exponent: what is stored coarsely changes rarely."""
    return np.zeros(known.num_blocks, np.uint8) if old is None else (old.scales >> 10).astype(np.uint8)


def _classes_of_minima(facts: BlockFormat, known: Fields, old: Fields | None, logs: _Logs) -> Classes:
    """By the scale, in eighths of an octave: the minimum is some times the scale."""
    if old is not None:
        return np.not_equal(known.scales, old.scales).astype(np.uint8)
    classes: Classes = (known.scales >> 7).astype(np.uint8)
    return classes


def _classes_of_factors(facts: BlockFormat, known: Fields, old: Fields | None, logs: _Logs) -> Classes:
    if old is None:
        return np.zeros(known.num_blocks * facts.num_groups, np.uint8)
    classes: Classes = facts.spread((known.scales != old.scales).astype(np.uint8))
    return classes


def _classes_of_min_factors(facts: BlockFormat, known: Fields, old: Fields | None, logs: _Logs) -> Classes:
    """By what the factor would be if the middle code stood for zero."""
    if old is not None:
        changed: Classes = facts.spread((known.scales != old.scales) | (known.minima != old.minima)).astype(np.uint8)
        changed *= np.uint8(2)
        changed += known.factors != old.factors
        return changed
    expected = np.subtract(*_beside_blocks(facts, logs.scales(known), logs.minima(known))).reshape(-1)
    return _steps(expected, (facts.bits - 1) * logarithms.OCTAVE, 64)


def _steps(values: NDArray[np.int16], start: int, number: int) -> Classes:
    """Return in which step of an eighth of an octave from a start values are, 0 .. number - 1; they are used up."""
    values += np.int16(start)
    values >>= _STEP_BITS
    np.maximum(values, 0, out=values)
    np.minimum(values, number - 1, out=values)
    return values.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field that is coded before the codes: one value for each block or group.

    Attributes:
        name: in `Fields`.
        size: bytes of a value.
        is_in: whether a type has it.
        classes: its contexts, given the fields before it.
    """

    name: str
    size: int
    is_in: Callable[[BlockFormat], bool]
    classes: Callable[[BlockFormat, Fields, Fields | None, _Logs], Classes]

    def highest(self, facts: BlockFormat) -> int:
        """Return the highest value that blocks can hold."""
        return _SIX_BITS_MAX if self.size == 1 and facts.has_min_factors else 256**self.size - 1


_FIELDS = (
    _Field("scales", 2, lambda facts: True, _classes_of_scales),
    _Field("minima", 2, lambda facts: facts.has_minima, _classes_of_minima),
    _Field("factors", 1, lambda facts: facts.has_factors, _classes_of_factors),
    _Field("min_factors", 1, lambda facts: facts.has_min_factors, _classes_of_min_factors),
)
