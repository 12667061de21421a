"""Places of rare things, as Rice codes of the gaps between them: no table, so that a context costs a byte or two.

Where one value in a few hundred differs, an entropy coder's table is a good part of what there is to say, and contexts,
each with a table of its own, would cost what they gain. The gaps between rare things that know nothing of each other
are geometric, and all that has to be said of such a distribution is how many things there are among how many: a Rice
code of the parameter that follows from it takes some 0.05 bits a gap more than its entropy.

Several sequences, of which both ends know the lengths, make one run of bytes:

    n       how many things are in each sequence that is not empty        `numbers`
    ...     of all gaps, sequence after sequence: as many 0 bits as gap >> k says, and a 1; the last byte filled with 0
    ...     of all gaps, their k lowest bits, the highest first; the last byte filled with 0

k is the largest with 2**k <= 123/128 * length / things, 0 if there is none. Pure, integers only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocol.codec import numbers
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError

Places = NDArray[np.int64]
_SHARE = (123, 128)  # 0.962: below it, twice the parameter would be better


def encode(sequences: Sequence[Places], lengths: Sequence[int]) -> bytes:
    """Return the bytes of places.

    Args:
        sequences: rising places of the things, in each from 0 to its length less 1.
        lengths: of the sequences.
    """
    counts = [places.size for places in sequences]
    head = b"".join(numbers.pack(count) for count, length in zip(counts, lengths, strict=True) if length)
    quotients, bits = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for places, length in zip(sequences, lengths, strict=True):
        gaps, k = np.diff(places, prepend=-1) - 1, _parameter(length, places.size)
        quotients.append(gaps >> k)
        bits.append(((gaps[:, None] >> np.arange(k - 1, -1, -1)) & 1).astype(np.uint8).reshape(-1))
    ends = np.cumsum(np.concatenate(quotients) + 1)
    unary = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    unary[ends - 1] = 1
    return head + np.packbits(unary).tobytes() + np.packbits(np.concatenate(bits)).tobytes()


def decode(data: bytes, lengths: Sequence[int], most: int) -> list[Places]:
    """Return the places in each sequence; undoes `encode`.

    Args:
        data: authenticated, but not trusted.
        lengths: of the sequences.
        most: things there may be in all.

    Raises:
        DecodeError: the bytes are not those of such sequences.
    """
    reader = Reader(data, "gaps")
    counts = [reader.number(length) if length else 0 for length in lengths]
    num_things = sum(counts)
    if num_things > most:
        raise DecodeError(f"{num_things} rare things, {most} at most")
    parameters = [_parameter(length, count) for length, count in zip(lengths, counts, strict=True)]
    num_bits = sum(k * count for k, count in zip(parameters, counts, strict=True))
    packed = np.frombuffer(reader.rest(), np.uint8)
    low_size = -(-num_bits // 8)
    if packed.size < low_size:
        raise DecodeError(f"{packed.size} bytes of gaps, {low_size} and more belong")
    widths = np.repeat(np.array(parameters, np.int64), counts)
    steps = _read_unary(packed[: packed.size - low_size], num_things) << widths
    steps += _read_low(packed[packed.size - low_size :], widths, num_bits)
    steps += 1
    return _places(steps, counts, lengths)


def _places(steps: Places, counts: Sequence[int], lengths: Sequence[int]) -> list[Places]:
    """Return the places of each sequence, given how far each is from the one before."""
    found, at = [], 0
    for length, count in zip(lengths, counts, strict=True):
        places = np.cumsum(steps[at : at + count])
        places -= 1
        if count and places[-1] >= length:
            raise DecodeError(f"a rare thing at {places[-1]} of {length}")
        found.append(places)
        at += count
    return found


def _parameter(length: int, count: int) -> int:
    return max(0, (length * _SHARE[0] // (_SHARE[1] * max(1, count))).bit_length() - 1)


def _read_unary(packed: NDArray[np.uint8], count: int) -> Places:
    """Return how many 0 bits are before each 1."""
    # All of them are at most 2.09 times as many bits as ones, for how k is chosen: more gets no memory.
    if 8 * packed.size > 4 * count + 7:
        raise DecodeError(f"{packed.size} bytes of gaps in unary for {count} things")
    bits = np.unpackbits(packed)
    ones = np.flatnonzero(bits)
    last = int(ones[-1]) + 1 if ones.size else 0
    if ones.size != count or -(-last // 8) != packed.size:
        raise DecodeError(f"{ones.size} gaps in {packed.size} bytes, {count} belong")
    return np.diff(ones, prepend=-1) - 1


def _read_low(packed: NDArray[np.uint8], widths: Places, num_bits: int) -> Places:
    """Return numbers of so many bits each: four bytes hold any, wherever in the first it begins."""
    if num_bits % 8 and packed[-1] & (0xFF >> num_bits % 8):
        raise DecodeError("gaps with surplus bits")
    starts = np.cumsum(widths) - widths
    at = starts >> 3
    padded = np.concatenate([packed, np.zeros(4, np.uint8)])
    window = np.zeros(widths.size, np.int64)
    for place in range(4):
        window = window << 8 | padded[at + place]
    low: Places = window >> (32 - (starts & 7) - widths) & ((1 << widths) - 1)
    return low
