"""What bundles hold: heads, tables, segments as zstd and as the weight codec makes them, down to each stream."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard

from protocol.bundle import BundleHeader, peek_num_segments, peek_target
from protocol.codec import streams
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import Extent, Piece, Stream, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.segment import SegmentCodec, SegmentRow, expand
from tests.fuzz.target import Form, Target
from tests.vectors import make, make_codec

_DECODE = (DecodeError,)
_GOLDEN = tuple(make_codec.read((Path(make_codec.__file__).parent / "codec.json").read_text()).values())
_RAW = bytes(range(250)) * 4
_OLD = bytes(1000)
_DTYPES = (np.uint8, np.uint16, np.uint32)


def _rebuilt(payload: bytes, number: int, raw_size: int) -> None:
    golden = _GOLDEN[number % len(_GOLDEN)]

    def read_base(file: int, offset: int, size: int) -> bytes:
        found = golden.base[offset : offset + size]
        if file or len(found) != size:
            raise DecodeError("the base has no such bytes")
        return found

    rebuild(payload, raw_size, read_base)


def _codec(data: bytes) -> None:
    """The first byte chooses the segment whose base it is decoded against."""
    number = data[0] if data else 0
    _rebuilt(data[1:], number, sum(len(run) for _, run in _GOLDEN[number % len(_GOLDEN)].runs))


def _written(number: int) -> bytes:
    """A golden segment as a tree that can be spoiled anywhere and written again."""
    payload = TensorPayload.decode(_GOLDEN[number].payload)
    pieces = [
        [
            int(piece.transform),
            [[extent.offset, extent.size, extent.base_file, extent.base_offset] for extent in piece.extents],
            piece.parameters,
            [[int(stream.coder), stream.count, stream.data] for stream in piece.streams],
        ]
        for piece in payload.pieces
    ]
    return msgpack.packb([number, pieces])


def _pieces(data: bytes) -> None:
    try:
        number, pieces = msgpack.unpackb(data)
        payload = TensorPayload(pieces=tuple(map(_piece, pieces)))
        raw_size = payload.raw_size
        written = payload.encode()
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, AssertionError, msgpack.UnpackException):
        raise DecodeError("not a case: it cannot be written") from None
    _rebuilt(written, number if isinstance(number, int) else 0, raw_size)


def _piece(item: Any) -> Piece:
    transform, extents, parameters, coded = item
    return Piece(
        transform=TransformKind(transform),
        extents=tuple(
            Extent(offset=offset, size=size, base_file=file, base_offset=base) for offset, size, file, base in extents
        ),
        parameters=parameters,
        streams=tuple(Stream(coder=Coder(coder), count=count, data=data) for coder, count, data in coded),
    )


def _stream(data: bytes) -> None:
    """The first bytes say how it is coded, of what, and how many."""
    head = data[:4].ljust(4, b"\0")
    kinds = tuple(Coder)
    count = int.from_bytes(head[2:4], "big")
    streams.decode(Stream(coder=kinds[head[0] % len(kinds)], count=count, data=data[4:]), _DTYPES[head[1] % 3], count)


def _stream_seeds() -> list[bytes]:
    rng, seeds, kinds = np.random.default_rng(1), [], tuple(Coder)
    for number, dtype in enumerate(_DTYPES):
        for size, spread in ((1, 1), (300, 3), (300, 1000), (3000, 20)):
            values = (rng.standard_normal(size) * spread).astype(np.int64).astype(dtype)
            stream = streams.encode(values)
            seeds.append(bytes([kinds.index(stream.coder), number]) + size.to_bytes(2, "big") + stream.data)
        constant = streams.encode(np.full(500, 7, dtype))
        seeds.append(bytes([kinds.index(constant.coder), number]) + (500).to_bytes(2, "big") + constant.data)
    by_match = streams.encode_bytes(b"to be or not to be, that is the question. " * 20, level=3)
    seeds.append(
        bytes([kinds.index(by_match.coder), 0])
        + (len(b"to be or not to be, that is the question. ") * 20).to_bytes(2, "big")
        + by_match.data
    )
    return seeds


def _segment(data: bytes) -> None:
    """The first byte chooses the codec."""
    codec = (SegmentCodec.ZSTD, SegmentCodec.DELTA_ZSTD, SegmentCodec.STORED)[data[0] % 3 if data else 0]
    row = SegmentRow(number=1, codec=codec, file=0, offset=0, raw_size=len(_RAW), stored_size=0)
    expand(row, data[1:], _OLD if codec is SegmentCodec.DELTA_ZSTD else None)


def _peeks(data: bytes) -> None:
    peek_num_segments(data)
    peek_target(data)


_ZSTD = zstandard.ZstdCompressor(level=3).compress(_RAW)
_ROW_SEEDS = [make.ROW.encode(), make.DELTA_ROW.encode()]

TARGETS: dict[str, Target] = {
    "bundle": Target(parse=BundleHeader.decode, refusals=_DECODE, seeds=[make.VECTORS["bundle head"]()]),
    "bundle-peek": Target(parse=_peeks, refusals=_DECODE, seeds=[make.VECTORS["bundle head"]()], size_max=64),
    "segment-row": Target(parse=SegmentRow.decode, refusals=_DECODE, seeds=_ROW_SEEDS, size_max=64),
    "segment": Target(
        parse=_segment, refusals=_DECODE, seeds=[b"\0" + _ZSTD, b"\1" + _ZSTD, b"\2" + _RAW], size_max=1 << 14
    ),
    "stream": Target(parse=_stream, refusals=_DECODE, seeds=_stream_seeds(), size_max=1 << 14),
    "codec": Target(
        parse=_codec,
        refusals=_DECODE,
        seeds=[bytes([number]) + each.payload for number, each in enumerate(_GOLDEN)],
        size_max=1 << 16,
    ),
    "codec-pieces": Target(
        parse=_pieces,
        refusals=_DECODE,
        seeds=[_written(number) for number in range(len(_GOLDEN))],
        form=Form.MSGPACK,
        size_max=1 << 16,
    ),
}
