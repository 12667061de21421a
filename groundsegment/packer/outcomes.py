"""What became of the pieces of a segment, read from its row and payload: of a new segment, and of one packed before."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from groundsegment.packer.tensors.jobs import PieceJob, SegmentJob
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import Piece, TensorPayload
from protocol.segment import SegmentCodec, SegmentRow

_TRANSFORMS = {
    SegmentCodec.STORED: TransformKind.BYTES,
    SegmentCodec.ZSTD: TransformKind.BYTES,
    SegmentCodec.COPY: TransformKind.SAME,
    SegmentCodec.DELTA_ZSTD: TransformKind.BYTES_DELTA,
}


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


def outcomes_of(job: SegmentJob, row: SegmentRow, payload: bytes) -> tuple[PieceOutcome, ...]:
    """Return what became of each piece of a segment, as its row and decrypted payload tell."""
    if row.codec is not SegmentCodec.TENSOR:
        return _shared(_TRANSFORMS[row.codec], len(payload), job.pieces)
    found: dict[int, PieceOutcome] = {}
    for coded, pieces in coded_together(job, row, payload):
        outcomes = _shared(coded.transform, _coded_bytes(coded), pieces)
        found.update(zip((piece.extents[0].offset for piece in pieces), outcomes, strict=True))
    return tuple(found[piece.extents[0].offset] for piece in job.pieces)


def coded_together(job: SegmentJob, row: SegmentRow, payload: bytes) -> list[tuple[Piece, list[PieceJob]]]:
    """Return the pieces of a TENSOR segment's payload, each with the pieces of the job that it rebuilds."""
    assert row.codec is SegmentCodec.TENSOR
    coded = TensorPayload.decode(payload).pieces
    starts = sorted((extent.offset, number) for number, piece in enumerate(coded) for extent in piece.extents)
    offsets = [offset for offset, _ in starts]
    sharing: dict[int, list[PieceJob]] = {}
    for piece in job.pieces:
        number = starts[bisect_right(offsets, piece.extents[0].offset) - 1][1]
        sharing.setdefault(number, []).append(piece)
    return [(coded[number], pieces) for number, pieces in sharing.items()]


def _shared(transform: TransformKind, coded_bytes: int, pieces: Sequence[PieceJob]) -> tuple[PieceOutcome, ...]:
    sizes = [piece.size_bytes for piece in pieces]
    return tuple(
        PieceOutcome(transform=transform, raw_bytes=size, coded_bytes=coded)
        for size, coded in zip(sizes, split(coded_bytes, sizes), strict=True)
    )


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split a number in proportion; the parts add up to it."""
    sums, shares = sum(weights), []
    at = done = 0
    for weight in weights:
        at += weight
        share = total * at // sums - done
        shares.append(share)
        done += share
    return shares


def _coded_bytes(piece: Piece) -> int:
    """Bytes of a piece in the payload, its head included."""
    return len(TensorPayload(pieces=(piece,)).encode()) - len(TensorPayload(pieces=()).encode())
