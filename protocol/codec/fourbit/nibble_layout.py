"""How a slab of four-bit codes with its scales and zero points lies in its extents. What `nibbles` wants to know.

Pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from protocol.codec import numbers
from protocol.codec.fourbit.affine import Float
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError

_COUNT_MAX = 2**32 - 1


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
    """What a slab of four-bit codes looks like. All its extents are whole: scales and zeros of exactly its groups.

    Attributes:
        packing: where the codes lie.
        rows: of codes; a multiple of 8 for GPTQ, and for packed zeros in ROW.
        columns: codes in a row; a multiple of 8 for AWQ, and for packed zeros in GPTQ.
        group: codes that share a scale, even. Along a row (ROW, divides `columns`) or down a column (divides `rows`).
        scales: how they are written, one a group, (rows, groups) for ROW, (groups, columns) else; None: no extent.
        zeros: how the zero points are written.
    """

    packing: Packing
    rows: int
    columns: int
    group: int
    scales: Float | None = None
    zeros: Zeros = Zeros.NONE

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of groups."""
        if self.packing is Packing.ROW:
            return self.rows, self.columns // self.group
        return self.rows // self.group, self.columns

    @property
    def num_units(self) -> int:
        """Runs of rows at which all extents can be cut; 1 where groups run down the columns."""
        if self.packing is not Packing.ROW:
            return 1
        return self.rows // 8 if self.zeros is Zeros.PACKED else self.rows

    @property
    def num_groups(self) -> int:
        """Groups of the slab."""
        rows, columns = self.grid
        return rows * columns

    @property
    def sizes(self) -> list[int]:
        """Bytes of each extent."""
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
        """Whether such a slab exists."""
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
        return bytes([kinds]) + numbers.pack(self.rows, self.columns, self.group)

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read a layout from the front; return it and the rest.

        Raises:
            DecodeError: there is no such slab.
        """
        reader = Reader(data, "layout of nibbles")
        kinds = reader.take(1)[0]
        rows, columns, group = (reader.number(_COUNT_MAX) for _ in range(3))
        scales = kinds >> 2 & 3
        try:
            layout = cls(
                packing=Packing(kinds & 3),
                rows=rows,
                columns=columns,
                group=group,
                scales=Float(scales) if scales else None,
                zeros=Zeros(kinds >> 4),
            )
        except ValueError as error:
            raise DecodeError(f"nibbles: {error}") from None
        if not layout.is_possible:
            raise DecodeError(f"nibbles: no slab is {layout}")
        return layout, reader.rest()
