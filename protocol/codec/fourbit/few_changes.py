"""Four-bit codes of which few changed: where, and by how much, rather than a stream of which most values are 0.

After a light fine-tune one code in five hundred differs. Which one it is, both ends know something of: codes in the
middle change more often than those at the rim, codes of a small scale more often than those of a large one. A context
costs a byte or two here (`gaps`), so there can be a few: the bucket of a group, by its class as in `grouped`, times the
*lot* of a code, by what it was predicted to be. A lot is one of four; the piece says which codes are in which.

    4       the lots of the codes 0 .. 15: two bits each, lowest code in the lowest bits, lowest byte first
    2       of which codes a difference is said with its sign turned round, a bit each, likewise

Streams: the bytes of `gaps`, a sequence for each bucket and lot, bucket by bucket; then the differences modulo 16 of
all that changed, in the same order. The codes of a sequence are in the order of the groups, and in a group in that of
its bytes, the low nibble first.

Where codes of a lot are is found by counting them, group by group: all work but that is for what changed. Pure.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import gaps, streams
from protocol.codec.fourbit import cells
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

NUM_LOTS = 4
WIDTH_MAX = 127  # bytes of a row: counts of a group's codes stay below 256
RATE_MAX = 1 / 16  # of what may change: beyond, streams of all values do better
_HEAD_SIZE = 6
_CHUNK = 16_384  # changes that are looked up at once: their rows are unpacked
_PAIR_FIELDS = np.uint64(0x0303030303030303)
_SUM_BYTES = np.uint64(0x0101010101010101)

Bytes = NDArray[np.uint8]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Lots:
    """Which lot each code is in, and whether its difference is turned round.

    Attributes:
        lot_of: uint8 of 16 codes, each below NUM_LOTS.
        is_turned: 0 or 1 for each code.
    """

    lot_of: Bytes
    is_turned: Bytes

    def encode(self) -> bytes:
        """Return the six bytes."""
        lots = sum(int(lot) << 2 * code for code, lot in enumerate(self.lot_of))
        turned = sum(int(bit) << code for code, bit in enumerate(self.is_turned))
        return lots.to_bytes(4, "little") + turned.to_bytes(2, "little")

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, bytes]:
        """Read lots from the front; return them and the rest.

        Raises:
            DecodeError: they are cut off.
        """
        if len(data) < _HEAD_SIZE:
            raise DecodeError(f"lots of codes in {len(data)} bytes")
        codes = np.arange(16)
        lots, turned = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:_HEAD_SIZE], "little")
        lot_of = (lots >> 2 * codes & 3).astype(np.uint8)
        return cls(lot_of, (turned >> codes & 1).astype(np.uint8)), data[_HEAD_SIZE:]

    def counts(self, rows: Bytes) -> NDArray[np.int64]:
        """Return how many codes of each lot are in each row: (lots, rows)."""
        one = np.uint8(1) << 2 * self.lot_of
        pairs = (one[None, :] + one[:, None]).astype(np.uint8).tobytes()  # of bytes: two bits a lot, at most 2 in each
        counted = np.frombuffer(rows.tobytes().translate(pairs), np.uint8)
        if rows.shape[1] % 8 == 0:
            words = counted.view(np.uint64).reshape(rows.shape[0], -1)
            return np.stack([_sum_words(words >> np.uint64(2 * lot) & _PAIR_FIELDS) for lot in range(NUM_LOTS)])
        table = counted.reshape(rows.shape)
        return np.stack([(table >> np.uint8(2 * lot) & 3).sum(axis=1, dtype=np.int64) for lot in range(NUM_LOTS)])


@dataclass(frozen=True, slots=True)
class _Sequences:
    """The sequences of codes: for each bucket and lot.

    Attributes:
        groups: of each sequence: its bucket's.
        ends: of each sequence: how many of its codes come up to the end of each group.
        lots: of each sequence.
    """

    groups: list[Index]
    ends: list[NDArray[np.int64]]
    lots: list[int]

    @classmethod
    def of(cls, buckets: list[Index], counts: NDArray[np.int64]) -> Self:
        pairs = [(groups, lot) for groups in buckets for lot in range(NUM_LOTS)]
        return cls(
            [groups for groups, _ in pairs],
            [np.cumsum(counts[lot][groups]) for groups, lot in pairs],
            [lot for _, lot in pairs],
        )

    @property
    def lengths(self) -> list[int]:
        return [int(ends[-1]) for ends in self.ends]


def encode(differences: Bytes, predicted: Bytes, buckets: list[Index], lots: Lots, *, level: int) -> list[Stream]:
    """Return the two streams.

    Args:
        differences: modulo 16, two in a byte; a row for each group.
        predicted: codes, likewise.
        buckets: groups of each, rising, none empty; each group in one.
        lots: of the codes.
        level: see `streams.encode`.
    """
    sequences = _Sequences.of(buckets, lots.counts(predicted))
    groups, columns = np.nonzero(cells.nibbles_of(differences.reshape(-1)).reshape(-1, 2 * differences.shape[1]))
    rows = _codes_of(predicted, groups)
    lot_rows = lots.lot_of[rows]
    codes = rows[np.arange(groups.size), columns]
    lot = lots.lot_of[codes]
    before = (lot_rows == lot[:, None]) & (np.arange(rows.shape[1]) < columns[:, None])
    rank = before.sum(axis=1, dtype=np.int64)
    said = _nibbles_at(differences, groups, columns)
    said = np.where(lots.is_turned[codes] == 1, -said, said) & np.uint8(15)
    places, values = [], [said[:0]]
    for members, ends, own in zip(sequences.groups, sequences.ends, sequences.lots, strict=True):
        place_of = np.full(predicted.shape[0], -1, np.int64)
        place_of[members] = np.concatenate([[0], ends[:-1]])
        mine = (lot == own) & (place_of[groups] >= 0)
        places.append(place_of[groups[mine]] + rank[mine])
        values.append(said[mine])
    packed = gaps.encode(places, sequences.lengths)
    return [
        Stream(coder=Coder.RAW, count=len(packed), data=packed),
        streams.encode(np.concatenate(values), level=level),
    ]


def decode(packed: Stream, values: Stream, predicted: Bytes, buckets: list[Index], lots: Lots) -> Bytes:
    """Return the codes, two in a byte; undoes `encode`. What was predicted is used up.

    Args:
        packed: the first stream.
        values: the second one.
        predicted: codes; rows no longer than WIDTH_MAX.
        buckets: as for `encode`.
        lots: likewise.

    Raises:
        DecodeError: the streams are not those of such codes.
    """
    if packed.coder is not Coder.RAW or packed.count != len(packed.data):
        raise DecodeError(f"places of changes by coder {packed.coder.name}")
    sequences = _Sequences.of(buckets, lots.counts(predicted))
    places = gaps.decode(packed.data, sequences.lengths, most=int(2 * predicted.size * RATE_MAX))
    differences = streams.decode(values, np.uint8, sum(each.size for each in places))
    if differences.size and differences.max() > 15:
        raise DecodeError(f"a difference of {differences.max()} where four bits belong")
    done = 0
    found = [_Changes.none()]
    for number, each in enumerate(places):
        found.append(_look_up(sequences, number, each, differences[done : done + each.size]))
        done += each.size
    changes = _Changes.joined(found)
    flat = predicted.reshape(-1)
    nibbles = np.concatenate(
        [changes.slice(start).nibbles(predicted, lots) for start in range(0, changes.groups.size, _CHUNK)]
        or [np.empty((2, 0), np.int64)],
        axis=1,
    )
    _add(flat, *nibbles)
    return predicted


@dataclass(frozen=True, slots=True)
class _Changes:
    """What changed.

    Attributes:
        groups: of each change.
        ranks: which of the codes of its lot in the group.
        lots: of each.
        differences: as they are said.
    """

    groups: Index
    ranks: NDArray[np.int64]
    lots: Bytes
    differences: Bytes

    @classmethod
    def none(cls) -> Self:
        return cls(np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint8))

    @classmethod
    def joined(cls, parts: list["_Changes"]) -> Self:
        return cls(
            np.concatenate([part.groups for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.lots for part in parts]),
            np.concatenate([part.differences for part in parts]),
        )

    def slice(self, start: int) -> "_Changes":
        chunk = slice(start, start + _CHUNK)
        return _Changes(self.groups[chunk], self.ranks[chunk], self.lots[chunk], self.differences[chunk])

    def nibbles(self, predicted: Bytes, lots: Lots) -> NDArray[np.int64]:
        """Return which nibbles change, counted from the first, and what has to be added to each."""
        rows = _codes_of(predicted, self.groups)
        is_mine = np.frombuffer(rows.tobytes().translate(_table(lots.lot_of)), np.uint8).reshape(rows.shape)
        is_mine = is_mine == self.lots[:, None]
        columns = (np.cumsum(is_mine, axis=1, dtype=np.uint8) == (self.ranks + 1).astype(np.uint8)[:, None]).argmax(
            axis=1
        )
        codes = rows[np.arange(columns.size), columns]
        turned = lots.is_turned[codes] == 1
        added = np.where(turned, -self.differences, self.differences) & np.uint8(15)
        return np.stack([self.groups * rows.shape[1] + columns, added.astype(np.int64)])


def _look_up(sequences: _Sequences, number: int, places: NDArray[np.int64], differences: Bytes) -> _Changes:
    ends = sequences.ends[number]
    at = np.searchsorted(ends, places, side="right")
    starts = np.where(at > 0, ends[at - 1], 0)
    lots = np.full(places.size, sequences.lots[number], np.uint8)
    return _Changes(sequences.groups[number][at], places - starts, lots, differences)


def _add(flat: Bytes, places: NDArray[np.int64], added: NDArray[np.int64]) -> None:
    """Add to nibbles, modulo 16; none comes twice, but both of a byte may come."""
    for is_high in (0, 1):
        mine = (places & 1) == is_high
        at, more = places[mine] >> 1, added[mine].astype(np.uint8)
        old = flat[at]
        if is_high:
            flat[at] = old + (more << np.uint8(4))
        else:
            flat[at] = (old & np.uint8(0xF0)) | ((old + more) & np.uint8(0x0F))


def _codes_of(predicted: Bytes, groups: Index) -> Bytes:
    """Return the codes of some groups, a row for each."""
    return cells.nibbles_of(predicted[groups].reshape(-1)).reshape(groups.size, 2 * predicted.shape[1])


def _nibbles_at(rows: Bytes, groups: Index, columns: Index) -> Bytes:
    nibbles: Bytes = rows[groups, columns >> 1] >> (4 * (columns & 1)).astype(np.uint8)
    nibbles &= np.uint8(15)
    return nibbles


def _sum_words(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the sum of the bytes of each row of words; below 256."""
    total = words[:, 0].copy()
    for column in range(1, words.shape[1]):
        total += words[:, column]
    return (total * _SUM_BYTES >> np.uint64(56)).astype(np.int64)


def _table(lot_of: Bytes) -> bytes:
    return lot_of.tobytes() + bytes(240)
