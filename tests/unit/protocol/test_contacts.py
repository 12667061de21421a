"""The rule of contact numbers: whatever a ground does by it, a satellite that is behind finds it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.contacts import (
    CONTACT_MAX,
    STEPS,
    WINDOW,
    found_from_anywhere,
    is_found,
    later_contacts,
    next_contact,
    skip,
)
from protocol.link_keys import CONTACTS_PER_BATCH, contact_key_of_batch, derive_batch_key, derive_contact_key

NUMBERS = st.integers(0, 2**31)


@given(NUMBERS, st.sampled_from(STEPS))
def test_what_is_looked_for_is_ahead_and_bounded(current, step):
    numbers = list(later_contacts(current, step))

    assert len(numbers) == WINDOW or numbers[-1] > CONTACT_MAX - step
    assert all(number > current and number % step == 0 for number in numbers)


@given(NUMBERS, st.integers(0, 300_000))
def test_both_ends_agree_on_what_is_found(current, ahead):
    looked_for = {number for step in STEPS for number in later_contacts(current, step)}

    assert is_found(current + ahead, current) == (current + ahead in looked_for)


@given(NUMBERS, st.integers(0, 400))
def test_a_ground_that_nobody_hears_stays_where_it_is_found(heard, num_contacts):
    number = heard
    for _ in range(num_contacts):
        following = next_contact(number, heard)
        assert following >= number
        number = following

    assert number == heard or is_found(number, heard)


@given(NUMBERS)
def test_a_ground_that_is_heard_counts_by_one(number):
    assert next_contact(number, number) == number + 1


def test_where_nothing_further_is_found_a_number_lasts():
    number, heard = 0, 0
    for _ in range(1000):
        number = next_contact(number, heard)

    assert number == 32 * 4096  # half of what would be found
    assert next_contact(number, number) == number + 1  # once it is heard


@given(NUMBERS, st.integers(1, 200_000))
def test_a_ground_that_is_behind_catches_up_by_multiples(ground, behind):
    satellite, tries = ground + behind, 0
    while ground <= satellite:
        ground, tries = skip(ground, 64 if tries < 8 else 4096), tries + 1

    assert is_found(ground, satellite)
    assert tries <= 8 + 50


def test_numbers_end_and_nothing_is_looked_for_after_the_last():
    assert list(later_contacts(CONTACT_MAX - 2, 1)) == [CONTACT_MAX - 1, CONTACT_MAX]
    assert list(later_contacts(CONTACT_MAX, 4096)) == []


def test_keys_of_contacts_say_nothing_of_each_other():
    keys = {derive_contact_key(bytes(32), number) for number in range(1000)}

    assert len(keys) == 1000


@pytest.mark.parametrize("contact", [0, 63, 64, 4096 + 5])
def test_a_batch_key_makes_the_keys_of_its_contacts_and_of_no_others(contact):
    batch = contact // CONTACTS_PER_BATCH

    assert contact_key_of_batch(derive_batch_key(bytes(32), batch), contact) == derive_contact_key(bytes(32), contact)
    assert contact_key_of_batch(derive_batch_key(bytes(32), batch + 1), contact) != derive_contact_key(
        bytes(32), contact
    )


@given(st.integers(0, 64 * 2**24), st.integers(0, 64 * 2**24))
def test_what_is_found_from_anywhere_is_found_by_who_has_forgotten_all(number, current):
    anywhere = found_from_anywhere(number)
    assert anywhere >= number
    assert found_from_anywhere(anywhere) == anywhere
    assert anywhere == number or is_found(anywhere, min(current, anywhere - 1))
    assert is_found(anywhere, 0)


@given(NUMBERS, st.integers(0, 1000), st.integers(1, 60_000))
def test_who_falls_back_from_where_it_was_heard_is_found_again(heard, num_silent, fallen):
    number = heard
    for _ in range(num_silent):
        number = next_contact(number, heard)
    back = max(0, heard - fallen)
    for _ in range(16):  # it was not heard again: multiples come soon
        if is_found(number, back):
            return
        number = skip(number, 4096)
    raise AssertionError(f"{number} is not found from {back}")
