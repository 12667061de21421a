"""Several updates and several stations through the uplink's shell, over real sockets."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import CommandState, FlightState
from groundsegment.errors import DiskError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact, always
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.uplink import shell
from groundsegment.uplink.flight import flights
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.shell import UplinkShell
from groundsegment.uplink.wire.encoder import InlineExecutor
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.command import Command
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.trust import command_keys
from tests.fakes.busy_satellite import BusyOnUdp, BusySatellite
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot, stage_bytes
from tests.unit.groundsegment.test_sending_console import run

pytestmark = pytest.mark.slow  # sockets and real time: some seconds each

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)


@pytest.fixture(autouse=True)
def _encode_inline(monkeypatch):
    monkeypatch.setattr(shell, "EncoderProcess", InlineExecutor)
    monkeypatch.setattr(flights, "RECEIPT_PATIENCE_S", 20.0)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def a_satellite(**options):
    values = {"sync_interval_s": 0.05, "report_interval_s": 0.02, "install_s": 0.05, "keep_symbols": True}
    return BusySatellite(LINK_KEY, identity=SIGNER, **{**values, **options})


def fly(
    depot, address, *, contacts=None, stop_after_s=None, stop_when=lambda view: False, on_tick=lambda view: None,
    clock=time.time, **options,
):  # fmt: skip
    async def main():
        stop = asyncio.Event()

        def look(view):
            on_tick(view)
            if stop_when(view):
                stop.set()

        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        plan = FlightPlan(
            satellite="SAT-1",
            endpoint=Endpoint.parse(address),
            contacts=contacts or always(),
            **{"rate_bps": 8e6, **options},
        )
        return await UplinkShell(depot, plan, on_tick=look, clock=clock).run(stop)

    return asyncio.run(main())


def bytes_on_board(satellite, staged):
    return [
        satellite.object_bytes(handle, len(data))
        for handle, data in zip(staged.bundle_handles, staged.bundles, strict=True)
    ]


def test_an_urgent_update_staged_in_mid_flight_overtakes_within_a_second_and_the_big_one_goes_on(depot):
    big = stage_bytes(depot, [1_000_000, 1_500_000])
    satellite, urgent, marks = a_satellite().expect(big), [], {}

    def watch(view):
        if not urgent and view.updates and view.updates[0].share_on_board > 0.2:
            urgent.append(stage_bytes(depot, [150_000], seed=2, priority=10, beside=True))
            satellite.expect(urgent[0])
            marks["staged"] = view.bytes_sent
        if urgent and "seen" not in marks and view.updates[0].update.handle == urgent[0].update.handle:
            marks["seen"] = view.bytes_sent

    with BusyOnUdp(satellite, loss=0.1) as sky:
        summary = fly(depot, sky.address, on_tick=watch)

    assert satellite.confirmed == [urgent[0].update.handle, big.update.handle]
    assert marks["seen"] - marks["staged"] < 1.0 * 8e6 / 8  # what a second carries
    assert [entry.state for entry in summary.updates] == [FlightState.CONFIRMED] * 2
    for staged in (big, urgent[0]):
        assert bytes_on_board(satellite, staged) == list(staged.bundles)
    assert summary.bytes_sent * 0.9 < 1.06 * 2_650_000  # whoever waited is not sent again


def test_updates_of_one_priority_share_a_contact_by_weight(depot):
    heavy = stage_bytes(depot, [1_500_000], weight=3.0)
    light = stage_bytes(depot, [1_500_000], seed=2, beside=True, symbol_size=2560)  # shares are of bytes
    satellite, shares = a_satellite().expect(heavy, light), []

    def watch(view):
        by_handle = {entry.update.handle: entry.share_on_board for entry in view.updates}
        if len(by_handle) == 2 and 0.3 < by_handle[heavy.update.handle] < 0.8:
            shares.append(by_handle[light.update.handle] / by_handle[heavy.update.handle])

    with BusyOnUdp(satellite) as sky:
        fly(depot, sky.address, on_tick=watch)

    assert satellite.confirmed[0] == heavy.update.handle
    assert shares[-1] == pytest.approx(1 / 3, abs=0.1)


def test_an_update_cancelled_in_mid_flight_stops_and_the_satellite_is_told_by_the_same_uplink(depot):
    doomed = stage_bytes(depot, [2_000_000])
    other = stage_bytes(depot, [400_000], seed=2, beside=True)
    satellite, told = a_satellite().expect(doomed, other), []
    keys = command_keys(KeyStore(depot.keys_path).root())

    def obey(sky, handle, data, now):
        command = Command.open(data, public_keys=keys, satellite="SAT-1")
        satellite.cancel(command.args["update"])
        told.append(command.args["update"])
        satellite.say(MessageKind.RESULT, handle, {"ok": True, "text": "cancelled"}, now)

    def watch(view):
        if not told and view.updates and view.updates[0].share_on_board > 0.2:
            run(depot, "cancel", doomed.update.handle.hex(), "--for", "SAT-1", "--yes")

    with BusyOnUdp(satellite, on_command=obey) as sky:
        summary = fly(depot, sky.address, on_tick=watch)

    assert told == [doomed.update.handle]
    assert {entry.handle: entry.state for entry in summary.updates} == {
        doomed.update.handle: FlightState.CANCELLED,
        other.update.handle: FlightState.CONFIRMED,
    }
    assert summary.bytes_sent < 2_000_000
    assert [entry.state for entry in depot.journal.commands("SAT-1")] == [CommandState.DONE]


def test_an_uplink_with_nothing_but_a_command_to_tell_tells_it_and_ends_and_keeps_what_nobody_signed(depot):
    doomed = stage_bytes(depot, [20_000])
    depot.set_update_state(doomed.update.handle, FlightState.FLYING)
    run(depot, "cancel", doomed.update.handle.hex(), "--for", "SAT-1", "--yes")
    told = []
    with BusyOnUdp(a_satellite(), on_command=lambda *args: told.append(args)) as sky:
        summary = fly(depot, sky.address, stop_after_s=45.0)

    assert len(told) == 1
    assert not summary.is_interrupted
    (kept,) = depot.journal.commands("SAT-1")
    assert kept.state is CommandState.QUEUED  # a report is no proof: the next uplink asks again


def test_three_stations_feed_one_update_from_one_depot_without_a_symbol_sent_twice(depot):
    for name in ("svalbard", "inuvik"):
        depot.add_station("SAT-1", name, added_utc=NOW)
    staged = stage_bytes(depot, [2_000_000, 2_000_000], lanes=3)
    satellite, summaries = a_satellite().expect(staged), {}

    def one(station):
        with Depot.open(depot.path) as own:
            summaries[station] = fly(own, sky.address, station=station, rate_bps=4e6)

    with BusyOnUdp(satellite, loss=0.1) as sky:
        threads = [threading.Thread(target=one, args=(station,)) for station in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert bytes_on_board(satellite, staged) == list(staged.bundles)
    assert all(summary.updates[0].state is FlightState.CONFIRMED for summary in summaries.values())
    assert sum(summary.bytes_sent for summary in summaries.values()) * 0.9 < 1.15 * 4_000_000
    assert satellite.num_symbols_surplus < 0.05 * 4_000_000 / 1280
    for station in range(3):
        assert depot.journal.progress("SAT-1", station=station)
        assert depot.journal.loss("SAT-1", station, Direction.UP)["lost"] > 0.03


def test_killed_again_and_again_each_update_goes_on_and_little_is_sent_twice(depot):
    depot.add_station("SAT-1", "svalbard", added_utc=NOW)
    big = stage_bytes(depot, [1_200_000, 1_200_000], lanes=2)
    small = stage_bytes(depot, [500_000], seed=2, lanes=2, priority=1, beside=True)
    satellite, total = a_satellite().expect(big, small), 0
    with BusyOnUdp(satellite, loss=0.1) as sky:
        for number in range(8):
            with Depot.open(depot.path) as own:
                total += fly(own, sky.address, station=number % 2, stop_after_s=0.5).bytes_sent
        total += fly(depot, sky.address).bytes_sent

    assert set(satellite.confirmed) == {big.update.handle, small.update.handle}
    for staged in (big, small):
        assert bytes_on_board(satellite, staged) == list(staged.bundles)
    assert satellite.num_symbols_surplus < 150  # what was reported complete while it was under way
    assert total * 0.9 < 1.15 * 2_900_000


def test_an_update_staged_before_a_station_was_registered_waits_for_the_home_ground(depot):
    old = stage_bytes(depot, [50_000])
    station = depot.add_station("SAT-1", "svalbard", added_utc=NOW)
    new = stage_bytes(depot, [50_000], seed=2, lanes=2, beside=True)
    satellite = a_satellite().expect(old, new)
    with BusyOnUdp(satellite) as sky:
        summary = fly(depot, sky.address, station=station.id)

    assert [entry.handle for entry in summary.updates] == [new.update.handle]
    assert [(update.handle, why) for update, why in summary.waiting] == [
        (old.update.handle, "it was staged before this station was registered")
    ]


def test_expired_metadata_is_not_flown_but_what_was_accepted_in_time_goes_on(depot):
    late = stage_bytes(depot, [50_000], expires_utc=datetime.now(UTC) - timedelta(days=1))
    soon = stage_bytes(depot, [600_000], seed=2, expires_utc=datetime.now(UTC) + timedelta(hours=1), beside=True)
    satellite = a_satellite().expect(late, soon)

    def clock():
        return time.time() + 7200.0 * (soon.update.handle in satellite.complete)

    with BusyOnUdp(satellite) as sky:
        summary = fly(depot, sky.address, rate_bps=2e6, clock=clock)

    assert depot.update(late.update.handle).state is FlightState.EXPIRED
    assert [update.handle for update in summary.expired] == [late.update.handle]
    assert satellite.confirmed == [soon.update.handle]
    assert late.update.handle not in satellite.complete


@pytest.mark.parametrize("what", ["metadata", "bundle"])
def test_a_damaged_file_is_found_before_it_flies_and_the_others_fly_on(depot, what):
    broken = stage_bytes(depot, [300_000, 300_000])
    path = broken.update.metadata_path if what == "metadata" else depot.bundles(broken.update.handle)[1].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    other = stage_bytes(depot, [100_000], seed=2, beside=True)
    satellite = a_satellite().expect(broken, other)
    with BusyOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert satellite.confirmed == [other.update.handle]
    assert [str(error) for error in summary.damage] == [f"{path}: damaged, it is no longer what was staged"]
    assert summary.damage[0].hint
    assert broken.bundle_handles[1] not in {*satellite.complete, *satellite.objects}
    with pytest.raises(DiskError, match="damaged") if what == "metadata" else BusyOnUdp(satellite) as sky:
        again = fly(depot, "127.0.0.1:9" if what == "metadata" else sky.address)
        assert again.damage


def test_metadata_signed_anew_over_the_same_bundles_loses_no_progress(depot):
    first = stage_bytes(depot, [1_000_000])
    satellite = a_satellite().expect(first)
    with BusyOnUdp(satellite, loss=0.1) as sky:
        before = fly(depot, sky.address, stop_after_s=0.6)
        depot.set_update_state(first.update.handle, FlightState.CANCELLED)
        second = stage_bytes(depot, [1_000_000], seed=1, salt=b"again")
        satellite.expect(second)
        after = fly(depot, sky.address)

    assert second.bundle_handles == first.bundle_handles
    assert satellite.confirmed == [second.update.handle]
    assert satellite.num_symbols_surplus < 80
    assert (before.bytes_sent + after.bytes_sent) * 0.9 < 1.12 * 1_000_000


def test_an_update_signed_again_in_mid_flight_goes_on_where_the_old_one_was(depot, monkeypatch):
    monkeypatch.setattr(flights, "RECEIPT_PATIENCE_S", 0.5)  # the old one gets none
    first = stage_bytes(depot, [1_500_000])
    satellite, again = a_satellite().expect(first), []

    def watch(view):
        if not again and view.updates and view.updates[0].share_on_board > 0.3:
            digest = first.update.release_digest
            again.append(stage_bytes(depot, [1_500_000], salt=b"again", release_digest=digest))
            satellite.expect(again[0])

    with BusyOnUdp(satellite, loss=0.1) as sky:
        summary = fly(depot, sky.address, on_tick=watch)

    assert satellite.confirmed == [again[0].update.handle]
    assert satellite.num_repeated == 0
    assert summary.bytes_sent * 0.9 < 1.12 * 1_500_000


def test_a_receiver_that_dies_is_called_until_it_is_back_and_little_is_sent_into_the_void(depot):
    staged = stage_bytes(depot, [2_500_000])
    satellite, marks = a_satellite().expect(staged), {}
    advance, receive = satellite.advance, satellite.receive

    def is_dead(now):
        if "died" not in marks and len(satellite.objects) and satellite.received > 600:
            marks["died"] = now
            satellite.kill()
        return "died" in marks and now - marks["died"] < 2.0

    def receive_unless_dead(data, now):
        if is_dead(now):
            marks["void"] = marks.get("void", 0) + len(data)
        else:
            receive(data, now)

    satellite.receive = receive_unless_dead
    satellite.advance = lambda now: [] if is_dead(now) else advance(now)
    with BusyOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert marks["void"] < 8e6 / 8 * 0.9  # of two seconds of silence at a million bytes a second


def test_a_contact_is_logged_with_what_was_lost_on_average_both_ways(depot):
    staged = stage_bytes(depot, [1_500_000])
    with BusyOnUdp(a_satellite().expect(staged), loss=0.2) as sky:
        fly(depot, sky.address)
    (contact,) = depot.journal.contacts("SAT-1")

    assert contact.loss == pytest.approx(0.2, abs=0.05)
    assert contact.frames_received / contact.frames_sent == pytest.approx(0.8, abs=0.08)
    assert contact.loss_down == pytest.approx(0.0, abs=0.01)
    assert contact.frames_heard > 20


def test_a_flight_of_which_nothing_is_heard_says_how_probable_it_is_that_all_arrived(depot):
    staged = stage_bytes(depot, [100_000])
    now_s = time.time()
    shares = []
    for seconds in (0.4, 5.0):
        contact = PlannedContact(station="", start_s=now_s, end_s=time.time() + seconds, rate_bps=1e6, guard_s=0.0)
        plan = ContactPlan([contact], loss=0.1, is_one_way=True)
        with BusyOnUdp(a_satellite(is_silent=True).expect(staged), loss=0.1) as sky:
            summary = fly(depot, sky.address, contacts=plan, rate_bps=None)
        assert summary.is_exhausted
        shares.append(summary.updates[0].p_complete)

    assert shares[0] < 0.01
    assert shares[1] > 0.9


def test_where_nobody_says_the_rate_and_nobody_answers_nothing_is_sent(depot):
    stage_bytes(depot, [1_000_000])
    events = []
    with BusyOnUdp(a_satellite(is_silent=True)) as sky:
        summary = fly(
            depot,
            sky.address,
            rate_bps=0.0,
            stop_after_s=45.0,
            on_tick=lambda view: events.extend(view.events),
            stop_when=lambda view: "RateUnknown" in {type(event).__name__ for event in events},
        )

    assert "RateUnknown" in {type(event).__name__ for event in events}
    assert summary.bytes_sent < 400_000
