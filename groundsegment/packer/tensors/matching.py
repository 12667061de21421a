"""Matching: which bytes of the base are the old values of a release's parts, and how that was found out.

In this order, each step only for what the ones before left over:

1. a tensor of the same name and type, of the same shape; reshaped (as many values); or with rows added or taken away
   at the end (a grown vocabulary) - unless samples show that other values now go by that name and others fit better;
2. renamed: the one whose dotted name ends alike (`model.` put before it), if samples are alike;
3. any unused tensor of the same type and shape, or number of values, whose sample is alike, the nearest in order first;
4. several unused ones of its layer, one after another (a qkv of q, k and v; a stack of experts), or rows of one that
   was such a whole (assembling.py);
5. values that are not alike, but of the same name: a new training of the same tensor; the packer will see;
6. a copy of one that is used already (a tied head that became a tensor of its own).

A family matches member by member, wherever the base has them: in other shards, or one by one. Tensors of another type
(bf16 to int8), or of other groups, have no counterpart. Bytes match by name of file and part,
whatever their size.

Deterministic. Reads one KiB of each tensor and keeps some samples: memory does not grow with the release.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from groundsegment.packer.tensors.catalogue import Read
from groundsegment.packer.tensors.counterparts import Match, Run, TensorMatcher, shape_words
from groundsegment.packer.tensors.jobs import BaseRef
from groundsegment.packer.tensors.parts import WHOLE_FILE, Part
from groundsegment.packer.tensors.samples import Sampler

__all__ = ["Match", "Run", "match", "removed", "why_unmatched"]


def match(parts: Sequence[Part], base_parts: Sequence[Part], read: Read, base_read: Read) -> dict[Part, Match]:
    """Find the old values of each part; one without has no entry.

    Args:
        parts: of the release.
        base_parts: of the base.
        read: reads the release's files.
        base_read: reads the base's.
    """
    matches = _match_bytes([part for part in parts if not part.stored_dtype], base_parts)
    matcher = TensorMatcher(base_parts, Sampler(read), Sampler(base_read))
    matches.update(matcher.run([part for part in parts if part.stored_dtype]))
    return {part: matches[part] for part in parts if part in matches}


def why_unmatched(parts: Iterable[Part], base_parts: Iterable[Part], matches: Mapping[Part, Match]) -> dict[Part, str]:
    """Say for each part that has no counterpart why; for people."""
    by_name = {member.name: (part, member) for part in base_parts for member in part.members}
    reasons = {}
    for part in parts:
        if part in matches:
            continue
        _, old = by_name.get(part.members[0].name, (None, None))
        if old is None:
            reasons[part] = "not in the base"
        elif old.dtype != part.stored_dtype:
            reasons[part] = f"{old.dtype} in the base, {part.stored_dtype} now"
        elif old.shape != part.members[0].shape:
            reasons[part] = f"{shape_words(old)} in the base, {shape_words(part.members[0])} now"
        else:
            reasons[part] = "other groups in the base"
    return reasons


def removed(base_parts: Iterable[Part], matches: Mapping[Part, Match]) -> tuple[Part, ...]:
    """Return the base's parts that no part came from."""
    used: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for part, found in matches.items():
        for run in found.runs:
            for member, ref in zip(part.members, run.refs, strict=True):
                used[ref.file].append((ref.offset, ref.offset + run.num_units * member.unit_bytes))
    for runs in used.values():
        runs.sort()
    return tuple(part for part in base_parts if not _is_used(part, used[part.file]))


def _is_used(part: Part, runs: Sequence[tuple[int, int]]) -> bool:
    """Whether any run of bytes in use, in rising order, reaches into a part's first member."""
    lead = part.members[0]
    at = bisect_left(runs, (lead.offset + lead.size_bytes, 0)) - 1  # the last that starts before the member ends
    return at >= 0 and runs[at][1] > lead.offset


def _match_bytes(parts: Sequence[Part], base_parts: Sequence[Part]) -> dict[Part, Match]:
    """Match bytes of no tensor: by file and name; else by name in files of the same kind, in order."""
    by_place = {(part.file, part.name): part for part in base_parts}
    by_name: dict[tuple[str, str], list[Part]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for old in base_parts:
        by_name[_suffix(old.file), old.name].append(old)
        sizes[old.file] += old.size_bytes
    seen: dict[tuple[str, str], int] = defaultdict(int)
    found = {}
    for part in parts:
        key = (_suffix(part.file), part.name)
        place = by_place.get((part.file, part.name))
        if place is not None:
            found[part] = _bytes_match(part, place.file, place.offset, place.size_bytes, "same file")
        elif part.name == WHOLE_FILE and part.file in sizes:
            found[part] = _bytes_match(part, part.file, 0, sizes[part.file], "same file")
        elif part.name != WHOLE_FILE and by_name[key]:
            other = by_name[key][min(seen[key], len(by_name[key]) - 1)]  # of more shards all headers are alike
            found[part] = _bytes_match(part, other.file, other.offset, other.size_bytes, f"same place, in {other.file}")
        seen[key] += 1
    return found


def _bytes_match(part: Part, file: str, offset: int, size_bytes: int, reason: str) -> Match:
    num_bytes = min(part.size_bytes, size_bytes)
    return Match(
        runs=(Run(first=0, num_units=num_bytes, refs=(BaseRef(file=file, offset=offset),)),),
        base_name=part.name,
        reason=reason,
        window_bytes=size_bytes,
    )


def _suffix(file: str) -> str:
    return file.rpartition(".")[2]
