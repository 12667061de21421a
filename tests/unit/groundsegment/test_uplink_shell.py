import asyncio
import dataclasses
import math
import sqlite3
import time

import pytest

from groundsegment.console.uplink_words import finish
from groundsegment.depot.depot import Depot
from groundsegment.depot.journal import Journal
from groundsegment.depot.records import FlightState
from groundsegment.errors import BusyError, DiskError, UnknownError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact, always
from groundsegment.uplink import shell
from groundsegment.uplink.flight import flights
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.sender.events import DepotBusy
from groundsegment.uplink.sender.loss import LossEstimate
from groundsegment.uplink.shell import UplinkShell
from groundsegment.uplink.wire.encoder import InlineExecutor
from groundsegment.uplink.wire.link_socket import Endpoint, LinkSocket
from protocol.frame import FrameCodec
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.report import SOLVED, Reason, UpdateState, UpdateStatus
from tests.fakes.depots import IDENTITY, LINK_KEY, make_depot, stage_bytes
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp

pytestmark = pytest.mark.slow  # sockets and real time: a second each

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)


@pytest.fixture(autouse=True)
def _encode_inline(monkeypatch):
    monkeypatch.setattr(shell, "EncoderProcess", InlineExecutor)
    monkeypatch.setattr(flights, "RECEIPT_PATIENCE_S", 20.0)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def satellite_for(staged, **options):
    values = {"sync_interval_s": 0.05, "report_interval_s": 0.02, "install_s": 0.05, "keep_symbols": True}
    return FakeSatellite(
        LINK_KEY, staged.update.handle, staged.bundle_handles, identity=SIGNER, **{**values, **options}
    )


def fly(depot, address, *, contacts=None, stop_after_s=None, stop_when=None, views=None, clock=time.time, **options):
    views = [] if views is None else views

    async def run():
        stop = asyncio.Event()

        def on_tick(view):
            views.append(view)
            if stop_when is not None and stop_when(view):
                stop.set()

        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        plan = FlightPlan(
            satellite="SAT-1",
            endpoint=Endpoint.parse(address),
            contacts=contacts or always(),
            **{"rate_bps": 20e6, **options},
        )
        return await UplinkShell(depot, plan, on_tick=on_tick, clock=clock).run(stop)

    return asyncio.run(run())


def blocked(report, staged, reason):
    """The report, saying that an update stands still."""
    about = UpdateStatus(handle=staged.update.handle, state=UpdateState.BLOCKED, reason=reason)
    return dataclasses.replace(report, updates=(about,))


def contacts_at(*spans, rate_bps=1e6):
    """A plan of contacts (station, seconds from now, seconds from now)."""
    now_s = time.time()
    return ContactPlan(
        [
            PlannedContact(station=name, start_s=now_s + start, end_s=now_s + end, rate_bps=rate_bps, guard_s=0.0)
            for name, start, end in spans
        ]
    )


def test_an_update_that_is_held_ends_the_flight_in_peace_until_it_is_activated(depot, capsys):
    staged = stage_bytes(depot, [20_000])
    with SatelliteOnUdp(satellite_for(staged, verdict=UpdateState.VERIFIED)) as sky:
        summary = fly(depot, sky.address)

    (flown,) = summary.updates
    assert (flown.state, flown.reason) == (FlightState.COMPLETE, "HELD")
    finish(FlightPlan(satellite="SAT-1", endpoint=Endpoint.parse("127.0.0.1:9"), contacts=always()), summary)
    assert f"skyload activate {staged.update.handle.hex()} --for SAT-1" in capsys.readouterr().err
    assert depot.update(staged.update.handle).state.is_open


def test_an_update_flies_and_its_receipt_comes_back(depot):
    staged = stage_bytes(depot, [150_000, 90_000])
    with SatelliteOnUdp(satellite_for(staged), loss=0.1) as sky:
        summary = fly(depot, sky.address)

    (flown,) = summary.updates
    assert flown.state is FlightState.CONFIRMED
    assert flown.receipt.state == "CONFIRMED"
    assert depot.update(staged.update.handle).state is FlightState.CONFIRMED
    for handle, data in zip(staged.bundle_handles, staged.bundles, strict=True):
        assert sky.satellite.object_bytes(handle, len(data)) == data
    assert [message.kind for message in depot.journal.messages("SAT-1")] == ["receipt"]
    assert depot.journal.last_report("SAT-1").report.state is UpdateState.CONFIRMED
    assert len(sky.satellite.outbox) == 0  # acknowledged
    (contact,) = depot.journal.contacts("SAT-1")
    assert contact.frames_sent == summary.frames_sent == sky.num_up
    assert contact.end_utc is not None


def test_a_flight_of_few_frames_leaves_behind_what_it_learned_of_the_link(depot):
    staged = stage_bytes(depot, [60_000])
    with SatelliteOnUdp(satellite_for(staged), loss=0.2) as sky:
        fly(depot, sky.address, rate_bps=1e6)

    assert depot.journal.contacts("SAT-1")[0].frames_sent < 100
    assert LossEstimate.from_dict(depot.journal.loss("SAT-1", 0, Direction.UP)) != LossEstimate()


def test_a_rejected_update_says_so(depot):
    staged = stage_bytes(depot, [20_000])
    with SatelliteOnUdp(satellite_for(staged, verdict=UpdateState.REJECTED)) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.REJECTED
    assert summary.updates[0].reason == "CANARY_FAILED"


def test_without_a_receipt_the_reported_state_will_do(depot, monkeypatch):
    staged = stage_bytes(depot, [20_000])
    satellite = satellite_for(staged)
    satellite.identity = None
    monkeypatch.setattr(flights, "RECEIPT_PATIENCE_S", 0.5)
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert summary.updates[0].receipt is None


def test_an_interrupted_flight_goes_on_without_a_symbol_sent_twice(depot):
    staged = stage_bytes(depot, [2_000_000])
    with SatelliteOnUdp(satellite_for(staged), loss=0.1) as sky:
        first = fly(depot, sky.address, stop_when=lambda view: view.bytes_sent > 300_000, rate_bps=8e6)
        assert first.is_interrupted
        assert depot.update(staged.update.handle).state is FlightState.FLYING
        kept = {entry.handle: entry for entry in depot.journal.progress("SAT-1")}
        assert 0 < kept[staged.bundle_handles[0]].next_esi < 1600
        second = fly(depot, sky.address)

    assert second.updates[0].state is FlightState.CONFIRMED
    assert sky.satellite.num_symbols_surplus < 80
    assert (first.bytes_sent + second.bytes_sent) * 0.9 < 1.12 * 2_000_000
    brought = [summary.updates[0].brought_bytes for summary in (first, second)]
    assert min(brought) > 0
    assert sum(brought) == pytest.approx(2_000_000, rel=0.05)
    assert second.bytes_sent * 0.9 < 1.15 * brought[1]


def test_frames_are_sent_inside_contacts_only(depot):
    staged = stage_bytes(depot, [400_000])
    now_s = time.time()
    contacts = ContactPlan(
        [
            PlannedContact(station="a", start_s=now_s + 1.0, end_s=now_s + 4.0, rate_bps=0.5e6, guard_s=0.0),
            PlannedContact(station="b", start_s=now_s + 5.0, end_s=now_s + 600, rate_bps=40e6, guard_s=0.0),
        ]
    )
    views = []
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        summary = fly(depot, sky.address, contacts=contacts, rate_bps=None, views=views)

    assert summary.contacts == 2
    sent_in = [view.bytes_sent for view in views if not view.is_up and 4.05 < view.now_s - now_s < 4.95]
    assert len(set(sent_in)) <= 1
    first, second = depot.journal.contacts("SAT-1")
    assert (first.station, second.station) == ("a", "b")
    assert 20_000 < first.bytes_sent < 1.2 * 3.0 * 0.5e6 / 8


def test_a_plan_that_ends_first_says_so(depot):
    staged = stage_bytes(depot, [4_000_000])
    now_s = time.time()
    contacts = ContactPlan([PlannedContact(station="a", start_s=now_s, end_s=now_s + 2.0, rate_bps=1e6, guard_s=0.0)])
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        summary = fly(depot, sky.address, contacts=contacts, rate_bps=None)

    assert summary.is_exhausted
    assert summary.updates[0].state is FlightState.FLYING


def test_updates_fly_one_after_the_other(depot):
    first = stage_bytes(depot, [20_000], seed=1)
    satellite = satellite_for(first)
    second = stage_bytes(depot, [20_000], seed=2)

    with SatelliteOnUdp(satellite) as sky:

        def switch(view):
            # The satellite turns to the next update once the first is through.
            if (
                depot.update(first.update.handle).state is FlightState.CONFIRMED
                and satellite.metadata != second.update.handle
            ):
                with sky.lock:
                    satellite.metadata, satellite.bundles = second.update.handle, second.bundle_handles
                    satellite.all_there_since, satellite.sent_receipt = None, False

        class Views(list):
            def append(self, view):
                switch(view)

        summary = fly(depot, sky.address, views=Views())

    assert [entry.state for entry in summary.updates] == [FlightState.CONFIRMED] * 2


def test_one_uplink_for_a_satellite_at_a_time(depot):
    stage_bytes(depot, [20_000])
    with depot.lock("uplink-SAT-1"), pytest.raises(BusyError) as caught:
        fly(depot, "127.0.0.1:9")
    assert caught.value.hint


def test_nothing_staged_is_an_error_with_a_hint(depot):
    with pytest.raises(UnknownError) as caught:
        fly(depot, "127.0.0.1:9")
    assert "skyload stage" in caught.value.hint


def test_nothing_left_is_none(depot):
    staged = stage_bytes(depot, [20_000])
    depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)

    summary = fly(depot, "127.0.0.1:9")

    assert summary.updates == ()
    assert not summary.is_exhausted


def test_a_damaged_depot_is_noticed_before_anything_is_sent(depot):
    staged = stage_bytes(depot, [20_000])
    path = depot.bundles(staged.update.handle)[0].path
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DiskError, match="19999 bytes"):
        fly(depot, "127.0.0.1:9")


def test_an_older_update_than_the_accepted_one_is_cancelled(depot):
    staged = stage_bytes(depot, [20_000])
    newer = stage_bytes(depot, [20_000], seed=2)
    depot.set_update_state(newer.update.handle, FlightState.CONFIRMED)
    satellite = satellite_for(newer)
    real_report = satellite.report

    def report(now):
        about = UpdateStatus(handle=newer.update.handle, state=UpdateState.CONFIRMED)
        return dataclasses.replace(real_report(now), accepted=newer.update.sequence, updates=(about,))

    satellite.report = report
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CANCELLED
    assert "superseded" in depot.update(staged.update.handle).reason


def test_other_messages_are_kept_too(depot):
    staged = stage_bytes(depot, [20_000])
    satellite = satellite_for(staged)
    satellite.say(MessageKind.EVENT, bytes(6), {"name": "BOOT", "severity": "ACTIVITY", "text": "up"}, 0.0)
    with SatelliteOnUdp(satellite) as sky:
        fly(depot, sky.address)

    assert {message.kind for message in depot.journal.messages("SAT-1")} == {"event", "receipt"}


def test_as_fast_as_reports_allow_loses_nothing_on_the_socket(depot):
    staged = stage_bytes(depot, [3_000_000])
    with SatelliteOnUdp(satellite_for(staged, report_interval_s=0.05)) as sky:
        summary = fly(depot, sky.address, rate_bps=0.0)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert sky.num_up <= 1.1 * math.ceil(3_000_000 / 1280) + 20
    solved = [entry for entry in depot.journal.progress("SAT-1") if entry.handle in staged.bundle_handles]
    assert all(entry.have == SOLVED for entry in solved)


@pytest.mark.parametrize(("rate_bps", "goes_in_trains"), [(40e6, False), (400e6, True)])
def test_only_on_a_fast_link_do_frames_leave_in_trains(depot, monkeypatch, rate_bps, goes_in_trains):
    asked, send_all = [], LinkSocket.send_all

    async def send_and_note(link, datagrams, *, in_trains):
        asked.append(in_trains)
        await send_all(link, datagrams, in_trains=in_trains)

    monkeypatch.setattr(LinkSocket, "send_all", send_and_note)
    staged = stage_bytes(depot, [600_000])
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        summary = fly(depot, sky.address, rate_bps=rate_bps)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert set(asked) == {goes_in_trains}


def test_a_depot_that_another_process_holds_delays_the_flight_and_loses_nothing(depot, monkeypatch):
    staged = stage_bytes(depot, [600_000])
    monkeypatch.setattr("groundsegment.depot.tables.BUSY_TIMEOUT_MS", 20)
    views, holder = [], sqlite3.connect(depot.path / "depot.db", isolation_level=None, check_same_thread=False)

    class Views(list):
        """Holds the database while frames fly, again and again."""

        def append(self, view):
            super().append(view)
            if holder.in_transaction:
                holder.execute("ROLLBACK")
            elif len(self) % 3:
                holder.execute("BEGIN IMMEDIATE")

    views = Views()
    with Depot.open(depot.path) as impatient, SatelliteOnUdp(satellite_for(staged), loss=0.1) as sky:
        summary = fly(impatient, sky.address, views=views, rate_bps=4e6)
    holder.close()

    assert summary.updates[-1].state is FlightState.CONFIRMED
    assert len(summary.updates) == 1
    assert any(isinstance(event, DepotBusy) for view in views for event in view.events)
    assert [message.kind for message in depot.journal.messages("SAT-1")] == ["receipt"]
    assert sum(entry.frames_sent for entry in depot.journal.contacts("SAT-1")) == summary.frames_sent


def test_a_full_depot_disk_stops_the_flight_with_an_error_and_the_next_one_goes_on(depot, monkeypatch):
    staged = stage_bytes(depot, [2_000_000])
    save, calls = Journal.save_progress, []

    def full(self, satellite, entries, **options):
        calls.append(satellite)
        if len(calls) > 6:
            raise DiskError("the depot's database: database or disk is full", hint="free some space")
        return save(self, satellite, entries, **options)

    with SatelliteOnUdp(satellite_for(staged), loss=0.1) as sky:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "save_progress", full)
            with pytest.raises(DiskError):
                fly(depot, sky.address, rate_bps=8e6)
        kept = {entry.handle: entry for entry in depot.journal.progress("SAT-1")}
        with sky.lock:
            (block,) = sky.satellite.objects[staged.bundle_handles[0]].blocks.values()
            highest = max(block.durable)
        assert 0 < highest < kept[staged.bundle_handles[0]].next_esi  # nothing flew that was not written down
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert sky.satellite.num_symbols_surplus < 80


def test_a_clock_that_is_set_between_contacts_is_followed(depot):
    stage_bytes(depot, [400_000])
    wrong_s = [-3600.0]

    def clock():
        return time.time() + wrong_s[0]

    contacts = contacts_at(("a", 0.3, 60))

    class Views(list):
        def append(self, view):
            wrong_s[0] = 0.0  # set right while it waits

    with SatelliteOnUdp(satellite_for(stage_bytes(depot, [10_000], seed=3))) as sky:
        summary = fly(
            depot, sky.address, contacts=contacts, rate_bps=None, views=Views(), clock=clock,
            stop_when=lambda view: sky.num_up > 0,
        )  # fmt: skip

    assert summary.contacts == 1
    assert sky.num_up > 0


def test_a_contact_that_a_new_clock_says_is_over_is_left_out(depot):
    stage_bytes(depot, [400_000])
    ahead_s = [0.0]
    contacts = contacts_at(("a", 100, 150), ("b", 200, 250))

    class Views(list):
        def append(self, view):
            ahead_s[0] = 500.0

    summary = fly(depot, "127.0.0.1:9", contacts=contacts, views=Views(), clock=lambda: time.time() + ahead_s[0])

    assert summary.is_exhausted
    assert summary.contacts == 0
    assert depot.journal.contacts("SAT-1") == ()


def test_at_the_end_of_a_contact_the_next_one_is_shown(depot):
    stage_bytes(depot, [4_000_000])
    contacts = contacts_at(("a", 0, 0.3), ("b", 60, 61))
    views = []
    fly(
        depot, "127.0.0.1:9", contacts=contacts, views=views,
        stop_when=lambda view: not view.is_up and view.contact_number == 2,
    )  # fmt: skip

    gap = [view for view in views if not view.is_up and view.contact_number == 2]
    assert gap
    assert all(view.contact.station == "b" for view in gap)


def test_once_all_is_decided_no_other_contact_is_promised(depot):
    staged, views = stage_bytes(depot, [20_000]), []
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        fly(depot, sky.address, contacts=contacts_at(("a", 0, 30), ("b", 60, 61)), views=views)

    assert not views[-1].is_up
    assert {view.contact.station for view in views} == {"a"}


def test_what_is_heard_in_a_gap_is_kept_at_once(depot):
    staged = stage_bytes(depot, [400_000])
    gap_s = time.time() + 1.5

    def is_kept(view):  # the model satellite goes on talking
        last = depot.journal.last_report("SAT-1")
        return not view.is_up and last is not None and last.received_utc.timestamp() > gap_s + 0.3

    contacts = contacts_at(("", 0, 1.5), ("", 60, 61))
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        summary = fly(depot, sky.address, contacts=contacts, rate_bps=1e6, stop_when=is_kept)

    assert summary.is_interrupted  # before the second contact


def test_a_decision_that_is_heard_in_a_gap_ends_the_run(depot):
    staged = stage_bytes(depot, [20_000])
    satellite = satellite_for(staged, install_s=1e9)

    class Views(list):
        def append(self, view):
            satellite.install_s = 0.0 if not view.is_up else 1e9

    contacts = contacts_at(("", 0, 2.5), ("", 600, 601))
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address, contacts=contacts, views=Views(), stop_after_s=45.0)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert not summary.is_interrupted
    assert not summary.is_exhausted


def test_a_satellite_reset_to_an_older_state_gets_everything_again(depot, monkeypatch):
    monkeypatch.setattr("groundsegment.uplink.sender.learning._ABSENT_SOLVED_S", 0.3)
    staged = stage_bytes(depot, [60_000])
    with SatelliteOnUdp(satellite_for(staged, install_s=1e9)) as sky:
        fly(depot, sky.address, stop_when=lambda _: depot.update(staged.update.handle).state is FlightState.COMPLETE)
        assert depot.update(staged.update.handle).state is FlightState.COMPLETE
    views = []
    reset = satellite_for(staged)
    reset.session = b"reset!"
    with SatelliteOnUdp(reset, loss=0.1) as sky:
        summary = fly(depot, sky.address, views=views, rate_bps=0.5e6)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert FlightState.FLYING in {entry.update.state for view in views for entry in view.updates}


def test_reports_that_are_forged_or_repeated_change_nothing(depot):
    staged = stage_bytes(depot, [60_000])
    forged = satellite_for(staged, install_s=0.0)
    forged.down = FrameCodec(Direction.DOWN, b"\x01" * 32)
    forged.complete = dict.fromkeys([staged.update.handle, *staged.bundle_handles])
    with SatelliteOnUdp(forged) as sky:
        views = []
        summary = fly(depot, sky.address, views=views, stop_when=lambda _: sky.num_up > 20 and len(views) > 20)

    assert summary.report is None
    assert depot.update(staged.update.handle).state is FlightState.FLYING
    assert depot.journal.last_report("SAT-1") is None


def test_what_blocks_an_update_is_in_the_depot_and_nothing_is_sent_meanwhile(depot):
    staged = stage_bytes(depot, [400_000])
    satellite = satellite_for(staged)
    real_report = satellite.report

    def report(now):
        return blocked(real_report(now), staged, Reason.DISK_FULL)

    satellite.report = report
    since = []

    def is_known(view):
        if depot.update(staged.update.handle).reason == "DISK_FULL":
            since.append(view)
        return bool(since) and view.now_s > since[0].now_s + 0.8

    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address, stop_when=is_known, rate_bps=2e6)

    assert summary.updates[0].reason == "DISK_FULL"
    assert depot.update(staged.update.handle).reason == "DISK_FULL"
    assert since[-1].bytes_sent - since[0].bytes_sent < 0.2 * 2e6 / 8


def test_an_update_that_lacks_its_base_gives_way_to_the_newer_one_that_cures_it(depot, monkeypatch):
    monkeypatch.setattr(shell, "LOOK_PERIOD_S", 0.1)
    stuck = stage_bytes(depot, [20_000], seed=1)
    cure = []
    satellite = satellite_for(stuck)
    real_report = satellite.report

    def report(now):
        if not cure or cure[0].update.handle not in satellite.complete:
            return blocked(real_report(now), stuck, Reason.BASE_MISSING)
        satellite.metadata, satellite.bundles = cure[0].update.handle, cure[0].bundle_handles
        return dataclasses.replace(real_report(now), accepted=cure[0].update.sequence)

    class Views(list):
        """The operator stages it anew once the first one is seen to stand still."""

        def append(self, view):
            if not cure and depot.update(stuck.update.handle).reason == "BASE_MISSING":
                cure.append(stage_bytes(depot, [30_000], seed=2))

    satellite.report, satellite.all_there_since = report, None
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address, views=Views(), stop_after_s=45.0)

    assert not summary.is_interrupted
    assert depot.update(cure[0].update.handle).state is FlightState.CONFIRMED
    assert depot.update(stuck.update.handle).state is FlightState.CANCELLED
    assert len(summary.updates) == 2


def test_what_held_an_update_up_is_forgotten_once_it_goes_on(depot):
    staged = stage_bytes(depot, [400_000])
    satellite = satellite_for(staged, install_s=1e9)
    real_report, seen = satellite.report, []

    def report(now):
        if staged.update.handle not in satellite.complete or seen:
            return real_report(now)
        return blocked(real_report(now), staged, Reason.DISK_FULL)

    def goes_on(view):
        if "DISK_FULL" in {entry.update.reason for entry in view.updates}:
            seen.append(view)
        return bool(seen) and not depot.update(staged.update.handle).reason

    satellite.report = report
    with SatelliteOnUdp(satellite) as sky:
        fly(depot, sky.address, stop_after_s=45.0, stop_when=goes_on, rate_bps=1e6)

    assert seen
    assert depot.update(staged.update.handle).reason == ""
