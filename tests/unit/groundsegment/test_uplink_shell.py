import asyncio
import dataclasses
import math
import time

import pytest

from groundsegment.depot.records import FlightState
from groundsegment.errors import BusyError, DiskError, UnknownError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact, always
from groundsegment.uplink import shell
from groundsegment.uplink.flight_records import FlightPlan
from groundsegment.uplink.link_socket import Endpoint
from groundsegment.uplink.shell import UplinkShell
from groundsegment.uplink.symbols import InlineExecutor
from protocol.message import MessageKind
from protocol.report import SOLVED, UpdateState
from tests.fakes.depots import IDENTITY, LINK_KEY, make_depot, stage_bytes
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp

pytestmark = pytest.mark.slow  # sockets and real time: a second each

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)


@pytest.fixture(autouse=True)
def _encode_inline(monkeypatch):
    monkeypatch.setattr(shell, "encoder_process", InlineExecutor)
    monkeypatch.setattr(shell, "RECEIPT_PATIENCE_S", 0.5)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def satellite_for(staged, **options):
    values = {"sync_interval_s": 0.05, "report_interval_s": 0.02, "install_s": 0.05, "keep_symbols": True}
    return FakeSatellite(
        LINK_KEY, staged.update.handle, staged.bundle_handles, identity=SIGNER, **{**values, **options}
    )


def fly(depot, address, *, contacts=None, stop_after_s=None, views=None, **options):
    async def run():
        stop = asyncio.Event()
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        plan = FlightPlan(
            satellite="SAT-1",
            endpoint=Endpoint.parse(address),
            contacts=contacts or always(),
            **{"rate_bps": 20e6, **options},
        )
        return await UplinkShell(depot, plan, on_tick=(views if views is not None else []).append).run(stop)

    return asyncio.run(run())


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


def test_a_rejected_update_says_so(depot):
    staged = stage_bytes(depot, [20_000])
    with SatelliteOnUdp(satellite_for(staged, verdict=UpdateState.REJECTED)) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.REJECTED
    assert summary.updates[0].reason == "CANARY_FAILED"


def test_without_a_receipt_the_reported_state_will_do(depot):
    staged = stage_bytes(depot, [20_000])
    satellite = satellite_for(staged)
    satellite.identity = None
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CONFIRMED
    assert summary.updates[0].receipt is None


def test_an_interrupted_flight_goes_on_without_a_symbol_sent_twice(depot):
    staged = stage_bytes(depot, [2_000_000])
    with SatelliteOnUdp(satellite_for(staged), loss=0.1) as sky:
        first = fly(depot, sky.address, stop_after_s=0.4)
        assert first.is_interrupted
        assert depot.update(staged.update.handle).state is FlightState.FLYING
        kept = {entry.handle: entry for entry in depot.journal.progress("SAT-1")}
        assert 0 < kept[staged.bundle_handles[0]].next_esi < 1600
        second = fly(depot, sky.address)

    assert second.updates[0].state is FlightState.CONFIRMED
    assert sky.satellite.num_symbols_surplus < 80
    assert (first.bytes_sent + second.bytes_sent) * 0.9 < 1.12 * 2_000_000


def test_frames_are_sent_inside_contacts_only(depot):
    staged = stage_bytes(depot, [400_000])
    now_s = time.time()
    contacts = ContactPlan(
        [
            PlannedContact(station="a", start_s=now_s + 0.2, end_s=now_s + 0.5, rate_bps=4e6, guard_s=0.0),
            PlannedContact(station="b", start_s=now_s + 1.2, end_s=now_s + 60, rate_bps=40e6, guard_s=0.0),
        ]
    )
    views = []
    with SatelliteOnUdp(satellite_for(staged)) as sky:
        summary = fly(depot, sky.address, contacts=contacts, rate_bps=None, views=views)

    assert summary.contacts == 2
    sent_in = [view.bytes_sent for view in views if not view.is_up and 0.55 < view.now_s - now_s < 1.15]
    assert len(set(sent_in)) <= 1
    first, second = depot.journal.contacts("SAT-1")
    assert (first.station, second.station) == ("a", "b")
    assert 60_000 < first.bytes_sent < 1.2 * 0.3 * 4e6 / 8


def test_a_plan_that_ends_first_says_so(depot):
    staged = stage_bytes(depot, [4_000_000])
    now_s = time.time()
    contacts = ContactPlan([PlannedContact(station="a", start_s=now_s, end_s=now_s + 0.3, rate_bps=1e6, guard_s=0.0)])
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
        return dataclasses.replace(real_report(now), accepted=newer.update.sequence, update=newer.update.handle)

    satellite.report = report
    with SatelliteOnUdp(satellite) as sky:
        summary = fly(depot, sky.address)

    assert summary.updates[0].state is FlightState.CANCELLED
    assert "superseded" in depot.update(staged.update.handle).reason


def test_other_messages_are_kept_too(depot):
    staged = stage_bytes(depot, [20_000])
    satellite = satellite_for(staged)
    satellite.say(MessageKind.EVENT, bytes(8), {"name": "BOOT", "severity": "ACTIVITY", "text": "up"}, 0.0)
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
