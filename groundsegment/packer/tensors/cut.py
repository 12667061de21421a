"""The cut: parts to segment jobs of at most 4 MiB of output, at whole rows or groups.

Large parts become even slabs; small ones are gathered, in order of the file, until a segment is full; what is left
before a large part travels with its first slab rather than in a tiny segment of its own. Neighbours of a few bytes
(shapes, padding, vectors that hardly changed) become one piece, since every piece costs some 50 bytes. All by
arithmetic, lazily: a tensor of 2**40 values costs no more memory than any other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from groundsegment.packer.tensors.jobs import BaseRef, PieceExtent, PieceJob, SegmentJob
from groundsegment.packer.tensors.matching import Match
from groundsegment.packer.tensors.parts import Part, PartKind
from protocol.codec.payload import PIECES_MAX
from protocol.limits import KIB, MIB, SEGMENT_SIZE_MAX

_SMALL_SEGMENT = MIB
# Up to these sizes pieces are joined with their neighbours: bytes; numbers with a base, whose differences are alike;
# others, whose streams would mix what has little in common (scales of a matrix and the next: 4 % more than apart).
_SMALL_BYTES, _SMALL_DELTA, _SMALL_NUMBERS = 64 * KIB, 4 * KIB, 128
_JOINED_MAX = 512


def cut(
    parts: Iterable[Part], matches: Mapping[Part, Match], *, segment_bytes: int = SEGMENT_SIZE_MAX
) -> Iterator[SegmentJob]:
    """Yield the segments of a release, file by file, in the order of the parts.

    Args:
        parts: of one release, each file's together and in order.
        matches: what the base has of them.
        segment_bytes: what a segment should turn into at most; a single row or group may pass it.
    """
    for file, group in groupby(parts, key=lambda part: part.file):
        yield from _cut_file(file, group, matches, segment_bytes)


def pieces_of(part: Part, match: Match | None, *, piece_bytes: int = SEGMENT_SIZE_MAX) -> Iterator[PieceJob]:
    """Yield a part's slabs, as even as can be.

    Args:
        part: the part.
        match: where the base has its first units; without it, or behind them, pieces have no base.
        piece_bytes: what a piece should turn into at most.
    """
    known = match.num_units if match is not None else 0
    for first, end, base in ((0, known, match), (known, part.num_units, None)):
        step = _slab_units(part, end - first, piece_bytes)
        for start in range(first, end, step):
            yield _slab(part, start, min(start + step, end), base)


def _slab_units(part: Part, num_units: int, piece_bytes: int) -> int:
    most = max(1, piece_bytes // part.unit_bytes)
    num_slabs = max(1, -(-num_units // most))
    return max(1, -(-num_units // num_slabs))


def _slab(part: Part, first: int, end: int, match: Match | None) -> PieceJob:
    """Return the piece of units first .. end - 1."""
    extents = []
    for index, member in enumerate(part.members):
        start = first * member.unit_bytes
        size = min(end * member.unit_bytes, member.size_bytes) - start
        base = None
        if match is not None:
            ref = match.refs[index]
            base = BaseRef(file=ref.file, offset=ref.offset + start)
        extents.append(PieceExtent(role=member.role, offset=member.offset + start, size_bytes=size, base=base))
    rows, columns = _extent_of_rows(part, first, end, extents[0].size_bytes)
    return PieceJob(
        parts=(part.name,),
        kind=part.kind,
        dtype=part.dtype,
        rows=rows,
        columns=columns,
        packed=part.packed,
        extents=tuple(extents),
    )


def _extent_of_rows(part: Part, first: int, end: int, size_bytes: int) -> tuple[int, int]:
    if part.unit_rows:
        return min(end * part.unit_rows, part.rows) - first * part.unit_rows, part.columns
    # Rows are cut: the values in so many bytes, in the proportion of the whole.
    return 1, part.rows * part.columns * size_bytes // part.members[0].size_bytes


def _cut_file(
    file: str, parts: Iterable[Part], matches: Mapping[Part, Match], segment_bytes: int
) -> Iterator[SegmentJob]:
    waiting: list[PieceJob] = []
    size = 0
    for part in parts:
        room = segment_bytes - size if size < _SMALL_SEGMENT and part.size_bytes > segment_bytes else segment_bytes
        for piece in pieces_of(part, matches.get(part), piece_bytes=room):
            if waiting and (size + piece.size_bytes > segment_bytes or len(waiting) == PIECES_MAX):
                yield SegmentJob(file=file, pieces=tuple(waiting))
                waiting, size = [], 0
            _append(waiting, piece)
            size += piece.size_bytes
    if waiting:
        yield SegmentJob(file=file, pieces=tuple(waiting))


def _append(waiting: list[PieceJob], piece: PieceJob) -> None:
    """Add a piece to a segment, to its last piece if they are small neighbours of one kind."""
    if not waiting or not _are_neighbours(waiting[-1], piece):
        waiting.append(piece)
        return
    last = waiting[-1]
    extent = replace(last.extents[0], size_bytes=last.size_bytes + piece.size_bytes)
    waiting[-1] = replace(
        last,
        parts=last.parts + piece.parts,
        rows=1,
        columns=last.rows * last.columns + piece.rows * piece.columns,
        extents=(extent,),
    )


def _small_size(piece: PieceJob) -> int:
    if piece.kind is PartKind.BYTES:
        return _SMALL_BYTES
    return _SMALL_DELTA if piece.has_base else _SMALL_NUMBERS


def _are_neighbours(last: PieceJob, piece: PieceJob) -> bool:
    if (last.kind, last.dtype) != (piece.kind, piece.dtype) or last.packed or piece.packed:
        return False
    if last.kind is PartKind.GGUF or len(last.parts) >= _JOINED_MAX:
        return False
    if max(last.size_bytes // len(last.parts), piece.size_bytes) > _small_size(piece):
        return False
    before, after = last.extents[0], piece.extents[0]
    if before.offset + before.size_bytes != after.offset:
        return False
    if before.base is None or after.base is None:
        return before.base is after.base
    return (before.base.file, before.base.offset + before.size_bytes) == (after.base.file, after.base.offset)
