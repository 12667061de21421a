"""Encoding one segment: read it, let every piece find its transform, and prove that the result decodes.

Runs in worker processes, here or on other machines: a job holds all it needs and leaves nothing behind. It holds no
key: what comes back is encrypted by whoever asked. The row's codec follows from the pieces:

- all of them unchanged, one run in the file and one in the base: COPY, nothing is stored;
- one piece of bytes that are no tensor: ZSTD, DELTA_ZSTD or STORED, whichever is smallest;
- everything else: TENSOR, unless that is no smaller than the bytes themselves.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.packer.outcomes import PieceOutcome, outcomes_of
from groundsegment.packer.plan import SegmentPlan
from groundsegment.packer.stacking import Source, encode_pieces
from groundsegment.packer.tensors.jobs import PieceJob
from groundsegment.packer.tensors.parts import PartKind
from groundsegment.packer.transforms import LEVEL_MIN, Arrays, Effort
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import EXTENTS_MAX, Extent, Piece, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.segment import NO_BASE, TAG_SIZE, SegmentCodec, SegmentRow, expand, subtract_bytes

_WORTH_EFFORT = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFile:
    """A file of the base: its number in the base's file list, and where it is."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """One segment to encode.

    Attributes:
        segment: which bytes.
        path: of the file.
        base: the base files that the segment refers to, by name.
        level: how hard to try, as a zstd level.
    """

    segment: SegmentPlan
    path: Path
    base: Mapping[str, BaseFile]
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSegment:
    """A segment before it is encrypted.

    Attributes:
        row: as the bundle's table will have it.
        payload: its bytes; none for COPY.
        pieces: what became of each piece of the job.
    """

    row: SegmentRow
    payload: bytes
    pieces: tuple[PieceOutcome, ...]


def encode_segment(job: EncodeJob) -> EncodedSegment:
    """Read, encode and verify a segment.

    Raises:
        InputError: a file is shorter than it was, or cannot be read.
    """
    segment = job.segment
    pieces = [_read(job, piece) for piece in segment.job.pieces]
    encoded = _encode(job, pieces)
    _verify(job, encoded, pieces)
    return encoded


_Run = tuple[int, NDArray[np.uint8]]


def _encode(job: EncodeJob, pieces: list[Source]) -> EncodedSegment:
    if len(pieces) == 1 and pieces[0].piece.kind is PartKind.BYTES:
        return _encode_run(job, pieces[0])
    payload = _encode_tensors(job, pieces)
    base = _run_of_base(payload)
    if base is not None:
        return _segment(job, SegmentCodec.COPY, b"", base)
    return _segment(job, SegmentCodec.TENSOR, payload.encode())


def _encode_tensors(job: EncodeJob, pieces: list[Source]) -> TensorPayload:
    effort = Effort.of_level(job.level)
    base_numbers = {name: file.number for name, file in job.base.items()}
    coded = encode_pieces(pieces, base_numbers, effort)
    return TensorPayload(pieces=tuple(_join_unchanged(coded)))


def _join_unchanged(pieces: list[Piece]) -> Iterator[Piece]:
    """Yield the pieces, unchanged ones as few pieces of long extents: a head for each norm would add up."""
    extents: list[Extent] = []
    for extent in sorted(
        (extent for piece in pieces if piece.transform is TransformKind.SAME for extent in piece.extents),
        key=lambda extent: extent.offset,
    ):
        if extents and _follows(extents[-1], extent):
            extents[-1] = replace(extents[-1], size=extents[-1].size + extent.size)
        else:
            extents.append(extent)
    for first in range(0, len(extents), EXTENTS_MAX):
        yield Piece(transform=TransformKind.SAME, extents=tuple(extents[first : first + EXTENTS_MAX]))
    yield from (piece for piece in pieces if piece.transform is not TransformKind.SAME)


def _follows(last: Extent, extent: Extent) -> bool:
    """Whether an extent goes on where the last one ended, in the file and in the base."""
    return (extent.offset, extent.base_file, extent.base_offset) == (
        last.offset + last.size,
        last.base_file,
        last.base_offset + last.size,
    )


def _encode_run(job: EncodeJob, read: Source) -> EncodedSegment:
    """Encode bytes that are no tensor we know, one run of them, as the codec that stores least."""
    raw, old = read.news[0].tobytes(), None if read.olds is None else read.olds[0].tobytes()
    coded = _encode_tensors(job, [read]) if read.window is not None and raw != old else None
    if coded is not None and coded.pieces[0].transform is TransformKind.BYTES_MATCHES:
        return _segment(job, SegmentCodec.TENSOR, coded.encode())
    codec, payload = choose_codec(raw, old, job.level)
    if len(payload) > _WORTH_EFFORT * job.segment.raw_size:  # no text: numbers, perhaps, whose frequencies help
        packed = (coded or _encode_tensors(job, [read])).encode()
        if len(packed) < len(payload):
            return _segment(job, SegmentCodec.TENSOR, packed)
    ref = read.piece.extents[0].base if codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD} else None
    return _segment(job, codec, payload, None if ref is None else (job.base[ref.file].number, ref.offset))


def choose_codec(raw: bytes, old: bytes | None, level: int) -> tuple[SegmentCodec, bytes]:
    """Return the codec that stores least of those that know no tensors, and what it makes of the bytes."""
    if raw == old:
        return SegmentCodec.COPY, b""
    codec, source, payload = SegmentCodec.ZSTD, raw, _compress(raw, LEVEL_MIN)
    if old is not None:
        delta = subtract_bytes(raw, old)
        packed = _compress(delta, LEVEL_MIN)
        if len(packed) < len(payload):
            codec, source, payload = SegmentCodec.DELTA_ZSTD, delta, packed
    if level > LEVEL_MIN and len(payload) < _WORTH_EFFORT * len(raw):
        payload = min(payload, _compress(source, level), key=len)
    if len(payload) >= len(raw):
        return SegmentCodec.STORED, raw
    return codec, payload


def _compress(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def _run_of_base(payload: TensorPayload) -> tuple[int, int] | None:
    """Return where the base has all bytes of a segment as one run, unchanged; None if it has not."""
    first = payload.pieces[0]
    if len(payload.pieces) > 1 or len(first.extents) > 1 or first.transform is not TransformKind.SAME:
        return None
    return first.extents[0].base_file, first.extents[0].base_offset


def _segment(
    job: EncodeJob, codec: SegmentCodec, payload: bytes, base: tuple[int, int] | None = None
) -> EncodedSegment:
    extents = [extent for piece in job.segment.job.pieces for extent in piece.extents]
    base_file, base_offset = (NO_BASE, 0) if base is None else base
    row = SegmentRow(
        number=job.segment.number,
        codec=codec,
        file=job.segment.file,
        offset=min(extent.offset for extent in extents),
        raw_size=job.segment.raw_size,
        stored_size=0 if codec is SegmentCodec.COPY else len(payload) + TAG_SIZE,
        base_file=base_file,
        base_offset=base_offset,
    )
    return EncodedSegment(row=row, payload=payload, pieces=outcomes_of(job.segment.job, row, payload))


def _verify(job: EncodeJob, encoded: EncodedSegment, pieces: list[Source]) -> None:
    """Decode a segment as the satellite will, reading the base anew, and compare.

    In orbit it would be too late to learn of a bad memory cell or a bug of ours.
    """
    row = encoded.row
    paths = {file.number: file.path for file in job.base.values()}
    if row.codec is SegmentCodec.TENSOR:
        runs = rebuild(encoded.payload, row.raw_size, lambda file, at, size: read_run(paths[file], at, size).tobytes())
    else:
        old = read_run(paths[row.base_file], row.base_offset, row.raw_size).tobytes() if row.needs_base else None
        runs = [(row.offset, np.frombuffer(expand(row, encoded.payload, old), np.uint8))]
    expected = sorted(
        ((extent.offset, new) for read in pieces for extent, new in zip(read.piece.extents, read.news, strict=True)),
        key=lambda run: run[0],
    )
    assert _are_same(runs, expected), f"segment {row.number} does not decode to what it was made of"


def _are_same(runs: list[_Run], expected: list[_Run]) -> bool:
    """Tell whether runs hold the same bytes in the same places; neighbours may come as one run."""
    if _sizes(runs) == _sizes(expected):
        return all(np.array_equal(run, other) for (_, run), (_, other) in zip(runs, expected, strict=True))
    return _spans(runs) == _spans(expected) and np.array_equal(_join(runs), _join(expected))


def _sizes(runs: list[_Run]) -> list[tuple[int, int]]:
    return [(offset, run.size) for offset, run in runs]


def _spans(runs: list[_Run]) -> list[tuple[int, int]]:
    """Return (start, end) of what runs in rising order cover."""
    spans: list[tuple[int, int]] = []
    for offset, run in runs:
        if spans and spans[-1][1] == offset:
            spans[-1] = (spans[-1][0], offset + run.size)
        else:
            spans.append((offset, offset + run.size))
    return spans


def _join(runs: list[_Run]) -> NDArray[np.uint8]:
    return np.concatenate([run for _, run in runs])


def _read(job: EncodeJob, piece: PieceJob) -> Source:
    news = [read_run(job.path, extent.offset, extent.size_bytes) for extent in piece.extents]
    window, view = piece.window, None
    if window is not None:
        view = read_run(job.base[window.file].path, window.offset, window.size_bytes)
    return Source(piece=piece, news=news, olds=_read_olds(job, piece), window=view)


def _read_olds(job: EncodeJob, piece: PieceJob) -> Arrays | None:
    olds = []
    for extent in piece.extents:
        if extent.base is None:
            return None
        olds.append(read_run(job.base[extent.base.file].path, extent.base.offset, extent.size_bytes))
    return olds


def read_run(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """Read a run of bytes of a file.

    Raises:
        InputError: it is shorter, or cannot be read here.
    """
    array = np.empty(size, np.uint8)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = "workers on other machines need the same path: a file system that all of them share"
        raise InputError(f"{path}: cannot be read on {socket.gethostname()}: {error.strerror}", hint=hint) from error
    try:
        done = 0
        while done < size:
            count = os.preadv(descriptor, [array[done:].data], offset + done)
            if not count:
                hint = "do not touch the files of a release while it is staged; run the same command again"
                raise InputError(f"{path}: changed while it was packed", hint=hint)
            done += count
    finally:
        os.close(descriptor)
    return array
