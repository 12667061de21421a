"""The cut: parts to segment jobs of at most 4 MiB of output, at whole rows or groups.

Large parts become even slabs; small ones are gathered, in order of the file, until a segment is full (gathering.py);
what is left before a large part travels with its first slab rather than in a tiny segment of its own. All by
arithmetic, lazily: a tensor of 2**40 values costs no more memory than any other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby

from groundsegment.packer.tensors.gathering import Gathered
from groundsegment.packer.tensors.jobs import BaseRef, BaseWindow, PieceExtent, PieceJob, SegmentJob
from groundsegment.packer.tensors.matching import Match, Run
from groundsegment.packer.tensors.parts import Part
from protocol.limits import SEGMENT_SIZE_MAX, ZSTD_WINDOW_MAX


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
        match: where the base has units of it; without it, or between its runs, pieces have no base.
        piece_bytes: what a piece should turn into at most.
    """
    if match is not None and match.window_bytes:
        yield from _windowed(part, match, piece_bytes)
        return
    for first, end, run in _stretches(part, match.runs if match is not None else ()):
        step = _slab_units(part, end - first, piece_bytes)
        for start in range(first, end, step):
            yield _slab(part, start, min(start + step, end), run)


def _stretches(part: Part, runs: Iterable[Run]) -> Iterator[tuple[int, int, Run | None]]:
    """Yield (first unit, end, where the base has them) of all units, in order."""
    at = 0
    for run in runs:
        yield at, run.first, None
        at = run.first + run.num_units
        yield run.first, at, run
    yield at, part.num_units, None


def _windowed(part: Part, match: Match, piece_bytes: int) -> Iterator[PieceJob]:
    """Yield slabs of bytes that are no tensor: not cut where the base ends, for they may be found anywhere in it."""
    step = _slab_units(part, part.num_units, piece_bytes)
    for start in range(0, part.num_units, step):
        end = min(start + step, part.num_units)
        piece = _slab(part, start, end, match.runs[0] if end <= match.num_units else None)
        yield replace(piece, window=_window(match, (start + end) / (2 * part.num_units)))


def _window(match: Match, share: float) -> BaseWindow:
    """Return the counterpart, or as much of it as a decoder holds, around such a share of it."""
    size = min(match.window_bytes, ZSTD_WINDOW_MAX)
    start = min(max(0, int(share * match.window_bytes) - size // 2), match.window_bytes - size)
    return BaseWindow(file=match.refs[0].file, offset=match.refs[0].offset + start, size_bytes=size)


def _slab_units(part: Part, num_units: int, piece_bytes: int) -> int:
    most = max(1, piece_bytes // part.unit_bytes)
    num_slabs = max(1, -(-num_units // most))
    return max(1, -(-num_units // num_slabs))


def _slab(part: Part, first: int, end: int, run: Run | None) -> PieceJob:
    """Return the piece of units first .. end - 1."""
    extents = []
    for index, member in enumerate(part.members):
        start = first * member.unit_bytes
        size = end * member.unit_bytes - start
        base = None
        if run is not None:
            ref = run.refs[index]
            base = BaseRef(file=ref.file, offset=ref.offset + start - run.first * member.unit_bytes)
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
        return (end - first) * part.unit_rows, part.columns
    # Rows are cut: the values in so many bytes, in the proportion of the whole.
    return 1, part.rows * part.columns * size_bytes // part.members[0].size_bytes


def _cut_file(
    file: str, parts: Iterable[Part], matches: Mapping[Part, Match], segment_bytes: int
) -> Iterator[SegmentJob]:
    gathered = Gathered()
    for part in parts:
        is_large = part.size_bytes > segment_bytes
        room = segment_bytes - gathered.size_bytes if is_large and gathered.is_small else segment_bytes
        for piece in pieces_of(part, matches.get(part), piece_bytes=room):
            if not gathered.has_room(piece, segment_bytes):
                yield SegmentJob(file=file, pieces=gathered.take())
            gathered.add(piece, is_whole=piece.size_bytes == part.size_bytes)
    if gathered.size_bytes:
        yield SegmentJob(file=file, pieces=gathered.take())
