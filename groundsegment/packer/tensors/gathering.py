"""Gathers pieces for a segment, and joins small neighbours of one kind: every piece costs 50 to 100 bytes.

Neighbours are whole parts whose extents follow each other in the file, one by one, and in the base likewise:

- bytes, and numbers of a few bytes: shapes, padding, scalars;
- 4-bit codes and blocks of one packing and width, which make a taller matrix: their coders tell groups apart by what
  they are, not where. After a light fine-tune of SmolLM2, int4 and Q4_1 take 4 % less joined than apart, Q4_K 3 %;
  whole, Q4_1 and Q4_K 0.2 % less, int4 the same;
- vectors with a base. Without one they stay apart, and so do all matrices of other kinds: what they have in common is
  less than what they would mix (scales without a base: 4 % more joined than apart; int8 with a base: 1 % more).
"""

from dataclasses import replace

from groundsegment.packer.tensors.jobs import BaseWindow, PieceExtent, PieceJob
from groundsegment.packer.tensors.parts import PartKind
from protocol.codec.payload import PIECES_MAX
from protocol.limits import KIB, MIB, WINDOWS_SIZE_MAX, ZSTD_WINDOW_MAX

_SMALL_SEGMENT = MIB
_SMALL_BYTES, _SMALL_CODES, _SMALL_DELTA, _SMALL_NUMBERS = 64 * KIB, MIB, 4 * KIB, 128
_STACKED = {PartKind.NIBBLES, PartKind.GGUF}
_JOINED_MAX = 512


class Gathered:
    """The pieces of a segment so far."""

    def __init__(self) -> None:
        self.size_bytes = self._windows_size = 0
        self._pieces: list[PieceJob] = []
        self._is_open = False  # whether the last piece is made of whole parts

    @property
    def is_small(self) -> bool:
        """Whether it should not be a segment of its own."""
        return self.size_bytes < _SMALL_SEGMENT

    def has_room(self, piece: PieceJob, segment_bytes: int) -> bool:
        """Tell whether a piece may come in; the first always may."""
        fits = self.size_bytes + piece.size_bytes <= segment_bytes and len(self._pieces) < PIECES_MAX
        is_within_reach = self._windows_size + _window_size(piece) <= WINDOWS_SIZE_MAX
        return (fits and is_within_reach) or not self._pieces

    def add(self, piece: PieceJob, *, is_whole: bool) -> None:
        """Add a piece, to the last one if they are neighbours.

        Args:
            piece: to be added.
            is_whole: whether it is all of its part.
        """
        self.size_bytes += piece.size_bytes
        self._windows_size += _window_size(piece)
        if self._is_open and is_whole and _are_neighbours(self._pieces[-1], piece):
            self._pieces[-1] = _joined(self._pieces[-1], piece)
        else:
            self._pieces.append(piece)
        self._is_open = is_whole

    def take(self) -> tuple[PieceJob, ...]:
        """Return the pieces and start anew."""
        pieces = tuple(self._pieces)
        self.size_bytes, self._windows_size, self._pieces, self._is_open = 0, 0, [], False
        return pieces


def _window_size(piece: PieceJob) -> int:
    return piece.window.size_bytes if piece.window is not None else 0


def _joined(last: PieceJob, piece: PieceJob) -> PieceJob:
    is_matrix = last.kind in _STACKED
    return replace(
        last,
        parts=last.parts + piece.parts,
        rows=last.rows + piece.rows if is_matrix else 1,
        columns=last.columns if is_matrix else last.rows * last.columns + piece.rows * piece.columns,
        extents=tuple(
            replace(before, size_bytes=before.size_bytes + after.size_bytes)
            for before, after in zip(last.extents, piece.extents, strict=True)
        ),
        window=_joined_window(last.window, piece.window),
    )


def _are_neighbours(last: PieceJob, piece: PieceJob) -> bool:
    if (last.kind, last.dtype, last.packed) != (piece.kind, piece.dtype, piece.packed):
        return False
    if len(last.extents) != len(piece.extents) or len(last.parts) >= _JOINED_MAX:
        return False
    if last.kind in _STACKED and last.columns != piece.columns:
        return False
    if max(last.size_bytes // len(last.parts), piece.size_bytes) > _small_size(piece):
        return False
    if (last.window or piece.window) and _joined_window(last.window, piece.window) is None:
        return False
    return all(_follows(before, after) for before, after in zip(last.extents, piece.extents, strict=True))


def _joined_window(before: BaseWindow | None, after: BaseWindow | None) -> BaseWindow | None:
    """Return the window that holds both; None if they do not follow each other."""
    if before is None or after is None:
        return None
    size = before.size_bytes + after.size_bytes
    if (before.file, before.offset + before.size_bytes) != (after.file, after.offset) or size > ZSTD_WINDOW_MAX:
        return None
    return BaseWindow(file=before.file, offset=before.offset, size_bytes=size)


def _small_size(piece: PieceJob) -> int:
    if piece.kind is PartKind.BYTES:
        return _SMALL_BYTES
    if piece.kind in _STACKED:
        return _SMALL_CODES
    return _SMALL_DELTA if piece.has_base else _SMALL_NUMBERS


def _follows(before: PieceExtent, after: PieceExtent) -> bool:
    """Whether one extent ends where the next begins, in the file and in the base."""
    if before.offset + before.size_bytes != after.offset:
        return False
    if before.base is None or after.base is None:
        return before.base is after.base
    return (before.base.file, before.base.offset + before.size_bytes) == (after.base.file, after.base.offset)
