"""The codes of groups, row by row, as streams: as they are, or as the difference to what the base predicts.

Where few differ (`few_changes`), the streams say which and by how much; else they are the codes, or the differences,
of each bucket of groups (`grouped`). A piece's parameters say which, as its `Plan`:

    0       1     number of cuts; 0x80 on top: few changes
    1       n     first class of each bucket but the first
    ...     6     of few changes only: the lots of the codes

Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec.contexts import buckets
from protocol.codec.contexts.buckets import Cuts
from protocol.codec.fourbit import cells, choosing_lots, few_changes, grouped, ordering
from protocol.codec.fourbit.few_changes import Lots
from protocol.codec.fourbit.grouped import Classes, StreamReader
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

Bytes = NDArray[np.uint8]
HALF_OCTAVES = 64  # a class of few: what became of a group, times this, and its scale modulo this
_FEW_GAIN_MIN = 0.02  # of the bytes: to look up a few changes takes the decoder twice as long as streams that are 0
_NARROW = 16  # bytes of a row: of wider ones there are fewer to count codes in
_LARGE = 2**18  # bytes: of fewer, neither time nor a comparison is worth it
_ARE_FEW = 0x80  # beside the number of cuts, which is below


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows are coded.

    Attributes:
        cuts: of the classes of their groups into buckets.
        lots: of the codes, if few changed.
    """

    cuts: Cuts = ()
    lots: Lots | None = None

    def encode(self) -> bytes:
        """Return the bytes of the plan."""
        packed = grouped.pack_cuts(self.cuts)
        if self.lots is None:
            return packed
        return bytes([packed[0] | _ARE_FEW]) + packed[1:] + self.lots.encode()

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read a plan from the front; return it and the rest.

        Raises:
            DecodeError: it is none.
        """
        if not data or not data[0] & _ARE_FEW:
            cuts, rest = grouped.read_cuts(data)
            return cls(cuts), rest
        cuts, rest = grouped.read_cuts(bytes([data[0] & ~_ARE_FEW]) + data[1:])
        lots, rest = Lots.decode(rest)
        return cls(cuts, lots), rest


@dataclass(frozen=True, slots=True)
class Contexts:
    """What is known of the groups before their codes.

    Attributes:
        predicted: their rows as the base has them, for a delta.
        classes: one for each group, if their rows are coded as streams.
        classes_of_few: returns one for each group, if few changed.
        turned: 1 for each group whose codes are coded as code_max less them, else 0; None: for none.
    """

    predicted: Bytes | None
    classes: Callable[[], Classes]
    classes_of_few: Callable[[], Classes]
    turned: Bytes | None = None


def encode(
    rows: Bytes,
    known: Contexts,
    *,
    code_max: int,
    is_packed: bool,
    levels: int,
    level: int,
    gain_min: float = buckets.LEVELS_GAIN_MIN,
    budget: float = grouped.SPEED_BUDGET,
) -> tuple[Plan, list[Stream]]:
    """Return the plan and streams of the rows.

    Args:
        rows: one for each group.
        known: before them.
        code_max: 2**bits - 1; differences are modulo 2**bits.
        is_packed: whether a byte holds two codes, of four bits.
        levels: see `grouped.choose_cuts`.
        level: see `grouped.encode_rows`.
        gain_min: see `grouped.choose_cuts`.
        budget: see `grouped.encode_rows`.
    """
    predicted, few = known.predicted, None
    if predicted is not None:
        rows = cells.subtract(rows, predicted) if is_packed else (rows - predicted) & np.uint8(code_max)
        if is_packed:
            few = _encode_few(rows, predicted, known.classes_of_few(), level)
            if few is not None and (rows.size < _LARGE or rows.shape[1] > _NARROW):
                return few
    elif known.turned is not None:
        rows = rows.copy()
        grouped.turn(rows, known.turned, 0xFF if is_packed else code_max)
    classes = known.classes()
    cuts = grouped.choose_cuts(rows, classes, is_packed=is_packed, levels=levels, gain_min=gain_min)
    turned = known.turned if predicted is None else None
    made = grouped.encode_rows(rows, classes, cuts, is_packed=is_packed, level=level, turned=turned, budget=budget)
    plan = Plan(cuts)
    if few is not None and _size(few) * (1 + _FEW_GAIN_MIN) < _size((plan, made)):
        return few
    return plan, made


def _size(coded: tuple[Plan, list[Stream]]) -> int:
    return len(coded[0].encode()) + sum(stream.stored_size for stream in coded[1])


def decode(source: StreamReader, known: Contexts, plan: Plan, *, width: int, code_max: int, is_packed: bool) -> Bytes:
    """Return the rows; undoes `encode`. What was predicted may be used up.

    Args:
        source: where the streams come from.
        known: before them.
        plan: as `encode` returned it.
        width: bytes of a row.
        code_max: as for `encode`.
        is_packed: likewise.

    Raises:
        DecodeError: the streams are not those of such groups.
    """
    predicted = known.predicted
    if plan.lots is not None:
        if predicted is None or not is_packed or width > few_changes.WIDTH_MAX:
            raise DecodeError("few changes of codes that are not of four bits, or of nothing")
        members = ordering.members(known.classes_of_few(), plan.cuts)
        return few_changes.decode(source.take(), source.take(), predicted, members, plan.lots)
    turned = known.turned if predicted is None else None
    rows = grouped.decode_rows(
        source, known.classes(), plan.cuts, width, is_packed=is_packed, turned=turned, code_max=code_max
    )
    if predicted is None:
        return rows
    if is_packed:
        cells.add(predicted, rows)
        return predicted
    rows += predicted
    rows &= np.uint8(code_max)
    return rows


def _encode_few(differences: Bytes, predicted: Bytes, classes: Classes, level: int) -> tuple[Plan, list[Stream]] | None:
    chosen = choosing_lots.choose(differences, predicted, classes)
    if chosen is None:
        return None
    cuts, lots = chosen
    members = ordering.members(classes, cuts)
    return Plan(cuts, lots), few_changes.encode(differences, predicted, members, lots, level=level)
