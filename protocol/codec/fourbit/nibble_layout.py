"""How slabs of four-bit codes with their scales and zero points lie in their extents. What `nibbles` wants to know.

Several slabs of one packing make a stack: their groups follow one another, and share what is said of groups. On the
wire:

    0       1     packing (bits 0-1), scales (2-3), zeros (4-5)
    1       n     codes of a group; how many slabs come after the first; of each its rows and columns

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self

from protocol.codec import numbers
from protocol.codec.fourbit.affine import Float
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError

_COUNT_MAX = 2**32 - 1
_MORE_MAX = 511


class Packing(IntEnum):
    """Where the codes of a matrix of rows x columns lie."""

    ROW = 0  # along the row, two a byte, in either order: compressed-tensors, torchao. Groups lie along the row
    GPTQ = 1  # an int32 holds 8 rows of one column. Groups run down the columns
    AWQ = 2  # an int32 holds 8 columns of one row, in the order 0, 2, 4, 6, 1, 3, 5, 7. Groups run down the columns


class Zeros(IntEnum):
    """How the zero points are written."""

    NONE = 0
    PACKED = 1  # nibbles of int32: of 8 columns for GPTQ and AWQ (in its order), of 8 rows for ROW
    BYTES = 2  # one byte each
    FLOATS = 3  # as the scales are: weight = (code - 8) * scale + zero


@dataclass(frozen=True, slots=True, kw_only=True)
class NibbleLayout:
    """What slabs of four-bit codes look like. All their extents are whole: scales and zeros of exactly their groups.

    Attributes:
        packing: where the codes lie.
        rows: of codes; a multiple of 8 for GPTQ, and for packed zeros in ROW.
        columns: codes in a row; a multiple of 8 for AWQ, and for packed zeros in GPTQ.
        group: codes that share a scale, even. Along a row (ROW, divides `columns`) or down a column (divides `rows`).
        scales: how they are written, one a group, (rows, groups) for ROW, (groups, columns) else; None: no extent.
        zeros: how the zero points are written.
        more: (rows, columns) of the slabs after the first.
    """

    packing: Packing
    rows: int
    columns: int
    group: int
    scales: Float | None = None
    zeros: Zeros = Zeros.NONE
    more: tuple[tuple[int, int], ...] = ()

    @classmethod
    def stack(cls, slabs: Sequence[Self]) -> Self:
        """Return the layout of slabs that differ in their rows and columns only."""
        return replace(slabs[0], more=tuple((slab.rows, slab.columns) for slab in slabs[1:]))

    @property
    def slabs(self) -> "tuple[NibbleLayout, ...]":
        """Each by itself."""
        rest = (replace(self, rows=rows, columns=columns, more=()) for rows, columns in self.more)
        return (replace(self, more=()), *rest) if self.more else (self,)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of groups, of the first slab."""
        if self.packing is Packing.ROW:
            return self.rows, self.columns // self.group
        return self.rows // self.group, self.columns

    @property
    def num_units(self) -> int:
        """Runs of rows at which all extents can be cut; 1 where groups run down the columns, and of a stack."""
        if self.packing is not Packing.ROW or self.more:
            return 1
        return self.rows // 8 if self.zeros is Zeros.PACKED else self.rows

    @property
    def num_groups(self) -> int:
        """Groups of all slabs."""
        if self.more:
            return sum(slab.num_groups for slab in self.slabs)
        rows, columns = self.grid
        return rows * columns

    @property
    def sizes(self) -> list[int]:
        """Bytes of each extent, slab by slab."""
        if self.more:
            return [size for slab in self.slabs for size in slab.sizes]
        sizes = [self.rows * self.columns // 2]
        if self.scales is not None:
            sizes.append(self.num_groups * self.scales.size)
        if self.zeros is not Zeros.NONE:
            sizes.append(self._zeros_size)
        return sizes

    @property
    def _zeros_size(self) -> int:
        if self.zeros is Zeros.PACKED:
            return self.num_groups // 2
        return self.num_groups * self.zero_size

    @property
    def scale_size(self) -> int:
        """Bytes of a scale."""
        return self.scales.size if self.scales is not None else 1

    @property
    def zero_size(self) -> int:
        """Bytes of one zero point once it is unpacked."""
        return self.scale_size if self.zeros is Zeros.FLOATS else 1

    @property
    def is_possible(self) -> bool:
        """Whether such slabs exist."""
        if self.more:
            return all(slab.is_possible for slab in self.slabs)
        if not (self.rows and self.columns and self.group) or self.group % 2:
            return False
        along, across = (self.columns, self.rows) if self.packing is Packing.ROW else (self.rows, self.columns)
        eights = [self.group] if self.packing is Packing.GPTQ else []
        eights += [self.columns] if self.packing is Packing.AWQ else []
        eights += [across] if self.zeros is Zeros.PACKED else []
        floats = self.zeros is not Zeros.FLOATS or self.scales is not None
        return along % self.group == 0 and floats and not any(count % 8 for count in eights)

    def encode(self) -> bytes:
        """Return the bytes of the layout."""
        kinds = self.packing | (self.scales or 0) << 2 | self.zeros << 4
        shapes = (number for shape in ((self.rows, self.columns), *self.more) for number in shape)
        return bytes([kinds]) + numbers.pack(self.group, len(self.more), *shapes)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read a layout from the front; return it and the rest.

        Raises:
            DecodeError: there is no such slab.
        """
        reader = Reader(data, "layout of nibbles")
        kinds = reader.take(1)[0]
        group, num_more = reader.number(_COUNT_MAX), reader.number(_MORE_MAX)
        shapes = [(reader.number(_COUNT_MAX), reader.number(_COUNT_MAX)) for _ in range(1 + num_more)]
        scales = kinds >> 2 & 3
        try:
            layout = cls(
                packing=Packing(kinds & 3),
                rows=shapes[0][0],
                columns=shapes[0][1],
                group=group,
                scales=Float(scales) if scales else None,
                zeros=Zeros(kinds >> 4),
                more=tuple(shapes[1:]),
            )
        except ValueError as error:
            raise DecodeError(f"nibbles: {error}") from None
        if not layout.is_possible:
            raise DecodeError(f"nibbles: no slab is {layout}")
        return layout, reader.rest()
