"""The frame: one datagram on the link, up or down.

    offset  size  field
    0       1     version (high nibble, 1) and kind (low nibble)
    1       1     block       source block number (RFC 6330, 3.2); report: sequence, high byte
    2       3     symbols     source symbols of the whole object, big-endian; report: 0
    5       3     esi         encoding symbol id (RFC 6330, 3.2); report: sequence, low 24 bits
    8       8     object      first 8 bytes of the SHA-256 of the object; report: the sender's session
    16      n     payload     one symbol of n = T bytes, or a report
    16+n    16    tag         AES-256-GCM tag over bytes 0 .. 16+n (authentication only, RFC 4106 style GMAC)
      or    4     crc         CRC-32 over the same, on links that authenticate below (SDLS)

A frame describes itself: block layout and position follow from the header and the length, so a receiver can store
and even solve an object before any metadata arrived. The nonce is bytes 8..16, 1 and 5..8: unique per (object,
block, ESI). The object is named by its content, and kind, direction and T each have a key of their own
(`link_keys`), so one nonce never covers two different frames.

The tag says "from a holder of this link's key". It says nothing of trust in the content: that is `trust`.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnsupportedVersionError
from protocol.limits import SYMBOL_ALIGNMENT, SYMBOL_SIZE_MAX
from protocol.link_keys import Direction, derive_frame_key

VERSION = 1
HEADER_SIZE = 16
TAG_SIZE = 16
CRC_SIZE = 4
HANDLE_SIZE = 8
FRAME_SIZE_MAX = HEADER_SIZE + SYMBOL_SIZE_MAX + TAG_SIZE

_HEADER = struct.Struct(">BB3s3s8s")
_CRC = struct.Struct(">I")


class FrameKind(IntEnum):
    """What the payload is."""

    RAPTORQ = 1  # a symbol, repair by RFC 6330
    PLAIN = 2  # a symbol, ESI modulo K is the source symbol: the fallback without a codec
    REPORT = 3


_KINDS = {int(kind): kind for kind in FrameKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame.

    Attributes:
        kind: what the payload is.
        handle: object handle (8 bytes), or the sender's session for a report.
        num_symbols: source symbols of the whole object, 0 for a report.
        block: source block number.
        esi: encoding symbol id.
        payload: symbol or report.
    """

    kind: FrameKind
    handle: bytes
    num_symbols: int
    block: int
    esi: int
    payload: bytes

    @property
    def sequence(self) -> int:
        """The sequence number of a report within its session."""
        return self.block << 24 | self.esi


class FrameCodec:
    """Frames of one direction of one link.

    Args:
        direction: which way the frames go.
        link_key: 32 bytes shared by ground and satellite, or None for CRC-only links.
    """

    def __init__(self, direction: Direction, link_key: bytes | None) -> None:
        self._direction = direction
        self._link_key = link_key
        self._ciphers: dict[tuple[int, int], AESGCM] = {}
        self.trailer_size = CRC_SIZE if link_key is None else TAG_SIZE

    @property
    def overhead(self) -> int:
        """Bytes of a frame that are not payload."""
        return HEADER_SIZE + self.trailer_size

    def encode(self, frame: Frame) -> bytes:
        """Return the frame as it goes on the link, len(payload) + overhead bytes."""
        body = (
            _HEADER.pack(
                VERSION << 4 | frame.kind,
                frame.block,
                frame.num_symbols.to_bytes(3, "big"),
                frame.esi.to_bytes(3, "big"),
                frame.handle,
            )
            + frame.payload
        )
        if self._link_key is None:
            return body + _CRC.pack(zlib.crc32(body))
        cipher = self._cipher(frame.kind, len(frame.payload))
        return body + cipher.encrypt(_nonce(body), b"", body)

    def decode(self, data: bytes) -> Frame:
        """Parse and authenticate one frame.

        Args:
            data: exactly one datagram, as received.

        Raises:
            TruncatedError: too short or too long to be a frame.
            UnsupportedVersionError: another version or kind.
            ChecksumError: damaged, or not made with this link's key.
            DecodeError: authentic, but a field is out of range.
        """
        size = len(data) - HEADER_SIZE - self.trailer_size
        if size < 1 or size > SYMBOL_SIZE_MAX:
            raise TruncatedError("frame", expected=HEADER_SIZE + self.trailer_size + 1, got=len(data))
        kind = _KINDS.get(data[0] & 0x0F)
        if data[0] >> 4 != VERSION or kind is None:
            raise UnsupportedVersionError("frame", version=data[0])
        if kind is not FrameKind.REPORT and size % SYMBOL_ALIGNMENT:
            raise DecodeError(f"frame: symbol of {size} bytes is not a multiple of {SYMBOL_ALIGNMENT}")
        body = data[: HEADER_SIZE + size]
        self._check(kind, size, body, data[HEADER_SIZE + size :])
        _, block, symbols, esi, handle = _HEADER.unpack_from(body)
        num_symbols = int.from_bytes(symbols, "big")
        if (num_symbols == 0) != (kind is FrameKind.REPORT):
            raise DecodeError(f"frame: {num_symbols} source symbols do not go with kind {kind.name}")
        return Frame(
            kind=kind,
            handle=handle,
            num_symbols=num_symbols,
            block=block,
            esi=int.from_bytes(esi, "big"),
            payload=body[HEADER_SIZE:],
        )

    def _check(self, kind: FrameKind, size: int, body: bytes, trailer: bytes) -> None:
        if self._link_key is None:
            if _CRC.pack(zlib.crc32(body)) != trailer:
                raise ChecksumError("frame: CRC-32 differs")
            return
        try:
            self._cipher(kind, size).decrypt(_nonce(body), trailer, body)
        except InvalidTag as error:
            raise ChecksumError("frame: tag differs") from error

    def _cipher(self, kind: FrameKind, size: int) -> AESGCM:
        # Reports vary in length and never repeat a nonce, so one key serves them all.
        slot = (int(kind), 0 if kind is FrameKind.REPORT else size)
        cipher = self._ciphers.get(slot)
        if cipher is None:
            assert self._link_key is not None
            cipher = AESGCM(derive_frame_key(self._link_key, self._direction, *slot))
            self._ciphers[slot] = cipher
        return cipher


def _nonce(body: bytes) -> bytes:
    return body[8:16] + body[1:2] + body[5:8]
