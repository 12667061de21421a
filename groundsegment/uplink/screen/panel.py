"""The panel of a flight: rows that stay where they are while contacts come and go.

    update     smollm2-int8  4a53e8630fce, 141.6 MB
    on board   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━  63.6%, blocks 11/18, bundles 5/9
    satellite  RECEIVING
    contact    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━  3 via svalbard, 1.2 s left
    link       59.6 Mbit/s, loss 9.8% ± 0.2%, 105.3 MB sent
    to go      7.9 s of contact; this one brings it to 70.1%

The first three are there for each update that flies, the most urgent first. It is a function of one snapshot and of how
wide the terminal is. A row that does not fit loses its end, not its neighbours: the height changes with the number of
updates only, so nothing jumps.
"""

import math

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.planner.quantities import format_bytes, format_duration, format_rate
from groundsegment.uplink.flight.flight_records import FlightView, UpdateView
from groundsegment.uplink.sender.core import UplinkStatistics
from protocol.report import UpdateState

_LABEL_WIDTH = 9
_GAP = 2
_WORDS_WIDTH = 35  # "100.0%, blocks 100/100, bundles 9/9"
_BAR_WIDTH_MAX = 60
_BAR_WIDTH_MIN = 8
_OVERHEAD = 1.03  # symbols beyond the loss: blocks in flight when they are solved, reports that come late

_MEANINGS = {
    UpdateState.VERIFIED: "all is there and as signed; its trial comes next",
    UpdateState.TRIAL: "the new model is tried beside the old one, which serves",
    UpdateState.CONFIRMED: "the new model serves",
    UpdateState.REJECTED: "the old model serves on",
    UpdateState.CANCELLED: "nobody wants it any more",
    UpdateState.BLOCKED: "something on board is in its way; it is tried again by itself",
}


def render_panel(view: FlightView, width: int) -> Table:
    """Show a snapshot in a terminal of so many columns."""
    bar_width = max(_BAR_WIDTH_MIN, min(_BAR_WIDTH_MAX, width - _LABEL_WIDTH - 4 * _GAP - _WORDS_WIDTH))
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True, width=_LABEL_WIDTH)
    table.add_column(no_wrap=True, overflow="ellipsis", width=max(1, width - _LABEL_WIDTH - 2 * _GAP))
    table.add_row("", "")  # apart from the lines above
    if not view.updates:
        table.add_row("update", _row("waiting for the first contact" if not view.is_up else "listening"))
    for entry in view.updates:
        table.add_row("update", _row(_update_words(entry, is_alone=len(view.updates) == 1)))
        table.add_row("on board", _bar_row(entry.share_on_board, _there_words(entry), bar_width))
        table.add_row("satellite", _state_row(entry.statistics))
    table.add_row("contact", _contact_row(view, bar_width))
    table.add_row("link", _row(_link_words(view)))
    table.add_row("to go", _row(_remaining_words(view)))
    return table


def share_on_board(view: FlightView) -> float:
    """How much of all updates together the satellite is known to have, 0..1."""
    total = sum(entry.update.payload_bytes for entry in view.updates)
    there = sum(entry.update.payload_bytes * entry.share_on_board for entry in view.updates)
    return there / total if total else 0.0


def contact_time_needed_s(view: FlightView) -> float | None:
    """Seconds of contact for the rest of all updates, at the present rate and loss; None if nobody can say."""
    rate_bps = _present_rate_bps(view)
    if view.link is None or not view.updates or not rate_bps:
        return None
    if all(entry.statistics.bundles_complete == entry.statistics.bundles for entry in view.updates):
        return 0.0
    left_bits = sum(8 * entry.update.payload_bytes * (1 - entry.share_on_board) for entry in view.updates)
    return left_bits * _OVERHEAD / (1 - view.link.loss.mean) / rate_bps


def remaining_words(view: FlightView) -> str:
    """How much contact time it takes still."""
    needed_s = contact_time_needed_s(view)
    if needed_s is None:
        return "unknown"
    return "nothing to send" if needed_s == 0 else f"{format_duration(needed_s)} of contact"


def _present_rate_bps(view: FlightView) -> float | None:
    if view.is_up and view.rate_bps > 0:
        return view.rate_bps
    return view.contact.rate_bps if view.contact is not None else None


def _update_words(entry: UpdateView, *, is_alone: bool) -> str:
    update = entry.update
    turn = "" if is_alone else f", priority {update.priority}, weight {update.weight:g}"
    return f"{update.release_name}  {update.handle.hex()}, {format_bytes(update.payload_bytes)}{turn}"


def _there_words(entry: UpdateView) -> str:
    statistics = entry.statistics
    return (
        f"{entry.share_on_board:.1%}, blocks {statistics.blocks_solved}/{statistics.blocks}, "
        f"bundles {statistics.bundles_complete}/{statistics.bundles}"
    )


def _contact_row(view: FlightView, bar_width: int) -> Text | Table:
    contact = view.contact
    if contact is None:
        return _row("none")
    via = f"{view.contact_number}" + (f" via {contact.station}" if contact.station else "")
    if not view.is_up:
        wait = format_duration(max(0.0, contact.start_s - view.now_s))
        return _bar_row(0.0, f"{via} in {wait}", bar_width)
    if math.isinf(contact.end_s):
        return _row(f"{via}, without end")
    left_s = max(0.0, contact.end_s - view.now_s)
    share = 1 - left_s / max(1e-9, contact.end_s - contact.start_s)
    return _bar_row(share, f"{via}, {format_duration(left_s)} left", bar_width)


def _link_words(view: FlightView) -> str:
    statistics = view.link
    sent = f"{format_bytes(view.bytes_sent)} sent"
    if statistics is None:
        return sent
    rate = format_rate(view.rate_bps) if view.is_up else "no contact"
    loss = f"loss {statistics.loss.mean:.1%} ± {statistics.loss.deviation:.1%}"
    silent = "; no reports come: repair symbols go out" if statistics.is_silent and view.is_up else ""
    return f"{rate}, {loss}, {sent}{silent}"


def _remaining_words(view: FlightView) -> str:
    if not view.updates:
        return ""
    words = remaining_words(view)
    needed_s, contact = contact_time_needed_s(view), view.contact
    if not needed_s or contact is None or math.isinf(contact.end_s):
        return words
    return f"{words}; {_reach_words(view, contact, needed_s)}"


def _reach_words(view: FlightView, contact: PlannedContact, needed_s: float) -> str:
    which = "this one" if view.is_up else "the next one"
    usable_s = max(0.0, contact.end_s - contact.guard_s - max(view.now_s, contact.start_s))
    if usable_s >= needed_s:
        return f"{which} is enough"
    share = share_on_board(view)
    return f"{which} brings it to {share + (1 - share) * usable_s / needed_s:.1%}"


def _state_row(statistics: UplinkStatistics) -> Text:
    state, reason = statistics.state, statistics.reason
    if state is UpdateState.NONE:
        return _row("has not spoken of this update yet")
    meaning = _MEANINGS.get(state, "")
    if state is UpdateState.RECEIVING and statistics.bundles_complete == statistics.bundles:
        meaning = "it rebuilds the release and compares its digests"
    row = _row("")
    row.append(state.name, style="bold")
    row.append((f" ({reason.name})" if reason else "") + (f": {meaning}" if meaning else ""))
    return row


def _bar_row(share: float, words: str, bar_width: int) -> Table:
    row = Table.grid(padding=(0, _GAP, 0, 0))
    row.add_column(width=bar_width)
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(ProgressBar(total=1.0, completed=min(1.0, share), width=bar_width), _row(words))
    return row


def _row(words: str) -> Text:
    return Text(words, no_wrap=True, overflow="ellipsis")
