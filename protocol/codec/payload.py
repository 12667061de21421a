"""The payload of a TENSOR segment: pieces of a file's bytes, each with the transform that rebuilds it.

    1       version            2
    n       pieces             1 .. 4096
    ...     the pieces
    ...     the bytes of all streams, in the order of the pieces

A piece; all its numbers are those of `numbers`, one byte where they are small:

    1       transform          `TransformKind`
    n       extents            1 .. 512
    n       size of the parameters
    n       streams            0 .. 255
    ...     its extents
    ...     the transform's own parameters
    ...     its streams: 8 * number of values + coder; size in bytes

An extent:

    n       offset             signed: from where the extent before ends, be it of the piece before; the first: from 0
    n       size
    n       base               only if the transform needs one; 2 * way + 1 if the base file is another one than before.
                               Way, its sign folded in: from the end of the base bytes before, as far as the extent is
                               from the end of the one before; the first base file is 0, its end before is 0
    n       base file          only if it is another one

So an extent that follows the one before, in the file and in the base, takes a byte for each, and its size.

An extent is a run of bytes of the row's file. A piece with several extents rebuilds tensors that explain each other:
packed codes first, then their scales, then their zero points; or several such, one after another. The sizes of all
extents add up to the row's raw size.

Pure. It was authenticated before it comes here, and is checked like everything else all the same.
"""

from dataclasses import dataclass
from typing import Self

from protocol.codec import numbers
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError
from protocol.limits import SEGMENT_SIZE_MAX

VERSION = 2
NO_BASE = 0xFFFF
PIECES_MAX = 4096
EXTENTS_MAX = 512
STREAMS_MAX = 255
EXTENTS_TOTAL_MAX = 4 * PIECES_MAX  # of all pieces: what was read takes memory before it is used
STREAMS_TOTAL_MAX = 16 * PIECES_MAX
PARAMETERS_MAX = 0xFFFF
VALUES_MAX = 2 * SEGMENT_SIZE_MAX  # of one stream: two nibbles a byte
OFFSET_MAX = 2**47
_STREAM_SIZE_MAX = 2**32 - 1
CODER_BITS = 3
_TRANSFORMS = {int(kind): kind for kind in TransformKind}
_CODERS = {int(coder): coder for coder in Coder}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of bytes of a file, and where the base has its counterpart.

    Attributes:
        offset: in the file that the segment's row names.
        size: bytes, at least 1.
        base_file: index in the base release's file list; NO_BASE if none is needed.
        base_offset: where the old bytes start; as many as `size`.
    """

    offset: int
    size: int
    base_file: int = NO_BASE
    base_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Coded values.

    Attributes:
        coder: how.
        count: values it decodes to.
        data: coded bytes.
    """

    coder: Coder
    count: int
    data: bytes

    @property
    def head(self) -> bytes:
        """What a piece says of it."""
        return numbers.pack(self.count << CODER_BITS | self.coder, len(self.data))

    @property
    def stored_size(self) -> int:
        """Bytes in a payload, its head included."""
        return len(self.head) + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Extents that one transform rebuilds.

    Attributes:
        transform: which.
        extents: what it makes, 1 .. EXTENTS_MAX of them.
        parameters: what the transform wants to know; its module says in which layout.
        streams: what it is made of.
    """

    transform: TransformKind
    extents: tuple[Extent, ...]
    parameters: bytes = b""
    streams: tuple[Stream, ...] = ()

    @property
    def raw_size(self) -> int:
        """Bytes it turns into."""
        return sum(extent.size for extent in self.extents)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPayload:
    """All pieces of a segment."""

    pieces: tuple[Piece, ...]

    @property
    def raw_size(self) -> int:
        """Bytes all pieces turn into."""
        return sum(piece.raw_size for piece in self.pieces)

    def encode(self) -> bytes:
        """Return the bytes, ready to be encrypted."""
        parts = [bytes([VERSION]), numbers.pack(len(self.pieces))]
        place = _Place()
        for piece in self.pieces:
            parts.append(bytes([piece.transform]))
            parts.append(numbers.pack(len(piece.extents), len(piece.parameters), len(piece.streams)))
            parts.extend(place.pack(extent) for extent in piece.extents)
            parts.append(piece.parameters)
            parts.extend(stream.head for stream in piece.streams)
        parts.extend(stream.data for piece in self.pieces for stream in piece.streams)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse and validate a payload; nothing is decompressed.

        Raises:
            DecodeError: it is not one.
        """
        reader = Reader(data, "tensor payload")
        version, num_pieces = reader.take(1)[0], reader.number(PIECES_MAX)
        if version != VERSION or not num_pieces:
            raise DecodeError(f"tensor payload: version {version}, {num_pieces} pieces")
        heads = _read_heads(reader, num_pieces)
        pieces = tuple(
            Piece(
                transform=transform,
                extents=extents,
                parameters=parameters,
                streams=tuple(
                    Stream(coder=coder, count=count, data=reader.take(size)) for coder, count, size in entries
                ),
            )
            for transform, extents, parameters, entries in heads
        )
        reader.finish()
        payload = cls(pieces=pieces)
        if payload.raw_size > SEGMENT_SIZE_MAX:
            raise DecodeError(f"tensor payload: {payload.raw_size} bytes are more than {SEGMENT_SIZE_MAX}")
        return payload


class _Place:
    """Where the last extent ended, in the file and in the base: extents say how far they are from there."""

    def __init__(self) -> None:
        self._end, self._base_file, self._base_end = 0, 0, 0

    def pack(self, extent: Extent) -> bytes:
        """Return the bytes of an extent."""
        gap = extent.offset - self._end
        packed = numbers.pack_signed(gap) + numbers.pack(extent.size)
        if extent.base_file != NO_BASE:
            way = extent.base_offset - self._base_end - gap
            is_other = extent.base_file != self._base_file
            packed += numbers.pack((way << 1 if way >= 0 else ~way << 1 | 1) << 1 | is_other)
            packed += numbers.pack(extent.base_file) if is_other else b""
        self._move(extent)
        return packed

    def read(self, reader: Reader, kind: TransformKind) -> Extent:
        """Return the next extent.

        Raises:
            DecodeError: it is out of the file, or of the base.
        """
        gap, size = reader.signed(OFFSET_MAX), reader.number(SEGMENT_SIZE_MAX)
        base_file, base_offset = NO_BASE, 0
        if kind.needs_base:
            folded = reader.number(8 * OFFSET_MAX)
            way = ~(folded >> 2) if folded & 2 else folded >> 2
            base_file = reader.number(NO_BASE - 1) if folded & 1 else self._base_file
            base_offset = self._base_end + gap + way
        extent = Extent(offset=self._end + gap, size=size, base_file=base_file, base_offset=base_offset)
        if not size or extent.offset < 0 or extent.offset + size > OFFSET_MAX:
            raise DecodeError(f"tensor payload: an extent of {size} bytes at {extent.offset}")
        if not 0 <= base_offset < OFFSET_MAX:
            raise DecodeError(f"tensor payload: base bytes at {base_offset}")
        self._move(extent)
        return extent

    def _move(self, extent: Extent) -> None:
        self._end = extent.offset + extent.size
        if extent.base_file != NO_BASE:
            self._base_file, self._base_end = extent.base_file, extent.base_offset + extent.size


_Head = tuple[TransformKind, tuple[Extent, ...], bytes, list[tuple[Coder, int, int]]]


def _read_heads(reader: Reader, num_pieces: int) -> list[_Head]:
    place, heads = _Place(), []
    num_extents = num_streams = 0
    for _ in range(num_pieces):
        head = _read_head(reader, place)
        num_extents += len(head[1])
        num_streams += len(head[3])
        if num_extents > EXTENTS_TOTAL_MAX or num_streams > STREAMS_TOTAL_MAX:
            raise DecodeError(f"tensor payload: more than {EXTENTS_TOTAL_MAX} extents or {STREAMS_TOTAL_MAX} streams")
        heads.append(head)
    return heads


def _read_head(reader: Reader, place: _Place) -> _Head:
    transform, num_extents = reader.take(1)[0], reader.number(EXTENTS_MAX)
    if transform not in _TRANSFORMS or not num_extents:
        raise DecodeError(f"tensor payload: transform {transform} with {num_extents} extents")
    kind = _TRANSFORMS[transform]
    parameters_size, num_streams = reader.number(PARAMETERS_MAX), reader.number(STREAMS_MAX)
    extents = tuple(place.read(reader, kind) for _ in range(num_extents))
    parameters = reader.take(parameters_size)
    entries = []
    for _ in range(num_streams):
        mixed, size = reader.number(VALUES_MAX << CODER_BITS | 7), reader.number(_STREAM_SIZE_MAX)
        coder, count = mixed & 7, mixed >> CODER_BITS
        if coder not in _CODERS:
            raise DecodeError(f"tensor payload: a stream of {count} values by coder {coder}")
        entries.append((_CODERS[coder], count, size))
    return kind, extents, parameters, entries
