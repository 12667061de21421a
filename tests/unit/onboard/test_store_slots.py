"""The vote among the copies of the trust record: what flips, torn slots and lost copies may cost, which is nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.store.slots import (
    COPY_SIZE,
    DATA_SIZE_MAX,
    NUM_COPIES,
    SLOT_SIZE,
    Damage,
    decode_slot,
    encode_slot,
    first_image,
    slot_of,
    vote,
)

OLD, NEW, NEXT = b"old" * 40, b"new" * 50, b"next" * 30


def image_of(*writes, begun=OLD):
    """A copy after some writes."""
    sequence, image = first_image(begun)
    slots = [image[:SLOT_SIZE], image[SLOT_SIZE:]]
    for data in writes:
        sequence += 1
        slots[slot_of(sequence)] = encode_slot(sequence, data)
    return b"".join(slots)


WHOLE = image_of(NEW)  # sequence 3, in slot 0; slot 1 has the old one


def flipped(copy, *bits):
    data = bytearray(copy)
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def test_a_slot_comes_back():
    assert decode_slot(encode_slot(5, NEW), 0) == (5, NEW)
    assert decode_slot(encode_slot(2**40, bytes(DATA_SIZE_MAX)), 1) == (2**40, bytes(DATA_SIZE_MAX))


def test_a_slot_in_the_other_place_or_of_another_length_is_none():
    assert decode_slot(encode_slot(5, NEW), 1) is None
    assert decode_slot(encode_slot(5, NEW)[:-1], 0) is None


def test_equal_copies_agree():
    verdict = vote([WHOLE] * 3)

    assert (verdict.sequence, verdict.data, verdict.image) == (3, NEW, WHOLE)
    assert verdict.stale == ((), (), ())
    assert verdict.damage == Damage()


@given(st.integers(0, 8 * COPY_SIZE - 1), st.integers(0, NUM_COPIES - 1))
def test_a_flipped_bit_anywhere_is_found_and_outvoted(bit, number):
    copies = [WHOLE] * 3
    copies[number] = flipped(WHOLE, bit)
    verdict = vote(copies)

    assert (verdict.data, verdict.image) == (NEW, WHOLE)
    assert verdict.stale[number] == (bit // 8 // SLOT_SIZE,)
    assert verdict.damage == Damage(num_damaged=1)


@given(st.lists(st.integers(0, 8 * COPY_SIZE - 1), min_size=3, max_size=60, unique=True))
def test_flips_in_all_copies_cost_nothing_if_no_two_hit_the_same_bit(bits):
    verdict = vote([flipped(WHOLE, *bits[number::3]) for number in range(NUM_COPIES)])

    assert (verdict.data, verdict.image) == (NEW, WHOLE)


def test_two_whole_copies_lost_cost_nothing():
    verdict = vote([None, b"", WHOLE])

    assert verdict.data == NEW
    assert verdict.stale == (None, None, ())
    assert verdict.damage == Damage(num_lost=2)


@pytest.mark.parametrize("bad", [bytes(COPY_SIZE), b"\xff" * COPY_SIZE, WHOLE[:-1]])
def test_a_zeroed_erased_or_short_copy_is_outvoted(bad):
    verdict = vote([WHOLE, bad, WHOLE])

    assert verdict.data == NEW
    assert verdict.damage.num_bad == 2


@pytest.mark.parametrize("num_written", [1, 2])
def test_the_newest_wins_however_few_copies_have_it(num_written):
    after = image_of(NEW, NEXT)
    verdict = vote([after] * num_written + [WHOLE] * (3 - num_written))

    assert (verdict.sequence, verdict.data) == (4, NEXT)
    assert verdict.stale == ((),) * num_written + ((1,),) * (3 - num_written)
    assert verdict.damage == Damage(num_behind=3 - num_written)


def test_a_torn_slot_leaves_the_record_before_it():
    torn = WHOLE[:SLOT_SIZE] + encode_slot(4, NEXT)[:4096] + WHOLE[SLOT_SIZE + 4096 :]
    torn = torn[: SLOT_SIZE + 50] + bytes(30) + torn[SLOT_SIZE + 80 :]
    verdict = vote([torn, WHOLE, WHOLE])

    assert (verdict.sequence, verdict.data) == (3, NEW)
    assert verdict.stale == ((1,), (), ())


def test_two_copies_outvote_one_that_says_something_else_of_the_same_write():
    other = image_of(NEXT)

    assert vote([other, WHOLE, WHOLE]).data == NEW
    assert vote([WHOLE, other, other]).data == NEXT


def test_the_slot_that_nobody_has_any_more_is_made_of_the_newest():
    verdict = vote([WHOLE[:SLOT_SIZE] + bytes(SLOT_SIZE)] * 3)

    assert decode_slot(verdict.image[SLOT_SIZE:], 1) == (2, NEW)
    assert vote([verdict.image] * 3).data == NEW


def test_nothing_whole_is_no_verdict():
    assert vote([None] * 3) is None
    assert vote([bytes(COPY_SIZE)] * 3) is None
    assert vote([random.Random(1).randbytes(COPY_SIZE)] * 3) is None
