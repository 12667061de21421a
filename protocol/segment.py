"""Segments: independently decodable pieces of a release's files, compressed, then encrypted.

A segment's row in the bundle's table:

    offset  size  field
    0       4     number       over the whole update; its 96-bit big-endian form is the AES-GCM nonce
    4       1     codec        `SegmentCodec`
    5       1     reserved     0
    6       2     file         index in the manifest's file list
    8       8     offset       where its bytes go in that file
    16      4     raw size     bytes it turns into, 1 .. 4 MiB
    20      4     stored size  bytes in the bundle, tag included; 0 for COPY
    24      2     base file    index in the base release's file list (rising by name), 0xFFFF = none
    26      6     base offset  where the old bytes start
    32

A TENSOR segment's payload (`protocol.codec.payload`) says itself where its runs of bytes go in the file, and which
base bytes it needs: its row's offset is that of the lowest run, its raw size that of all runs together, and its base
fields are unset. `protocol.codec.rebuild` decodes it; `expand` decodes all others.

Stored bytes are AES-256-GCM (SP 800-38D) under the release key, with the release digest and the whole row as
associated data: a segment cannot be moved, renamed or used for another release. Order: compress, encrypt, FEC.
Decompression is streamed, counted, and bounded by the signed raw size and an 8 MiB window.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import ChecksumError, DecodeError, TruncatedError
from protocol.limits import KIB, SEGMENT_SIZE_MAX, ZSTD_WINDOW_MAX

ROW_SIZE = 32
TAG_SIZE = 16
NO_BASE = 0xFFFF
TENSOR_STORED_MIN = 2 + 4 + 3 + TAG_SIZE  # one piece of one extent, unchanged
TENSOR_OVERHEAD_MAX = 256 * KIB  # heads of many small tensors: one segment cannot store them all as they are
_ROW = struct.Struct(">IBBHQIIH6s")
_READ_SIZE = 256 * 1024


class SegmentCodec(IntEnum):
    """How the bytes of a segment are stored."""

    STORED = 0
    ZSTD = 1
    COPY = 2  # the base's bytes, unchanged; nothing is stored
    DELTA_ZSTD = 3  # (new - old) modulo 256 per byte, then zstd
    TENSOR = 4  # what the weight codec made (protocol.codec): pieces of tensors, whole or as differences


_CODECS = {int(codec): codec for codec in SegmentCodec}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """One row of a bundle's segment table; the fields are those of the layout above."""

    number: int
    codec: SegmentCodec
    file: int
    offset: int
    raw_size: int
    stored_size: int
    base_file: int = NO_BASE
    base_offset: int = 0

    @property
    def needs_base(self) -> bool:
        """Whether old bytes are needed where the row says; the payload of a TENSOR segment says so itself."""
        return self.codec in {SegmentCodec.COPY, SegmentCodec.DELTA_ZSTD}

    def encode(self) -> bytes:
        """Return the 32 bytes of the row."""
        return _ROW.pack(
            self.number,
            self.codec,
            0,
            self.file,
            self.offset,
            self.raw_size,
            self.stored_size,
            self.base_file,
            self.base_offset.to_bytes(6, "big"),
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse and validate one row.

        Raises:
            DecodeError: sizes, codec or base do not go together.
        """
        if len(data) != ROW_SIZE:
            raise TruncatedError("segment row", expected=ROW_SIZE, got=len(data))
        number, codec, reserved, file, offset, raw, stored, base_file, base_offset = _ROW.unpack(data)
        if codec not in _CODECS or reserved:
            raise DecodeError(f"segment {number}: codec {codec}, reserved {reserved} are not known")
        row = cls(
            number=number,
            codec=_CODECS[codec],
            file=file,
            offset=offset,
            raw_size=raw,
            stored_size=stored,
            base_file=base_file,
            base_offset=int.from_bytes(base_offset, "big"),
        )
        row.check()
        return row

    def check(self) -> None:
        """Raise DecodeError unless the fields go together."""
        if not 1 <= self.raw_size <= SEGMENT_SIZE_MAX:
            raise DecodeError(f"segment {self.number}: raw size {self.raw_size} is not in 1..{SEGMENT_SIZE_MAX}")
        if self.offset + self.raw_size > 2**47:
            raise DecodeError(f"segment {self.number}: offset {self.offset} is out of range")
        if self.needs_base == (self.base_file == NO_BASE):
            raise DecodeError(f"segment {self.number}: {self.codec.name} and base file {self.base_file} do not go")
        if self.codec is SegmentCodec.TENSOR and self.base_offset:
            raise DecodeError(f"segment {self.number}: TENSOR and base offset {self.base_offset} do not go")
        lowest, highest = _stored_bounds(self.codec, self.raw_size)
        if not lowest <= self.stored_size <= highest:
            raise DecodeError(f"segment {self.number}: {self.stored_size} stored bytes are not in {lowest}..{highest}")


def _stored_bounds(codec: SegmentCodec, raw_size: int) -> tuple[int, int]:
    if codec is SegmentCodec.COPY:
        return 0, 0
    if codec is SegmentCodec.STORED:
        return raw_size + TAG_SIZE, raw_size + TAG_SIZE
    if codec is SegmentCodec.TENSOR:
        return TENSOR_STORED_MIN, raw_size + TENSOR_OVERHEAD_MAX
    # The packer stores what zstd does not shrink, so a compressed segment is smaller than its raw bytes.
    return TAG_SIZE + 1, raw_size + TAG_SIZE


class SegmentCipher:
    """Seals and opens the segments of one release.

    Args:
        release_key: 32 random bytes, used for this update only.
        release_digest: digest of the target release.
    """

    def __init__(self, release_key: bytes, release_digest: bytes) -> None:
        self._aead = AESGCM(release_key)
        self._digest = release_digest

    def seal(self, row: SegmentRow, payload: bytes) -> bytes:
        """Encrypt what the codec made; the row's stored_size must be len(payload) + TAG_SIZE."""
        assert row.stored_size == len(payload) + TAG_SIZE
        return self._aead.encrypt(_nonce(row.number), payload, self._digest + row.encode())

    def open(self, row: SegmentRow, stored: bytes) -> bytes:
        """Decrypt a segment.

        Raises:
            ChecksumError: damaged, moved, or of another release or key.
        """
        try:
            return self._aead.decrypt(_nonce(row.number), stored, self._digest + row.encode())
        except InvalidTag as error:
            raise ChecksumError(f"segment {row.number}: tag differs") from error


def expand(row: SegmentRow, payload: bytes, old: bytes | None) -> bytes:
    """Turn the decrypted payload of a segment into the file's bytes.

    Args:
        row: its row.
        payload: decrypted bytes; empty for COPY.
        old: raw_size bytes of the base, where the codec needs them.

    Raises:
        DecodeError: it does not decode to exactly raw_size bytes, or is a TENSOR segment.
    """
    if row.codec is SegmentCodec.TENSOR:
        raise DecodeError(f"segment {row.number}: a tensor segment is rebuilt, not expanded")
    if row.needs_base and (old is None or len(old) != row.raw_size):
        raise DecodeError(f"segment {row.number}: the base has no {row.raw_size} bytes there")
    if row.codec is SegmentCodec.STORED:
        raw = payload
    elif row.codec is SegmentCodec.COPY:
        raw = old or b""
    elif row.codec is SegmentCodec.ZSTD:
        raw = _decompress(row, payload)
    else:
        raw = add_bytes(_decompress(row, payload), old or b"")
    if len(raw) != row.raw_size:
        raise DecodeError(f"segment {row.number}: {len(raw)} bytes, expected {row.raw_size}")
    return raw


def add_bytes(delta: bytes, old: bytes) -> bytes:
    """Return (delta + old) modulo 256, byte by byte; both of the same length."""
    size = len(old)
    mask = int.from_bytes(b"\x7f" * size, "little")
    a, b = int.from_bytes(delta, "little"), int.from_bytes(old, "little")
    # Carries stay inside each byte: add the low seven bits, then put the top bits in by exclusive or.
    return (((a & mask) + (b & mask)) ^ ((a ^ b) & ~mask & ((1 << 8 * size) - 1))).to_bytes(size, "little")


def subtract_bytes(new: bytes, old: bytes) -> bytes:
    """Return (new - old) modulo 256, byte by byte; both of the same length."""
    size = len(old)
    top = int.from_bytes(b"\x80" * size, "little")
    a, b = int.from_bytes(new, "little"), int.from_bytes(old, "little")
    return (((a | top) - (b & ~top)) ^ ((a ^ ~b) & top)).to_bytes(size, "little")


def _decompress(row: SegmentRow, payload: bytes) -> bytes:
    parts, size = [], 0
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
        with decompressor.stream_reader(payload, read_across_frames=False) as reader:
            while part := reader.read(min(_READ_SIZE, row.raw_size + 1 - size)):
                parts.append(part)
                size += len(part)
                if size > row.raw_size:
                    raise DecodeError(f"segment {row.number}: more than {row.raw_size} bytes")
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"segment {row.number}: zstd refused it: {error}") from None
    return b"".join(parts)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
