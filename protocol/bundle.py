"""The bundle: a plain file of at most 64 MiB that holds segments and can cross any transport.

    offset  size  field
    0       8     object prefix: SKB1, total size (`objects`)
    8       32    digest of the target release
    40      4     bundle number in the update, big-endian
    44      4     number of segments
    48      32s   segment table, one row each (`segment`), numbers rising by one
    ...           stored bytes of the segments, in the table's order, with nothing between or after

A bundle is trusted through the first half of its SHA-256 in the signed manifest, which must be checked before anything
here is parsed.
"""

import struct
from dataclasses import dataclass
from typing import Self

from protocol.errors import DecodeError, TruncatedError
from protocol.limits import SEGMENTS_PER_BUNDLE_MAX
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, parse_prefix
from protocol.segment import ROW_SIZE, SegmentRow

_HEADER = struct.Struct(">32sII")
HEADER_SIZE = PREFIX_SIZE + _HEADER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleHeader:
    """The head of a bundle: everything but the stored bytes.

    Attributes:
        release_digest: digest of the target release.
        number: which bundle of the update.
        rows: its segment table.
    """

    release_digest: bytes
    number: int
    rows: tuple[SegmentRow, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the head."""
        return HEADER_SIZE + ROW_SIZE * len(self.rows)

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole bundle."""
        return self.size_bytes + sum(row.stored_size for row in self.rows)

    def encode(self) -> bytes:
        """Return the head's bytes; the stored bytes of the segments follow it in the file."""
        return b"".join(
            (
                object_prefix(ObjectKind.BUNDLE, self.total_bytes),
                _HEADER.pack(self.release_digest, self.number, len(self.rows)),
                *(row.encode() for row in self.rows),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the head from the first bytes of a bundle (more may follow).

        Raises:
            DecodeError: not a bundle, or its table and size do not go together.
        """
        kind, total = parse_prefix(data)
        if kind is not ObjectKind.BUNDLE:
            raise DecodeError(f"bundle: this is a {kind.name}")
        if len(data) < HEADER_SIZE:
            raise TruncatedError("bundle", expected=HEADER_SIZE, got=len(data))
        digest, number, num_segments = _HEADER.unpack_from(data, PREFIX_SIZE)
        size = head_size(num_segments)
        if len(data) < size:
            raise TruncatedError("bundle", expected=size, got=len(data))
        rows = tuple(SegmentRow.decode(data[at : at + ROW_SIZE]) for at in range(HEADER_SIZE, size, ROW_SIZE))
        if any(row.number != rows[0].number + i for i, row in enumerate(rows)):
            raise DecodeError("bundle: segment numbers do not rise by one")
        header = cls(release_digest=digest, number=number, rows=rows)
        if header.total_bytes != total:
            raise DecodeError(f"bundle: its table adds up to {header.total_bytes} bytes, it says {total}")
        return header


def head_size(num_segments: int) -> int:
    """Return the bytes of a head with so many segments.

    Raises:
        DecodeError: none, or too many.
    """
    if not 1 <= num_segments <= SEGMENTS_PER_BUNDLE_MAX:
        raise DecodeError(f"bundle: {num_segments} segments are not in 1..{SEGMENTS_PER_BUNDLE_MAX}")
    return HEADER_SIZE + ROW_SIZE * num_segments


def peek_num_segments(data: bytes) -> int:
    """Read the number of segments from the first HEADER_SIZE bytes, to know how much of the head to read."""
    if len(data) < HEADER_SIZE:
        raise TruncatedError("bundle", expected=HEADER_SIZE, got=len(data))
    num_segments: int = _HEADER.unpack_from(data, PREFIX_SIZE)[2]
    head_size(num_segments)
    return num_segments


def peek_target(data: bytes) -> tuple[bytes, int]:
    """Read the digest of the target release and the bundle's number from the first HEADER_SIZE bytes."""
    if len(data) < HEADER_SIZE:
        raise TruncatedError("bundle", expected=HEADER_SIZE, got=len(data))
    digest, number, _ = _HEADER.unpack_from(data, PREFIX_SIZE)
    return digest, number
