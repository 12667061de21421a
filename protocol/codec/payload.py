"""The payload of a TENSOR segment: pieces of a file's bytes, each with the transform that rebuilds it.

    offset  size  field
    0       1     version          1
    1       1     reserved         0
    2       2     pieces           1 .. 4096
    4       ...   the pieces
    ...     ...   the bytes of all streams, in the order of the pieces

A piece, all integers big-endian:

    0       1     transform        `TransformKind`
    1       1     extents          1 .. 4
    2       2     size of the parameters
    4       1     streams          0 .. 255
    5       18*n  its extents: offset in the file (6), size (4), base file (2, 0xFFFF = none), base offset (6)
    ...     ...   the transform's own parameters
    ...     9*m   its streams: coder (1), number of values (4), size in bytes (4)

An extent is a run of bytes of the row's file. A piece with several extents rebuilds tensors that explain each other:
packed codes first, then their scales, then their zero points. The sizes of all extents add up to the row's raw size.

Pure. It was authenticated before it comes here, and is checked like everything else all the same.
"""

import struct
from dataclasses import dataclass
from typing import Any, Self

from protocol.codec.kinds import Coder, TransformKind
from protocol.errors import DecodeError
from protocol.limits import SEGMENT_SIZE_MAX

VERSION = 1
NO_BASE = 0xFFFF
PIECES_MAX = 4096
EXTENTS_MAX = 4
STREAMS_MAX = 255
PARAMETERS_MAX = 0xFFFF
VALUES_MAX = 2 * SEGMENT_SIZE_MAX  # of one stream: two nibbles a byte
OFFSET_MAX = 2**47
_HEADER = struct.Struct(">BBH")
_PIECE = struct.Struct(">BBHB")
_EXTENT = struct.Struct(">6sIH6s")
_STREAM = struct.Struct(">BII")
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
        parts = [_HEADER.pack(VERSION, 0, len(self.pieces))]
        for piece in self.pieces:
            parts.append(_PIECE.pack(piece.transform, len(piece.extents), len(piece.parameters), len(piece.streams)))
            parts.extend(_pack_extent(extent) for extent in piece.extents)
            parts.append(piece.parameters)
            parts.extend(_STREAM.pack(stream.coder, stream.count, len(stream.data)) for stream in piece.streams)
        parts.extend(stream.data for piece in self.pieces for stream in piece.streams)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse and validate a payload; nothing is decompressed.

        Raises:
            DecodeError: it is not one.
        """
        reader = _Reader(data)
        version, reserved, num_pieces = reader.unpack(_HEADER)
        if version != VERSION or reserved or not 1 <= num_pieces <= PIECES_MAX:
            raise DecodeError(f"tensor payload: version {version}, reserved {reserved}, {num_pieces} pieces")
        heads = [_read_head(reader) for _ in range(num_pieces)]
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


_Head = tuple[TransformKind, tuple[Extent, ...], bytes, list[tuple[Coder, int, int]]]


def _read_head(reader: "_Reader") -> _Head:
    transform, num_extents, parameters_size, num_streams = reader.unpack(_PIECE)
    if transform not in _TRANSFORMS or not 1 <= num_extents <= EXTENTS_MAX:
        raise DecodeError(f"tensor payload: transform {transform} with {num_extents} extents")
    kind = _TRANSFORMS[transform]
    extents = tuple(_read_extent(reader, kind) for _ in range(num_extents))
    parameters = reader.take(parameters_size)
    entries = []
    for _ in range(num_streams):
        coder, count, size = reader.unpack(_STREAM)
        if coder not in _CODERS or count > VALUES_MAX:
            raise DecodeError(f"tensor payload: a stream of {count} values by coder {coder}")
        entries.append((_CODERS[coder], count, size))
    return kind, extents, parameters, entries


def _read_extent(reader: "_Reader", kind: TransformKind) -> Extent:
    offset, size, base_file, base_offset = reader.unpack(_EXTENT)
    extent = Extent(
        offset=int.from_bytes(offset, "big"),
        size=size,
        base_file=base_file,
        base_offset=int.from_bytes(base_offset, "big"),
    )
    if not 1 <= size <= SEGMENT_SIZE_MAX or extent.offset + size > OFFSET_MAX:
        raise DecodeError(f"tensor payload: an extent of {size} bytes at {extent.offset}")
    if kind.needs_base == (base_file == NO_BASE):
        raise DecodeError(f"tensor payload: {kind.name} and base file {base_file} do not go together")
    if base_file == NO_BASE and extent.base_offset:
        raise DecodeError(f"tensor payload: base offset {extent.base_offset} without a base file")
    return extent


def _pack_extent(extent: Extent) -> bytes:
    return _EXTENT.pack(
        extent.offset.to_bytes(6, "big"), extent.size, extent.base_file, extent.base_offset.to_bytes(6, "big")
    )


class _Reader:
    """Takes bytes from the front, and never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError(f"tensor payload: ends at {len(self._data)}, {end} expected")
        part = self._data[self._at : end]
        self._at = end
        return part

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def finish(self) -> None:
        if self._at != len(self._data):
            raise DecodeError(f"tensor payload: {len(self._data) - self._at} bytes too many")
