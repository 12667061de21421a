"""What a file of a release is made of: parts, each one tensor, one quantized matrix with its scales, or other bytes.

A part's members are runs of bytes of one file. A single tensor has one; a *family* has its codes first, then the
scales and zero points that explain them. Every member is cut at the same places: unit i of a part is the i-th
`unit_bytes` of each member, so that a slab of units holds exactly the scales of its codes. Nothing here reads a file.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

WHOLE_FILE = "(all)"  # name of the part of a file that is not understood


class PartKind(StrEnum):
    """What the values of a part's first member are, and so which transforms may be tried."""

    BYTES = "bytes"
    FLOATS = "floats"  # dtype: BF16, F16, F32, F8_E4M3, F8_E5M2 ...
    INTEGERS = "integers"  # dtype: I8, U8, I16, U16, I32, U32; one code in each
    NIBBLES = "nibbles"  # two codes in each byte, see Packing
    GGUF = "gguf"  # blocks; dtype: Q8_0, Q4_K ...


class Packing(StrEnum):
    """Where the codes of a quantized matrix lie; the matrix is rows x columns of codes, as the file orders them."""

    ROW = "row"  # along the row, lowest bits first: compressed-tensors' weight_packed, torchao's qdata
    GPTQ = "gptq"  # an int32 holds consecutive rows (inputs) of one column (output), lowest bits first
    AWQ = "awq"  # an int32 holds 8 columns (outputs) of one row (input), in the order 0, 2, 4, 6, 1, 3, 5, 7


class Role(StrEnum):
    """What a member of a part is."""

    VALUES = "values"  # a tensor by itself, or bytes
    CODES = "codes"
    SCALES = "scales"
    ZEROS = "zeros"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """How the 4-bit codes of a quantized matrix lie, and which of them share a scale.

    Attributes:
        packing: where the codes lie.
        group_rows: a scale covers group_rows x group_columns codes; 1 x 1 if no scales are members of the part.
        group_columns: likewise; 1 for GPTQ and AWQ, whose groups run down the columns.
        scale_dtype: of the scales; "" if they are no member of the part.
        zero_dtype: of the zero points; "" if there are none. I32 is packed: for GPTQ and AWQ like a row of the codes,
            for ROW eight rows of one group to an int32 (compressed-tensors packs them down the rows).
    """

    packing: Packing
    group_rows: int
    group_columns: int
    scale_dtype: str = ""
    zero_dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A run of bytes of a file that belongs to a part.

    Attributes:
        name: of the tensor; for bytes of no tensor words in parentheses, unique in the file.
        role: what it is to the part.
        dtype: as the file spells it; "" for bytes of no tensor.
        shape: outermost axis first; (size,) for bytes of no tensor.
        offset: in the file.
        size_bytes: at least 1.
        unit_bytes: size of one unit; a member is whole units.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    unit_bytes: int

    @property
    def num_units(self) -> int:
        """Places to cut at, ends included, less one."""
        return self.size_bytes // self.unit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor, family, or run of other bytes of a file.

    Attributes:
        file: name of the file in the release.
        name: of the tensor, of the codes for a family, or words in parentheses.
        kind: what its values are.
        dtype: of the values; "" for bytes of no tensor.
        rows: of the matrix of values or codes; all axes but the last multiplied. 1 for bytes.
        columns: values in a row; for GGUF too, which stores them in blocks.
        unit_rows: rows in a unit; 0 if a unit is less than a row.
        members: one, or the members of a family, codes first.
        packed: of a quantized matrix.
    """

    file: str
    name: str
    kind: PartKind
    dtype: str
    rows: int
    columns: int
    unit_rows: int
    members: tuple[Member, ...]
    packed: Packed | None = None

    @property
    def offset(self) -> int:
        """Where its first member starts; parts of a file are ordered by it."""
        return self.members[0].offset

    @property
    def stored_dtype(self) -> str:
        """As the file spells it, of the first member; "" for bytes of no tensor."""
        return self.members[0].dtype

    @property
    def size_bytes(self) -> int:
        """Of all members."""
        return sum(member.size_bytes for member in self.members)

    @property
    def num_units(self) -> int:
        """Units of which a slab of the part is made."""
        return self.members[0].num_units

    @property
    def unit_bytes(self) -> int:
        """Bytes of one whole unit, all members."""
        return sum(member.unit_bytes for member in self.members)


def bytes_part(file: str, name: str, offset: int, size_bytes: int) -> Part:
    """Return a part of bytes that no tensor covers."""
    member = Member(
        name=name, role=Role.VALUES, dtype="", shape=(size_bytes,), offset=offset, size_bytes=size_bytes, unit_bytes=1
    )
    return Part(
        file=file, name=name, kind=PartKind.BYTES, dtype="", rows=1, columns=size_bytes, unit_rows=0, members=(member,)
    )


def num_rows(shape: tuple[int, ...]) -> int:
    """Rows of a tensor seen as a matrix whose columns are its last axis."""
    return math.prod(shape[:-1])
