"""Which tensor of the base a part's values come from: by name, by a changed name, by like values.

Driven by matching.py, whose docstring has the order. Reads samples only (samples.py); says in words how each was found.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.tensors.assembling import assemble
from groundsegment.packer.tensors.jobs import BaseRef
from groundsegment.packer.tensors.parts import Member, Part
from groundsegment.packer.tensors.samples import Sampler, encoding, likeness, likeness_table

_SAME = 0.3  # below it a tensor of the same name may have got another one's values
_ALIKE = 0.5  # below it a difference is hardly smaller than the values
_COPY = 0.9
_BATCH = 1024  # tensors of one shape compared with each other at a time
_CANDIDATES_MAX = 64  # tensors whose names end alike
_SUFFIX_WORDS_MIN = 2
_BEST_MAX = 16  # of those whose values are alike
_NAMES_MAX = 3
_TELLING_BYTES = 256  # of fewer values chance makes some look alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a part's units that the base has in one place.

    Attributes:
        first: unit of the part.
        num_units: that the base has from there on.
        refs: where each member's old bytes start, member by member.
    """

    first: int
    num_units: int
    refs: tuple[BaseRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Where the base has a part.

    Attributes:
        runs: rising, without overlaps; one from its first unit on, unless it is made of several of the base's parts.
        base_name: of the base's tensor, of the codes for a family.
        reason: how it was found, in words.
        window_bytes: of bytes that are no tensor: size of their counterpart, in which all of them may be found again.
    """

    runs: tuple[Run, ...]
    base_name: str
    reason: str
    window_bytes: int = 0

    @property
    def refs(self) -> tuple[BaseRef, ...]:
        """Where old bytes start: of the members of the first run, then of the next."""
        return tuple(ref for run in self.runs for ref in run.refs)

    @property
    def num_units(self) -> int:
        """Units of the part that the base has; all of them unless it grew."""
        return sum(run.num_units for run in self.runs)


@dataclass(frozen=True, slots=True)
class _Old:
    """A tensor of the base, and the part it is a member of."""

    part: Part
    member: Member
    rank: int

    @property
    def ref(self) -> BaseRef:
        return BaseRef(file=self.part.file, offset=self.member.offset)


class TensorMatcher:
    """Matches tensors; holds what was found so far."""

    def __init__(self, base_parts: Sequence[Part], sampler: Sampler, base_sampler: Sampler) -> None:
        self._sampler, self._base_sampler = sampler, base_sampler
        members = [(part, member) for part in base_parts if part.stored_dtype for member in part.members]
        self._olds = [_Old(part, member, rank) for rank, (part, member) in enumerate(members)]
        self._by_name: dict[str, _Old] = {}
        for old in self._olds:
            self._by_name.setdefault(old.member.name, old)
        self._used: set[BaseRef] = set()
        self._found: dict[Part, Match] = {}

    def run(self, parts: Sequence[Part]) -> dict[Part, Match]:
        """Return the matches of a release's tensors."""
        named = {part: found for part in parts if (found := self._same_name(part)) is not None}
        for part, found in named.items():
            if self._likeness(part, self._by_name[found.base_name]) >= _SAME:
                self._take(part, found)
        self._renamed(self._left(parts))
        for by_shape in (True, False):
            self._by_values(self._left(parts), by_shape=by_shape)
        self._assembled(self._left(parts))
        for part in self._left(parts):
            if part in named:
                self._take(part, replace(named[part], reason=f"{named[part].reason}, values not alike"))
        self._copies(self._left(parts))
        return self._found

    def _left(self, parts: Sequence[Part]) -> list[Part]:
        return [part for part in parts if part not in self._found]

    def _unused(self) -> list[_Old]:
        return [old for old in self._olds if old.ref not in self._used]

    def _take(self, part: Part, found: Match) -> None:
        self._found[part] = found
        self._used.update(found.refs)

    def _same_name(self, part: Part) -> Match | None:
        lead = part.members[0]
        old = self._by_name.get(lead.name)
        if old is None:
            return None
        if old.member.shape == lead.shape:
            return self._match(part, old, "same name and shape")
        if old.member.size_bytes == lead.size_bytes:
            return self._match(part, old, f"same name, reshaped from {shape_words(old.member)}")
        if not (lead.shape and old.member.shape):
            return None
        return self._match(part, old, f"same name, with {old.member.shape[0]} of its {lead.shape[0]} rows")

    def _renamed(self, parts: list[Part]) -> None:
        """Match names that end alike, the longest common ends first."""
        by_suffix: dict[object, list[_Old]] = defaultdict(list)
        for old in self._unused():
            for suffix in _suffixes(old.member.name):
                by_suffix[suffix, old.member.dtype, old.member.size_bytes].append(old)
        keys = [
            (-len(suffix), index, (suffix, part.stored_dtype, part.members[0].size_bytes))
            for index, part in enumerate(parts)
            for suffix in _suffixes(part.members[0].name)
        ]
        for _, index, key in sorted(keys):
            if key in by_suffix and parts[index] not in self._found:
                olds = [old for old in by_suffix[key] if old.ref not in self._used]
                self._take_best(parts[index], olds)

    def _take_best(self, part: Part, olds: list[_Old]) -> None:
        ranked = sorted((-self._likeness(part, old), old.rank) for old in olds[:_CANDIDATES_MAX])
        if not ranked or -ranked[0][0] < _ALIKE:
            return
        value, old = -ranked[0][0], self._olds[ranked[0][1]]
        found = self._match(part, old, f"renamed from {old.member.name}, values alike ({value:.2f})")
        if found is not None:
            self._take(part, found)

    def _by_values(self, parts: list[Part], *, by_shape: bool) -> None:
        """Match tensors of one shape, or one size, by their values alone."""
        for part, old, value in self._alike(parts, self._unused(), by_shape=by_shape):
            if part in self._found or old.ref in self._used:
                continue
            found = self._match(part, old, f"found by its values ({value:.2f}) as {old.member.name}")
            if found is not None:
                self._take(part, found)

    def _assembled(self, parts: list[Part]) -> None:
        """Match tensors made of several of the base's, and tensors that were part of one of them."""
        olds = [old.part for old in self._unused() if old.member is old.part.members[0]]
        new_run, old_run = self._sampler.sample_run, self._base_sampler.sample_run
        for found in assemble(parts, olds, new_run, old_run):
            runs = tuple(_run_of(placed.first, placed.piece, 0, placed.piece.num_units) for placed in found)
            names = [placed.piece.name for placed in found]
            words = ", ".join(names) if len(names) <= _NAMES_MAX else f"{names[0]} ... {names[-1]}"
            reason = f"made of {len(names)} of the base's tensors"
            self._take(found[0].whole, Match(runs=_joined(runs, found[0].whole), base_name=words, reason=reason))
        for found in assemble(olds, self._left(parts), old_run, new_run):
            for placed in found:
                run = _run_of(0, placed.whole, placed.first, placed.piece.num_units)
                reason = f"was a part of {placed.whole.name}"
                self._take(placed.piece, Match(runs=(run,), base_name=placed.whole.name, reason=reason))
            self._used.update(_refs_of(found[0].whole, 0))

    def _copies(self, parts: list[Part]) -> None:
        for part, old, value in self._alike(parts, self._olds, by_shape=True):
            if part not in self._found and value >= _COPY:
                found = self._match(part, old, f"a copy of {old.member.name}")
                if found is not None:
                    self._found[part] = found

    def _alike(self, parts: list[Part], olds: list[_Old], *, by_shape: bool) -> Iterator[tuple[Part, _Old, float]]:
        """Yield what is alike among tensors of one shape, or one size, best first; of equals the nearest in order."""
        groups: dict[object, list[_Old]] = defaultdict(list)
        for old in olds:
            groups[_group_key(old.part, old.member, by_shape=by_shape)].append(old)
        wanted: dict[object, list[Part]] = defaultdict(list)
        for part in parts:
            if part.members[0].size_bytes >= _TELLING_BYTES:
                wanted[_group_key(part, part.members[0], by_shape=by_shape)].append(part)
        for key, news in wanted.items():
            if key in groups:
                yield from self._pairs(news, groups[key])

    def _pairs(self, parts: list[Part], olds: list[_Old]) -> list[tuple[Part, _Old, float]]:
        scored = []
        for start in range(0, len(parts), _BATCH):
            ones = parts[start : start + _BATCH]
            # Of more than a batch only the same stretch of the base is looked at: order seldom changes that much.
            middle = (start + len(ones) // 2) * len(olds) // len(parts)
            first = max(0, min(middle - _BATCH, len(olds) - 2 * _BATCH))
            others = olds[first : first + 2 * _BATCH]
            table = likeness_table(
                [self._sampler.sample(part, part.members[0]) for part in ones],
                [self._base_sampler.sample(old.part, old.member) for old in others],
            )
            places = np.arange(first, first + len(others)) * len(parts)
            for new_at, row in enumerate(table, start):
                distances = np.abs(places - new_at * len(olds))
                for at in _best(row, distances):
                    scored.append((-round(float(row[at]), 2), int(distances[at]), new_at, first + at))
        return [(parts[new_at], olds[old_at], -score) for score, _, new_at, old_at in sorted(scored)]

    def _likeness(self, part: Part, old: _Old) -> float:
        lead = part.members[0]
        if lead.size_bytes != old.member.size_bytes or lead.size_bytes < _TELLING_BYTES:
            return 1.0  # other windows, or too few values: the name decides
        return likeness(self._sampler.sample(part, lead), self._base_sampler.sample(old.part, old.member))

    def _match(self, part: Part, old: _Old, reason: str) -> Match | None:
        """Return the match of a part whose first member comes from `old`; None if the others have none like it."""
        olds = [old]
        for member in part.members[1:]:
            name = _renamed_member(member.name, part.members[0].name, old.member.name)
            if name not in self._by_name:
                return None
            olds.append(self._by_name[name])
        pairs = list(zip(part.members, olds, strict=True))
        num_units = min(_num_units(part, member, x.member) for member, x in pairs)
        old_units = {x.member.size_bytes / member.unit_bytes for member, x in pairs}
        if not num_units or len(old_units) > 1:
            return None  # other types, or other groups: as many codes, but not as many scales
        where = "" if old.part.file == part.file else f", in {old.part.file}"
        run = Run(first=0, num_units=num_units, refs=tuple(x.ref for x in olds))
        return Match(runs=(run,), base_name=old.member.name, reason=reason + where)


def _refs_of(old: Part, first: int) -> tuple[BaseRef, ...]:
    """Return where a part of the base has its units from the first on."""
    return tuple(BaseRef(file=old.file, offset=x.offset + first * x.unit_bytes) for x in old.members)


def _run_of(first: int, old: Part, old_first: int, num_units: int) -> Run:
    """Return units of a part that are units of an old one."""
    return Run(first=first, num_units=num_units, refs=_refs_of(old, old_first))


def _joined(runs: Sequence[Run], part: Part) -> tuple[Run, ...]:
    """Return the runs, those that follow each other in the base as one."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.first + last.num_units == run.first
            and run.refs
            == tuple(
                BaseRef(file=ref.file, offset=ref.offset + last.num_units * member.unit_bytes)
                for ref, member in zip(last.refs, part.members, strict=True)
            )
        ):
            joined[-1] = replace(last, num_units=last.num_units + run.num_units)
        else:
            joined.append(run)
    return tuple(joined)


def _num_units(part: Part, member: Member, old: Member) -> int:
    """Return how many of a part's units an old member has; none if its bytes lie otherwise."""
    if old.dtype != member.dtype:
        return 0
    if old.size_bytes == member.size_bytes:
        return part.num_units
    if not part.unit_rows or len(old.shape) != len(member.shape) or old.shape[1:] != member.shape[1:]:
        return 0
    return part.num_units if old.size_bytes > member.size_bytes else old.size_bytes // member.unit_bytes


def _best(row: NDArray[np.float32], distances: NDArray[np.int64]) -> list[int]:
    """Return the places of the few that are most alike, of equals the nearest. All equal constants are alike."""
    alike = np.flatnonzero(row >= _ALIKE)
    best: list[int] = alike[np.lexsort((distances[alike], -row[alike]))][:_BEST_MAX].tolist()
    return best


def _group_key(part: Part, member: Member, *, by_shape: bool) -> object:
    """What tensors must have in common for their samples to be compared."""
    return (member.dtype, encoding(part, member), member.shape if by_shape else member.size_bytes)


def _suffixes(name: str) -> Iterator[str]:
    """Yield a dotted name and its ends, down to two words."""
    words = name.split(".")
    for first in range(max(1, len(words) - _SUFFIX_WORDS_MIN + 1)):
        yield ".".join(words[first:])


def _renamed_member(name: str, new_lead: str, old_lead: str) -> str:
    """Return what a family's member was called if its codes went from `old_lead` to `new_lead`."""
    shared = 0
    while shared < min(len(new_lead), len(old_lead)) and new_lead[-1 - shared] == old_lead[-1 - shared]:
        shared += 1
    prefix = new_lead[: len(new_lead) - shared]
    return old_lead[: len(old_lead) - shared] + name.removeprefix(prefix)


def shape_words(member: Member) -> str:
    """Return a shape for people."""
    return "x".join(map(str, member.shape)) or "a scalar"
