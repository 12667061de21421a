"""A station is given the keys of its next contacts and no others: by export and orders, readable for nobody else."""

import dataclasses

import pytest

from groundsegment.downlink import Downlink
from groundsegment.errors import KeyStoreError
from groundsegment.stations.letters import LetterKind
from groundsegment.stations.orders import Orders
from groundsegment.stations.post import letter_path
from groundsegment.uplink.wire.link_contacts import LinkContacts
from protocol.contacts import is_found
from protocol.errors import VerificationError
from protocol.link_keys import derive_batch_key, derive_letters_key, unwrap_batch_key, wrap_batch_key
from tests.fakes.depots import IDENTITY
from tests.fakes.stations import Homestead


@pytest.fixture
def homestead(tmp_path):
    with Homestead(tmp_path, "svalbard", "inuvik") as place:
        yield place


def link_of(directory, *, is_answered=True):
    downlink = Downlink(
        station=1,
        satellite="SAT-1",
        identity_public=IDENTITY.public_key().public_bytes_raw(),
        session=b"ground",
    )
    return LinkContacts(directory.depot, "SAT-1", 1, downlink, is_answered=is_answered)


def held(directory):
    return sorted(directory.depot.batches("SAT-1", 1))


def use_up(directory, contact):
    directory.depot.raise_contact("SAT-1", 1, contact)


def test_a_station_is_given_a_few_batches_and_flies_in_them(homestead):
    station = homestead.export("svalbard")
    assert held(station) == [1, 2, 3, 4]

    link = link_of(station)
    link.begin(0.0)

    assert link.number == 64
    assert station.depot.contact_key("SAT-1", 1, 64) == homestead.depot.contact_key("SAT-1", 1, 64)


def test_orders_bring_more_as_contacts_are_used_and_what_is_over_is_forgotten(homestead):
    station = homestead.export("svalbard")
    use_up(station, 3 * 64 + 5)
    homestead.exchange()
    homestead.sync(station)
    assert held(station) == [3, 4]
    homestead.exchange()
    homestead.sync(station)

    assert held(station) == [3, 4, 5, 6]
    homestead.exchange()
    homestead.sync(station)
    assert held(station) == [3, 4, 5, 6]  # no more until these are used


def test_another_export_gives_other_numbers_and_so_does_home(homestead):
    homestead.export("svalbard")
    second = homestead.export("svalbard", to="second")
    assert held(second) == [5, 6, 7, 8]

    assert homestead.depot.usable_contact("SAT-1", 1, 1, 0) == 9 * 64


@pytest.mark.parametrize("heard", [0, 4200])
def test_directories_that_never_flew_take_no_station_out_of_the_satellites_reach(homestead, heard):
    homestead.depot.note_contact_heard("SAT-1", 1, heard)
    last = heard // 64
    for _ in range(18):
        batches = homestead.depot.give_batches("SAT-1", 1, 4)
        assert batches == tuple(range(batches[0], batches[0] + 4))
        assert batches[0] > last
        assert is_found(batches[0] * 64, heard)
        last = batches[-1]
    number = homestead.depot.usable_contact("SAT-1", 1, heard + 1, heard)  # home flies as the station
    assert number // 64 > last
    assert is_found(number, heard)


def test_where_the_satellite_would_find_none_of_the_numbers_that_are_left_the_next_step_is_said(homestead):
    homestead.depot.journal.raise_counter("batch contact SAT-1@1 0", 2**24)
    with pytest.raises(KeyStoreError, match="would find none of the contacts that are left") as caught:
        homestead.export("svalbard")
    assert "station rotate" in caught.value.hint
    with pytest.raises(KeyStoreError, match="would find none"):
        homestead.depot.usable_contact("SAT-1", 1, 1, 0)

    homestead.depot.raise_station_generation("SAT-1", 1)
    assert held(homestead.export("svalbard")) == [1, 2, 3, 4]


def test_what_a_station_says_was_heard_keeps_its_contacts_in_a_row_and_a_new_directory_goes_on_there(homestead):
    homestead.depot.journal.raise_counter("batch contact SAT-1@2 0", 62)
    for number in range(63, 68):
        assert homestead.depot.give_batches("SAT-1", 2, 1, 64 * (number - 3)) == (number,)
    assert homestead.depot.give_batches("SAT-1", 2, 1, 2**31) == (68,)  # a lie leads no further than what was given

    homestead.depot.journal.raise_counter("batch contact SAT-1@1 0", 62)
    station = homestead.export("svalbard")
    use_up(station, 66 * 64)
    station.depot.note_contact_heard("SAT-1", 1, 66 * 64)
    homestead.sync(station)
    homestead.exchange()
    homestead.sync(station)
    assert held(station) == [66, 67, 68, 69]

    second = homestead.export("svalbard", to="second")
    assert held(second) == [70, 71, 72, 73]
    assert second.depot.contact_heard("SAT-1", 1) == 66 * 64


def test_a_station_that_has_used_up_its_keys_says_so_and_what_to_do(homestead):
    station = homestead.export("svalbard")
    use_up(station, 5 * 64 - 1)
    station.depot.note_contact_heard("SAT-1", 1, 5 * 64 - 1)

    with pytest.raises(KeyStoreError, match="has used up the keys") as caught:
        link_of(station).begin(0.0)
    assert "station sync" in caught.value.hint
    with pytest.raises(KeyStoreError):
        link_of(station, is_answered=False).begin(0.0)


def test_a_station_that_nobody_hears_keeps_its_last_contact(homestead):
    station = homestead.export("svalbard")
    for _ in range(80):
        link = link_of(station)
        link.begin(0.0)

    assert link.number == 4 * 64
    now = 0.0
    for _ in range(20):
        now += 20.0
        link.look(now)
    assert link.number == 4 * 64


def test_a_mirror_reads_no_key_of_a_contact(homestead):
    station = homestead.export("svalbard")
    homestead.exchange()
    keys = station.depot.batches("SAT-1", 1)
    data = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.ORDERS).read_bytes()

    assert len(Orders.open(data, station.key).batches) == 4
    for batch, key in keys.items():
        assert key.hex().encode() not in data
        assert homestead.depot.contact_key("SAT-1", 1, batch * 64).hex().encode() not in data


def test_wrapped_keys_are_of_one_station_and_batch(homestead):
    letters_key, other = (derive_letters_key(homestead.depot.station_key("SAT-1", number)) for number in (1, 2))
    key = derive_batch_key(homestead.depot.station_key("SAT-1", 1), 7)
    wrapped = wrap_batch_key(letters_key, 7, key)

    assert unwrap_batch_key(letters_key, 7, wrapped) == key
    for wrong in ((other, 7, wrapped), (letters_key, 8, wrapped), (letters_key, 7, b"!" + wrapped[1:])):
        with pytest.raises(VerificationError):
            unwrap_batch_key(*wrong)


def test_keys_that_are_for_another_station_are_told_and_not_kept(homestead):
    station, other = homestead.export("svalbard"), homestead.export("inuvik")
    homestead.exchange()
    path = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.ORDERS)
    theirs = Orders.open(
        letter_path(homestead.depot.path, "SAT-1", "inuvik", LetterKind.ORDERS).read_bytes(), other.key
    ).batches
    mixed = dataclasses.replace(Orders.open(path.read_bytes(), station.key), batches=theirs, serial=10**15)
    path.write_bytes(mixed.seal(station.key))
    before = station.depot.batches("SAT-1", 1)

    outcome = homestead.sync(station)

    assert any("not for this station" in problem for problem in outcome.problems)
    assert station.depot.batches("SAT-1", 1) == before


def test_a_thief_of_the_directory_has_no_contact_after_those_it_was_given(homestead):
    station = homestead.export("svalbard")
    used = set()
    for batch in station.depot.batches("SAT-1", 1):
        used |= {station.depot.contact_key("SAT-1", 1, batch * 64 + number) for number in range(64)}

    assert len(used) == 256
    for number in (0, 63, 5 * 64, 5 * 64 + 1):
        with pytest.raises(KeyStoreError, match="no key for contact"):
            station.depot.contact_key("SAT-1", 1, number)
