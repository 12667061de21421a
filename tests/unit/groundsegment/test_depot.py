import dataclasses
import multiprocessing
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import (
    BlockProgress,
    Bundle,
    CommandState,
    FlightState,
    QueuedCommand,
    ReceivedMessage,
    ReceivedReport,
    RegisteredRelease,
    Satellite,
    Update,
)
from groundsegment.errors import BusyError, DiskError, InputError, KeyStoreError, UnknownError
from protocol.report import SOLVED, OpenBlock, Report

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


@pytest.fixture
def depot(tmp_path):
    with Depot.create(tmp_path / "depot") as depot:
        depot.add_satellite(a_satellite("SAT-1"))
        yield depot


def a_satellite(name):
    return Satellite(name=name, identity_public=b"i" * 32, release_public=b"r" * 32, added_utc=NOW)


def an_update(depot, number=1, **changes):
    handle = number.to_bytes(6, "big")
    values = {
        "handle": handle,
        "sequence": number,
        "satellite": "SAT-1",
        "release_name": "tiny",
        "release_digest": b"d" * 32,
        "base_digest": None,
        "state": FlightState.STAGED,
        "priority": 0,
        "payload_bytes": 300,
        "directory": depot.updates_path / handle.hex(),
        "created_utc": NOW,
    }
    return Update(**{**values, **changes})


def a_bundle(entry, number):
    path = entry.directory / f"bundle-{number:05d}.skb"
    return Bundle(
        update=entry.handle,
        number=number,
        sha256=number.to_bytes(6, "big") + bytes(26),
        size_bytes=100,
        num_segments=3,
        path=path,
    )


def test_what_was_put_in_comes_out_after_opening_again_even_elsewhere(depot, tmp_path):
    entry = an_update(depot)
    bundles = [a_bundle(entry, number) for number in range(3)]
    depot.add_update(entry, bundles)
    depot.close()
    moved = (tmp_path / "depot").rename(tmp_path / "moved")
    with Depot.open(moved) as again:
        assert again.satellite("SAT-1") == a_satellite("SAT-1")
        found = again.update(entry.handle)
        assert found == dataclasses.replace(entry, directory=moved / "updates" / entry.handle.hex())
        assert [bundle.path for bundle in again.bundles(entry.handle)] == [
            found.directory / bundle.path.name for bundle in bundles
        ]
        assert again.bundles(entry.handle)[2].handle == (2).to_bytes(6, "big")


def test_updates_come_in_flight_order_and_change_state(depot):
    for number, priority in ((1, 0), (2, 5), (3, 0)):
        depot.add_update(an_update(depot, number, priority=priority), [])
    assert [entry.sequence for entry in depot.updates("SAT-1")] == [2, 1, 3]
    first = depot.updates()[0]
    changed = depot.set_update_state(first.handle, FlightState.REJECTED, reason="canary")
    assert (changed.state, changed.reason) == (FlightState.REJECTED, "canary")
    assert [entry.sequence for entry in depot.updates(states=[FlightState.STAGED])] == [1, 3]
    with pytest.raises(UnknownError):
        depot.update(b"123456")


def test_an_update_is_registered_with_all_its_bundles_or_not_at_all(depot):
    entry = an_update(depot)
    twice = [a_bundle(entry, 0), a_bundle(entry, 0)]
    with pytest.raises(InputError):
        depot.add_update(entry, twice)
    assert depot.updates() == ()


def test_an_unknown_satellite_is_told_with_those_there_are(depot):
    with pytest.raises(UnknownError) as caught:
        depot.satellite("SAT-9")
    assert "SAT-1" in caught.value.hint
    with pytest.raises(InputError, match="already a satellite"):
        depot.add_satellite(a_satellite("SAT-1"))


def test_a_link_key_is_read_and_a_bad_one_is_told(depot):
    path = depot.link_key_path("SAT-1")
    with pytest.raises(KeyStoreError, match="missing"):
        depot.link_key("SAT-1")
    path.parent.mkdir(parents=True)
    path.write_text("ab" * 32 + "\n")
    assert depot.link_key("SAT-1") == b"\xab" * 32
    path.write_text("abcd\n")
    with pytest.raises(KeyStoreError, match="2 bytes"):
        depot.link_key("SAT-1")
    path.write_text("not hex\n")
    with pytest.raises(KeyStoreError, match="hex"):
        depot.link_key("SAT-1")


def test_releases_are_found_by_the_start_of_their_digest(depot, tmp_path):
    release = RegisteredRelease(digest=bytes(range(32)), name="r1", path=tmp_path, size_bytes=5, registered_utc=NOW)
    depot.register_release(release)
    moved = dataclasses.replace(release, path=tmp_path / "new", registered_utc=NOW + timedelta(hours=1))
    depot.register_release(moved)
    assert depot.releases() == (moved,)
    assert depot.find_release(bytes(range(8))) == moved
    assert depot.find_release(b"123456") is None


def test_progress_is_upserted(depot):
    journal = depot.journal
    first = BlockProgress(handle=b"a" * 6, block=0, next_esi=100, have=0)
    journal.save_progress("SAT-1", [first, dataclasses.replace(first, block=1)])
    newer = dataclasses.replace(first, next_esi=200, have=SOLVED)
    journal.save_progress("SAT-1", [newer, dataclasses.replace(first, handle=b"b" * 6)])
    assert journal.progress("SAT-1", b"a" * 6) == (newer, dataclasses.replace(first, block=1))
    assert len(journal.progress("SAT-1")) == 3
    assert journal.progress("SAT-2") == ()
    journal.forget_progress("SAT-1", [b"a" * 6])
    assert [entry.handle for entry in journal.progress("SAT-1")] == [b"b" * 6]


def test_the_last_report_is_kept_whole_with_its_sessions(depot):
    journal = depot.journal
    assert journal.last_report("SAT-1") is None
    report = Report(accepted=3, free_mib=9, open_blocks=(OpenBlock(handle=b"o" * 6, block=1, have=7),))
    for session, sequence in ((b"s" * 6, 1), (b"s" * 6, 2), (b"a" * 6, 1)):
        entry = ReceivedReport(
            satellite="SAT-1",
            session=session,
            sequence=sequence,
            station="KIR",
            received_utc=NOW + timedelta(seconds=sequence),
            report=report,
        )
        journal.record_report(entry)
    assert journal.last_report("SAT-1") == entry
    assert dict(journal.report_sessions("SAT-1")) == {b"s" * 6: 2, b"a" * 6: 1}


def test_a_message_is_kept_once(depot):
    journal = depot.journal
    entry = ReceivedMessage(
        satellite="SAT-1",
        counter=1,
        kind="receipt",
        re=b"u" * 6,
        body={"release": b"\x01\x02", "ok": True},
        received_utc=NOW,
    )
    assert journal.add_message(entry)
    assert not journal.add_message(entry)
    journal.add_message(dataclasses.replace(entry, counter=2, kind="event", body={}))
    assert journal.messages(re=b"u" * 6)[0].body == {"release": "0102", "ok": True}
    assert [message.counter for message in journal.messages("SAT-1", newest=1)] == [2]
    assert [message.counter for message in journal.messages(kind="receipt")] == [1]


def test_contacts_are_logged(depot):
    journal = depot.journal
    opened = journal.begin_contact("SAT-1", "KIR", NOW)
    closed = dataclasses.replace(opened, end_utc=NOW + timedelta(minutes=7), frames_sent=9, bytes_sent=10, loss=0.5)
    journal.save_contact(closed)
    later = journal.begin_contact("SAT-1", "KIR", NOW + timedelta(hours=2))
    assert journal.contacts("SAT-1") == (closed, later)
    assert journal.contacts("SAT-1", newest=1) == (later,)


def test_commands_wait_until_done(depot):
    journal = depot.journal
    entry = QueuedCommand(
        handle=b"c" * 6,
        satellite="SAT-1",
        counter=journal.allocate_command_counter("SAT-1"),
        operation="ask",
        data=b"SKC1",
        state=CommandState.QUEUED,
        created_utc=NOW,
    )
    journal.add_command(entry)
    assert journal.commands("SAT-1", CommandState.QUEUED) == (entry,)
    journal.set_command_state(entry.handle, CommandState.DONE)
    assert journal.commands("SAT-1", CommandState.QUEUED) == ()
    assert journal.commands("SAT-1") == (dataclasses.replace(entry, state=CommandState.DONE),)


def allocate_many(path, count, results):
    with Depot.open(path) as depot:
        results.put([depot.journal.allocate_command_counter("SAT-1") for _ in range(count)])


@pytest.mark.slow
def test_no_counter_is_given_out_twice_among_processes(depot):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=allocate_many, args=(depot.path, 50, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    given = sorted(number for _ in workers for number in results.get(timeout=120))
    for worker in workers:
        worker.join()
    assert given == list(range(1, 151))


def test_counters_start_at_one_for_each_name(depot):
    assert [depot.allocate_sequence(), depot.allocate_sequence()] == [1, 2]
    assert depot.journal.allocate_command_counter("SAT-1") == 1


def test_a_lock_says_who_holds_it_and_dies_with_its_holder(depot):
    program = (
        "import sys, time; from pathlib import Path; from groundsegment.depot.depot import Depot\n"
        "with Depot.open(Path(sys.argv[1])).lock('stage'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, depot.path], stdout=subprocess.PIPE)
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid}") as caught, depot.lock("stage"):
            pass
        assert caught.value.hint
        with depot.lock("uplink"):
            pass
        holder.kill()
        holder.wait()
        with depot.lock("stage"):
            pass


def test_no_depot_a_foreign_directory_and_a_newer_depot_are_clear_errors(depot, tmp_path):
    with pytest.raises(InputError, match="no depot there"):
        Depot.open(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not a depot"):
        Depot.create(tmp_path / "full")
    connection = sqlite3.connect(depot.path / "depot.db")
    connection.execute("UPDATE schema SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match="version 99"):
        Depot.open(depot.path)


def test_creating_twice_opens_what_is_there(depot):
    with Depot.create(depot.path) as again:
        assert [entry.name for entry in again.satellites()] == ["SAT-1"]


def test_paths_outside_the_depot_are_refused(depot, tmp_path):
    with pytest.raises(ValueError, match="not in the subpath"):
        depot.add_update(an_update(depot, directory=tmp_path / "elsewhere"), [])


def test_a_full_disk_is_told_and_nothing_is_half_done(depot):
    with depot._engine.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    event.listen(depot._engine, "checkout", lambda raw, *_: raw.execute(f"PRAGMA max_page_count={pages}"))
    entry = an_update(depot)
    bundles = [a_bundle(entry, number) for number in range(2000)]
    with pytest.raises(DiskError, match="full") as caught:
        depot.add_update(entry, bundles)
    assert caught.value.hint
    assert depot.updates() == ()


def test_a_database_that_somebody_holds_too_long_is_told(depot, monkeypatch):
    monkeypatch.setattr("groundsegment.depot.tables.BUSY_TIMEOUT_MS", 20)
    holder = sqlite3.connect(depot.path / "depot.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Depot.open(depot.path) as other:
        assert other.satellites()  # readers do not wait for writers
        with pytest.raises(BusyError, match="in use"):
            other.allocate_sequence()
    holder.close()


def test_a_damaged_database_is_told(depot):
    depot.close()
    (depot.path / "depot.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DiskError) as caught:
        Depot.open(depot.path)
    assert caught.value.hint
