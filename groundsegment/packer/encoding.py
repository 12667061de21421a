"""Encoding one segment: read it, let every piece find its transform, and prove that the result decodes.

Runs in worker processes, here or on other machines: a job holds all it needs and leaves nothing behind. It holds no
key: what comes back is encrypted by whoever asked. The row's codec follows from the pieces:

- all of them unchanged, one run in the file and one in the base: COPY, nothing is stored;
- one piece of bytes that are no tensor: ZSTD, DELTA_ZSTD or STORED, whichever is smallest;
- everything else: TENSOR, unless that is no smaller than the bytes themselves.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.packer.choosing import encode_piece
from groundsegment.packer.plan import SegmentPlan
from groundsegment.packer.tensors.jobs import PieceJob
from groundsegment.packer.tensors.parts import PartKind
from groundsegment.packer.transforms import LEVEL_MIN, Arrays, Effort
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import Piece, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.segment import NO_BASE, TAG_SIZE, SegmentCodec, SegmentRow, expand, subtract_bytes

_WORTH_EFFORT = 0.6
_TRANSFORMS = {
    SegmentCodec.STORED: TransformKind.BYTES,
    SegmentCodec.ZSTD: TransformKind.BYTES,
    SegmentCodec.COPY: TransformKind.SAME,
    SegmentCodec.DELTA_ZSTD: TransformKind.BYTES_DELTA,
}


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
class PieceOutcome:
    """What became of a piece.

    Attributes:
        transform: what it was given.
        raw_bytes: what it turns into.
        coded_bytes: what it takes in the payload, its head included.
    """

    transform: TransformKind
    raw_bytes: int
    coded_bytes: int


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
    pieces = [(piece, _read_news(job, piece), _read_olds(job, piece)) for piece in segment.job.pieces]
    encoded = _encode(job, pieces)
    _verify(job, encoded, pieces)
    return encoded


def outcomes_of(row: SegmentRow, payload: bytes) -> tuple[PieceOutcome, ...]:
    """Return what became of the pieces of a segment, as its decrypted payload tells."""
    if row.codec is not SegmentCodec.TENSOR:
        return (PieceOutcome(transform=_TRANSFORMS[row.codec], raw_bytes=row.raw_size, coded_bytes=len(payload)),)
    pieces = TensorPayload.decode(payload).pieces
    return tuple(
        PieceOutcome(transform=piece.transform, raw_bytes=piece.raw_size, coded_bytes=_coded_bytes(piece))
        for piece in pieces
    )


_Read = tuple[PieceJob, Arrays, Arrays | None]


def _encode(job: EncodeJob, pieces: list[_Read]) -> EncodedSegment:
    if len(pieces) == 1 and pieces[0][0].kind is PartKind.BYTES:
        return _encode_run(job, *pieces[0])
    payload = _encode_tensors(job, pieces)
    base = _run_of_base(payload)
    if base is not None:
        return _segment(job, SegmentCodec.COPY, b"", base)
    return _segment(job, SegmentCodec.TENSOR, payload.encode())


def _encode_tensors(job: EncodeJob, pieces: list[_Read]) -> TensorPayload:
    effort = Effort.of_level(job.level)
    base_numbers = {name: file.number for name, file in job.base.items()}
    return TensorPayload(
        pieces=tuple(encode_piece(piece, news, olds, base_numbers, effort) for piece, news, olds in pieces)
    )


def _encode_run(job: EncodeJob, piece: PieceJob, news: Arrays, olds: Arrays | None) -> EncodedSegment:
    """Encode bytes that are no tensor we know, one run of them, as the codec that stores least."""
    codec, payload = choose_codec(news[0].tobytes(), None if olds is None else olds[0].tobytes(), job.level)
    if len(payload) > _WORTH_EFFORT * job.segment.raw_size:  # no text: numbers, perhaps, whose frequencies help
        coded = _encode_tensors(job, [(piece, news, olds)]).encode()
        if len(coded) < len(payload):
            return _segment(job, SegmentCodec.TENSOR, coded)
    ref = piece.extents[0].base if codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD} else None
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
    if any(piece.transform is not TransformKind.SAME for piece in payload.pieces):
        return None
    extents = sorted((extent for piece in payload.pieces for extent in piece.extents), key=lambda each: each.offset)
    first = extents[0]
    at = first.offset
    for extent in extents:
        shift = extent.base_offset - extent.offset
        if (extent.offset, extent.base_file) != (at, first.base_file) or shift != first.base_offset - first.offset:
            return None
        at += extent.size
    return first.base_file, first.base_offset


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
    return EncodedSegment(row=row, payload=payload, pieces=outcomes_of(row, payload))


def _verify(job: EncodeJob, encoded: EncodedSegment, pieces: list[_Read]) -> None:
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
        ((extent.offset, new) for piece, news, _ in pieces for extent, new in zip(piece.extents, news, strict=True)),
        key=lambda run: run[0],
    )
    is_right = np.array_equal(_join(runs), _join(expected))
    if row.codec is SegmentCodec.TENSOR:
        is_right = is_right and [offset for offset, _ in runs] == [offset for offset, _ in expected]
    assert is_right, f"segment {row.number} does not decode to what it was made of"


def _join(runs: list[tuple[int, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    return np.concatenate([run for _, run in runs])


def _coded_bytes(piece: Piece) -> int:
    """Bytes of a piece in the payload, its head included."""
    return len(TensorPayload(pieces=(piece,)).encode()) - len(TensorPayload(pieces=()).encode())


def _read_news(job: EncodeJob, piece: PieceJob) -> Arrays:
    return [read_run(job.path, extent.offset, extent.size_bytes) for extent in piece.extents]


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
