"""Which transform a piece gets: whatever a sample of it says is smallest; then the piece is encoded once.

A piece that the base has unchanged costs its head (SAME). Otherwise it can go as what it is (floats, codes with their
scales, blocks), as the difference to the base where there is one, and as mere bytes both ways. The frequencies of its
bytes and a quick look for matches leave out what cannot win: mostly all but one way. What is left is tried on the
sample, some runs of whole rows from all over the piece, and never in more earnest than it takes to see that it loses.
Deterministic: the same bytes always get the same transform.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.tensors.jobs import BaseRef, BaseWindow, PieceExtent, PieceJob
from groundsegment.packer.transforms import Arrays, Coded, Effort, Way, matches_size, ways_of
from protocol.codec.contexts.choosing import entropy_bits
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import NO_BASE, Extent, Piece
from protocol.limits import KIB

_SAMPLE_SIZE = 128 * KIB
_SAMPLE_PAYS = 4  # a piece of less than so many samples is tried whole
_SAMPLE_RUNS = 4
_ROWS_ALIGNMENT = 8  # packed zero points, and GPTQ's codes, hold eight rows in an int32
_COLUMNS_ALIGNMENT = 256  # blocks of GGUF hold 32 or 256 values
_BYTES_HANDICAP = 0.02
_FREQUENCIES_SIZE = 64 * KIB
_CONTEXTS_SHARE = 0.7  # contexts leave at least that much of what frequencies allow: 0.9 and more are usual
_MERE_BYTES = {TransformKind.BYTES, TransformKind.BYTES_DELTA, TransformKind.BYTES_MATCHES}
_WHOLE = {TransformKind.FLOATS, TransformKind.INTEGERS, TransformKind.NIBBLES, TransformKind.GGUF}


def encode_piece(
    piece: PieceJob,
    news: Arrays,
    olds: Arrays | None,
    base_numbers: Mapping[str, int],
    effort: Effort,
    window: NDArray[np.uint8] | None = None,
) -> Piece:
    """Return a piece of a TENSOR segment's payload.

    Args:
        piece: what its bytes are.
        news: the bytes of each extent.
        olds: the base's, of the same sizes; None without a base.
        base_numbers: number of each base file by name.
        effort: how hard to try.
        window: the base's bytes that the piece's window names, if it has one.
    """
    if olds is not None and all(map(np.array_equal, news, olds)):
        return piece_of(piece, TransformKind.SAME, (b"", ()), base_numbers)
    ways = ways_of(piece, window)
    sample = _Sample.of(piece) if len(ways) > 1 else None
    if sample is not None:
        news_there, olds_there = sample.cut(news), None if olds is None else sample.cut(olds)
        likely = _likely(ways_of(sample.job, window), news_there, olds_there)
        transform = likely[0].transform
        if len(likely) > 1:
            transform, _ = _smallest(likely, news_there, olds_there, effort)
        ways = tuple(way for way in ways if way.transform is transform)
    elif piece.size_bytes >= _FREQUENCIES_SIZE:
        ways = _likely(ways, news, olds)
    transform, coded = _smallest(ways, news, olds, effort)
    return piece_of(piece, transform, coded, base_numbers)


def _likely(ways: tuple[Way, ...], news: Arrays, olds: Arrays | None) -> tuple[Way, ...]:
    """Leave out ways that cannot win, as far as the frequencies of bytes and a quick look for matches tell."""
    if all(way.transform in _MERE_BYTES for way in ways):
        return ways
    whole = _order_0_size(news)
    delta = math.inf if olds is None else _order_0_size(list(map(np.subtract, news, olds)))
    return tuple(way for way in ways if _is_likely(way.transform, news, olds, whole, delta))


def _is_likely(transform: TransformKind, news: Arrays, olds: Arrays | None, whole: float, delta: float) -> bool:
    """Tell whether a way can win; `whole` and `delta` are what the frequencies of bytes allow."""
    if transform is TransformKind.BYTES_MATCHES:
        return True
    frequencies = delta if transform.needs_base else whole
    if transform in _MERE_BYTES:
        return matches_size(news, olds if transform.needs_base else None) < frequencies
    return _CONTEXTS_SHARE * frequencies <= min(whole, delta)


def _smallest(ways: tuple[Way, ...], news: Arrays, olds: Arrays | None, effort: Effort) -> tuple[TransformKind, Coded]:
    best, least = None, math.inf
    for way in ways:
        if best and way.transform in _WHOLE and _CONTEXTS_SHARE * _order_0_size(news) > least:
            continue
        coded = way.encode(news, olds if way.transform.needs_base else None, effort, least)
        cost = _cost(way.transform, coded)
        if cost < least:
            best, least = (way.transform, coded), cost
    assert best is not None
    return best


def _order_0_size(arrays: Arrays) -> float:
    """Estimate the bytes that a coder of frequencies alone would make of arrays, each fourth byte by itself."""
    bits = 0.0
    for array in arrays:
        step = 4 * (1 + array.size // _FREQUENCIES_SIZE)
        counts = np.stack([np.bincount(array[at::step], minlength=256) for at in range(4)])
        bits += float(entropy_bits(counts).sum()) * array.size / max(1, counts.sum())
    return bits / 8


def _cost(transform: TransformKind, coded: Coded) -> float:
    """Bytes, and a little more for mere bytes: contexts pay their tables only over a whole piece."""
    parameters, streams = coded
    size = len(parameters) + sum(stream.stored_size for stream in streams)
    return size * (1 + _BYTES_HANDICAP) if transform in _MERE_BYTES else size


def piece_of(piece: PieceJob, transform: TransformKind, coded: Coded, base_numbers: Mapping[str, int]) -> Piece:
    """Return the piece of a payload, given what its transform made of it."""
    parameters, streams = coded
    extents = []
    for extent in piece.extents:
        base = _ref(piece, extent, transform)
        extents.append(
            Extent(
                offset=extent.offset,
                size=extent.size_bytes,
                base_file=NO_BASE if base is None else base_numbers[base.file],
                base_offset=0 if base is None else base.offset,
            )
        )
    return Piece(transform=transform, extents=tuple(extents), parameters=parameters, streams=streams)


def _ref(piece: PieceJob, extent: PieceExtent, transform: TransformKind) -> BaseRef | BaseWindow | None:
    if transform is TransformKind.BYTES_MATCHES:
        return piece.window
    return extent.base if transform.needs_base else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Some runs of rows, or of one row's columns, from all over a piece.

    Attributes:
        job: the sample as a piece of its own.
        runs: it is the shares first/total .. last/total of every extent, one after the other.
        total: rows, or columns of the one row.
    """

    job: PieceJob
    runs: tuple[tuple[int, int], ...]
    total: int

    @classmethod
    def of(cls, piece: PieceJob) -> "_Sample | None":
        """Cut a sample; None if the piece is small, or cannot be cut at the same place in all extents."""
        if piece.size_bytes < _SAMPLE_PAYS * _SAMPLE_SIZE:
            return None
        by_rows = piece.rows > 1
        if not by_rows and len(piece.extents) > 1:
            return None
        total = piece.rows if by_rows else piece.columns
        runs = _runs(total, _alignment(piece) if by_rows else _COLUMNS_ALIGNMENT, _SAMPLE_SIZE / piece.size_bytes)
        sizes = [extent.size_bytes for extent in piece.extents]
        if runs is None or any(size * cut % total for size in sizes for run in runs for cut in run):
            return None
        length = sum(last - first for first, last in runs)
        job = replace(
            piece,
            rows=length if by_rows else 1,
            columns=piece.columns if by_rows else length,
            extents=tuple(replace(extent, size_bytes=extent.size_bytes * length // total) for extent in piece.extents),
        )
        return cls(job=job, runs=runs, total=total)

    def cut(self, arrays: Arrays) -> Arrays:
        """Return the sample's bytes of each extent."""
        return [
            np.concatenate(
                [array[array.size * first // self.total : array.size * last // self.total] for first, last in self.runs]
            )
            for array in arrays
        ]


def _runs(total: int, alignment: int, share: float) -> tuple[tuple[int, int], ...] | None:
    """Return (first, last) of a few runs, evenly spread, about such a share together; None if they would be most."""
    for count in range(_SAMPLE_RUNS, 0, -1):
        length = -(-math.ceil(total * share / count) // alignment) * alignment
        if 2 * count * length <= total:
            middles = [(2 * i + 1) * total // (2 * count) for i in range(count)]
            firsts = [(middle - length // 2) // alignment * alignment for middle in middles]
            return tuple((first, first + length) for first in firsts)
    return None


def _alignment(piece: PieceJob) -> int:
    return math.lcm(_ROWS_ALIGNMENT, piece.packed.group_rows) if piece.packed else 1
