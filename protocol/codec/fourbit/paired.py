"""Streams of bytes that hold two codes of four bits each: which of three ways each of them is coded in.

- codes: all low ones, then all high ones, by pcodec: the fewest bytes, twice as many values to decode;
- bytes: by pcodec, pairs as they are: tables of 256 values instead of 16; or SPARSE, where most are 0;
- Huffman codes: the same bytes by zstd, which finds little to repeat in them and codes frequencies in whole bits: half
  a hundredth more than codes take, decoded in a third of the time, coded in a tenth.

A piece may spend a small share of its bytes on time (`budget`), and does where a byte buys the most of it. What was
chosen is told by count and coder of the stream, so the decoder knows nothing of the choice.

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.codec import streams
from protocol.codec.fourbit import cells
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream

_LEVEL_MIN = 12  # as many bins as pcodec makes: with fewer, rare codes share one. Costs no time where codes are bytes
_LEVEL_IF_NONE_RARE = 8  # smaller tables, that are filled and read faster
_LEVEL_OF_ZSTD = 1  # there is nothing to look for
_BIN_BITS = 23  # of pcodec's table, about one symbol
_NS_CODES, _NS_BYTES, _NS_HUFFMAN, _NS_SPARSE = 2.4, 1.8, 0.75, 0.5  # of decoding a byte, measured
_FASTER = 8000  # that share of what they turn into may be spent anyway: small differences have no other
_HUFFMAN_MIN = 4096  # bytes: below, tables are most of it

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to code a stream.

    Attributes:
        size: in bytes, or an estimate of it.
        nanoseconds: to decode it.
        stream: if it is made already.
        is_paired: whether it holds bytes.
    """

    size: float
    nanoseconds: float
    stream: Stream | None = None
    is_paired: bool = True

    def gain(self, other: "_Way") -> float:
        """Return the nanoseconds that each byte more than another way's buys."""
        saved, surplus = other.nanoseconds - self.nanoseconds, self.size - other.size
        return saved / max(surplus, 1e-3) if saved > 0 else 0.0


def encode(parts: Sequence[Bytes], *, level: int, budget: float) -> list[Stream]:
    """Code each part as a stream.

    Args:
        parts: bytes of two codes.
        level: of pcodec, where codes are rare.
        budget: share of the bytes of all streams that may be spent on time, beside what may be anyway.
    """
    ways = [_ways(part) for part in parts]
    chosen = [min(own, key=lambda way: way.size) for own in ways]
    left = budget * sum(way.size for way in chosen) + sum(part.size for part in parts) / _FASTER
    while steps := [
        (way.gain(chosen[at]), at, number)
        for at, own in enumerate(ways)
        for number, way in enumerate(own)
        if way.size - chosen[at].size <= left and way.gain(chosen[at]) > 0
    ]:
        _, at, number = max(steps)
        left -= ways[at][number].size - chosen[at].size
        chosen[at] = ways[at][number]
    return [way.stream or _encode(part, level, way) for part, way in zip(parts, chosen, strict=True)]


def _ways(part: Bytes) -> list[_Way]:
    table = np.bincount(part, minlength=256)
    codes, others = nibbles_of(table), part.size - int(table[0])
    ways = [
        _Way(_bits(codes) / 8, _NS_CODES * part.size, is_paired=False),
        _Way(_bits(table) / 8, (_NS_SPARSE if streams.is_sparse(part.size, others) else _NS_BYTES) * part.size),
    ]
    if part.size >= _HUFFMAN_MIN:
        stream = streams.encode_bytes(part.tobytes(), level=_LEVEL_OF_ZSTD)
        if stream.coder is Coder.ZSTD:
            ways.append(_Way(len(stream.data), _NS_HUFFMAN * part.size, stream))
    return ways


def _encode(part: Bytes, level: int, way: _Way) -> Stream:
    if way.is_paired:
        return streams.encode(part, level=max(level, _LEVEL_MIN))
    codes = nibbles_of(np.bincount(part, minlength=256))
    has_rare = codes[codes > 0].min() << _LEVEL_IF_NONE_RARE < codes.sum()
    return streams.encode(cells.split(part), level=max(level, _LEVEL_MIN) if has_rare else _LEVEL_IF_NONE_RARE)


def _bits(table: NDArray[np.intp]) -> float:
    """Estimate the bits of a stream with such frequencies."""
    seen = table[table > 0].astype(np.float64)
    total = seen.sum()
    return float(total * np.log2(total) - (seen * np.log2(seen)).sum() + _BIN_BITS * seen.size) if total else 0.0


def nibbles_of(table: NDArray[Any]) -> NDArray[Any]:
    """Return how often each nibble occurs in bytes of such frequencies."""
    pairs = table.reshape(16, 16)
    return np.asarray(pairs.sum(axis=0) + pairs.sum(axis=1))
