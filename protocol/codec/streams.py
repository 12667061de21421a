"""Streams: arrays of small integers, entropy-coded by pcodec within some 0.1 % of their order-0 entropy.

pcodec groups values into bins and codes the bins with interleaved tANS; the tables are integers, so every machine
decodes the same values. Measured on one EPYC core against the empirical entropy: +0.05-0.3 %, 400-900 million
values a second decoding, 60 encoding, and as good where one value in a thousand differs from the others as where all
do (ADR 0019). Values hold no matches worth looking for; text does: `encode_bytes`.

A PCO stream is the metadata of one chunk and its one page in pcodec's wrapped format 4.1, which says nothing that both
ends know: a standalone file says type, count and version again, 18 bytes, in a difference that has perhaps 5,000. Its
first byte is 0: numbers as they are, no differences between neighbours; nothing else is let through to the decoder.

A SPARSE stream says where the few values are that are not 0 (`gaps`), and then these: as many bytes as pcodec takes,
and nothing to decode for all the others. Its bytes:

    n       size of the gaps, and they
    n       the values that are not 0, as a stream that is not SPARSE: 8 * their number + coder, size in bytes, and they

Decoding is bounded: the count is checked by the caller, the array is made before anything is decoded, the tables of a
chunk take at most a megabyte, and whatever pcodec or zstd find wrong is a DecodeError.
"""

from typing import TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped

from protocol.codec import gaps, numbers
from protocol.codec.kinds import Coder
from protocol.codec.numbers import Reader
from protocol.codec.payload import CODER_BITS, Stream
from protocol.errors import DecodeError
from protocol.limits import ZSTD_WINDOW_MAX

_T = TypeVar("_T", np.uint8, np.uint16, np.uint32)

LEVEL_DEFAULT = 10
_SPARSE_MIN = 4096  # values: fewer are decoded in no time
_RARE = 32  # values for each that is not 0
_BIN_BITS = 20  # of pcodec's table, about one value
_FASTER = 100  # that share more is worth it
_CODER_MAX = (1 << CODER_BITS) - 1
_PCO_HEADER = b"\x04\x01"  # version of the format
_PCO_READER, _ = wrapped.FileDecompressor.new(_PCO_HEADER)  # knows the version, and nothing of what it read
_PCO_TYPES = {np.dtype(np.uint8): "u8", np.dtype(np.uint16): "u16", np.dtype(np.uint32): "u32"}


def encode(values: NDArray[_T], *, level: int = LEVEL_DEFAULT) -> Stream:
    """Code values with whatever stores them in the fewest bytes.

    Args:
        values: one axis, uint8, uint16 or uint32.
        level: of pcodec, 0 .. 12; bounds the number of bins at 2**level.
    """
    assert values.ndim == 1
    assert values.dtype in _PCO_TYPES
    if not values.size or (values == values[0]).all():
        return Stream(coder=Coder.CONSTANT, count=values.size, data=_little(values[:1]))
    num_others = int(np.count_nonzero(values))
    sparse = _encode_sparse(values, level) if is_sparse(values.size, num_others) else None
    if sparse is not None and len(sparse) <= (1 + 1 / _FASTER) * _least_bytes(values, num_others):
        return Stream(
            coder=Coder.SPARSE, count=values.size, data=sparse
        )  # to see by how much pcodec's is larger takes long
    packed = _encode_pco(np.ascontiguousarray(values), level)
    if sparse is not None and len(sparse) <= (1 + 1 / _FASTER) * len(packed):
        return Stream(coder=Coder.SPARSE, count=values.size, data=sparse)
    if len(packed) >= values.nbytes:
        return Stream(coder=Coder.RAW, count=values.size, data=_little(values))
    return Stream(coder=Coder.PCO, count=values.size, data=packed)


def is_sparse(num_values: int, num_others: int) -> bool:
    """Tell whether so few values are not 0 that it may be quicker to say where they are."""
    return num_values >= _SPARSE_MIN and num_others * _RARE <= num_values


def encode_bytes(data: bytes, *, level: int) -> Stream:
    """Code bytes that are not numbers: zstd, or as they are."""
    packed = zstandard.ZstdCompressor(level=level).compress(data)
    if len(packed) < len(data):
        return Stream(coder=Coder.ZSTD, count=len(data), data=packed)
    return Stream(coder=Coder.RAW, count=len(data), data=data)


def decode(stream: Stream, dtype: type[_T], count: int) -> NDArray[_T]:
    """Return the values of a stream, a new array that may be written to.

    Args:
        stream: authenticated, but not trusted.
        dtype: of the values.
        count: how many there have to be.

    Raises:
        DecodeError: it does not hold exactly `count` values.
    """
    if stream.count != count:  # before there is memory for them
        raise DecodeError(f"stream of {stream.count} values where {count} belong")
    values = np.empty(count, dtype)
    _DECODERS[stream.coder](stream.data, values)
    return values


def decode_into(stream: Stream, values: NDArray[_T]) -> None:
    """Fill a contiguous array with the values of a stream.

    Args:
        stream: authenticated, but not trusted.
        values: as many as there have to be.

    Raises:
        DecodeError: it does not hold exactly as many.
    """
    if stream.count != values.size:
        raise DecodeError(f"stream of {stream.count} values where {values.size} belong")
    _DECODERS[stream.coder](stream.data, values)


def _decode_raw(data: bytes, values: NDArray[_T]) -> None:
    if len(data) != values.nbytes:
        raise DecodeError(f"raw stream of {len(data)} bytes where {values.nbytes} belong")
    values[:] = np.frombuffer(data, values.dtype.newbyteorder("<"))


def _decode_zstd(data: bytes, values: NDArray[_T]) -> None:
    raw, surplus = b"", b""
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
        # A frame that says its size is decoded at once, in half the time; one that lies about it is refused.
        if zstandard.frame_content_size(data) == values.nbytes:
            raw = decompressor.decompress(data, allow_extra_data=False)
        else:
            with decompressor.stream_reader(data, read_across_frames=False) as reader:
                raw = reader.read(values.nbytes)
                surplus = reader.read(1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"zstd refused a stream: {error}") from None
    if len(raw) != values.nbytes or surplus:
        raise DecodeError(f"zstd stream is not {values.nbytes} bytes long")
    values[:] = np.frombuffer(raw, values.dtype.newbyteorder("<"))


def _encode_pco(values: NDArray[_T], level: int) -> bytes:
    compressor = wrapped.FileCompressor()
    # Another format than this one has no reader in orbit: whoever updates pcodec must see it here.
    assert compressor.write_header() == _PCO_HEADER
    config = ChunkConfig(
        compression_level=level,
        mode_spec=ModeSpec.classic(),
        delta_spec=DeltaSpec.no_op(),
        paging_spec=PagingSpec.equal_pages_up_to(values.size),
        enable_8_bit=True,
    )
    chunk = compressor.chunk_compressor(values, config)
    head: bytes = chunk.write_meta()
    page: bytes = chunk.write_page(0)
    assert head[0] == 0
    return head + page


def _decode_pco(data: bytes, values: NDArray[_T]) -> None:
    if not values.size or data[:1] != b"\0":
        raise DecodeError(f"pcodec stream of {len(data)} bytes for {values.size} values in a mode that is not used")
    try:
        chunk, head_size = _PCO_READER.chunk_decompressor(data, _PCO_TYPES[values.dtype])
        progress, page_size = chunk.read_page_into(data[head_size:], values.size, values)
    except BaseException as error:
        # pcodec is Rust: its panics come as BaseException, and must not end a daemon. Ours go on.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DecodeError(f"pcodec refused a stream: {error}") from None
    if progress.n_processed != values.size or not progress.finished or head_size + page_size != len(data):
        raise DecodeError(f"pcodec stream is not {values.size} values in {len(data)} bytes")


def _decode_constant(data: bytes, values: NDArray[_T]) -> None:
    if len(data) != (values.itemsize if values.size else 0):
        raise DecodeError(f"constant stream of {len(data)} bytes")
    if values.size:
        values[:] = np.frombuffer(data, values.dtype.newbyteorder("<"))[0]


def _least_bytes(values: NDArray[_T], num_others: int) -> float:
    """Estimate what pcodec makes of values that are mostly 0: their entropy, and some bits about each that occurs."""
    others = np.unique(values[values != 0], return_counts=True)[1]
    counts = np.append(others, values.size - num_others).astype(np.float64)
    bits = values.size * np.log2(values.size) - (counts * np.log2(counts)).sum() + _BIN_BITS * counts.size
    return float(bits / 8)


def _encode_sparse(values: NDArray[_T], level: int) -> bytes:
    places = np.flatnonzero(values)
    packed = gaps.encode([places], [values.size])
    others = encode(values[places], level=level)
    return numbers.pack(len(packed)) + packed + others.head + others.data


def _decode_sparse(data: bytes, values: NDArray[_T]) -> None:
    reader = Reader(data, "sparse stream")
    packed = reader.take(reader.number(len(data)))
    most = values.size // _RARE
    mixed, size = reader.number(most << CODER_BITS | _CODER_MAX), reader.number(len(data))
    coder, count = mixed & _CODER_MAX, mixed >> CODER_BITS
    if coder not in _DECODERS or coder == Coder.SPARSE:
        raise DecodeError(f"{count} values by coder {coder} in a sparse stream")
    (places,) = gaps.decode(packed, [values.size], most)
    others = decode(Stream(coder=Coder(coder), count=count, data=reader.take(size)), values.dtype.type, places.size)
    reader.finish()
    values.fill(0)
    values[places] = others


_DECODERS = {
    Coder.RAW: _decode_raw,
    Coder.ZSTD: _decode_zstd,
    Coder.PCO: _decode_pco,
    Coder.CONSTANT: _decode_constant,
    Coder.SPARSE: _decode_sparse,
}


def _little(values: NDArray[_T]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
