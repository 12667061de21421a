"""Families of which the base has the codes but other scales: taken apart, so that the codes may be a difference.

Another group size, zero points that came or went: the codes still say much of what they said, while the scales are
others, and as many do not go with as many codes. A family travels against a family or whole; its codes by themselves
travel against the base's codes. Reads samples of codes only.
"""

from collections.abc import Mapping, Sequence

from groundsegment.models.tensor_info import TensorInfo
from groundsegment.packer.tensors.catalogue import Read, single
from groundsegment.packer.tensors.codes import WORD_CODES, Nibbles
from groundsegment.packer.tensors.parts import Member, Packed, Packing, Part, Role, num_rows
from groundsegment.packer.tensors.samples import Sampler, likeness

_ALIKE = 0.3  # below it codes are as good as other ones


def take_apart(parts: Sequence[Part], base_parts: Sequence[Part], read: Read, base_read: Read) -> tuple[Part, ...]:
    """Return the parts, families in pieces where the base has their codes but not their scales; in the same order.

    Args:
        parts: of the release.
        base_parts: of the base.
        read: reads the release's files.
        base_read: reads the base's.
    """
    by_name = {member.name: (part, member) for part in base_parts for member in part.members}
    sampler, base_sampler = Sampler(read), Sampler(base_read)
    made: list[Part] = []
    for part in parts:
        if not _has_other_scales(part, by_name):
            made.append(part)
            continue
        old_part, old = by_name[part.members[0].name]
        is_alike = likeness(sampler.sample(part, part.members[0]), base_sampler.sample(old_part, old)) >= _ALIKE
        made += _members_alone(part) if is_alike else (part,)
    places = {file: index for index, file in enumerate(dict.fromkeys(part.file for part in parts))}
    return tuple(sorted(made, key=lambda part: (places[part.file], part.offset)))


def _has_other_scales(part: Part, by_name: Mapping[str, tuple[Part, Member]]) -> bool:
    """Whether the base has a family's codes under the same name, but not all else of it in the same numbers."""
    lead = part.members[0]
    _, old = by_name.get(lead.name, (None, None))
    if len(part.members) == 1 or old is None or (old.dtype, old.shape) != (lead.dtype, lead.shape):
        return False
    rest = [(member, by_name.get(member.name, (None, None))[1]) for member in part.members[1:]]
    return any(
        found is None or (found.dtype, found.size_bytes) != (member.dtype, member.size_bytes) for member, found in rest
    )


def _members_alone(part: Part) -> tuple[Part, ...]:
    lead, *rest = part.members
    assert part.packed is not None
    codes = Part(
        file=part.file,
        name=part.name,
        kind=part.kind,
        dtype=part.dtype,
        rows=part.rows,
        columns=part.columns,
        unit_rows=part.unit_rows,
        members=(lead,),
        packed=Packed(packing=part.packed.packing, group_rows=1, group_columns=1),
    )
    return (codes, *(_alone(part.file, member) for member in rest))


def _alone(file: str, member: Member) -> Part:
    info = TensorInfo(
        name=member.name,
        dtype=member.dtype,
        shape=member.shape,
        file=file,
        offset=member.offset,
        size_bytes=member.size_bytes,
    )
    if member.role is Role.ZEROS and member.dtype == "I32":
        columns = member.shape[-1] * WORD_CODES
        return Nibbles(info=info, packing=Packing.ROW, rows=num_rows(member.shape), columns=columns).part(None)
    return single(info)
