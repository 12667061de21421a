"""Home and stations over a directory: what is fetched, followed, brought home, and not believed."""

import dataclasses
import errno
import hashlib
import os
import shutil
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.depot.records import (
    BlockProgress,
    CommandState,
    ContactLog,
    FlightState,
    QueuedCommand,
    ReceivedMessage,
    ReceivedReport,
)
from groundsegment.errors import DiskError, InputError, KeyStoreError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.stations import collecting
from groundsegment.stations.collecting import last_logbook
from groundsegment.stations.copying import CHUNK_BYTES, fetch_file
from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.home import exchange, exchange_if_free
from groundsegment.stations.letters import LetterError, LetterKind
from groundsegment.stations.logbook import Claim, HeardReport
from groundsegment.stations.notes import contacts_of, plan_of
from groundsegment.stations.post import letter_path
from groundsegment.stations.writing import make_logbook
from protocol.errors import ChecksumError
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.objects import object_handle
from protocol.report import SOLVED, Report
from tests.fakes.depots import LINK_KEY, NOW, stage_bytes
from tests.fakes.stations import Homestead, sealed_message, sealed_receipt

SIZES = (3000, 2000)


@pytest.fixture
def homestead(tmp_path):
    with Homestead(tmp_path, "svalbard", "inuvik") as place:
        yield place


def stage(homestead, *, seed=1, sizes=SIZES, lanes=3):
    staged = stage_bytes(homestead.depot, sizes, seed=seed)
    with homestead.depot._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE updates SET lanes = {lanes} WHERE sequence = {staged.update.sequence}")
    return staged


def flown(directory):
    return [update.handle for update in directory.depot.open_updates("SAT-1")]


def bring(homestead, directory, **values):
    """A logbook with some values of its own, as the station, or whoever stole it, can write one."""
    homestead.later()
    logbook = dataclasses.replace(make_logbook(directory, utc=homestead.now), serial=10**15, **values)
    path = letter_path(homestead.depot.path, "SAT-1", directory.identity.name, LetterKind.LOGBOOK)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(logbook.seal(directory.key))
    return homestead.exchange()[directory.identity.name]


# Orders and files


def test_a_station_fetches_what_is_ordered_and_flies_the_same_bytes(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    assert flown(station) == []
    assert homestead.exchange()["svalbard"].has_new_orders

    outcome = homestead.sync(station)

    assert (outcome.updates_added, outcome.is_complete, outcome.problems) == (1, True, ())
    assert flown(station) == [staged.update.handle]
    update = station.depot.update(staged.update.handle)
    assert (update.lanes, update.sequence, update.satellite) == (3, staged.update.sequence, "SAT-1")
    assert update.metadata_path.read_bytes() == staged.metadata
    assert tuple(bundle.path.read_bytes() for bundle in station.depot.bundles(update.handle)) == staged.bundles
    again = homestead.sync(station)
    assert (again.has_new_orders, again.updates_added, again.is_complete) == (False, 0, True)


def test_an_update_without_a_lane_for_the_station_is_not_ordered(homestead):
    stage(homestead, lanes=2)
    first, second = homestead.export("svalbard"), homestead.export("inuvik")
    homestead.exchange()
    for station in (first, second):
        homestead.sync(station)
    assert [len(flown(station)) for station in (first, second)] == [1, 0]


def test_a_half_copied_update_never_flies_and_the_copy_goes_on_where_it_was(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    bundle = homestead.depot.bundles(staged.update.handle)[1].path
    whole = bundle.read_bytes()

    bundle.write_bytes(whole[:700])  # rsync is still at it
    outcome = homestead.sync(station)
    assert (outcome.is_complete, flown(station)) == (False, [])
    assert "not all of it yet" in outcome.problems[0]

    bundle.unlink()
    assert homestead.sync(station).problems
    bundle.write_bytes(b"x" * 700 + whole[700:])  # whoever did that: the first 700 are not asked for again
    assert homestead.sync(station).is_complete
    assert station.depot.bundles(staged.update.handle)[1].path.read_bytes() == whole


def test_wrong_bytes_never_fly_and_are_fetched_anew(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    bundle = homestead.depot.bundles(staged.update.handle)[0].path
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1] + b"!")

    outcome = homestead.sync(station)
    assert "not the bytes that were ordered" in outcome.problems[0]
    assert flown(station) == []
    bundle.write_bytes(whole)
    assert homestead.sync(station).is_complete


def test_a_copy_stops_for_a_contact_and_is_resumed(tmp_path):
    data = os.urandom(3 * CHUNK_BYTES + 5)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    wanted = {"size_bytes": len(data), "sha256": hashlib.sha256(data).digest()}
    steps = iter([False, False, True])

    assert not fetch_file(source, target, **wanted, should_stop=lambda: next(steps))
    assert not target.exists()
    assert (tmp_path / ".target.part").stat().st_size == 2 * CHUNK_BYTES
    assert not fetch_file(source, target, **wanted, should_stop=lambda: True)
    source.write_bytes(bytes(2 * CHUNK_BYTES) + data[2 * CHUNK_BYTES :])  # it is not read twice
    assert fetch_file(source, target, **wanted)
    assert target.read_bytes() == data
    assert not (tmp_path / ".target.part").exists()


def test_a_part_that_is_too_long_is_begun_anew(tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    (tmp_path / ".target.part").write_bytes(b"abcdef")
    digest = hashlib.sha256(b"abc").digest()
    assert fetch_file(tmp_path / "source", tmp_path / "target", size_bytes=3, sha256=digest)
    assert (tmp_path / "target").read_bytes() == b"abc"


def test_what_home_cancels_flies_no_more_and_leaves_the_stations_disk(homestead):
    staged, other = stage(homestead), stage(homestead, seed=2)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    directory = station.depot.update(staged.update.handle).directory
    homestead.depot.set_update_state(staged.update.handle, FlightState.CANCELLED, reason="by the\noperator")
    assert homestead.exchange()["svalbard"].has_new_orders

    outcome = homestead.sync(station)

    assert outcome.updates_ended == 1
    ended = station.depot.update(staged.update.handle)
    assert (ended.state, ended.reason) == (FlightState.CANCELLED, "by the operator")
    assert not directory.exists()
    assert flown(station) == [other.update.handle]


def test_priorities_and_weights_follow_home(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    homestead.depot.set_update_share(staged.update.handle, priority=5, weight=0.5)
    homestead.exchange()
    homestead.sync(station)
    update = station.depot.update(staged.update.handle)
    assert (update.priority, update.weight) == (5, 0.5)


def test_commands_that_wait_go_along_and_questions_do_not(homestead):
    station = homestead.export("svalbard")
    for number, operation in enumerate(("cancel", "ask"), start=1):
        data = b"signed " + operation.encode()
        homestead.depot.journal.add_command(
            QueuedCommand(
                handle=object_handle(data), satellite="SAT-1", counter=number, operation=operation, data=data,
                state=CommandState.QUEUED, created_utc=NOW,
            )
        )  # fmt: skip
    homestead.exchange()
    homestead.sync(station)
    assert [entry.data for entry in station.depot.journal.commands("SAT-1", CommandState.QUEUED)] == [b"signed cancel"]
    homestead.depot.journal.set_command_state(object_handle(b"signed cancel"), CommandState.DONE)
    homestead.exchange()
    homestead.sync(station)
    assert station.depot.journal.commands("SAT-1", CommandState.QUEUED) == ()


def test_orders_are_written_only_when_something_changed(homestead):
    stage(homestead)
    homestead.export("svalbard")
    assert homestead.exchange()["svalbard"].has_new_orders
    assert not homestead.exchange()["svalbard"].has_new_orders
    homestead.note("svalbard", endpoint="modem:7001")
    assert homestead.exchange()["svalbard"].has_new_orders
    assert not homestead.exchange()["svalbard"].has_new_orders


def test_older_orders_are_void(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    path = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.ORDERS)
    old = path.read_bytes()
    homestead.sync(station)
    homestead.depot.set_update_state(staged.update.handle, FlightState.CANCELLED)
    homestead.exchange()
    homestead.sync(station)

    path.write_bytes(old)  # a mirror that was restored from a backup
    outcome = homestead.sync(station)

    assert "older than the orders here" in outcome.problems[0]
    assert flown(station) == []


def test_a_station_out_of_reach_flies_on_with_what_it_has_and_catches_up(homestead, tmp_path):
    first = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    outcome = homestead.sync(station, tmp_path / "nowhere")
    assert "home cannot be reached" in outcome.problems[0]
    assert flown(station) == [first.update.handle]

    homestead.later(4 * 86400)
    homestead.depot.set_update_state(first.update.handle, FlightState.CONFIRMED)
    second = stage(homestead, seed=2)
    homestead.exchange()
    assert homestead.sync(station).is_complete
    assert flown(station) == [second.update.handle]


def test_a_directory_that_was_exported_anew_flies_no_more(homestead):
    stage(homestead)
    old = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(old)
    new = homestead.export("svalbard", to="svalbard-2")
    homestead.exchange()

    assert homestead.sync(new).is_complete
    with pytest.raises(InputError, match="must not fly any more"):
        homestead.sync(old)
    with pytest.raises(InputError, match="must not fly any more"):  # and remembers it out of reach
        old.orders()
    assert "older directory" in bring(homestead, old).problem


def test_a_directory_made_anew_goes_on_in_its_lane_where_home_knows_it_was(homestead):
    staged = stage(homestead)
    old = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(old)
    entry = BlockProgress(handle=staged.update.handle, block=0, next_esi=128, have=1)
    old.depot.journal.save_progress("SAT-1", [entry], station=1)
    homestead.sync(old)
    homestead.exchange()

    new = homestead.export("svalbard", to="svalbard-2")
    assert new.depot.journal.progress("SAT-1", station=1) == (entry,)
    assert bring(homestead, new, progress=(dataclasses.replace(entry, next_esi=64),)).collected.refused == 0
    assert homestead.depot.journal.progress("SAT-1", station=1) == (entry,)  # what was sent stays sent


def test_what_others_brought_on_board_is_known_unless_the_station_heard_more(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    handle = staged.bundle_handles[0]
    own = BlockProgress(handle=handle, block=0, next_esi=70, have=3)
    homestead.exchange()
    homestead.sync(station)
    station.depot.journal.save_progress("SAT-1", [own], station=1)
    heard = ReceivedReport(
        satellite="SAT-1", session=b"s" * 6, sequence=1, station="", received_utc=homestead.later(), report=Report()
    )
    homestead.depot.journal.record_report(heard)
    homestead.depot.journal.save_progress("SAT-1", [dataclasses.replace(own, next_esi=9, have=SOLVED)])
    homestead.exchange()
    homestead.sync(station)
    assert station.depot.journal.progress("SAT-1", station=1) == (dataclasses.replace(own, have=SOLVED),)

    later = dataclasses.replace(heard, station_id=1, sequence=2, received_utc=homestead.later())
    station.depot.journal.record_report(later)
    station.depot.journal.save_progress("SAT-1", [own], station=1)
    homestead.note("svalbard", endpoint="new orders")
    homestead.exchange()
    homestead.sync(station)
    assert station.depot.journal.progress("SAT-1", station=1) == (own,)


def test_letters_and_files_can_be_carried_in_a_directory(homestead, tmp_path):
    staged, stick = stage(homestead), tmp_path / "stick"
    station = homestead.export("svalbard")
    homestead.exchange(via=stick)
    assert homestead.sync(station, stick).is_complete
    assert flown(station) == [staged.update.handle]
    everything = b"".join(path.read_bytes() for path in stick.rglob("*") if path.is_file())
    assert station.key.hex().encode() not in everything

    homestead.depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)
    assert homestead.exchange(via=stick)["svalbard"].collected is not None
    assert not any((stick / "updates").iterdir())


# What comes home


def test_home_sees_what_a_station_learned(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    journal, handle = station.depot.journal, staged.bundle_handles[0]
    journal.save_progress("SAT-1", [BlockProgress(handle=handle, block=0, next_esi=200, have=2)], station=1)
    received = homestead.later()
    journal.record_report(
        ReceivedReport(
            satellite="SAT-1", session=b"s" * 6, sequence=5, station_id=1, received_utc=received,
            report=Report(free_mib=77, accepted=staged.update.sequence),
        )
    )  # fmt: skip
    log = journal.begin_contact("SAT-1", "svalbard", received, station_id=1)
    journal.save_contact(dataclasses.replace(log, frames_sent=100, bytes_sent=130_000, frames_received=90, loss=0.1))
    journal.save_loss("SAT-1", 1, Direction.UP, {"alpha": 2.0}, utc=received)
    station.depot.set_update_state(staged.update.handle, FlightState.FLYING)
    homestead.sync(station)

    collected = homestead.exchange()["svalbard"].collected

    assert (collected.contacts, collected.refused) == (1, 0)
    home = homestead.depot.journal
    assert home.on_board("SAT-1") == {(handle, 0): 2}
    assert [entry.next_esi for entry in home.progress("SAT-1", station=1)] == [200]
    assert home.progress("SAT-1") == ()
    report = home.last_report("SAT-1")
    assert (report.report.free_mib, report.station, report.station_id) == (77, "svalbard", 1)
    (contact,) = home.contacts("SAT-1")
    assert (contact.station, contact.station_id, contact.bytes_sent, contact.loss) == ("svalbard", 1, 130_000, 0.1)
    assert home.loss("SAT-1", 1, Direction.UP) == {"alpha": 2.0}
    assert homestead.depot.update(staged.update.handle).state is FlightState.FLYING
    assert last_logbook(homestead.depot, homestead.station("svalbard")).serial == collected.logbook.serial

    journal.save_contact(dataclasses.replace(log, frames_sent=150, end_utc=homestead.later()))
    homestead.sync(station)
    assert homestead.exchange()["svalbard"].collected.contacts == 1
    assert [entry.frames_sent for entry in home.contacts("SAT-1")] == [150]
    assert homestead.exchange()["svalbard"].collected is None


def test_a_receipt_that_the_satellite_signed_decides_the_update_at_home(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    station.depot.journal.add_message(
        ReceivedMessage(
            satellite="SAT-1", counter=1, kind="receipt", re=staged.update.handle, received_utc=NOW,
            data=sealed_receipt(staged.update.handle),
        )
    )  # fmt: skip
    homestead.sync(station)
    assert homestead.exchange()["svalbard"].collected.messages == 1
    assert homestead.depot.update(staged.update.handle).state is FlightState.CONFIRMED


STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)


@pytest.mark.parametrize("state", ["confirmed", "rejected", "cancelled", "complete"])
def test_whoever_stole_a_station_cannot_decide_an_update(homestead, state):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    forged = [
        sealed_receipt(staged.update.handle, key=STRANGER),
        sealed_receipt(staged.update.handle, satellite="SAT-2"),
        sealed_receipt(staged.update.handle)[:-1] + b"!",
        b"confirmed, believe me",
    ]
    result = bring(
        homestead, station, messages=tuple(forged),
        claims=(Claim(handle=staged.update.handle, state=FlightState(state), reason="I say so"),),
    )  # fmt: skip

    assert (result.collected.messages, result.collected.refused) == (0, 4)
    assert homestead.depot.update(staged.update.handle).state.is_open
    assert homestead.depot.update(staged.update.handle).reason == ""
    assert homestead.depot.journal.messages("SAT-1") == ()


def test_an_old_receipt_does_not_undo_a_newer_one(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    handle = staged.update.handle
    bring(homestead, station, messages=(sealed_receipt(handle, "CONFIRMED", counter=9),))
    homestead.later()
    logbook = dataclasses.replace(
        make_logbook(station, utc=homestead.now), serial=10**15 + 1,
        messages=(sealed_receipt(handle, "REJECTED", counter=5),),
    )  # fmt: skip
    path = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.LOGBOOK)
    path.write_bytes(logbook.seal(station.key))
    assert homestead.exchange()["svalbard"].collected.messages == 0
    assert homestead.depot.update(handle).state is FlightState.CONFIRMED


def test_an_answer_to_a_command_settles_it(homestead):
    station = homestead.export("svalbard")
    handle = object_handle(b"signed")
    homestead.depot.journal.add_command(
        QueuedCommand(
            handle=handle, satellite="SAT-1", counter=1, operation="cancel", data=b"signed",
            state=CommandState.QUEUED, created_utc=NOW,
        )
    )  # fmt: skip
    bring(homestead, station, messages=(sealed_message(MessageKind.RESULT, handle, {"ok": True, "text": ""}),))
    assert homestead.depot.journal.commands("SAT-1", CommandState.QUEUED) == ()


def test_impossible_progress_is_refused_and_counted(homestead):
    staged = stage(homestead)
    station = homestead.export("svalbard")
    handle = staged.bundle_handles[0]
    entries = [
        BlockProgress(handle=handle, block=5, next_esi=0, have=1),  # no such block
        BlockProgress(handle=handle, block=0, next_esi=0, have=500_000),  # more symbols than any block wants
        BlockProgress(handle=b"nobody", block=0, next_esi=0, have=1),  # of nothing that flies
        BlockProgress(handle=handle, block=0, next_esi=64, have=1),
    ]
    result = bring(homestead, station, progress=tuple(entries))
    assert result.collected.refused == 2
    assert homestead.depot.journal.progress("SAT-1", station=1) == (entries[-1],)


@pytest.mark.parametrize(
    ("data", "seconds", "is_kept"),
    [
        (Report().encode(), 0, True),
        (Report().encode(), 10**7, True),  # its clock is ahead: as of now
        (Report(accepted=2**32 - 1).encode(), 0, False),  # would set all later sequence numbers
        (Report(commands=1).encode(), 0, False),  # would have all later commands numbered above, or none given
        (b"no report", 0, False),
    ],
)
def test_a_report_is_believed_only_as_far_as_it_can_do_no_harm(homestead, data, seconds, is_kept):
    station = homestead.export("svalbard")
    heard = HeardReport(
        session=b"s" * 6, sequence=2**40 - 1, received_utc=homestead.now + timedelta(seconds=seconds), data=data
    )
    result = bring(homestead, station, report=heard)
    kept = homestead.depot.journal.last_report("SAT-1")
    assert (kept is not None, result.collected.refused) == (is_kept, 0 if is_kept else 1)
    assert kept is None or kept.received_utc <= homestead.now
    assert homestead.depot.journal.report_sessions("SAT-1") == {}  # our own ears stay open


def test_an_old_report_does_not_hide_a_newer_one(homestead):
    station = homestead.export("svalbard")
    newer = ReceivedReport(
        satellite="SAT-1", session=b"h" * 6, sequence=1, received_utc=homestead.later(), report=Report(free_mib=1)
    )
    homestead.depot.journal.record_report(newer)
    bring(
        homestead, station,
        report=HeardReport(session=b"s" * 6, sequence=1, received_utc=NOW, data=Report(free_mib=2).encode()),
    )  # fmt: skip
    assert homestead.depot.journal.last_report("SAT-1").report.free_mib == 1


def test_a_logbook_under_another_stations_key_is_refused_and_stops_nobody_else(homestead):
    stage(homestead)
    first, second = homestead.export("svalbard"), homestead.export("inuvik")
    homestead.exchange()
    homestead.sync(second)
    path = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.LOGBOOK)
    logbook = dataclasses.replace(make_logbook(first, utc=NOW), serial=10**15)
    path.write_bytes(logbook.seal(second.key))
    results = homestead.exchange()
    assert "not written with this station's key" in results["svalbard"].problem
    assert results["inuvik"].collected is not None


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "large"])
def test_what_is_no_plain_file_is_never_read_nor_waited_for(homestead, kind, tmp_path):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    orders, logbook = (letter_path(homestead.depot.path, "SAT-1", "svalbard", letter) for letter in LetterKind)
    orders.unlink()
    for path in (orders, logbook):
        if kind == "link":
            path.symlink_to(tmp_path / "home" / "keys" / "links" / "SAT-1.key")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(1 << 30)
    assert homestead.exchange()["svalbard"].problem
    if kind != "directory":
        assert homestead.sync(station).problems == ()  # both were replaced by whom they belong to


def test_a_letter_is_not_read_through_a_link_however_right_it_is(homestead, tmp_path):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    for kind, run in ((LetterKind.LOGBOOK, homestead.exchange), (LetterKind.ORDERS, lambda: homestead.sync(station))):
        path = letter_path(homestead.depot.path, "SAT-1", "svalbard", kind)
        path.rename(tmp_path / "right.letter")
        path.symlink_to(tmp_path / "right.letter")
        outcome = run()
        problems = outcome.problems if kind is LetterKind.ORDERS else (outcome["svalbard"].problem,)
        assert "not a plain file" in problems[0]


def test_no_link_says_where_home_writes(homestead, tmp_path):
    staged, stick, elsewhere = stage(homestead), tmp_path / "stick", tmp_path / "elsewhere"
    homestead.export("svalbard")
    elsewhere.mkdir()
    precious = elsewhere / "precious"
    precious.write_text("x" * 5000)
    directory = stick / "updates" / staged.update.handle.hex()
    directory.mkdir(parents=True)
    (directory / ".bundle-00000.skb.part").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        homestead.exchange(via=stick)
    assert precious.read_text() == "x" * 5000

    shutil.rmtree(directory)
    directory.symlink_to(elsewhere)
    with pytest.raises(LetterError, match="a link"):
        homestead.exchange(via=stick)
    letters = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.ORDERS).parent
    shutil.rmtree(letters, ignore_errors=True)
    letters.parent.mkdir(parents=True, exist_ok=True)
    letters.symlink_to(elsewhere)
    assert "a link" in homestead.exchange()["svalbard"].problem
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_what_a_thief_brings_does_not_fill_homes_database(homestead, monkeypatch):
    monkeypatch.setattr(collecting, "_CONTACTS_KEPT_MAX", 3)
    monkeypatch.setattr(collecting, "_SESSIONS_KEPT_MAX", 1)
    station = homestead.export("svalbard")
    log = ContactLog(id=0, satellite="SAT-1", station="", station_id=1, start_utc=NOW)
    logs = tuple(dataclasses.replace(log, start_utc=NOW + timedelta(seconds=number)) for number in range(5))
    heard = HeardReport(session=b"s" * 6, sequence=1, received_utc=NOW, data=Report().encode())
    collected = bring(homestead, station, contacts=logs, report=heard).collected
    assert (collected.contacts, collected.refused) == (3, 2)

    homestead.later()
    logbook = dataclasses.replace(
        make_logbook(station, utc=homestead.now), serial=10**15 + 1, contacts=logs[:1],
        report=dataclasses.replace(heard, session=b"t" * 6, received_utc=homestead.now),
    )  # fmt: skip
    letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.LOGBOOK).write_bytes(logbook.seal(station.key))
    assert homestead.exchange()["svalbard"].collected.refused == 1
    assert len(homestead.depot.journal.contacts("SAT-1")) == 3


def test_reports_that_were_heard_are_replays_in_a_directory_made_anew_too(homestead):
    old = homestead.export("svalbard")
    heard = HeardReport(session=b"s" * 6, sequence=7, received_utc=NOW, data=Report().encode())
    bring(homestead, old, report=heard)
    new = homestead.export("svalbard", to="new")
    assert new.depot.journal.report_sessions("SAT-1", station=1) == {b"s" * 6: 7}


def test_a_stations_directory_is_no_home(homestead):
    station = homestead.export("svalbard")
    with pytest.raises(KeyStoreError):
        exchange(station.depot, "SAT-1", utc=NOW)
    exchange_if_free(station.depot, "SAT-1", utc=NOW)
    assert not (station.path / "exchange").exists()


def test_a_disk_that_refuses_is_told_and_the_next_sync_goes_on(homestead):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    exchange_path = letter_path(homestead.depot.path, "SAT-1", "svalbard", LetterKind.LOGBOOK).parent
    shutil.rmtree(exchange_path)
    exchange_path.write_text("a file where a directory should be")
    outcome = homestead.sync(station)
    assert not outcome.has_written
    assert outcome.problems
    exchange_path.unlink()
    assert homestead.sync(station).has_written


# Export


def test_what_is_exported_lets_nobody_speak_for_anybody_else(homestead):
    stage(homestead)
    station = homestead.export("svalbard")
    assert station.key == homestead.depot.letters_key("SAT-1", 1) != homestead.depot.letters_key("SAT-1", 2)
    with pytest.raises(KeyStoreError):
        station.depot.link_key("SAT-1")
    for number in (1, 2):
        with pytest.raises(KeyStoreError):
            station.depot.station_key("SAT-1", number)
    for path in (station.depot.station_key_path("SAT-1", 1), station.depot.batches_path("SAT-1", 1)):
        assert path.stat().st_mode & 0o777 == 0o600
    everything = b"".join(path.read_bytes() for path in station.path.rglob("*") if path.is_file())
    for key in (LINK_KEY, homestead.depot.station_key("SAT-1", 1)):
        assert key.hex().encode() not in everything
        assert key not in everything


def test_frames_made_with_a_stolen_key_are_of_that_station_only(homestead):
    stolen = homestead.export("svalbard").depot.contact_key("SAT-1", 1, 64)
    satellite = FrameCodec(Direction.UP, LINK_KEY)
    satellite.set_contact(1, 64)
    frame = Frame(kind=FrameKind.RAPTORQ, handle=b"handle", num_symbols=9, block=0, esi=5, payload=bytes(64))
    as_itself = FrameCodec(Direction.UP, stolen, station=1).encode(frame)
    assert satellite.decode(as_itself).station == 1

    for station in (0, *range(2, 16)):
        claimed = bytes([as_itself[0] & 0xF0 | station]) + as_itself[1:]
        lied = FrameCodec(Direction.UP, stolen, station=station).encode(frame)
        derived = FrameCodec(Direction.UP, stolen).encode(dataclasses.replace(frame, station=station))
        for data in (claimed, lied, derived):
            with pytest.raises(ChecksumError):
                satellite.decode(data)
    down = FrameCodec(Direction.DOWN, LINK_KEY).encode(dataclasses.replace(frame, station=2))
    with pytest.raises(ChecksumError):  # nor can it read, as its own, what is said to another
        FrameCodec(Direction.DOWN, stolen, station=1).decode(down)


def test_export_never_overwrites_and_never_mixes_with_the_depot(homestead):
    homestead.export("svalbard")
    with pytest.raises(InputError, match="never overwritten"):
        homestead.export("svalbard")
    for inside in ("home/station", "."):
        with pytest.raises(InputError, match="leaves home"):
            homestead.export("inuvik", to=inside)


def test_an_export_that_was_interrupted_leaves_nothing_under_the_name(homestead, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("groundsegment.stations.export.write_letter", no_space)
        with pytest.raises(OSError, match="No space"):
            homestead.export("svalbard")
    assert not (homestead.path / "svalbard").exists()
    assert not (homestead.path / ".svalbard.part").exists()
    homestead.export("svalbard")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', "{"])
def test_a_directory_that_is_none_is_told(tmp_path, content):
    with pytest.raises(InputError, match="no station directory there"):
        StationDirectory.open(tmp_path / "none")
    (tmp_path / "station.json").write_text(content)
    with pytest.raises(InputError) as caught:
        StationDirectory.open(tmp_path)
    assert caught.value.hint


def test_a_stations_contacts_are_its_own_from_now_on(homestead):
    t0 = 1_800_000_000.0
    plan = ContactPlan(
        [
            PlannedContact(station="svalbard", start_s=t0, end_s=t0 + 100),
            PlannedContact(station="inuvik", start_s=t0 + 50, end_s=t0 + 150),
            PlannedContact(station="svalbard", start_s=t0 + 500, end_s=t0 + 600, loss=0.5),
        ],
        loss=0.1,
    )
    own = contacts_of(plan, "svalbard", now_s=t0 + 200)
    assert [(contact.start_s - t0, contact.loss) for contact in own] == [(500, 0.5)]
    assert [contact.loss for contact in contacts_of(plan, "inuvik", now_s=t0)] == [0.1]
    anybody = ContactPlan([PlannedContact(station="", start_s=t0, end_s=t0 + 9)])
    assert [contact.station for contact in contacts_of(anybody, "svalbard", now_s=t0)] == ["svalbard"]

    homestead.note("svalbard", contacts=own, endpoint="modem:1")
    station = homestead.export("svalbard")
    (contact,) = plan_of(station.orders().contacts, "svalbard").from_time(t0)
    assert (contact.start_s - t0, contact.station, contact.loss) == (500, "svalbard", 0.5)
    assert station.orders().endpoint == "modem:1"


def test_damaged_notes_are_the_disks_fault(homestead):
    homestead.note("svalbard", endpoint="x")
    path = homestead.depot.path / "stations" / "SAT-1" / "svalbard" / "notes.json"
    for content in ("{", "[]", '{"instance": 3}'):
        path.write_text(content)
        assert homestead.exchange()["svalbard"].problem
        with pytest.raises(DiskError):
            homestead.export("svalbard")
