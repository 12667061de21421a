"""What a flight says at its end, and of the updates that end with it: what is known, and no more."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from groundsegment.console.uplink_words import print_summary, summary_json
from groundsegment.depot.records import HOME_STATION, FlightState
from groundsegment.downlink import Downlink
from groundsegment.planner.contact_plan import PlannedContact, always
from groundsegment.stations.agent_records import AgentSummary
from groundsegment.uplink.flight.flight_book import FlightBook
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.flight.update_flight import UpdateFlight
from groundsegment.uplink.screen.display import FlightDisplay
from groundsegment.uplink.sender.core import Uplink
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.report import Reason, Report, UpdateState, UpdateStatus
from tests.fakes.depots import IDENTITY, LINK_KEY, make_depot, stage_bytes

PLAN = FlightPlan(satellite="SAT-1", endpoint=Endpoint.parse("127.0.0.1:9"), contacts=always())
CONTACT = PlannedContact(station="", start_s=0.0, end_s=60.0, rate_bps=1e6, guard_s=0.0)


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def make_book(depot, on_tick=lambda view: None):
    downlink = Downlink(
        contact_key=LINK_KEY,
        station=HOME_STATION,
        satellite="SAT-1",
        identity_public=IDENTITY.public_key().public_bytes_raw(),
        session=b"ground",
    )
    return FlightBook(depot, "SAT-1", HOME_STATION, downlink, on_tick=on_tick)


def flights_of(core, *shown):
    return SimpleNamespace(core=core, shown=shown, lineup=SimpleNamespace(waiting=()), expired=(), damage={})


def summary_of(book, core):
    return book.summary(flights_of(core), duration_s=1.0, is_interrupted=False, is_exhausted=False)


def test_where_no_report_told_of_a_frame_the_loss_is_unknown(depot, capsys):
    staged = stage_bytes(depot, [3000])
    core = Uplink()
    flight = UpdateFlight(depot, staged.update, core, Lane())
    flight.join((), 0.0)
    book = make_book(depot)
    book.sent(238, 300_000)
    book.close_flight(flight, p_complete=0.0)
    summary = summary_of(book, core)
    values = summary_json(depot, PLAN, summary)
    print_summary(values)

    assert (values["frames_lost"], values["loss"]) == (None, None)
    assert "238 frames, loss unknown, 0 contacts" in " ".join(capsys.readouterr().out.split())
    agent = AgentSummary().with_flight(summary)
    assert agent.frames_lost is None
    core.frame_totals = lambda: (200, 150)
    told = summary_of(book, core)
    assert told.frames_lost == 60
    assert agent.with_flight(told).with_flight(summary).frames_lost == 60


def test_where_nothing_was_ever_staged_there_is_no_last_update_to_tell_of(depot, capsys):
    summary = summary_of(make_book(depot), Uplink())
    print_summary(summary_json(depot, PLAN, summary))
    assert "nothing left to fly: no update is staged\n" in capsys.readouterr().out
    staged = stage_bytes(depot, [3000])
    depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)
    print_summary(summary_json(depot, PLAN, summary))
    assert "nothing left to fly: the last update is confirmed\n" in capsys.readouterr().out


def test_an_update_that_ends_between_two_looks_at_the_display_is_on_board(depot):
    staged = stage_bytes(depot, [3000])
    console = Console(file=io.StringIO(), width=160)
    core = Uplink()
    flight = UpdateFlight(depot, staged.update, core, Lane())
    flight.join((), 0.0)
    with FlightDisplay(console) as display:
        book = make_book(depot, display.show)
        book.begin_contact(CONTACT, flights_of(core), 1.0, 1.0)
        book.tick(flights_of(core, flight), 1.0, 1.0)
        about = UpdateStatus(handle=staged.update.handle, state=UpdateState.VERIFIED, reason=Reason.HELD)
        core.receive_report(Report(updates=(about,)), session=b"sessio", now=1.1)
        flight.leave(1.1)
        book.close_flight(flight, p_complete=1.0)  # held: no receipt is waited for
        book.end_contact(flights_of(core), 1.1, 1.1)
        book.tick(flights_of(core), 1.1, 1.1, force=True)
    text = console.file.getvalue()

    assert "contact 1 is over" in text
    assert "100.0% on board" in text
    assert "0.0% on board" not in text.replace("100.0%", "")
