"""What `skyload plan` says, for people and for scripts."""

import itertools
import math
from typing import Any

from rich.table import Table

from groundsegment.console.output import out
from groundsegment.console.plan_queue import Queue
from groundsegment.planner.forecast import ASSUMED_RATE_BPS, QUANTILES, Forecast
from groundsegment.planner.quantities import format_bytes, format_count, format_duration, format_rate, format_utc
from protocol.limits import STATIONS_MAX


def plan_json(queue: Queue, result: Forecast, loss: float, now_s: float) -> dict[str, Any]:
    """The plan as JSON values."""
    rows = []
    for number, row in enumerate(result.contacts, start=1):
        contact = row.contact
        endless = math.isinf(contact.end_s)
        rows.append(
            {
                "number": number,
                "station": contact.station,
                "start_utc": format_utc(max(contact.start_s, now_s)),
                "duration_s": None if endless else round(contact.end_s - max(contact.start_s, now_s), 1),
                "rate_bit_per_s": contact.rate_bps or ASSUMED_RATE_BPS,
                "carried_bytes": round(row.carried_bytes),
                "bundles": None if row.bundles is None else list(row.bundles),
                "total_share": round(row.total_share, 6),
                "p_done": round(row.p_done, 6),
                "loss": contact.loss,
                "overlaps": _overlapping(result, number - 1),
            }
        )
    done = {
        f"p{quantile * 100:g}": None if moment is None else format_utc(moment)
        for quantile, moment in zip(QUANTILES, result.done_s, strict=True)
    }
    return {
        "updates": [entry.handle.hex() for entry in queue.updates],
        "before": [handle.hex() for handle in queue.before],
        "beside": [handle.hex() for handle in queue.beside],
        "other_symbols": queue.other_symbols,
        "payload_bytes": queue.load.payload_bytes,
        "symbols_to_deliver": queue.load.symbols,
        "frames": result.frames,
        "link_bytes": result.link_bytes,
        "loss": loss,
        "contacts": rows,
        "done_utc": done,
        "p_deadline": None if result.p_deadline is None else round(result.p_deadline, 6),
    }


def print_plan(values: dict[str, Any], result: Forecast, deadline: str | None) -> None:
    """The plan for people."""
    out.print(
        f"{format_bytes(values['payload_bytes'])} of bundles in {format_count(len(values['updates']), 'update')}: "
        f"about {values['frames']} frames, {format_bytes(values['link_bytes'])} on the link "
        f"at {values['loss']:.1%} loss",
        soft_wrap=False,
    )
    for others, words in ((values["before"], "before"), (values["beside"], "beside")):
        if others:
            fly = f"{format_count(len(others), 'other update')} {'flies' if len(others) == 1 else 'fly'}"
            out.print(f"{fly} {words} it, which is counted in: {', '.join(others)}")
    rates = sorted({row["rate_bit_per_s"] for row in values["contacts"]})
    out.print(f"contacts at {', '.join(format_rate(rate) for rate in rates)}")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for header in ("#", "station", "start", "lasts", "carries", "bundle no.", "total", "P(done)"):
        table.add_column(header, no_wrap=header != "station")  # where room is short, a long name loses its end
    for row in _shortened(values["contacts"]):
        if row is None:
            table.add_row("...")
            continue
        bundles = row["bundles"]
        table.add_row(
            str(row["number"]),
            _station_words(row),
            row["start_utc"],
            "no end" if row["duration_s"] is None else format_duration(row["duration_s"]),
            format_bytes(row["carried_bytes"]),
            "-" if bundles is None else f"{bundles[0]}" if bundles[0] == bundles[1] else f"{bundles[0]}-{bundles[1]}",
            f"{row['total_share']:.1%}",
            f"{row['p_done']:.1%}",
        )
    out.print(table, soft_wrap=False)
    for names, moment in _by_moment(values["done_utc"]):
        out.print(f"done with {names} % certainty: {moment or 'not within this plan'}")
    if deadline is not None and result.p_deadline is not None:
        out.print(f"done by {deadline}: {result.p_deadline:.1%}")


def _overlapping(result: Forecast, index: int) -> list[int]:
    """The numbers of earlier contacts that are still on when this one begins."""
    start_s, first = result.contacts[index].contact.start_s, max(0, index - STATIONS_MAX)
    earlier = enumerate(result.contacts[first:index], start=first + 1)
    return [number for number, row in earlier if row.contact.end_s > start_s]


def _station_words(row: dict[str, Any]) -> str:
    overlaps = ", ".join(str(number) for number in row["overlaps"])
    return (row["station"] or "-") + (f" (while {overlaps})" if overlaps else "")


def _by_moment(done_utc: dict[str, str | None]) -> list[tuple[str, str | None]]:
    """Join the certainties that are reached at the same moment: p50 and p90 become "50, 90"."""
    groups = itertools.groupby(done_utc.items(), key=lambda item: item[1])
    return [(", ".join(name[1:] for name, _ in group), moment) for moment, group in groups]


def _shortened(rows: list[dict[str, Any]], *, length_max: int = 40) -> list[dict[str, Any] | None]:
    if len(rows) <= length_max:
        return list(rows)
    half = length_max // 2
    return [*rows[:half], None, *rows[-half:]]
