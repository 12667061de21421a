"""The ground's side of contacts: a number for each, durable before the first frame, and found again after anything."""

import sqlite3

import pytest

from groundsegment.downlink import Downlink
from groundsegment.errors import InputError
from groundsegment.uplink.wire.link_contacts import SILENCE_S, LinkContacts, set_contact_by_hand
from protocol.contacts import found_from_anywhere, is_found
from protocol.errors import ChecksumError
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.report import Report
from tests.fakes.contact_store import ContactStore
from tests.fakes.contacts import contact_key, decode_following
from tests.fakes.depots import IDENTITY, LINK_KEY, make_depot

NOW = 100.0


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


class Process:
    """One process of the ground, and the satellite it talks to."""

    def __init__(self, depot, *, station=0, is_answered=True):
        self.downlink = Downlink(
            contact_key=contact_key(LINK_KEY, station),
            station=station,
            satellite="SAT-1",
            identity_public=IDENTITY.public_key().public_bytes_raw(),
            session=b"ground",
        )
        self.contacts = LinkContacts(depot, "SAT-1", station, self.downlink, is_answered=is_answered)
        self.sequence = 0

    def answer(self, contact, station=0):
        """A report comes, as from a satellite that is in a contact."""
        self.sequence += 1
        frame = Frame(kind=FrameKind.REPORT, handle=b"sessn1", sequence=self.sequence, payload=Report().encode())
        codec = FrameCodec(Direction.DOWN, contact_key(LINK_KEY, station, contact), station=station)
        self.downlink.receive(codec.encode(frame))

    def contact_of_hello(self):
        codec = FrameCodec(Direction.UP, LINK_KEY)
        decode_following(codec, self.downlink.hello(NOW))
        return codec.contact(0)


def test_every_contact_has_the_next_number_and_its_frames_go_under_its_key(depot):
    process = Process(depot)
    for number in (1, 2, 3):
        process.contacts.begin(NOW)
        assert process.contacts.number == process.contact_of_hello() == number

    assert Process(depot).contacts.number == 3  # what comes down is heard before a contact begins
    other = Process(depot)
    other.contacts.begin(NOW)
    assert other.contact_of_hello() == 4


def test_the_number_is_durable_before_a_frame_goes_under_it(depot):
    seen = []
    process = Process(depot)
    process.downlink.set_contact = lambda number, key: seen.append((number, on_disk(depot)))
    process.contacts.begin(NOW)

    assert seen == [(1, 1)]


def on_disk(depot):
    with sqlite3.connect(depot.path / "depot.db") as database:
        return database.execute("select value from counters where name = 'contact SAT-1@0 0'").fetchone()[0]


def test_stations_and_generations_count_for_themselves(depot):
    for station in (0, 3):
        Process(depot, station=station).contacts.begin(NOW)
    Process(depot, station=3).contacts.begin(NOW)
    assert [depot.contact("SAT-1", station) for station in (0, 3)] == [1, 2]

    depot.raise_station_generation("SAT-1", 3)

    assert depot.contact("SAT-1", 3) == 0


def test_processes_of_one_depot_share_a_contact(depot):
    uplink, ask = Process(depot), Process(depot)
    uplink.contacts.begin(NOW)
    ask.contacts.begin(NOW, is_shared=True)
    assert ask.contact_of_hello() == 1

    uplink.contacts.begin(NOW)

    assert ask.contacts.look(NOW + 0.25)
    assert ask.contact_of_hello() == 2
    assert not ask.contacts.look(NOW + 0.5)


def test_reports_of_a_satellite_that_has_not_heard_of_the_new_contact_yet_are_heard(depot):
    process = Process(depot)
    process.contacts.begin(NOW)
    process.contacts.begin(NOW)
    process.answer(1)
    process.answer(0)
    assert process.downlink.statistics().frames_received == 2

    process.contacts.begin(NOW)
    process.contacts.begin(NOW)
    process.contacts.begin(NOW)
    process.answer(1)
    assert process.downlink.statistics().frames_rejected == 1


def test_what_was_heard_is_kept_and_a_link_that_is_heard_counts_by_one():
    depot = ContactStore(LINK_KEY)
    for number in range(1, 80):
        process = Process(depot)
        process.contacts.begin(NOW)
        assert process.contacts.number == number
        process.answer(number)
        process.contacts.look(NOW + 1)

    assert depot.heard == 79


def test_a_ground_that_nobody_hears_goes_on_to_numbers_that_are_found():
    numbers, depot = [], ContactStore(LINK_KEY)
    for _ in range(70):
        process = Process(depot)
        process.contacts.begin(NOW)
        numbers.append(process.contacts.number)

    assert numbers == [*range(1, 65), 128, 192, 256, 320, 384, 448]


def test_a_link_on_which_nobody_ever_answers_counts_blind():
    numbers, depot = [], ContactStore(LINK_KEY)
    for _ in range(70):
        process = Process(depot, is_answered=False)
        process.contacts.begin(NOW)
        numbers.append(process.contacts.number)
        assert not process.contacts.look(NOW + 100 * SILENCE_S)

    assert numbers == list(range(1, 71))


@pytest.mark.parametrize("ahead", [3, 64, 500, 5000, 20_000])
def test_a_depot_restored_from_a_backup_is_heard_again_within_a_contact(depot, ahead):
    satellite = FrameCodec(Direction.UP, LINK_KEY)
    satellite.set_contact(0, ahead)
    process = Process(depot)
    process.contacts.begin(NOW)
    now, is_found = NOW, False
    for _ in range(16):
        now += SILENCE_S + 0.5
        process.contacts.look(now)
        try:
            decode_following(satellite, process.downlink.hello(now))
        except ChecksumError:
            continue
        is_found = True
        break

    assert is_found
    process.answer(process.contacts.number)
    process.contacts.look(now + 1)
    assert not process.contacts.look(now + 10 * SILENCE_S)  # heard: nothing is skipped any more


def test_what_is_known_to_be_heard_is_in_the_depot(depot):
    process = Process(depot)
    process.contacts.begin(NOW)
    process.answer(1)
    process.contacts.look(NOW + 1)

    assert depot.contact_heard("SAT-1", 0) == 1


def test_what_two_processes_heard_at_once_passes_neither(depot):
    for number in (5, 5, 4):
        depot.note_contact_heard("SAT-1", 0, number)

    assert depot.contact_heard("SAT-1", 0) == 5


def test_silence_after_an_answer_is_a_gap_and_a_long_one_ends_the_contact(depot):
    process = Process(depot)
    process.contacts.begin(NOW)
    process.answer(1)
    assert not process.contacts.look(NOW + 1)
    assert not process.contacts.look(NOW + 500)

    assert process.contacts.look(NOW + 700)

    assert process.contacts.number == 2
    moved = [number for number in range(1, 100) if process.contacts.look(NOW + 700 + 100 * number)]
    assert len(moved) == 2  # in case that it fell back; no more: it may be out of sight
    assert process.contacts.number == 4096


def test_a_number_can_be_set_by_hand_but_not_back(depot):
    Process(depot).contacts.begin(NOW)
    set_contact_by_hand(depot, "SAT-1", 0, 4096)
    process = Process(depot, is_answered=False)
    process.contacts.begin(NOW)
    assert process.contacts.number == 4096

    with pytest.raises(InputError, match="contact 4096 was the last one"):
        set_contact_by_hand(depot, "SAT-1", 0, 4096)


def test_a_satellite_that_forgot_all_after_an_outage_is_found_again(depot):
    """Eight contacts in silence, one that is heard, and a power cut before the satellite wrote its number down."""
    process = Process(depot)
    for _ in range(8):
        process.contacts.begin(NOW)
        silence(process)
    last = process.contacts.number
    process.answer(last)
    process.contacts.look(NOW)
    process = Process(depot)  # the satellite is back at its first contact
    process.contacts.begin(NOW)
    assert any(is_found(number, 0) for number in silence(process))


def test_a_silent_satellite_does_not_use_numbers_up(depot):
    process = Process(depot)
    for _ in range(12):
        process.contacts.begin(NOW)
        silence(process, every_s=10)
    assert process.contacts.number == found_from_anywhere(1)


@pytest.mark.parametrize("number", [4_000_001, 2**32 - 1, 300_000])
def test_no_number_is_set_by_hand_that_no_satellite_finds(depot, number):
    with pytest.raises(InputError, match="never find") as caught:
        set_contact_by_hand(depot, "SAT-1", 0, number)
    better = int(caught.value.hint.split()[0])
    if better > number:
        set_contact_by_hand(depot, "SAT-1", 0, better)
        process = Process(depot)
        process.contacts.begin(NOW)
        assert process.contacts.number == process.contact_of_hello() == better


def silence(process, every_s=4):
    """A contact of eight minutes in which nobody answers; its numbers."""
    numbers = [process.contacts.number]
    for second in range(0, 480, every_s):
        process.contacts.look(NOW + second)
        numbers.append(process.contacts.number)
    return numbers
