import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from groundsegment.depot.records import FlightState, Update
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.flight.flight_records import FlightView, UpdateView
from groundsegment.uplink.screen.display import FlightDisplay
from groundsegment.uplink.screen.panel import contact_time_needed_s, render_panel
from groundsegment.uplink.sender.core import UplinkStatistics
from groundsegment.uplink.sender.events import (
    DepotBusy,
    HeldBack,
    ObjectComplete,
    ObjectReopened,
    ReturnPathSilent,
    StateChanged,
)
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.report import Reason, UpdateState
from tests.fakes.depots import NOW

EPOCH_S = 1_800_000_000.0
CONTACT = PlannedContact(station="svalbard", start_s=EPOCH_S, end_s=EPOCH_S + 100, rate_bps=8e6, guard_s=0.0)
UPDATE = Update(
    handle=bytes.fromhex("4a53e8630fce"),
    satellite="SAT-1",
    sequence=1,
    release_digest=bytes(32),
    base_digest=None,
    release_name="second",
    state=FlightState.FLYING,
    reason="",
    priority=0,
    payload_bytes=100_000_000,
    created_utc=NOW,
    directory=Path("updates"),
)
HALF_WAY = UplinkStatistics(
    symbols_sent=60,
    symbols_settled=60,
    blocks=18,
    blocks_solved=9,
    bundles=9,
    bundles_complete=4,
    symbols_needed=100,
    symbols_there=50,
    loss=LossEstimate(lost=1.0, arrived=9.0),
    feedback_s=0.1,
    is_silent=False,
    state=UpdateState.RECEIVING,
    reason=Reason.NONE,
)
IN_CONTACT = FlightView(
    now_s=EPOCH_S + 80,
    updates=(UpdateView(update=UPDATE, statistics=HALF_WAY),),
    link=HALF_WAY,
    contact=CONTACT,
    contact_number=3,
    is_up=True,
    rate_bps=8e6,
    bytes_sent=60_000_000,
    frames_sent=50_000,
    report=None,
    events=(),
)


def seen(view, statistics):
    """The same view of another update's progress."""
    return replace(view, updates=(UpdateView(update=UPDATE, statistics=statistics),), link=statistics)


IN_GAP = replace(IN_CONTACT, now_s=EPOCH_S - 60, is_up=False, rate_bps=0.0)
COMPLETE = replace(HALF_WAY, bundles_complete=9, blocks_solved=18, symbols_there=100)
WITHOUT_END = replace(IN_CONTACT, contact=replace(CONTACT, station="", start_s=-math.inf, end_s=math.inf))
BEFORE_THE_FIRST = replace(IN_GAP, updates=(), link=None, bytes_sent=0)
SILENT = seen(IN_CONTACT, replace(HALF_WAY, is_silent=True))
VIEWS = (
    IN_CONTACT,
    IN_GAP,
    WITHOUT_END,
    BEFORE_THE_FIRST,
    SILENT,
    replace(IN_CONTACT, contact=None),
    *(seen(IN_CONTACT, replace(COMPLETE, state=state)) for state in UpdateState),
)


def panel_lines(view, width=100):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, soft_wrap=True)
    console.print(render_panel(view, width))
    return console.file.getvalue().splitlines()


def row(view, label, width=100):
    return next(line for line in panel_lines(view, width) if line.startswith(label))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_the_panel_has_the_same_height_in_every_situation_and_stays_inside_the_terminal(width):
    for view in VIEWS:
        lines = panel_lines(view, width)
        assert len(lines) == (7 if view.updates else 5), lines
        assert max(map(len, lines)) <= width, lines


@pytest.mark.parametrize("width", [80, 100, 140])
def test_what_is_on_board_is_never_cut_off_on_usual_terminals(width):
    assert "50.0%, blocks 9/18, bundles 4/9" in row(IN_CONTACT, "on board", width)
    widest = replace(COMPLETE, blocks=100, blocks_solved=100)
    assert "100.0%, blocks 100/100, bundles 9/9" in row(seen(IN_CONTACT, widest), "on board", width)
    assert "3 via svalbard, 20.0 s left" in row(IN_CONTACT, "contact", width)


def test_the_rest_is_counted_in_contact_time_with_the_loss_and_set_against_this_contact():
    needed_s = contact_time_needed_s(IN_CONTACT)
    assert 50 / 0.9 < needed_s < 1.1 * 50 / 0.9
    assert "brings it to 67." in row(IN_CONTACT, "to go")
    assert "the next one is enough" in row(IN_GAP, "to go")
    assert "contact, without" not in row(WITHOUT_END, "to go")


def test_several_updates_stand_side_by_side_each_with_its_share():
    urgent = replace(UPDATE, handle=b"urgent", release_name="adapter", priority=9, weight=2.0, payload_bytes=1_000_000)
    view = replace(IN_CONTACT, updates=(UpdateView(update=urgent, statistics=COMPLETE), *IN_CONTACT.updates))
    lines = panel_lines(view)

    assert len(lines) == 10
    assert [line.split()[1] for line in lines if line.startswith("update")] == ["adapter", "second"]
    assert "priority 9, weight 2" in row(view, "update")
    assert contact_time_needed_s(view) == contact_time_needed_s(IN_CONTACT)
    text = shown(replace(view, events=(ObjectComplete(handle=bytes(6), bundle=2, update=UPDATE.handle),)))
    assert "second: bundle 2 is on board" in text
    assert "adapter: 100.0%, blocks 18/18" in text


def test_nothing_is_left_to_send_once_all_bundles_are_there():
    view = seen(IN_CONTACT, COMPLETE)
    assert "nothing to send" in row(view, "to go")
    assert "rebuilds" in row(view, "satellite")


def test_a_silent_return_path_and_a_gap_are_told_in_words():
    assert "no reports come" in row(SILENT, "link")
    assert "no contact" in row(IN_GAP, "link")
    assert "in 1 min 0 s" in row(IN_GAP, "contact")


def test_the_reason_of_a_rejection_stands_beside_it():
    view = seen(IN_CONTACT, replace(COMPLETE, state=UpdateState.REJECTED, reason=Reason.CANARY_FAILED))
    assert "REJECTED (CANARY_FAILED): the old model serves on" in row(view, "satellite")


def shown(*views, is_numbered=True, **options):
    console = Console(file=io.StringIO(), width=160, **options)
    with FlightDisplay(console, is_numbered=is_numbered) as display:
        for view in views:
            display.show(view)
    return console.file.getvalue()


def test_a_contact_says_when_it_begins_and_what_it_has_brought():
    before = replace(IN_GAP, bytes_sent=10_000_000, now_s=EPOCH_S)
    over = replace(IN_CONTACT, is_up=False, now_s=EPOCH_S + 100, bytes_sent=70_000_000)
    text = shown(before, IN_CONTACT, over)
    assert "contact 3 via svalbard begins: 20.0 s, 8 Mbit/s" in text
    assert "contact 3 is over: 60.0 MB sent in 1 min 40 s, 50.0% on board" in text


def test_a_station_that_flies_each_contact_by_itself_does_not_number_them():
    over = replace(IN_CONTACT, is_up=False, now_s=EPOCH_S + 100)
    text = shown(IN_GAP, IN_CONTACT, over, is_numbered=False)
    assert "contact via svalbard begins: 20.0 s, 8 Mbit/s" in text
    assert "contact is over: " in text


def test_a_contact_that_carried_commands_only_says_nothing_of_updates():
    views = (replace(view, updates=()) for view in (IN_GAP, IN_CONTACT, replace(IN_CONTACT, is_up=False)))
    over = next(line for line in shown(*views).splitlines() if "is over" in line)
    assert "on board" not in over


def test_without_a_terminal_it_is_lines_without_control_characters():
    text = shown(replace(IN_CONTACT, events=(ObjectComplete(handle=bytes(6), bundle=2),)))
    assert "bundle 2 is on board" in text
    assert "second: 50.0%, blocks 9/18, bundles 4/9, on board: RECEIVING; 8 Mbit/s, loss 10.0%" in text
    assert "\x1b" not in text


def test_on_a_terminal_the_panel_is_gone_at_the_end_and_the_events_stay():
    event = StateChanged(state=UpdateState.TRIAL, reason=Reason.NONE)
    text = shown(replace(IN_CONTACT, events=(event,)), force_terminal=True, color_system=None)
    assert "on board: TRIAL" in text
    assert text.endswith("\x1b[2K"), repr(text[-40:])


def test_a_gap_is_told_once_with_the_real_wait():
    following = replace(CONTACT, station="awarua", start_s=EPOCH_S + 160, end_s=EPOCH_S + 200)
    gap = [replace(IN_GAP, now_s=EPOCH_S + 100 + second, contact=following, contact_number=4) for second in range(60)]
    text = shown(replace(IN_CONTACT, now_s=EPOCH_S + 99), *gap)
    assert text.count("begins in") == 1
    assert "contact 4 via awarua begins in 1 min 0 s, at 2027-01-15T08:02:40Z" in text
    assert "0.0 s" not in text


def test_the_last_contact_promises_no_other_one():
    over = replace(IN_CONTACT, is_up=False, now_s=EPOCH_S + 100, contact_number=4)
    assert "begins in" not in shown(IN_CONTACT, over)


def test_what_holds_an_update_up_is_said_with_where_to_look():
    event = StateChanged(state=UpdateState.BLOCKED, reason=Reason.DISK_FULL)
    text = shown(replace(IN_CONTACT, events=(event, DepotBusy(), ObjectReopened(handle=bytes(6), bundle=None))))
    assert "BLOCKED (DISK_FULL); it goes on by itself once that is put right: docs/runbook.md" in text
    assert "another process holds the depot" in text
    assert "the metadata was lost on board" in text


def test_quiet_says_nothing():
    console = Console(file=io.StringIO())
    with FlightDisplay(console, is_quiet=True) as display:
        display.show(IN_CONTACT)
    assert console.file.getvalue() == ""


def test_a_satellite_that_has_everything_and_is_busy_with_its_trial_is_not_called_silent():
    silent = (ReturnPathSilent(silence_s=2.0), HeldBack())
    text = shown(replace(IN_CONTACT, events=silent))
    assert "no report for 2.0 s" in text
    assert "saving symbols for up to 10 s" in text
    assert "report" not in shown(replace(seen(IN_CONTACT, COMPLETE), events=silent))


def test_the_last_events_of_a_contact_are_told_before_its_end():
    event = StateChanged(state=UpdateState.CONFIRMED, reason=Reason.NONE)
    text = shown(seen(IN_CONTACT, COMPLETE), replace(IN_GAP, updates=(), events=(event,)))
    assert text.index("on board: CONFIRMED") < text.index("contact 3 is over")
    assert "100.0% on board" in text
