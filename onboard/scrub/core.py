"""Finding and undoing bit flips, without a disk: hashes of leaves say which block is bad, parity what it was.

A **leaf** is a block of 4 KiB; its hash is the first 8 bytes of its SHA-256. Hashes of that length only locate: no
repair counts before the whole file has the SHA-256 that was signed. A **group** is 32 blocks that lie far apart, and
a parity block, so that the exclusive or of all 33 is zero.

What is wrong with a group shows twice: the hashes say which of its blocks are bad, and the exclusive or of all that is
there (the **syndrome**) has a one wherever an odd number of them was flipped. One bad block: flip it there. Several:
each bad block was flipped in some of those places, and its hash says in which. Where two flips cancel out, one block
at a time is searched for a single flipped bit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, islice

LEAF_SIZE = 4096
HASH_SIZE = 8
GROUP_SIZE = 32  # data blocks for one parity block: 3.1 %
_SUSPECTS_MAX = 64  # places in a syndrome; more are a burst
_TRIALS_MAX = 2000  # for each bad block: all choices among ten places, three of twenty; some milliseconds
_HASH_BLOCK = 64  # SHA-256 takes its input in pieces of that size


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What became of a group.

    Attributes:
        blocks: bytes of those members that were bad and are right again.
        lost: members that stay bad.
        num_searched: blocks that were searched bit by bit.
    """

    blocks: Mapping[int, bytes]
    lost: tuple[int, ...]
    num_searched: int = 0


def leaf_hash(data: bytes | bytearray | memoryview) -> bytes:
    """The hash of a leaf, which may be shorter than LEAF_SIZE at the end of a file."""
    return hashlib.sha256(data).digest()[:HASH_SIZE]


def solve_group(
    bad: Mapping[int, bytes], hashes: Mapping[int, bytes], syndrome: int, *, searches_max: int = GROUP_SIZE
) -> Solved:
    """Repair what can be repaired of a group.

    Args:
        bad: bytes of its bad members as they are; the last block of a file may be short.
        hashes: of those members as they were.
        syndrome: of the whole group, parity included; see `syndrome_of`.
        searches_max: how many blocks may be searched bit by bit: tenths of a second each.
    """
    left, solved, num_searched = dict(bad), dict[int, bytes](), 0
    unsearched = sorted(left)
    while left:
        found = _next_repair(left, hashes, syndrome)
        while found is None and unsearched and num_searched < searches_max:
            number, num_searched = unsearched.pop(), num_searched + 1
            if number in left and (bit := find_flip(left[number], hashes[number])) is not None:
                found = number, with_flipped(left[number], bit)
        if found is None:
            break
        number, data = found
        syndrome ^= _number(left.pop(number)) ^ _number(data)
        solved[number] = data
    return Solved(blocks=solved, lost=tuple(sorted(left)), num_searched=num_searched)


def syndrome_of(members: Iterable[bytes]) -> int:
    """The exclusive or of blocks; short ones count as padded with zeros."""
    total = 0
    for data in members:
        total ^= _number(data)
    return total


def find_flip(data: bytes, wanted: bytes) -> int | None:
    """Find the one bit whose flipping gives a block the wanted hash; None if there is none.

    What lies before the bit is hashed once: half the work of hashing the whole block for every bit.
    """
    state = hashlib.sha256()
    for start in range(0, len(data), _HASH_BLOCK):
        rest = bytearray(data[start:])
        for bit in range(8 * min(_HASH_BLOCK, len(rest))):
            rest[bit >> 3] ^= 1 << (bit & 7)
            trial = state.copy()
            trial.update(rest)
            if trial.digest()[:HASH_SIZE] == wanted:
                return 8 * start + bit
            rest[bit >> 3] ^= 1 << (bit & 7)
        state.update(data[start : start + _HASH_BLOCK])
    return None


def with_flipped(data: bytes, bit: int) -> bytes:
    """A block with one bit the other way round; bits count from the lowest of the first byte."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def num_flipped(before: bytes, after: bytes) -> int:
    """How many bits differ between two blocks of the same length."""
    return (_number(before) ^ _number(after)).bit_count()


def flipped_bits(before: bytes, after: bytes) -> Iterator[int]:
    """Which bits differ between two blocks of the same length, rising."""
    yield from _places(_number(before) ^ _number(after))


def _next_repair(bad: Mapping[int, bytes], hashes: Mapping[int, bytes], syndrome: int) -> tuple[int, bytes] | None:
    """A bad member and what it was, as the syndrome tells; None if it does not."""
    if len(bad) == 1:
        ((number, before),) = bad.items()
        data = _changed(before, syndrome)
        if data is not None and leaf_hash(data) == hashes[number]:
            return number, data
    for number in sorted(bad):
        data = _without_suspects(bad[number], hashes[number], syndrome)
        if data is not None:
            return number, data
    return None


def _without_suspects(data: bytes, wanted: bytes, syndrome: int) -> bytes | None:
    """Flip some of the places that the syndrome names, few before many, until the hash is right."""
    if syndrome.bit_count() > _SUSPECTS_MAX:
        return None
    places = [place for place in _places(syndrome) if place < 8 * len(data)]
    choices = chain.from_iterable(combinations(places, size) for size in range(1, len(places) + 1))
    for choice in islice(choices, _TRIALS_MAX):
        trial = _changed(data, sum(1 << place for place in choice))
        if trial is not None and leaf_hash(trial) == wanted:
            return trial
    return None


def _changed(data: bytes, mask: int) -> bytes | None:
    """A block with the bits of a mask flipped; None if they lie beyond its end."""
    if mask.bit_length() > 8 * len(data):
        return None
    return (_number(data) ^ mask).to_bytes(len(data), "little")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _places(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
