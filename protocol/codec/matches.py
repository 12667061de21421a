"""BYTES_MATCHES: bytes that repeat runs of the base's, wherever these lie: a header, a tokenizer, a config that grew.

One extent, whose base bytes begin at its base offset as always; there are as many of them as the parameters say, not as
many as the extent has. They are what zstd calls a dictionary: the stream is a zstd frame of the extent's bytes that may
refer to them.

Parameters:

    0       4     size of the base's bytes, 1 .. ZSTD_WINDOW_MAX

Decoding is bounded: the extent is at most a segment, the frame must say its size, and the base's bytes are bounded
above. Pure.
"""

import struct

import numpy as np
import zstandard

from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.codec.values import Bytes
from protocol.errors import DecodeError
from protocol.limits import ZSTD_WINDOW_MAX

_SIZE = struct.Struct(">I")
_LOG_MAX = 22  # of each of the encoder's tables: 16 MiB
_LEVEL_MIN = 9  # below it, zstd finds little of what a dictionary has


def encode(news: list[Bytes], window: Bytes, *, level: int) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the parameters and the stream.

    Args:
        news: the bytes of the extent.
        window: bytes of the base, 1 .. ZSTD_WINDOW_MAX of them.
        level: of zstd; at least 9 is used.
    """
    (new,) = news
    assert 0 < window.size <= ZSTD_WINDOW_MAX
    compressor = zstandard.ZstdCompressor(
        dict_data=_dictionary(window.tobytes()), compression_params=_settings(new.size + window.size, level)
    )
    packed = compressor.compress(new.tobytes())
    return _SIZE.pack(window.size), (Stream(coder=Coder.ZSTD, count=new.size, data=packed),)


def _settings(size: int, level: int) -> zstandard.ZstdCompressionParameters:
    """Return zstd's settings for a window and bytes of such a size together: all of it within reach."""
    reach = max(zstandard.WINDOWLOG_MIN, size.bit_length())
    usual = zstandard.ZstdCompressionParameters.from_level(max(_LEVEL_MIN, level), source_size=size)
    return zstandard.ZstdCompressionParameters(
        window_log=reach,
        chain_log=min(_LOG_MAX, usual.chain_log),
        hash_log=min(_LOG_MAX, max(usual.hash_log, reach)),
        search_log=usual.search_log,
        min_match=usual.min_match,
        target_length=usual.target_length,
        strategy=usual.strategy,
        write_content_size=True,
    )


def window_size(parameters: bytes, num_extents: int) -> int:
    """Return how many bytes of the base have to be read.

    Raises:
        DecodeError: the parameters do not say, or say too many, or there is not just one extent.
    """
    if len(parameters) != _SIZE.size or num_extents != 1:
        raise DecodeError(f"matches with {len(parameters)} parameter bytes and {num_extents} extents")
    (size,) = _SIZE.unpack(parameters)
    if not 0 < size <= ZSTD_WINDOW_MAX:
        raise DecodeError(f"matches in {size} bytes of the base")
    return int(size)


def decode(parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[Bytes] | None) -> list[Bytes]:
    """Undo `encode`.

    Args:
        parameters: as `encode` returned them.
        coded: likewise.
        sizes: of the extent.
        olds: the base's bytes, as many as `window_size` says.

    Raises:
        DecodeError: they do not go together.
    """
    num_old = window_size(parameters, len(sizes))
    if olds is None or [old.size for old in olds] != [num_old]:
        raise DecodeError(f"matches without the {num_old} bytes of the base")
    if len(coded) != 1 or coded[0].coder is not Coder.ZSTD or coded[0].count != sizes[0]:
        raise DecodeError(f"matches in {len(coded)} streams for {sizes[0]} bytes")
    return [np.frombuffer(_decompress(coded[0].data, olds[0].tobytes(), sizes[0]), np.uint8)]


def _decompress(data: bytes, old: bytes, size: int) -> bytes:
    try:
        # It makes room for what the frame says of itself, so that has to be right before it is asked.
        claimed = zstandard.get_frame_parameters(data).content_size
        if claimed != size:
            raise DecodeError(f"zstd frame of {claimed} bytes where {size} belong")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(old), max_window_size=ZSTD_WINDOW_MAX)
        return decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"zstd refused a stream: {error}") from None


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
