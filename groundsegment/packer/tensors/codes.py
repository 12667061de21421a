"""Parts made of packed codes: a matrix of 4-bit codes with or without the scales of its groups, or other codes.

families.py finds out what a tensor is; this says where it may be cut.
"""

from dataclasses import dataclass

from groundsegment.models.safetensors_file import DTYPE_BITS
from groundsegment.models.tensor_info import TensorInfo
from groundsegment.packer.tensors.parts import Member, Packed, Packing, Part, PartKind, Role, num_rows
from protocol.limits import SEGMENT_SIZE_MAX

WORD_CODES = 8  # in an int32
_GPTQ_ROWS = 8  # of codes that an int32 holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """The rest of a family, and how many stored rows of each member make a unit.

    Attributes:
        scales: one for each group.
        zeros: zero points, likewise, if there are any.
        group_rows: a group is group_rows x group_columns codes.
        group_columns: likewise.
        unit_rows: rows of the matrix in a unit.
        code_rows: stored rows of the codes in a unit.
        scale_rows: of the scales.
    """

    scales: TensorInfo
    zeros: TensorInfo | None
    group_rows: int
    group_columns: int
    unit_rows: int
    code_rows: int
    scale_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Nibbles:
    """The codes of a matrix, two in a byte.

    Attributes:
        info: the tensor that holds them.
        packing: where they lie.
        rows: of codes.
        columns: of codes.
    """

    info: TensorInfo
    packing: Packing
    rows: int
    columns: int

    def part(self, rest: Scales | None) -> Part:
        """Return the part of the codes with the rest of their family, if there is one that a segment can hold."""
        if rest is not None:
            members = [
                _member(self.info, Role.CODES, rest.code_rows),
                _member(rest.scales, Role.SCALES, rest.scale_rows),
            ]
            if rest.zeros is not None:
                members.append(_member(rest.zeros, Role.ZEROS, 1))
            assert len({member.num_units for member in members}) == 1, members
            if sum(member.unit_bytes for member in members) <= SEGMENT_SIZE_MAX:
                return self._part(tuple(members), _packed(self.packing, rest), rest.unit_rows)
        stored_rows = 1 if self.info.size_bytes // num_rows(self.info.shape) <= SEGMENT_SIZE_MAX else 0
        unit_rows = stored_rows * (_GPTQ_ROWS if self.packing is Packing.GPTQ else 1)
        return self._part((_member(self.info, Role.CODES, stored_rows),), _packed(self.packing, None), unit_rows)

    def _part(self, members: tuple[Member, ...], packed: Packed, unit_rows: int) -> Part:
        return Part(
            file=self.info.file,
            name=self.info.name,
            kind=PartKind.NIBBLES,
            dtype="U4",
            rows=self.rows,
            columns=self.columns,
            unit_rows=unit_rows,
            members=members,
            packed=packed,
        )


def byte_codes(info: TensorInfo) -> Part:
    """Return the part of codes that are not of 4 bits, several in an int32: bytes, in the order of the file."""
    rows = num_rows(info.shape)
    unit_rows = 1 if info.size_bytes // rows <= SEGMENT_SIZE_MAX else 0
    return Part(
        file=info.file,
        name=info.name,
        kind=PartKind.INTEGERS,
        dtype="U8",
        rows=rows,
        columns=info.size_bytes // rows,
        unit_rows=unit_rows,
        members=(_member(info, Role.VALUES, unit_rows),),
    )


def _packed(packing: Packing, rest: Scales | None) -> Packed:
    if rest is None:
        return Packed(packing=packing, group_rows=1, group_columns=1)
    return Packed(
        packing=packing,
        group_rows=rest.group_rows,
        group_columns=rest.group_columns,
        scale_dtype=rest.scales.dtype,
        zero_dtype=rest.zeros.dtype if rest.zeros is not None else "",
    )


def _member(info: TensorInfo, role: Role, unit_rows: int) -> Member:
    """Return a member of `unit_rows` stored rows to a unit; 0: rows are too long, a unit is an element."""
    leading = info.shape[:-1] if len(info.shape) > 1 else info.shape  # scales of one axis: one for each row
    row_bytes = info.size_bytes // num_rows((*leading, 1))
    return Member(
        name=info.name,
        role=role,
        dtype=info.dtype,
        shape=info.shape,
        offset=info.offset,
        size_bytes=info.size_bytes,
        unit_bytes=unit_rows * row_bytes if unit_rows else DTYPE_BITS[info.dtype] // 8,
    )
