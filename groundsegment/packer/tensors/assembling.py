"""Tensors that are several others one after another: qkv of q, k and v, a stack of experts of single ones.

A whole and its pieces are parts whose rows are laid out alike: one kind, one type, as many bytes to a row. Where a
piece lies in the whole is found out by samples, row by row of what is left; smaller tensors of the same names (scales,
biases) go where the larger ones of their layer went. So it works both ways: new wholes of old pieces, new pieces of old
wholes. Parts whose outputs lie in columns (GPTQ, AWQ) are no run of each other's rows, and are not found.

Looks only at layers of the same number: a model that fuses its tensors seldom renumbers its layers at once.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.tensors.parts import Part

Sample = NDArray[np.float32]
SampleRun = Callable[[Part, int, int], Sample]
"""(part, offset in its first member, size) -> sample of that run."""

_ALIKE = 0.5
_TELLING_BYTES = 256
_MISSES_MAX = 64
_LAYER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a piece lies in a whole: from which of its units on."""

    whole: Part
    first: int
    piece: Part


def assemble(
    wholes: Sequence[Part], pieces: Sequence[Part], sample_whole: SampleRun, sample_piece: SampleRun
) -> Iterator[tuple[Placed, ...]]:
    """Yield for each whole that is found to be made of pieces where they lie, in order; each piece is used once.

    Args:
        wholes: of one release.
        pieces: of the other.
        sample_whole: samples parts of the first.
        sample_piece: samples parts of the other.
    """
    rest: dict[object, list[Part]] = defaultdict(list)
    for piece in pieces:
        rest[_key(piece)].append(piece)
    stems: dict[str, list[str]] = {}
    for whole in sorted(wholes, key=lambda part: -part.size_bytes):  # of equals the first
        unused = rest.get(_key(whole), [])
        found = _by_stems(whole, unused, stems) or _by_values(whole, unused, sample_whole, sample_piece)
        if found:
            stems.setdefault(_stem(whole), [_stem(placed.piece) for placed in found])
            for placed in found:
                unused.remove(placed.piece)
            yield found


def _by_values(
    whole: Part, pieces: Sequence[Part], sample_whole: SampleRun, sample_piece: SampleRun
) -> tuple[Placed, ...]:
    candidates: dict[int, list[Part]] = defaultdict(list)
    for piece in pieces:
        if _TELLING_BYTES <= piece.members[0].size_bytes < whole.members[0].size_bytes:
            candidates[piece.num_units].append(piece)
    unit_bytes, at, misses, found = whole.members[0].unit_bytes, 0, 0, list[Placed]()
    while candidates and at + min(candidates) <= whole.num_units and misses < _MISSES_MAX:
        best: tuple[float, int, Part] | None = None
        for count in sorted(candidates, reverse=True):
            if at + count > whole.num_units:
                continue
            here = sample_whole(whole, at * unit_bytes, count * unit_bytes)
            table = np.stack([sample_piece(piece, 0, count * unit_bytes) for piece in candidates[count]])
            likeness = np.round(table @ here, 2)
            most = int(np.argmax(likeness))
            if likeness[most] >= _ALIKE and (best is None or likeness[most] > best[0]):
                best = float(likeness[most]), count, candidates[count][most]
        if best is None:
            at, misses = at + min(candidates), misses + 1
            continue
        _, count, piece = best
        found.append(Placed(whole, at, piece))
        candidates[count].remove(piece)
        if not candidates[count]:
            del candidates[count]
        at += count
    return tuple(found)


def _by_stems(whole: Part, pieces: Sequence[Part], stems: Mapping[str, list[str]]) -> tuple[Placed, ...]:
    """Place pieces as the larger ones of their names were placed; nothing unless all are there and fill the whole."""
    by_name = {piece.name: piece for piece in pieces}
    at, found = 0, []
    for stem in stems.get(_stem(whole), ()):
        piece = by_name.get(f"{stem}.{_last(whole)}")
        if piece is None:
            return ()
        found.append(Placed(whole, at, piece))
        at += piece.num_units
    return tuple(found) if at == whole.num_units else ()


def _key(part: Part) -> object:
    """What a whole and its pieces have in common."""
    layer = _LAYER.search(part.name)
    units = tuple((member.dtype, member.unit_bytes) for member in part.members)
    return part.kind, part.dtype, part.packed, units, layer[0] if layer else ""


def _stem(part: Part) -> str:
    return part.name.rpartition(".")[0]


def _last(part: Part) -> str:
    return part.name.rpartition(".")[2]
