"""The frame: one datagram on the link, up or down. Its header is the nonce of its tag.

    offset  size  field
    0       1     version (2 bits, 1), kind (2 bits), station (4 bits)
    1       2     symbols - 1  source symbols of the whole object, less one, big-endian; report: sequence, high bits
    3       3     block (4 bits) and esi (20 bits)  RFC 6330, 3.2; report: sequence, low 24 bits
    6       6     object       first 6 bytes of the SHA-256 of the object; report: the sender's session
    12      n     payload      one symbol of n = T bytes, or a report
    12+n    8     tag          AES-256-GCM tag over bytes 0 .. 12+n (authentication only, GMAC), first 8 bytes
      or    4     crc          CRC-32 over the same, on links that authenticate below (SDLS)

Once the other end knows an object, a symbol of it may go with a short header of 4 bytes instead; its tag (or sum) is
that of the whole header, which the receiver completes before it checks:

    0       1     version (2 bits, 1), 0 (2 bits), station (4 bits)
    1       1     low 4 bits of the object's last byte, block (4 bits)
    2       2     esi          0 .. 65535
    4       n     payload, and tag or crc as above

A whole frame describes itself: block layout and position follow from the header and the length, so a receiver can store
and even solve an object before any metadata arrived. The header is unique per (station, kind, object, block, ESI);
the object is named by its content, and each contact of a station, direction, kind and T has a key of its own
(`link_keys`), so one nonce never covers two different frames.

The tag says "from a holder of the key of this station's contact". It says nothing of trust in the content: that is
`trust`. Eight bytes of it are within NIST SP 800-38D, appendix C, for frames of at most 2 kB and 2**32 frames per key
(ADR 0014).
"""

import hmac
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import ChecksumError, DecodeError, TruncatedError, UnknownObjectError, UnsupportedVersionError
from protocol.limits import BLOCKS_MAX, ESI_MAX, STATIONS_MAX, SYMBOL_ALIGNMENT, SYMBOL_SIZE_MAX, SYMBOLS_MAX
from protocol.link_keys import Direction, derive_contact_key, derive_frame_key, derive_station_key

VERSION = 1
HEADER_SIZE = 12
SHORT_HEADER_SIZE = 4
SHORT_ESI_MAX = 2**16 - 1
TAG_SIZE = 8
CRC_SIZE = 4
HANDLE_SIZE = 6
FRAME_SIZE_MAX = HEADER_SIZE + SYMBOL_SIZE_MAX + TAG_SIZE
SEQUENCE_MAX = 2**40 - 1

_CRC = struct.Struct(">I")
_CIPHERS_MAX = 64  # kept at once: T comes from hostile lengths
_SLOTS, _SLOT_OBJECTS_MAX = 16, 8  # objects known for short headers; one forged frame costs at most 8 tries
_SHORT = 0
_ESI_BITS = 20
_REPORT_LOW_BITS = 24


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
        handle: object handle (HANDLE_SIZE bytes), or the sender's session for a report.
        num_symbols: source symbols of the whole object, 1 .. SYMBOLS_MAX; 0 for a report.
        block: source block number; 0 for a report.
        esi: encoding symbol id; 0 for a report.
        payload: symbol or report.
        sequence: of a report within its session, 0 .. SEQUENCE_MAX; 0 for a symbol.
        station: the ground station at the other end or at this one, 0 .. STATIONS_MAX - 1.
    """

    kind: FrameKind
    handle: bytes
    payload: bytes
    num_symbols: int = 0
    block: int = 0
    esi: int = 0
    sequence: int = 0
    station: int = 0


class FrameCodec:
    """Frames of one direction of one link.

    Args:
        direction: which way the frames go.
        link_key: 32 bytes, or None for CRC-only links: the satellite's link key, or that of a station's contact.
        station: None if `link_key` is the satellite's, from which those of every station's contacts follow, beginning
            with contact 0; else the station whose contact's key it is: all frames are written as its own, and others'
            are refused.
    """

    def __init__(self, direction: Direction, link_key: bytes | None, *, station: int | None = None) -> None:
        assert station is None or 0 <= station < STATIONS_MAX
        self._direction = direction
        self._link_key, self._station = link_key, station
        self._ciphers: dict[tuple[int, int], AESGCM] = {}
        self._generations, self._contacts = [0] * STATIONS_MAX, [0] * STATIONS_MAX
        self._contact_keys: dict[int, bytes] = {}  # of stations that were heard
        self._objects: list[OrderedDict[bytes, tuple[FrameKind, int]]] = [OrderedDict() for _ in range(_SLOTS)]
        self.trailer_size = CRC_SIZE if link_key is None else TAG_SIZE

    @property
    def overhead(self) -> int:
        """Bytes of a whole frame that are not payload."""
        return HEADER_SIZE + self.trailer_size

    @property
    def short_overhead(self) -> int:
        """Bytes of a frame with a short header that are not payload."""
        return SHORT_HEADER_SIZE + self.trailer_size

    def remember(self, kind: FrameKind, handle: bytes, num_symbols: int) -> None:
        """Know an object, so that frames of it with a short header can be decoded; whole frames teach it themselves."""
        slot = self._objects[handle[-1] & 0x0F]
        slot[handle] = (kind, num_symbols)
        slot.move_to_end(handle)
        if len(slot) > _SLOT_OBJECTS_MAX:
            slot.popitem(last=False)

    def set_generation(self, station: int, generation: int) -> None:
        """Take frames of a station under the key of a generation, and under none before it; see `link_keys`.

        Its contacts begin anew with 0. Tag makers that were handed out before go on with the old key: drop them.
        """
        self._generations[station] = generation
        self.set_contact(station, 0)

    def set_contact(self, station: int, contact: int) -> None:
        """Take and make frames of a station under the key of one contact alone; see `contacts`.

        Tag makers that were handed out before go on with the old key: drop them.
        """
        assert self._station is None
        self._contacts[station] = contact
        self._contact_keys.pop(station, None)
        self._ciphers = {slot: cipher for slot, cipher in self._ciphers.items() if slot[0] & 0x0F != station}

    def outside_contacts(self) -> "FrameCodec":
        """Return a codec for frames that are carried in files: under contact 0, in which nobody flies."""
        return FrameCodec(self._direction, self._link_key, station=self._station)

    @property
    def has_keys(self) -> bool:
        """Whether frames are authenticated here, and not below."""
        return self._link_key is not None

    def generation(self, station: int) -> int:
        """Whose keys a station's contacts have."""
        return self._generations[station]

    def contact(self, station: int) -> int:
        """Under which contact's key a station's frames are taken and made."""
        return self._contacts[station]

    def contact_key(self, station: int, contact: int) -> bytes:
        """Return the key of a contact of a station, in its generation."""
        assert self._link_key is not None
        if self._station is not None:
            return self._link_key
        return derive_contact_key(derive_station_key(self._link_key, station, self._generations[station]), contact)

    def is_under(self, data: bytes, contact_key: bytes) -> bool:
        """Whether the tag of a whole frame, which `decode` refused for nothing else, was made with a contact's key."""
        first, end = data[0], len(data) - TAG_SIZE
        kind = first >> 4 & 0x03
        size = 0 if kind == FrameKind.REPORT else end - HEADER_SIZE
        cipher = AESGCM(derive_frame_key(contact_key, self._direction, kind, size))
        return hmac.compare_digest(cipher.encrypt(data[:HEADER_SIZE], b"", data[:end])[:TAG_SIZE], data[end:])

    def encode(self, frame: Frame, *, is_short: bool = False) -> bytes:
        """Return the frame as it goes on the link, len(payload) + overhead (or short_overhead) bytes.

        Args:
            frame: what to send.
            is_short: the other end knows the object. Ignored where a short header cannot say it.
        """
        station = frame.station if self._station is None else self._station
        header = _header(frame, station)
        body = header + frame.payload
        if self._link_key is None:
            trailer = _CRC.pack(zlib.crc32(body))
        else:
            trailer = self._cipher(header[0], len(frame.payload)).encrypt(header, b"", body)[:TAG_SIZE]
        if is_short and frame.kind is not FrameKind.REPORT and frame.esi <= SHORT_ESI_MAX:
            first = VERSION << 6 | _SHORT << 4 | station
            short = first << 24 | (frame.handle[-1] & 0x0F) << 20 | frame.block << 16 | frame.esi
            return short.to_bytes(SHORT_HEADER_SIZE, "big") + frame.payload + trailer
        return body + trailer

    def encode_run(self, first: Frame, symbols: Sequence[bytes], is_short: Sequence[bool]) -> list[bytes]:
        """Return frames of consecutive symbols of one block: as `encode` for each, at half the cost.

        Args:
            first: the first frame; its payload is not looked at.
            symbols: of equal length; their ESIs count on from the first one's.
            is_short: for each, as in `encode`.
        """
        if not symbols:
            return []
        station = first.station if self._station is None else self._station
        assert first.esi + len(symbols) - 1 <= ESI_MAX
        head = _header(first, station)
        prefix, handle, position = head[:3], head[6:], first.block << _ESI_BITS | first.esi
        short = ((VERSION << 6 | _SHORT << 4 | station) << 8 | (handle[-1] & 0x0F) << 4 | first.block) << 16 | first.esi
        num_short = SHORT_ESI_MAX + 1 - first.esi
        seal = None if self._link_key is None else self._cipher(head[0], len(symbols[0])).encrypt
        frames = []
        for number, symbol in enumerate(symbols):
            header = prefix + (position + number).to_bytes(3, "big") + handle
            body = header + symbol
            trailer = _CRC.pack(zlib.crc32(body)) if seal is None else seal(header, b"", body)[:TAG_SIZE]
            if is_short[number] and number < num_short:
                frames.append((short + number).to_bytes(SHORT_HEADER_SIZE, "big") + symbol + trailer)
            else:
                frames.append(body + trailer)
        return frames

    def decode(self, data: bytes) -> Frame:
        """Parse and authenticate one frame.

        Args:
            data: exactly one datagram, as received.

        Raises:
            TruncatedError: too short or too long to be a frame.
            UnsupportedVersionError: another version or kind.
            UnknownObjectError: a short header, of no object that this end knows.
            ChecksumError: damaged, not made with this link's key, or another station's.
            DecodeError: a field is out of range.
        """
        if data and data[0] >> 4 == VERSION << 2 | _SHORT:
            return self._decode_short(data)
        return self._decode_whole(data)

    def tag_maker(self, first: int, size: int) -> Callable[[bytes, bytes, bytes], bytes]:
        """Return what makes the tags of frames that share their first byte and payload size.

        Called with header, b"", and header and payload, it returns bytes of which the first `trailer_size` are the tag
        (or sum). For whoever checks many frames of one kind; all that `decode` checks beyond is theirs to check.
        """
        assert self._station is None or first & 0x0F == self._station
        return _crc_tag if self._link_key is None else self._cipher(first, size).encrypt

    def _decode_short(self, data: bytes) -> Frame:
        """Complete the header with each object that it may mean; the tag tells which."""
        size = len(data) - SHORT_HEADER_SIZE - self.trailer_size
        if size < 1 or size > SYMBOL_SIZE_MAX or size % SYMBOL_ALIGNMENT:
            raise TruncatedError("short frame", expected=SHORT_HEADER_SIZE + self.trailer_size + 8, got=len(data))
        station, block, esi = data[0] & 0x0F, data[1] & 0x0F, int.from_bytes(data[2:4], "big")
        tail = data[SHORT_HEADER_SIZE:]
        for handle, (kind, num_symbols) in self._candidates(data[1] >> 4):
            position = (num_symbols - 1 << 24 | block << _ESI_BITS | esi).to_bytes(5, "big")
            first = VERSION << 6 | kind << 4 | station
            try:
                return self._decode_whole(bytes((first,)) + position + handle + tail)
            except ChecksumError:
                continue
        raise UnknownObjectError("frame: its header is short, and it is of no object that is known, or damaged")

    def _candidates(self, slot: int) -> Iterable[tuple[bytes, tuple[FrameKind, int]]]:
        return list(reversed(self._objects[slot].items()))

    def _decode_whole(self, data: bytes) -> Frame:
        size = len(data) - HEADER_SIZE - self.trailer_size
        if size < 1 or size > SYMBOL_SIZE_MAX:
            raise TruncatedError("frame", expected=HEADER_SIZE + self.trailer_size + 1, got=len(data))
        first = data[0]
        kind = _KINDS.get(first >> 4 & 0x03)
        if first >> 6 != VERSION or kind is None:
            raise UnsupportedVersionError("frame", version=first)
        if kind is not FrameKind.REPORT and size % SYMBOL_ALIGNMENT:
            raise DecodeError(f"frame: symbol of {size} bytes is not a multiple of {SYMBOL_ALIGNMENT}")
        end = HEADER_SIZE + size
        self._check(first, size, data[:end], data[end:])
        high, low = int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:6], "big")
        station, handle, payload = first & 0x0F, data[6:HEADER_SIZE], data[HEADER_SIZE:end]
        if kind is FrameKind.REPORT:
            sequence = high << _REPORT_LOW_BITS | low
            return Frame(kind=kind, handle=handle, payload=payload, sequence=sequence, station=station)
        self.remember(kind, handle, high + 1)
        return Frame(
            kind=kind,
            handle=handle,
            payload=payload,
            num_symbols=high + 1,
            block=low >> _ESI_BITS,
            esi=low & ESI_MAX,
            station=station,
        )

    def _check(self, first: int, size: int, body: bytes, trailer: bytes) -> None:
        if self._station is not None and first & 0x0F != self._station:
            raise ChecksumError(f"frame: of station {first & 0x0F}, expected {self._station}")
        if self._link_key is None:
            if _CRC.pack(zlib.crc32(body)) != trailer:
                raise ChecksumError("frame: CRC-32 differs")
            return
        tag = self._cipher(first, size).encrypt(body[:HEADER_SIZE], b"", body)
        if not hmac.compare_digest(tag[:TAG_SIZE], trailer):
            raise ChecksumError("frame: tag differs")

    def _cipher(self, first: int, size: int) -> AESGCM:
        # Reports vary in length and never repeat a nonce, so one key serves them all.
        kind = first >> 4 & 0x03
        slot = (first, 0 if kind == FrameKind.REPORT else size)
        cipher = self._ciphers.get(slot)
        if cipher is None:
            station = first & 0x0F
            key = self._contact_keys.get(station)
            if key is None:
                key = self._contact_keys[station] = self.contact_key(station, self._contacts[station])
            cipher = AESGCM(derive_frame_key(key, self._direction, kind, slot[1]))
            while len(self._ciphers) >= _CIPHERS_MAX:
                self._ciphers.pop(next(iter(self._ciphers)))
            self._ciphers[slot] = cipher
        return cipher


def _crc_tag(_header: bytes, _data: bytes, body: bytes) -> bytes:
    return _CRC.pack(zlib.crc32(body))


def _header(frame: Frame, station: int) -> bytes:
    if frame.kind is FrameKind.REPORT:
        assert 0 <= frame.sequence <= SEQUENCE_MAX
        position = frame.sequence.to_bytes(5, "big")
    else:
        assert 1 <= frame.num_symbols <= SYMBOLS_MAX
        assert 0 <= frame.block < BLOCKS_MAX
        assert 0 <= frame.esi <= ESI_MAX
        position = (frame.num_symbols - 1 << 24 | frame.block << _ESI_BITS | frame.esi).to_bytes(5, "big")
    assert len(frame.handle) == HANDLE_SIZE
    assert 0 <= station < STATIONS_MAX
    return bytes((VERSION << 6 | frame.kind << 4 | station,)) + position + frame.handle
