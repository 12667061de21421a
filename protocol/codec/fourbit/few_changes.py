"""Four-bit codes of which few changed: where, and by how much, rather than a stream of which most values are 0.

After a light fine-tune one code in five hundred differs. Which one it is, both ends know something of: codes in the
middle change more often than those at the rim, codes of a small scale more often than those of a large one. A context
costs a byte or two here (`gaps`), so there can be a few: the bucket of a group, by its class as in `grouped`, times the
*lot* of a code, by what it was predicted to be. A lot is one of four; the piece says which codes are in which.

    4       the lots of the codes 0 .. 15: two bits each, lowest code in the lowest bits, lowest byte first
    2       of which codes a difference is said with its sign turned round, a bit each, likewise

Streams: the bytes of `gaps`, a sequence for each lot and bucket, lot by lot; then the differences modulo 16 of
all that changed, in the same order. The codes of a sequence are in the order of the groups, and in a group in that of
its bytes, the low nibble first.

Where codes of a lot are is found by counting them, group by group: all work but that is for what changed. Pure.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protocol.codec import gaps, streams
from protocol.codec.fourbit import cells, grouped
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

NUM_LOTS = 4
WIDTH_MAX = 127  # bytes of a row: counts of a group's codes stay below 256
RATE_MAX = 1 / 16  # of what may change: beyond, streams of all values do better
_HEAD_SIZE = 6
_CHUNK = 16_384  # changes that are looked up at once: their rows are unpacked

_EVERY_BYTE = np.uint64(0x0101010101010101)

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

    @property
    def number(self) -> int:
        """How many there are, if none up to the last is empty."""
        return int(self.lot_of.max()) + 1

    def marks(self, rows: Bytes) -> Bytes:
        """Return which codes each byte of rows holds: bit 2 n says that the low one is of lot n, 2 n + 1 the high."""
        low = np.uint8(1) << 2 * self.lot_of
        table = (low[None, :] | low[:, None] << 1).astype(np.uint8).tobytes()
        return np.frombuffer(rows.tobytes().translate(table), np.uint8).reshape(rows.shape)

    def counts(self, marks: Bytes) -> Bytes:
        """Return how many codes of each lot are in each row: (lots, rows)."""
        words = marks.view(np.uint64) if marks.shape[1] % 8 == 0 else marks
        counts = np.zeros((self.number, marks.shape[0]), np.uint8)
        counts[0] = 2 * marks.shape[1]
        for column in np.ascontiguousarray(words.T):  # runs, not a few words of each row, are what numpy is quick with
            for lot in range(1, self.number):
                mask = np.frombuffer(bytes([3 << 2 * lot]) * words.itemsize, words.dtype)[0]
                found = np.bitwise_count(column & mask)
                counts[lot] += found
                counts[0] -= found
        return counts


@dataclass(frozen=True, slots=True)
class _Sequences:
    """The sequences of codes, one after another: lot by lot, bucket by bucket.

    Attributes:
        groups: all of them, bucket by bucket.
        ends: for each lot and each of these groups, where its codes end among those of all sequences.
        starts: of each sequence, among the same.
        lengths: of each.
    """

    groups: Index
    ends: NDArray[np.int32]
    starts: list[int]
    lengths: list[int]

    @classmethod
    def of(cls, buckets: list[Index], counts: Bytes) -> Self:
        groups = buckets[0] if len(buckets) == 1 else np.concatenate(buckets)
        ordered = counts if len(buckets) == 1 else np.take(counts, groups, axis=1)
        ends = np.cumsum(ordered, dtype=np.int32)
        last = np.cumsum([bucket.size for bucket in buckets])
        bounds = ends[(last + groups.size * np.arange(counts.shape[0])[:, None] - 1).reshape(-1)].tolist()
        starts = [0, *bounds[:-1]]
        lengths = [end - start for start, end in zip(starts, bounds, strict=True)]
        return cls(groups, ends, starts, lengths)


def encode(differences: Bytes, predicted: Bytes, buckets: list[Index], lots: Lots, *, level: int) -> list[Stream]:
    """Return the two streams.

    Args:
        differences: modulo 16, two in a byte; a row for each group.
        predicted: codes, likewise.
        buckets: groups of each, rising, none empty; each group in one.
        lots: of the codes.
        level: see `streams.encode`.
    """
    sequences = _Sequences.of(buckets, lots.counts(lots.marks(predicted)))
    groups, columns = np.nonzero(cells.nibbles_of(differences.reshape(-1)).reshape(-1, 2 * differences.shape[1]))
    rows = _codes_of(predicted, groups)
    codes = rows[np.arange(groups.size), columns]
    lot = lots.lot_of[codes]
    before = (lots.lot_of[rows] == lot[:, None]) & (np.arange(rows.shape[1]) < columns[:, None])
    said = _nibbles_at(differences, groups, columns)
    said = np.where(lots.is_turned[codes] == 1, -said, said) & np.uint8(15)
    place_of = np.empty(predicted.shape[0], np.int64)
    place_of[sequences.groups] = np.arange(predicted.shape[0])
    at = lot.astype(np.int64) * predicted.shape[0] + place_of[groups]
    everywhere = np.where(at > 0, sequences.ends[at - 1], 0) + before.sum(axis=1)
    order = np.argsort(everywhere, kind="stable")
    cuts = np.searchsorted(everywhere[order], sequences.starts[1:])
    places = [part - start for part, start in zip(np.split(everywhere[order], cuts), sequences.starts, strict=True)]
    packed = gaps.encode(places, sequences.lengths)
    return [
        Stream(coder=Coder.RAW, count=len(packed), data=packed),
        streams.encode(said[order], level=level),
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
    marks = lots.marks(predicted)
    sequences = _Sequences.of(buckets, lots.counts(marks))
    places = gaps.decode(packed.data, sequences.lengths, most=int(2 * predicted.size * RATE_MAX))
    differences = streams.decode(values, np.uint8, sum(each.size for each in places))
    if differences.size and differences.max() > 15:
        raise DecodeError(f"a difference of {differences.max()} where four bits belong")
    everywhere = np.concatenate([each + start for each, start in zip(places, sequences.starts, strict=True)])
    flat = predicted.reshape(-1)
    for start in range(0, everywhere.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        nibbles = _look_up(everywhere[chunk].astype(np.int32), sequences, marks)
        _add(flat, nibbles, differences[chunk], lots)
    return predicted


def _look_up(everywhere: NDArray[np.int32], sequences: _Sequences, marks: Bytes) -> NDArray[np.int64]:
    """Return which nibbles are at some rising places among all sequences, counted from the first."""
    at = np.searchsorted(sequences.ends, everywhere, side="right")
    before = np.take(sequences.ends, at - 1)
    before[: np.searchsorted(at, 1)] = 0
    ranks = (everywhere - before).astype(np.uint8)
    lot, place = np.divmod(at, sequences.groups.size)
    groups = sequences.groups[place]
    rows = grouped.take_rows(marks, groups)
    rows >>= (2 * lot).astype(np.uint8)[:, None]
    rows &= np.uint8(3)
    ends = _sums(rows - (rows >> np.uint8(1)))
    columns = (ends > ranks[:, None]).argmax(axis=1)
    pairs = rows[np.arange(columns.size), columns]
    is_last = np.take(ends, np.arange(0, ends.size, ends.shape[1]) + columns) - ranks == 1  # of this byte
    is_high = np.where(pairs == 3, is_last, pairs == 2)
    nibbles: NDArray[np.int64] = 2 * (groups * rows.shape[1] + columns) + is_high
    return nibbles


def _sums(table: Bytes) -> Bytes:
    """Return the sums of each row up to each column, below 256: eight columns at a time, by one product."""
    missing = -table.shape[1] % 8
    if missing:
        table = np.pad(table, ((0, 0), (0, missing)))
    words = table.view("<u8") * _EVERY_BYTE
    for word in range(1, words.shape[1]):
        words[:, word] += (words[:, word - 1] >> np.uint64(56)) * _EVERY_BYTE
    return words.astype("<u8", copy=False).view(np.uint8)


def _add(flat: Bytes, places: NDArray[np.int64], said: Bytes, lots: Lots) -> None:
    """Add differences to nibbles, modulo 16; none comes twice, but both of a byte may come."""
    for is_high in (0, 1):
        mine = (places & 1) == is_high
        at, more = places[mine] >> 1, said[mine]
        old = flat[at]
        codes = old >> 4 if is_high else old & np.uint8(15)
        new = codes + np.where(lots.is_turned[codes] == 1, -more, more) & np.uint8(15)
        flat[at] = old & np.uint8(15) | new * np.uint8(16) if is_high else old & np.uint8(0xF0) | new


def _codes_of(predicted: Bytes, groups: Index) -> Bytes:
    """Return the codes of some groups, a row for each."""
    return cells.nibbles_of(predicted[groups].reshape(-1)).reshape(groups.size, 2 * predicted.shape[1])


def _nibbles_at(rows: Bytes, groups: Index, columns: Index) -> Bytes:
    nibbles: Bytes = rows[groups, columns >> 1] >> (4 * (columns & 1)).astype(np.uint8)
    nibbles &= np.uint8(15)
    return nibbles
