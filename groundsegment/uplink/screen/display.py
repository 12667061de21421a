"""The live display of a flight: a panel where stderr is a terminal, a line every few seconds where it is not.

It is fed snapshots and knows nothing else. Words carry the meaning, colour only underlines it.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from groundsegment.planner.quantities import format_bytes, format_duration, format_rate, format_utc
from groundsegment.uplink.flight.flight_records import FlightView, UpdateView
from groundsegment.uplink.screen.panel import remaining_words, render_panel, share_on_board
from groundsegment.uplink.sender.events import (
    AllBundlesComplete,
    ContactSkipped,
    DepotBusy,
    Event,
    HeldBack,
    ObjectComplete,
    ObjectReopened,
    RateUnknown,
    ReceiverRestarted,
    ReturnPathSilent,
    StateChanged,
)
from protocol.report import UpdateState

LINE_PERIOD_S = 5.0
PANEL_PERIOD_S = 0.25


class FlightDisplay:
    """Use it in a `with`; call `show` with each snapshot.

    Args:
        console: shown there.
        is_quiet: it is not.
        is_numbered: contacts are counted in its lines; of no use where each one has a display of its own.
    """

    def __init__(self, console: Console, *, is_quiet: bool = False, is_numbered: bool = True) -> None:
        self._console, self._is_quiet, self._is_numbered = console, is_quiet, is_numbered
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown_s = 0.0
        self._contact_number = 0
        self._was_up: bool | None = None
        self._begun_s, self._bytes_before, self._share = 0.0, 0, 0.0
        self._names: dict[bytes, str] = {}  # of the updates shown last

    def __enter__(self) -> Self:
        if self._live is not None and not self._is_quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None and not self._is_quiet:
            self._live.stop()

    def show(self, view: FlightView) -> None:
        """Show a snapshot, if it is time."""
        if self._is_quiet:
            return
        if view.updates:
            self._share = share_on_board(view)
            self._names = {entry.update.handle: entry.update.release_name for entry in view.updates}
        is_ending = bool(self._was_up) and not view.is_up
        if not is_ending:
            self._tell_contact(view)
        for event in view.events:
            self._tell_event(view, event)
        if is_ending:  # what the last turn has brought comes first
            self._tell_contact(view)
        period_s = LINE_PERIOD_S if self._live is None else PANEL_PERIOD_S
        now = time.monotonic()  # noqa: TID251 - a display is a shell
        if now - self._shown_s < period_s:
            return
        self._shown_s = now
        if self._live is not None:
            self._live.update(render_panel(view, self._console.width), refresh=True)
        elif view.is_up:
            self._say(view, _line(view))

    def _tell_contact(self, view: FlightView) -> None:
        """Say that a contact begins, or what the one that ended has brought."""
        if self._was_up is None:
            self._begun_s = view.now_s
        if not view.is_up and not self._was_up:
            self._begun_s, self._bytes_before = view.now_s, view.bytes_sent  # the last look before it begins
        if view.is_up == self._was_up and view.contact_number == self._contact_number:
            return
        if self._was_up and view.contact is not None:
            self._tell_end(view)
            self._begun_s, self._bytes_before = view.now_s, view.bytes_sent
        self._was_up, self._contact_number = view.is_up, view.contact_number
        if view.is_up and view.contact is not None:
            left = format_duration(view.contact.end_s - view.now_s)
            rate = f", {format_rate(view.contact.rate_bps)}" if view.contact.rate_bps else ""
            self._say(view, f"{self._contact_words()}{_via(view)} begins: {left}{rate}")
        elif view.contact is not None and view.contact.start_s > view.now_s:
            wait = format_duration(view.contact.start_s - view.now_s)
            begins = f"begins in {wait}, at {format_utc(view.contact.start_s)}"
            self._say(view, f"{self._contact_words()}{_via(view)} {begins}")

    def _tell_end(self, view: FlightView) -> None:
        brought = f"{format_bytes(view.bytes_sent - self._bytes_before)} sent"
        took = format_duration(view.now_s - self._begun_s)
        share = f", {self._share:.1%} on board" if self._names else ""  # it may have carried commands only
        self._say(view, f"{self._contact_words()} is over: {brought} in {took}{share}")

    def _contact_words(self) -> str:
        return f"contact {self._contact_number}" if self._is_numbered else "contact"

    def _tell_event(self, view: FlightView, event: Event) -> None:
        if isinstance(event, ReturnPathSilent | HeldBack) and self._share >= 1:
            return  # nothing is sent any more; whoever tries a model has little time to talk
        text = _words(event)
        if text:
            name = self._names.get(getattr(event, "update", b""), "")
            self._say(view, f"{name}: {text}" if name and len(self._names) > 1 else text)

    def _say(self, view: FlightView, text: str) -> None:
        self._console.print(f"{format_utc(view.now_s)} {text}", markup=False)


def _via(view: FlightView) -> str:
    return f" via {view.contact.station}" if view.contact is not None and view.contact.station else ""


def _words(event: Event) -> str:
    match event:
        case StateChanged(state=UpdateState.BLOCKED, reason=reason):
            return f"on board: BLOCKED ({reason.name}); it goes on by itself once that is put right: docs/runbook.md"
        case StateChanged(state=state, reason=reason):
            return f"on board: {state.name}" + (f" ({reason.name})" if reason else "")
        case AllBundlesComplete():
            return "all bundles are on board"
        case ObjectComplete(bundle=None):
            return "metadata is on board"
        case ObjectComplete(bundle=number):
            return f"bundle {number} is on board"
        case ObjectReopened(bundle=number):
            return f"{'the metadata' if number is None else f'bundle {number}'} was lost on board, sending it again"
        case ReceiverRestarted():
            return "the receiver has restarted; going on with what it still has"
        case ReturnPathSilent(silence_s=seconds):
            return f"no report for {seconds:.1f} s; sending repair symbols until one comes"
        case HeldBack():
            return "reports came regularly and have stopped; calling, and saving symbols for up to 10 s"
        case ContactSkipped(number=number):
            return f"going on as contact {number}; if nobody ever answers, --contact N sets a higher one by hand"
        case RateUnknown():
            return "nobody answers, and nobody said how fast the link is: waiting; --rate sends without reports"
        case DepotBusy():
            return "another process holds the depot's database; waiting for it, nothing is sent meanwhile"
    return ""


def _line(view: FlightView) -> str:
    if not view.updates or view.link is None:
        return "listening"
    ends = f"{format_rate(view.rate_bps)}, loss {view.link.loss.mean:.1%}, to go: {remaining_words(view)}"
    return "; ".join((*map(_update_words, view.updates), ends))


def _update_words(entry: UpdateView) -> str:
    statistics = entry.statistics
    reason = f" ({statistics.reason.name})" if statistics.reason else ""
    state = statistics.state.name if statistics.state else "not told yet"
    return (
        f"{entry.update.release_name}: {entry.share_on_board:.1%}, "
        f"blocks {statistics.blocks_solved}/{statistics.blocks}, "
        f"bundles {statistics.bundles_complete}/{statistics.bundles}, on board: {state}{reason}"
    )
