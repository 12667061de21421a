"""All pieces of a segment, encoded: four-bit matrices that changed little as one stack, everything else by itself.

A light fine-tune leaves a matrix of four-bit codes a few hundred bytes to send, of which its heads and tables would be
a fifth. Matrices of one packing share them, wherever they lie in the file: their codes are told apart by what their
groups are, not by whose they are. Matrices that changed much differ in how they did, so they stay apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.choosing import encode_piece, piece_of
from groundsegment.packer.tensors.jobs import PieceJob
from groundsegment.packer.tensors.layouts import nibble_layout_of
from groundsegment.packer.transforms import Arrays, Effort
from protocol.codec.fourbit import nibbles, still_units
from protocol.codec.fourbit.nibble_layout import NibbleLayout
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import EXTENTS_MAX, Piece

_CHANGED_MAX = 1 / 32  # of the bytes of codes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A piece, and the bytes of its extents.

    Attributes:
        piece: what its bytes are.
        news: new ones.
        olds: the base's, of the same sizes; None without a base.
        window: the base's in which they may be found, if the piece has a window.
    """

    piece: PieceJob
    news: Arrays
    olds: Arrays | None
    window: NDArray[np.uint8] | None = None


def encode_pieces(sources: Sequence[Source], base_numbers: Mapping[str, int], effort: Effort) -> list[Piece]:
    """Return the pieces of a payload, each stack where its first matrix is.

    Args:
        sources: the pieces of the segment.
        base_numbers: number of each base file by name.
        effort: how hard to try.
    """
    stacks: dict[NibbleLayout, list[int]] = {}
    layouts = [_layout_in_stack(source) for source in sources]
    for number, layout in enumerate(layouts):
        if layout is not None:
            stacks.setdefault(replace(layout, rows=0, columns=0), []).append(number)
    together: dict[int, list[int]] = {}
    for numbers in stacks.values():
        for part in _parts(numbers, len(sources[numbers[0]].news)):
            together.update((number, part) for number in part)
    coded = []
    for number, source in enumerate(sources):
        members = together.get(number, [number])
        if len(members) == 1:
            coded.append(encode_piece(source.piece, source.news, source.olds, base_numbers, effort, source.window))
        elif members[0] == number:
            found = [layout for layout in (layouts[member] for member in members) if layout is not None]
            coded.append(_encode_stack([sources[member] for member in members], found, base_numbers, effort))
    return coded


def _layout_in_stack(source: Source) -> NibbleLayout | None:
    """Return the layout of a matrix of four-bit codes that changed little; None for everything else."""
    layout = nibble_layout_of(source.piece)
    if layout is None or source.olds is None:
        return None
    changed = np.count_nonzero(source.news[0] != source.olds[0])
    if changed > _CHANGED_MAX * source.news[0].size or all(map(np.array_equal, source.news, source.olds)):
        return None
    has_still_rows = still_units.find(source.news, source.olds, layout.num_units) is not None
    return None if has_still_rows else layout


def _parts(numbers: list[int], num_extents: int) -> list[list[int]]:
    """Cut a stack where a piece could not name its extents."""
    most = EXTENTS_MAX // num_extents
    return [numbers[first : first + most] for first in range(0, len(numbers), most)]


def _encode_stack(
    sources: list[Source], layouts: list[NibbleLayout], base_numbers: Mapping[str, int], effort: Effort
) -> Piece:
    news = [new for source in sources for new in source.news]
    olds = [old for source in sources for old in source.olds or []]
    coded = nibbles.encode(news, olds, NibbleLayout.stack(layouts), level=effort.pcodec_level)
    pieces = [source.piece for source in sources]
    joined = replace(pieces[0], extents=tuple(extent for piece in pieces for extent in piece.extents))
    return piece_of(joined, TransformKind.NIBBLES_DELTA, coded, base_numbers)
