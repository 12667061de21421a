"""BYTES, SAME and BYTES_DELTA: what no model of numbers explains, and what did not change.

BYTES is one stream of the bytes of all extents, BYTES_DELTA one of (new - old) modulo 256, SAME none at all. The stream
is zstd's where bytes repeat (text, tables) and pcodec's where only their frequencies help. There are no parameters.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

ZSTD_LEVEL = 19


def encode(
    news: list[NDArray[np.uint8]],
    olds: list[NDArray[np.uint8]] | None,
    layout: Literal[None] = None,
    *,
    level: int = streams.LEVEL_DEFAULT,
    zstd_level: int = ZSTD_LEVEL,
) -> tuple[bytes, tuple[Stream, ...]]:
    """Return the stream of BYTES, or of BYTES_DELTA if there are old bytes; for SAME nothing needs encoding.

    Args:
        news: the bytes of each extent.
        olds: the base's, extent by extent of the same size; None without a base.
        layout: there is nothing to say.
        level: of pcodec.
        zstd_level: of zstd; 19 takes about 0.3 s for a MiB.
    """
    values = np.concatenate(news)
    if olds is not None:
        values -= np.concatenate(olds)
    by_value = streams.encode(values, level=level)
    by_match = streams.encode_bytes(values.tobytes(), level=zstd_level)
    return b"", (min(by_value, by_match, key=lambda stream: len(stream.data)),)


def decode(
    parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[NDArray[np.uint8]] | None
) -> list[NDArray[np.uint8]]:
    """Undo `encode`.

    Raises:
        DecodeError: it is not one stream that fits.
    """
    if parameters or len(coded) != 1:
        raise DecodeError(f"bytes of {len(parameters)} parameter bytes and {len(coded)} streams")
    values = streams.decode(coded[0], np.uint8, sum(sizes))
    if olds is not None:
        values += np.concatenate(olds)
    return np.split(values, np.cumsum(sizes)[:-1])


def decode_same(
    parameters: bytes, coded: tuple[Stream, ...], sizes: list[int], olds: list[NDArray[np.uint8]] | None
) -> list[NDArray[np.uint8]]:
    """Return the old bytes.

    Raises:
        DecodeError: there is something to decode, or nothing old.
    """
    if parameters or coded or olds is None or [old.size for old in olds] != sizes:
        raise DecodeError("unchanged bytes have neither parameters nor streams")
    return olds
