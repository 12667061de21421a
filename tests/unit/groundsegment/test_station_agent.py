"""The station agent against a model satellite over real datagrams: contacts, letters between them, no half updates."""

import asyncio
import contextlib
import io
import threading
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from groundsegment.depot.records import FlightState
from groundsegment.errors import BusyError, InputError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.stations import home_line
from groundsegment.stations.agent_records import AgentPlan
from groundsegment.stations.home import exchange
from groundsegment.stations.home_line import HomeLine
from groundsegment.stations.shell import StationAgent
from groundsegment.uplink.screen.display import FlightDisplay
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.wire.link_socket import Endpoint
from tests.fakes.depots import IDENTITY, LINK_KEY
from tests.fakes.satellite import FakeSatellite
from tests.fakes.satellite_process import SatelliteOnUdp
from tests.fakes.stations import Homestead
from tests.unit.groundsegment.test_station_exchange import flown, stage


@pytest.fixture
def homestead(tmp_path):
    with Homestead(tmp_path, "svalbard", "inuvik") as place:
        place.now = datetime.now(UTC)
        yield place


def satellite_for(staged, station):
    """A satellite that hears one station and answers it."""
    identity = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)
    return FakeSatellite(
        LINK_KEY,
        staged.update.handle,
        staged.bundle_handles,
        identity=identity,
        keep_symbols=True,
        station=station.identity.id,
    )


def contacts_at(*spans, rate_bps=8e6):
    """Contacts of one station, (start, end) in seconds from now."""
    now_s = time.time()
    return ContactPlan(
        PlannedContact(station="svalbard", start_s=now_s + start, end_s=now_s + end, rate_bps=rate_bps, guard_s=0.0)
        for start, end in spans
    )


ALWAYS = (0, float("inf"))


def run(station, *, address="127.0.0.1:9", stop_when=None, said=None, **options):
    """Run an agent to its end."""

    async def fly():
        stop = asyncio.Event()

        def look():
            if stop_when():
                stop.set()
            else:
                asyncio.get_running_loop().call_later(0.005, look)

        if stop_when is not None:
            look()
        values = {"contacts": contacts_at(ALWAYS), "sync_period_s": 0.05, **options}
        endpoint = None if address is None else Endpoint.parse(address)
        plan = AgentPlan(root=values.pop("root", None), endpoint=endpoint, **values)
        silent = Console(file=io.StringIO())
        agent = StationAgent(
            station, plan, display=lambda: FlightDisplay(silent, is_quiet=True),
            tell=(said if said is not None else []).append,
        )  # fmt: skip
        return await agent.run(stop)

    return asyncio.run(fly())


@pytest.mark.slow
def test_a_station_fetches_flies_and_brings_the_receipt_home(homestead):
    staged = stage(homestead, sizes=(150_000, 90_000))
    station = homestead.export("svalbard")
    homestead.exchange()
    with SatelliteOnUdp(satellite_for(staged, station), loss=0.1) as sky:
        summary = run(station, address=sky.address, root=homestead.depot.path, until_decided=True)

    assert summary.is_decided
    assert [entry.state for entry in summary.updates] == [FlightState.CONFIRMED]
    for handle, data in zip(staged.bundle_handles, staged.bundles, strict=True):
        assert sky.satellite.object_bytes(handle, len(data)) == data
    assert homestead.exchange()["svalbard"].collected.messages == 1
    assert homestead.depot.update(staged.update.handle).state is FlightState.CONFIRMED
    (contact,) = homestead.depot.journal.contacts("SAT-1")
    assert (contact.station, contact.station_id, contact.frames_sent) == ("svalbard", 1, summary.frames_sent)


@pytest.mark.slow
def test_an_interrupted_station_goes_on_in_its_lane_without_a_symbol_sent_twice(homestead):
    staged = stage(homestead, sizes=(1_500_000,))
    station = homestead.export("svalbard")
    homestead.exchange()
    with SatelliteOnUdp(satellite_for(staged, station), loss=0.1) as sky:
        first = run(station, address=sky.address, root=homestead.depot.path, stop_when=lambda: sky.num_up > 200)
        assert first.is_interrupted
        assert 0 < first.frames_sent < 1172
        seen = {
            esi
            for entry in sky.satellite.objects.values()
            for block in entry.blocks.values()
            for esi in (*block.durable, *block.fresh)
        }
        assert all(Lane(index=1, count=3).owns(esi) for esi in seen)
        second = run(station, address=sky.address, until_decided=True)

    assert second.is_decided
    assert sky.satellite.num_symbols_surplus < 80


@pytest.mark.slow
def test_what_is_ordered_between_contacts_flies_in_the_next_one(homestead):
    station = homestead.export("svalbard")
    staged = stage(homestead, sizes=(20_000,))
    said = []

    def order():
        time.sleep(0.4)
        exchange(homestead.depot, "SAT-1", utc=datetime.now(UTC))

    home = threading.Thread(target=order)
    home.start()
    with SatelliteOnUdp(satellite_for(staged, station)) as sky:
        summary = run(
            station, address=sky.address, root=homestead.depot.path, until_decided=True, said=said,
            contacts=contacts_at((0, 0.1), (4.0, 600)),
        )  # fmt: skip
    home.join()
    assert summary.is_decided
    assert any("1 update to fly" in line for line in said)


@pytest.mark.slow
def test_what_is_cancelled_between_contacts_does_not_fly(homestead):
    staged = stage(homestead, sizes=(20_000,))
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    homestead.depot.set_update_state(staged.update.handle, FlightState.CANCELLED)
    exchange(homestead.depot, "SAT-1", utc=datetime.now(UTC))
    with SatelliteOnUdp(satellite_for(staged, station)) as sky:
        summary = run(station, address=sky.address, root=homestead.depot.path, until_decided=True)
    assert (summary.frames_sent, sky.num_up) == (0, 0)


@pytest.mark.slow
def test_a_home_out_of_reach_stops_nothing(homestead, tmp_path):
    staged = stage(homestead, sizes=(20_000,))
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    said = []
    with SatelliteOnUdp(satellite_for(staged, station)) as sky:
        summary = run(station, address=sky.address, root=tmp_path / "nowhere", once=True, said=said)
    assert summary.updates[0].state is FlightState.CONFIRMED
    assert len([line for line in said if "home cannot be reached" in line]) == 1  # told once, not every time


def test_a_directory_that_was_exported_anew_sends_not_one_frame(homestead):
    stage(homestead)
    old = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(old)
    homestead.export("svalbard", to="new")
    homestead.exchange()
    with pytest.raises(InputError, match="must not fly any more"):
        run(old, root=homestead.depot.path)
    with pytest.raises(InputError, match="must not fly any more"):
        run(old)


def test_two_agents_of_one_station_do_not_fly_at_the_same_time(homestead):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    with station.depot.uplink_lock("SAT-1", 1), pytest.raises(BusyError):
        run(station)


def test_nobody_said_when_or_where(homestead):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    with pytest.raises(InputError, match="no contact plan"):
        run(station, contacts=None)
    with pytest.raises(InputError, match="where the link is"):
        run(station, address=None)


def test_a_plan_that_is_over_is_told(homestead):
    stage(homestead)
    station = homestead.export("svalbard")
    homestead.exchange()
    homestead.sync(station)
    summary = run(station, contacts=contacts_at((-20, -10)))
    assert (summary.is_exhausted, summary.is_decided) == (True, False)
    assert flown(station)


@pytest.mark.slow
def test_orders_say_where_and_when(homestead):
    staged = stage(homestead, sizes=(2000,))
    with SatelliteOnUdp(FakeSatellite(LINK_KEY)) as sky:
        now_s = time.time()
        contact = PlannedContact(station="", start_s=now_s - 5, end_s=now_s + 30, rate_bps=1e6, guard_s=0.0)
        homestead.note("svalbard", endpoint=sky.address, contacts=(contact,))
        station = homestead.export("svalbard")
        homestead.exchange()
        homestead.sync(station)
        run(station, address=None, contacts=None, once=True, stop_when=lambda: sky.num_up > 0)
    assert sky.num_up > 0
    assert flown(station) == [staged.update.handle]


class HangingDirectory:
    """A station's directory on a disk that hangs."""

    def __init__(self):
        self.goes_on = threading.Event()

    @contextlib.contextmanager
    def lock(self):
        self.goes_on.wait()
        raise BusyError("at last")
        yield


def test_a_disk_that_hangs_costs_no_contact(tmp_path, monkeypatch):
    monkeypatch.setattr(home_line, "GRACE_S", 0.05)
    directory = HangingDirectory()
    line = HomeLine(directory, tmp_path, clock=time.time)

    async def call():
        stop = asyncio.Event()
        try:
            async with asyncio.timeout(45):  # it would wait for ever
                first = await line.sync(stop, deadline_s=time.time())
                second = await line.sync(stop, deadline_s=float("inf"))
        finally:
            directory.goes_on.set()
        while line._is_busy:
            await asyncio.sleep(0.001)
        with pytest.raises(BusyError):
            await line.sync(stop, deadline_s=float("inf"))
        return first, second

    assert asyncio.run(call()) == (None, None)
