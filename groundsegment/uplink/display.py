"""The live display of a flight: a panel where stderr is a terminal, a line every few seconds where it is not.

It is fed snapshots and knows nothing else. Words carry the meaning, colour only underlines it.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from groundsegment.planner.quantities import format_bytes, format_duration, format_rate, format_utc
from groundsegment.uplink.events import (
    AllBundlesComplete,
    Event,
    ObjectComplete,
    ObjectReopened,
    ReceiverRestarted,
    ReturnPathSilent,
    StateChanged,
)
from groundsegment.uplink.shell import FlightView

LINE_PERIOD_S = 5.0
PANEL_PERIOD_S = 0.25


class FlightDisplay:
    """Use it in a `with`; call `show` with each snapshot."""

    def __init__(self, console: Console, *, is_quiet: bool = False) -> None:
        self._console, self._is_quiet = console, is_quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown_s = 0.0
        self._contact_number = 0
        self._was_up: bool | None = None

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
        self._tell_contact(view)
        for event in view.events:
            self._tell_event(view, event)
        period_s = LINE_PERIOD_S if self._live is None else PANEL_PERIOD_S
        now = time.monotonic()  # noqa: TID251 - a display is a shell
        if now - self._shown_s < period_s:
            return
        self._shown_s = now
        if self._live is None:
            self._console.print(_line(view), markup=False)
        else:
            self._live.update(_panel(view), refresh=True)

    def _tell_contact(self, view: FlightView) -> None:
        if view.is_up == self._was_up and view.contact_number == self._contact_number:
            return
        self._was_up, self._contact_number = view.is_up, view.contact_number
        if view.contact is None:
            return
        station = f" {view.contact.station}" if view.contact.station else ""
        if view.is_up:
            rate = f", {format_rate(view.contact.rate_bps)}" if view.contact.rate_bps else ""
            left = format_duration(view.contact.end_s - view.now_s)
            self._console.print(
                f"{format_utc(view.now_s)} contact {view.contact_number}{station}: {left}{rate}", markup=False
            )

    def _tell_event(self, view: FlightView, event: Event) -> None:
        text = _words(event)
        if text:
            self._console.print(f"{format_utc(view.now_s)} {text}", markup=False)


def _words(event: Event) -> str:
    match event:
        case StateChanged(state=state, reason=reason):
            return f"on board: {state.name}" + (f" ({reason.name})" if reason else "")
        case AllBundlesComplete():
            return "all bundles are on board"
        case ObjectComplete(bundle=None):
            return "metadata is on board"
        case ObjectComplete(bundle=number):
            return f"bundle {number} is on board"
        case ObjectReopened(bundle=number):
            return f"bundle {number} was lost on board, sending it again" if number is not None else ""
        case ReceiverRestarted():
            return "the receiver has restarted; going on with what it still has"
        case ReturnPathSilent(silence_s=seconds):
            return f"no report for {seconds:.1f} s; sending repair symbols until one comes"
    return ""


def _line(view: FlightView) -> str:
    statistics = view.statistics
    if not view.is_up:
        wait = format_duration(max(0.0, view.contact.start_s - view.now_s)) if view.contact else "unknown"
        return f"{format_utc(view.now_s)} next contact in {wait}"
    if statistics is None or view.update is None:
        return f"{format_utc(view.now_s)} listening"
    return (
        f"{format_utc(view.now_s)} {view.update.release_name}: {_share(view):.1%}, "
        f"blocks {statistics.blocks_solved}/{statistics.blocks}, "
        f"bundles {statistics.bundles_complete}/{statistics.bundles}, "
        f"{format_rate(view.rate_bps)}, loss {statistics.loss.mean:.1%}, eta {_eta(view)}, "
        f"on board: {statistics.state.name}"
    )


def _panel(view: FlightView) -> Group:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim")
    table.add_column()
    statistics, contact = view.statistics, view.contact
    if contact is not None:
        station = contact.station or "link"
        if view.is_up:
            left = format_duration(contact.end_s - view.now_s)
            table.add_row("contact", f"{view.contact_number} via {station}, {left} left")
        else:
            wait = format_duration(max(0.0, contact.start_s - view.now_s))
            table.add_row("contact", f"{view.contact_number} via {station} in {wait}")
    if statistics is not None and view.update is not None:
        table.add_row("update", f"{view.update.release_name}  {view.update.handle.hex()}")
        table.add_row("sent", f"{format_bytes(view.bytes_sent)} at {format_rate(view.rate_bps)}, eta {_eta(view)}")
        silent = "  return path silent" if statistics.is_silent else ""
        table.add_row("loss", f"{statistics.loss.mean:.1%} ± {statistics.loss.deviation:.1%}{silent}")
        table.add_row(
            "there",
            f"blocks {statistics.blocks_solved}/{statistics.blocks}, "
            f"bundles {statistics.bundles_complete}/{statistics.bundles}",
        )
        reason = f" ({statistics.reason.name})" if statistics.reason else ""
        table.add_row("on board", Text(statistics.state.name + reason, style="bold"))
        bar = ProgressBar(total=1.0, completed=_share(view), width=60)
        return Group(table, bar, Text(f"{_share(view):.1%}"))
    return Group(table)


def _share(view: FlightView) -> float:
    statistics = view.statistics
    if statistics is None or not statistics.symbols_needed:
        return 0.0
    return statistics.symbols_there / statistics.symbols_needed


def _eta(view: FlightView) -> str:
    """Of the rest at the present rate, contacts not counted."""
    statistics = view.statistics
    if statistics is None or view.update is None or not view.is_up:
        return "unknown"
    if statistics.bundles_complete == statistics.bundles:
        return "now"
    left_bits = 8 * view.update.payload_bytes * (1 - _share(view)) / (1 - statistics.loss.mean) * 1.03
    return format_duration(left_bits / view.rate_bps) if view.rate_bps > 0 else "unknown"
