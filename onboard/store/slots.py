"""The slots of the trust record, and the vote among its copies. Pure; `record` reads and writes them.

A copy is a file of two slots that are written in turn: the write with sequence n goes into slot (n + 1) % 2, so the
write before it stays whole while it is made. There are three copies, in files of their own.

    offset  size  field of a slot
    0       4     magic "SKR2"
    4       8     sequence of the write, big-endian; the higher one is newer
    12      4     length of the record
    16      4     CRC-32 over everything else in the slot
    20      12    zero
    32      n     the record, `facts`; then zeros to the end

The vote: the newest slot whose sum is right, wherever it is, is the record. It must be: a write counts once two copies
have it, and it may be that only one of them is left. Where two slots of one sequence differ, which takes a disk that
lies, the one in more copies wins. Where no copy of a slot is whole, the three are put together bit by bit, two against
one, and the result counts if its sum is right: so flips in all three copies cost nothing, as long as no two hit the
same bit.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SLOT_SIZE = 8192
NUM_SLOTS = 2
COPY_SIZE = NUM_SLOTS * SLOT_SIZE
NUM_COPIES = 3
_MAGIC = b"SKR2"
_HEADER = struct.Struct(">4sQII12x")
DATA_SIZE_MAX = SLOT_SIZE - _HEADER.size
_SUM_AT, _SUM_END = 16, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What was wrong with the copies of a record.

    Attributes:
        num_lost: copies that were not there, were too short, or could not be read.
        num_damaged: slots with a wrong sum: flipped, zeroed, torn by a cut.
        num_behind: slots that were whole but not the newest: a cut came between two copies.
        num_failed: copies that could not be written, and are left alone in this life.
    """

    num_lost: int = 0
    num_damaged: int = 0
    num_behind: int = 0
    num_failed: int = 0

    def __add__(self, other: "Damage") -> "Damage":
        return Damage(
            num_lost=self.num_lost + other.num_lost,
            num_damaged=self.num_damaged + other.num_damaged,
            num_behind=self.num_behind + other.num_behind,
            num_failed=self.num_failed + other.num_failed,
        )

    @property
    def num_bad(self) -> int:
        """Slots that no power cut explains, or hardly: a cut tears one at most."""
        return NUM_SLOTS * self.num_lost + self.num_damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the copies say.

    Attributes:
        sequence: of the newest write.
        data: the record as it was written.
        image: how each copy must look.
        stale: for each copy, None if it is lost, else the numbers of the slots that do not look so.
        damage: the same in numbers.
    """

    sequence: int
    data: bytes
    image: bytes
    stale: tuple[tuple[int, ...] | None, ...]
    damage: Damage


def slot_of(sequence: int) -> int:
    """Return which slot the write with that sequence goes into."""
    return (sequence + 1) % NUM_SLOTS


def encode_slot(sequence: int, data: bytes) -> bytes:
    """Return a slot."""
    assert len(data) <= DATA_SIZE_MAX
    slot = bytearray(SLOT_SIZE)
    slot[_HEADER.size : _HEADER.size + len(data)] = data
    _HEADER.pack_into(slot, 0, _MAGIC, sequence, len(data), 0)
    slot[_SUM_AT:_SUM_END] = zlib.crc32(slot).to_bytes(4, "big")
    return bytes(slot)


def decode_slot(slot: bytes, number: int) -> tuple[int, bytes] | None:
    """Return sequence and record of a slot; None if it is damaged, or not the slot with that number."""
    if len(slot) != SLOT_SIZE:
        return None
    magic, sequence, length, checksum = _HEADER.unpack_from(slot)
    if magic != _MAGIC or length > DATA_SIZE_MAX or slot_of(sequence) != number:
        return None
    if zlib.crc32(slot[:_SUM_AT] + bytes(4) + slot[_SUM_END:]) != checksum:
        return None
    return sequence, slot[_HEADER.size : _HEADER.size + length]


def first_image(data: bytes) -> tuple[int, bytes]:
    """Return sequence and bytes of a new copy: the record, twice."""
    return NUM_SLOTS, encode_slot(1, data) + encode_slot(2, data)


def vote(copies: Sequence[bytes | None]) -> Verdict | None:
    """Return what the copies of a record say; None if nothing whole can be made of them.

    Args:
        copies: what was read of each; None for one that is lost.
    """
    whole = [copy if copy is not None and len(copy) == COPY_SIZE else None for copy in copies]
    found = [_elect(number, whole) for number in range(NUM_SLOTS)]
    elected = [each for each in found if each is not None]
    if not elected:
        return None
    sequence, data = max(elected)
    older = found[slot_of(sequence - 1)]
    if older is None or older[0] != sequence - 1:
        older = sequence - 1, data  # nobody knows it any more, and nobody misses it
    slots = {slot_of(each): encode_slot(each, facts) for each, facts in ((sequence, data), older)}
    stale = tuple(
        None if copy is None else tuple(n for n in range(NUM_SLOTS) if _part(copy, n) != slots[n]) for copy in whole
    )
    num_wrong = sum(len(numbers) for numbers in stale if numbers is not None)
    num_damaged = sum(
        decode_slot(_part(copy, number), number) is None
        for copy, numbers in zip(whole, stale, strict=True)
        if copy is not None
        for number in numbers or ()
    )
    return Verdict(
        sequence=sequence,
        data=data,
        image=b"".join(slots[number] for number in range(NUM_SLOTS)),
        stale=stale,
        damage=Damage(
            num_lost=sum(copy is None for copy in whole),
            num_damaged=num_damaged,
            num_behind=num_wrong - num_damaged,
        ),
    )


def ruined(sequence: int, data: bytes) -> Verdict:
    """Return the verdict on copies of which nothing can be used, of a record that is known all the same."""
    slots = {slot_of(each): encode_slot(each, data) for each in (sequence, sequence - 1)}
    return Verdict(
        sequence=sequence,
        data=data,
        image=b"".join(slots[number] for number in range(NUM_SLOTS)),
        stale=(None,) * NUM_COPIES,
        damage=Damage(num_lost=NUM_COPIES),
    )


def _elect(number: int, copies: Sequence[bytes | None]) -> tuple[int, bytes] | None:
    """What the copies of one slot say: the newest whole one, or what they make together."""
    parts = [_part(copy, number) for copy in copies if copy is not None]
    votes = Counter(entry for entry in (decode_slot(part, number) for part in parts) if entry is not None)
    together = decode_slot(_majority(parts), number) if len(parts) == NUM_COPIES else None
    if together is not None:
        votes[together] += 0
    return max(votes, key=lambda entry: (entry[0], votes[entry]), default=None)


def _majority(parts: Sequence[bytes]) -> bytes:
    """Each bit as two of three have it."""
    a, b, c = (int.from_bytes(part, "big") for part in parts)
    return (a & b | a & c | b & c).to_bytes(SLOT_SIZE, "big")


def _part(copy: bytes, number: int) -> bytes:
    return copy[number * SLOT_SIZE : (number + 1) * SLOT_SIZE]
