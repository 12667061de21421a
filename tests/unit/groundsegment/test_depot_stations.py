import dataclasses
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from groundsegment.depot import migration, tables
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, FlightState, ReceivedReport
from groundsegment.errors import BusyError, InputError, KeyStoreError, UnknownError
from protocol.limits import STATIONS_MAX
from protocol.link_keys import (
    Direction,
    derive_batch_key,
    derive_contact_key,
    derive_letters_key,
    derive_station_key,
)
from protocol.report import SOLVED, Report
from tests.fakes.depots import LINK_KEY, NOW, make_depot, stage_bytes


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def test_stations_get_the_first_free_number_and_are_found_by_name(depot):
    svalbard = depot.add_station("SAT-1", "svalbard", added_utc=NOW)
    inuvik = depot.add_station("SAT-1", "inuvik", added_utc=NOW, station=3)
    troll = depot.add_station("SAT-1", "troll", added_utc=NOW)

    assert [entry.id for entry in (svalbard, inuvik, troll)] == [1, 3, 2]
    assert depot.stations("SAT-1") == (svalbard, troll, inuvik)
    assert depot.station("SAT-1", "inuvik") == inuvik
    assert depot.num_lanes("SAT-1") == 4
    with pytest.raises(UnknownError) as caught:
        depot.station("SAT-1", "kiruna")
    assert "svalbard, troll, inuvik" in caught.value.hint
    for name, number in (("troll", None), ("kiruna", 3), ("kiruna", 0), ("kiruna", STATIONS_MAX)):
        with pytest.raises(InputError, match=r"already a station|no station's number"):
            depot.add_station("SAT-1", name, added_utc=NOW, station=number)


def test_the_sixteenth_station_is_refused(depot):
    for number in range(1, STATIONS_MAX):
        depot.add_station("SAT-1", f"s{number}", added_utc=NOW)

    with pytest.raises(InputError, match="no room"):
        depot.add_station("SAT-1", "one-more", added_utc=NOW)


def test_a_station_s_keys_follow_from_the_link_key_or_lie_there_alone(depot):
    station_key = derive_station_key(LINK_KEY, 3)
    assert depot.station_key("SAT-1", 3) == station_key
    assert depot.letters_key("SAT-1", 3) == derive_letters_key(station_key)
    assert depot.contact_key("SAT-1", 3, 130) == derive_contact_key(station_key, 130)
    depot.link_key_path("SAT-1").unlink()
    with pytest.raises(KeyStoreError):
        depot.letters_key("SAT-1", 3)
    path = depot.station_key_path("SAT-1", 3)
    path.parent.mkdir()
    path.write_text("ab" * 32 + "\n")
    depot.batches_path("SAT-1", 3).write_text(f"2 {derive_batch_key(station_key, 2).hex()}\n")
    assert depot.letters_key("SAT-1", 3) == b"\xab" * 32
    assert depot.contact_key("SAT-1", 3, 130) == derive_contact_key(station_key, 130)
    for number in (127, 192):
        with pytest.raises(KeyStoreError, match="no key for contact"):
            depot.contact_key("SAT-1", 3, number)
    with pytest.raises(KeyStoreError):
        depot.station_key("SAT-1", 3)
    with pytest.raises(KeyStoreError):
        depot.letters_key("SAT-1", 2)
    with pytest.raises(KeyStoreError):
        depot.link_key("SAT-1")


def test_each_station_has_a_lane_of_its_own_to_lock(depot):
    with depot.uplink_lock("SAT-1", 0), depot.uplink_lock("SAT-1", 1):
        with pytest.raises(BusyError), depot.uplink_lock("SAT-1", 1):
            pass
        with pytest.raises(BusyError), depot.lock("uplink-SAT-1"):
            pass


def test_progress_is_kept_for_each_station_and_what_is_on_board_for_all(depot):
    first = BlockProgress(handle=b"a" * 6, block=0, next_esi=100, have=40)
    depot.journal.save_progress("SAT-1", [first])
    depot.journal.save_progress("SAT-1", [dataclasses.replace(first, next_esi=7, have=SOLVED)], station=2)

    assert depot.journal.progress("SAT-1") == (first,)
    assert depot.journal.progress("SAT-1", station=2)[0].next_esi == 7
    assert depot.journal.progress("SAT-1", station=1) == ()
    assert depot.journal.on_board("SAT-1") == {(b"a" * 6, 0): SOLVED}


def test_losses_are_kept_for_each_station_and_direction(depot):
    state = {"lost": 1.5, "arrived": 20.0}
    depot.journal.save_loss("SAT-1", 0, Direction.UP, state, utc=NOW)
    depot.journal.save_loss("SAT-1", 0, Direction.UP, {**state, "lost": 3.0}, utc=NOW)

    assert depot.journal.loss("SAT-1", 0, Direction.UP) == {"lost": 3.0, "arrived": 20.0}
    assert depot.journal.loss("SAT-1", 0, Direction.DOWN) is None
    assert depot.journal.loss("SAT-1", 1, Direction.UP) is None


def a_report(sequence, *, station_id=0, session=b"sess-1", accepted=0):
    return ReceivedReport(
        satellite="SAT-1",
        session=session,
        sequence=sequence,
        station_id=station_id,
        received_utc=NOW + timedelta(seconds=sequence),
        report=Report(accepted=accepted),
    )


def test_an_older_report_written_late_by_another_process_changes_nothing(depot):
    depot.journal.record_report(a_report(9, accepted=9))
    depot.journal.record_report(a_report(8, accepted=8))
    assert depot.journal.last_report("SAT-1").report.accepted == 9
    assert depot.journal.report_sessions("SAT-1") == {b"sess-1": 9}

    depot.journal.record_report(a_report(3, station_id=2, accepted=10))
    assert depot.journal.last_report("SAT-1").report.accepted == 10
    assert depot.journal.report_sessions("SAT-1", station=2) == {b"sess-1": 3}
    assert depot.journal.report_sessions("SAT-1") == {b"sess-1": 9}


def test_how_an_update_shares_the_link_comes_out_as_it_was_put_in(depot):
    staged = stage_bytes(depot, [1000], priority=3, weight=2.5, lanes=4, symbol_size=1024, beside=True)
    found = depot.update(staged.update.handle)
    assert found == staged.update
    assert (found.weight, found.lanes, found.symbol_size, found.beside, found.expires_utc) == (2.5, 4, 1024, True, None)
    expires = datetime(2027, 1, 1, tzinfo=UTC)
    second = stage_bytes(depot, [1000], seed=2, expires_utc=expires)
    assert depot.update(second.update.handle).expires_utc == expires
    assert [entry.priority for entry in depot.open_updates("SAT-1")] == [3, 0]
    changed = depot.set_update_share(second.update.handle, priority=9, weight=0.5)
    assert (changed.priority, changed.weight) == (9, 0.5)


# What version 1 had, as its create_all wrote it.
_VERSION_1 = """
CREATE TABLE schema (version INTEGER NOT NULL PRIMARY KEY);
CREATE TABLE counters (name VARCHAR(200) NOT NULL PRIMARY KEY, value BIGINT NOT NULL);
CREATE TABLE satellites (name VARCHAR(128) NOT NULL PRIMARY KEY, identity_public BLOB NOT NULL,
    release_public BLOB NOT NULL, added_utc VARCHAR(32) NOT NULL);
CREATE TABLE updates (handle BLOB NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL UNIQUE,
    satellite VARCHAR NOT NULL REFERENCES satellites (name), release_name VARCHAR(128) NOT NULL,
    release_digest BLOB NOT NULL, base_digest BLOB, state VARCHAR(16) NOT NULL, reason TEXT NOT NULL,
    priority INTEGER NOT NULL, payload_bytes BIGINT NOT NULL, directory TEXT NOT NULL, created_utc VARCHAR NOT NULL);
CREATE TABLE bundles ("update" BLOB NOT NULL REFERENCES updates (handle), number INTEGER NOT NULL,
    sha256 BLOB NOT NULL, size_bytes BIGINT NOT NULL, num_segments INTEGER NOT NULL, path TEXT NOT NULL,
    PRIMARY KEY ("update", number));
CREATE TABLE blocks (satellite VARCHAR(128) NOT NULL, handle BLOB NOT NULL, block INTEGER NOT NULL,
    next_esi INTEGER NOT NULL, have INTEGER NOT NULL, PRIMARY KEY (satellite, handle, block));
CREATE TABLE contacts (id INTEGER NOT NULL PRIMARY KEY, satellite VARCHAR(128) NOT NULL, station VARCHAR(128) NOT NULL,
    start_utc VARCHAR(32) NOT NULL, end_utc VARCHAR(32), frames_sent BIGINT NOT NULL, bytes_sent BIGINT NOT NULL,
    frames_received BIGINT NOT NULL, loss FLOAT);
INSERT INTO schema VALUES (1);
INSERT INTO counters VALUES ('sequence', 7);
INSERT INTO satellites VALUES ('SAT-1', x'11', x'22', '2026-11-22T06:00:00.000000+00:00');
INSERT INTO updates VALUES (x'0102030405060708', 7, 'SAT-1', 'tiny', x'dd', NULL, 'flying', '', 5, 300,
    'updates/0102030405060708', '2026-11-22T06:00:00.000000+00:00');
INSERT INTO bundles VALUES (x'0102030405060708', 0, x'aabbccddeeff0011', 300, 3,
    'updates/0102030405060708/bundle-00000.skb');
INSERT INTO blocks VALUES ('SAT-1', x'aabbccddeeff0011', 0, 100, 40);
INSERT INTO contacts VALUES (1, 'SAT-1', 'inuvik', '2026-11-22T06:00:00.000000+00:00', NULL, 9, 10, 8, 0.1);
"""


@pytest.fixture
def older(tmp_path):
    path = tmp_path / "older"
    path.mkdir()
    connection = sqlite3.connect(path / "depot.db")
    connection.executescript(_VERSION_1)
    connection.close()
    return path


def test_a_depot_of_version_1_is_brought_up_to_date_when_it_is_opened(older):
    handle = bytes.fromhex("010203040506")
    for _ in range(2):
        with Depot.open(older) as depot:
            (entry,) = depot.updates("SAT-1")
            assert (entry.handle, entry.priority, entry.state) == (handle, 5, FlightState.FLYING)
            assert (entry.weight, entry.lanes, entry.beside) == (1.0, 1, False)
            (bundle,) = depot.bundles(handle)
            assert bundle.handle.hex() == "aabbccddeeff"
            assert bundle.path == older / "updates/0102030405060708/bundle-00000.skb"
            assert depot.journal.progress("SAT-1") == ()  # blocks are cut otherwise now
            (contact,) = depot.journal.contacts("SAT-1")
            assert (contact.station, contact.station_id, contact.frames_heard) == ("inuvik", 0, 0)
            assert depot.allocate_sequence() > 7
            depot.add_station("SAT-1", f"s{depot.num_lanes('SAT-1')}", added_utc=NOW)


def test_a_depot_of_version_2_keeps_what_it_knows_of_blocks_under_way(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        depot.journal.save_progress("SAT-1", [BlockProgress(handle=b"123456", block=0, next_esi=100, have=40)])
        known = depot.journal.progress("SAT-1")
        depot.journal.begin_contact("SAT-1", "inuvik", NOW)
    connection = sqlite3.connect(tmp_path / "depot/depot.db")
    connection.executescript("ALTER TABLE contacts DROP COLUMN loss_deviation; UPDATE schema SET version = 2;")
    connection.close()

    with Depot.open(tmp_path / "depot") as depot:
        assert depot.journal.progress("SAT-1") == known != ()
        assert depot.journal.contacts("SAT-1")[0].loss_deviation is None


def test_a_migration_that_is_cut_off_leaves_the_older_depot_as_it_was(older, monkeypatch):
    monkeypatch.setattr(migration, "_HANDLES", ((tables.updates, "handle"), (tables.updates, "no such column")))
    with pytest.raises(KeyError):
        Depot.open(older)
    monkeypatch.undo()
    connection = sqlite3.connect(older / "depot.db")
    assert connection.execute("SELECT handle FROM blocks").fetchone() == (bytes.fromhex("aabbccddeeff0011"),)
    assert connection.execute("SELECT handle FROM updates").fetchone() == (bytes.fromhex("0102030405060708"),)
    connection.close()

    with Depot.open(older) as depot:
        assert depot.updates("SAT-1")[0].handle.hex() == "010203040506"


@pytest.mark.parametrize("text", ["1", "x " + "ab" * 32, "1 abcd", "-1 " + "ab" * 32, "1 " + "ab" * 32 + " 2"])
def test_a_damaged_file_of_contacts_is_told(depot, text):
    path = depot.batches_path("SAT-1", 3)
    path.parent.mkdir()
    path.write_text(text + "\n")
    with pytest.raises(KeyStoreError, match="not a file of keys of contacts"):
        depot.batches("SAT-1", 3)


def test_home_flies_as_a_station_in_numbers_that_no_directory_was_given(depot):
    assert depot.usable_contact("SAT-1", 3, 1, 0) == 1
    assert depot.raise_contact("SAT-1", 3, 1) == 1
    assert depot.give_batches("SAT-1", 3, 4) == (1, 2, 3, 4)
    assert depot.usable_contact("SAT-1", 3, 2, 0) == 5 * 64
    assert depot.raise_contact("SAT-1", 3, 5 * 64) == 5 * 64
    assert depot.usable_contact("SAT-1", 3, 5 * 64 + 1, 0) == 5 * 64 + 1
    assert depot.give_batches("SAT-1", 3, 2) == (6, 7)
