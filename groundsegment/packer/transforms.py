"""The ways to store a piece: each transform of the protocol that fits what the piece is, ready to be called.

Floats, codes and blocks go to their modules in `protocol.codec`; everything may also go as bytes. What a module cannot
lay out (an odd dtype, a group that does not divide) it does not get: bytes always work.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.tensors import layouts
from groundsegment.packer.tensors.jobs import PieceJob
from protocol.codec import floats, integers, matches, streams
from protocol.codec.fourbit import nibbles
from protocol.codec.ggml import gguf
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import Stream
from protocol.limits import MIB

Arrays = list[NDArray[np.uint8]]
Coded = tuple[bytes, tuple[Stream, ...]]

LEVEL_DEFAULT = 15
LEVEL_MIN, LEVEL_MAX = 3, 19  # of zstd: above 19 the window could pass ZSTD_WINDOW_MAX
_PCODEC_LEVEL_MIN, _PCODEC_LEVEL_MAX = 8, 12
_WORTH_EFFORT = 0.6
_SLOW_SEARCH_MAX = 4 * MIB  # of bytes and window together: zstd's high levels make 2 MB/s of larger ones
_MATCHES_GAIN_MAX = 1.25  # of the highest level over the lowest, where beside numbers understood matches matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard the coders try.

    Attributes:
        zstd_level: the highest one tried.
        pcodec_level: bounds its number of bins at 2**level.
    """

    zstd_level: int
    pcodec_level: int

    @classmethod
    def of_level(cls, level: int) -> "Effort":
        """Return what `--level` means: a zstd level, and for pcodec 8 at 3 to 12 at 19."""
        share = (level - LEVEL_MIN) / (LEVEL_MAX - LEVEL_MIN)
        pcodec_level = round(_PCODEC_LEVEL_MIN + share * (_PCODEC_LEVEL_MAX - _PCODEC_LEVEL_MIN))
        return cls(zstd_level=level, pcodec_level=pcodec_level)


Encode = Callable[[Arrays, Arrays | None, Effort, float], Coded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to store a piece.

    Attributes:
        transform: as the payload names it.
        encode: (new bytes of each extent, old ones or None, effort, bytes to beat) -> parameters and streams; no
            more effort than it takes to see that it takes more bytes.
    """

    transform: TransformKind
    encode: Encode


def ways_of(piece: PieceJob, window: NDArray[np.uint8] | None = None) -> tuple[Way, ...]:
    """Return the ways that fit a piece, the most promising first; differences only if it has a base.

    Args:
        piece: what its bytes are.
        window: the base's bytes that it may repeat, for bytes that are no tensor.
    """
    found: list[tuple[TransformKind, TransformKind, Encode]] = []
    if (floats_layout := layouts.float_layout(piece)) is not None:
        found.append((TransformKind.FLOATS, TransformKind.FLOATS_DELTA, _encoder(floats.encode, floats_layout)))
    if (integers_layout := layouts.integer_layout(piece)) is not None:
        found.append((TransformKind.INTEGERS, TransformKind.INTEGERS_DELTA, _encoder(integers.encode, integers_layout)))
    if (nibbles_layout := layouts.nibble_layout_of(piece)) is not None:
        found.append((TransformKind.NIBBLES, TransformKind.NIBBLES_DELTA, _encoder(nibbles.encode, nibbles_layout)))
    if (blocks_layout := layouts.gguf_layout(piece)) is not None:
        found.append((TransformKind.GGUF, TransformKind.GGUF_DELTA, _encoder(gguf.encode, blocks_layout)))
    # Where the values are understood, bytes are worth a try for their matches only.
    found.insert(0, (TransformKind.BYTES, TransformKind.BYTES_DELTA, _encode_matches if found else _encode_bytes))
    ways = [
        Way(transform=transform, encode=encode)
        for whole, delta, encode in reversed(found)
        for transform in ((delta, whole) if piece.has_base else (whole,))
    ]
    if window is not None:
        ways.insert(0, Way(transform=TransformKind.BYTES_MATCHES, encode=_finder(window)))
    return tuple(ways)


def encode_bytes(values: NDArray[np.uint8], effort: Effort, least: float = math.inf) -> Stream:
    """Code bytes of unknown meaning: zstd if they repeat, pcodec if only their frequencies help."""
    best = encode_matches(values, effort, least)
    if len(best.data) >= _WORTH_EFFORT * values.size:
        return min(best, streams.encode(values, level=effort.pcodec_level), key=_size)
    return best


def encode_matches(values: NDArray[np.uint8], effort: Effort, least: float = math.inf) -> Stream:
    """Code bytes with zstd, at its higher levels only where there is something to be found, and bytes to be beaten."""
    data = values.tobytes()
    best = streams.encode_bytes(data, level=LEVEL_MIN)
    is_near = len(best.data) < min(_WORTH_EFFORT * len(data), _MATCHES_GAIN_MAX * least)
    if is_near and effort.zstd_level > LEVEL_MIN:
        best = min(best, streams.encode_bytes(data, level=effort.zstd_level), key=_size)
    return best


def matches_size(news: Arrays, olds: Arrays | None) -> int:
    """Return the bytes that a quick look for matches leaves of some bytes, or of their differences."""
    return len(streams.encode_bytes(_bytes_of(news, olds).tobytes(), level=LEVEL_MIN).data)


def _encoder(encode: Callable[..., Coded], layout: object) -> Encode:
    def run(news: Arrays, olds: Arrays | None, effort: Effort, least: float) -> Coded:
        return encode(news, olds, layout, level=effort.pcodec_level)

    return run


def _finder(window: NDArray[np.uint8]) -> Encode:
    def run(news: Arrays, olds: Arrays | None, effort: Effort, least: float) -> Coded:
        quick = matches.encode(news, window, level=LEVEL_MIN)
        is_near = quick[1][0].stored_size < min(_WORTH_EFFORT * news[0].size, _MATCHES_GAIN_MAX * least)
        if not is_near or news[0].size + window.size > _SLOW_SEARCH_MAX:
            return quick
        slow = matches.encode(news, window, level=effort.zstd_level)
        return min(quick, slow, key=lambda coded: coded[1][0].stored_size)

    return run


def _encode_bytes(news: Arrays, olds: Arrays | None, effort: Effort, least: float) -> Coded:
    return b"", (encode_bytes(_bytes_of(news, olds), effort, least),)


def _encode_matches(news: Arrays, olds: Arrays | None, effort: Effort, least: float) -> Coded:
    return b"", (encode_matches(_bytes_of(news, olds), effort, least),)


def _bytes_of(news: Arrays, olds: Arrays | None) -> NDArray[np.uint8]:
    values = np.concatenate(news)
    if olds is not None:
        values -= np.concatenate(olds)
    return values


def _size(stream: Stream) -> int:
    return len(stream.data)
