"""`skyload plan`: which contact carries what, and when it will be done with what probability."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import Update
    from groundsegment.planner.contact_plan import ContactPlan
    from groundsegment.planner.forecast import Forecast, Load


@command
def plan(
    update: Annotated[str | None, typer.Argument(help="An update, by the first digits of its handle.")] = None,
    satellite: Annotated[str | None, typer.Option("--for", help="All open updates of this satellite.")] = None,
    contacts: Annotated[Path | None, typer.Option("--contacts", help="A contact plan (YAML).")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Contacts and rate of an emulator profile.")] = None,
    epoch: Annotated[
        float | None, typer.Option("--epoch", help="Unix seconds of the profile's link time 0; now if left out.")
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Rate of the link, as 2Mbit/s.")] = None,
    per_day: Annotated[float, typer.Option("--per-day", min=0.01, help="Contacts a day, without a plan.")] = 4.3,
    duration: Annotated[str, typer.Option("--duration", help="Of one contact, without a plan.")] = "435s",
    loss: Annotated[str | None, typer.Option("--loss", help="Share of frames lost, as 10%.")] = None,
    missed: Annotated[str, typer.Option("--missed", help="Probability that a contact does not happen.")] = "0%",
    deadline: Annotated[str | None, typer.Option("--deadline", help="By when it must be done (ISO 8601, UTC).")] = None,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show how many contacts an update takes, and when it will be done.

    Frames are counted with their headers; what the satellite has already is left out. A contact plan looks like this:

    Contact plan:
    ```
    epoch: now                 # or 2026-11-22T06:00:00Z
    rate: 2Mbit/s
    contacts:
      - {station: svalbard, start_s: 0, end_s: 435}
      - {station: inuvik, start: 2026-11-22T07:40:00Z, end: 2026-11-22T07:46:30Z}
    ```

    Examples:
    ```
    skyload plan --for SAT-1 --profile s-band --loss 5%
    skyload plan 1f2e3d --contacts today.yaml --deadline 2026-11-24T00:00:00Z
    skyload plan --for SAT-1 --rate 2Mbit/s --per-day 4.3 --duration 435s --missed 5% --json
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.planner.forecast import Weather, forecast
    from groundsegment.planner.quantities import parse_share, parse_utc

    now_s = datetime.now(tz=UTC).timestamp()
    chosen = _contacts(contacts, profile, epoch, rate, per_day, duration, now_s)
    if next(chosen.from_time(now_s), None) is None:
        raise InputError("no contact of this plan is in the future", hint="give a later plan, or another --epoch")
    with Depot.open(depot) as opened:
        updates = _updates(opened, update, satellite)
        load = _load(opened, updates, is_one_way=chosen.is_one_way)
        known_loss = _known_loss(opened, updates)
    share = parse_share(loss, option="--loss") if loss else chosen.loss if chosen.loss is not None else known_loss
    result = forecast(
        load,
        chosen.from_time(now_s),
        Weather(loss=share, p_missed=parse_share(missed, option="--missed")),
        start_s=now_s,
        deadline_s=None if deadline is None else parse_utc(deadline, option="--deadline").timestamp(),
    )
    values = _as_json(updates, load, result, share, now_s)
    if as_json:
        print_json(values)
        return
    _print(values, result, deadline)


def _contacts(
    contacts: Path | None,
    profile: str | None,
    epoch: float | None,
    rate: str | None,
    per_day: float,
    duration: str,
    now_s: float,
) -> "ContactPlan":
    from groundsegment.console.uplink import chosen_contacts
    from groundsegment.errors import InputError
    from groundsegment.planner.contact_plan import periodic
    from groundsegment.planner.forecast import ASSUMED_RATE_BPS
    from groundsegment.planner.quantities import format_rate, parse_duration, parse_rate

    rate_bps = None if rate is None else parse_rate(rate)
    if epoch is not None and profile is None:
        raise InputError("--epoch belongs to --profile", hint="a contact plan says its epoch itself")
    if contacts is not None or profile is not None:
        chosen = chosen_contacts(contacts, profile, epoch)
        return chosen if rate_bps is None else chosen.at_rate(rate_bps)
    if rate_bps is None:
        rate_bps = ASSUMED_RATE_BPS
        err.print(f"no --contacts, --profile or --rate: assuming {format_rate(rate_bps)}")
    duration_s = parse_duration(duration, option="--duration")
    return periodic(per_day=per_day, duration_s=duration_s, rate_bps=rate_bps, start_s=now_s)


def _updates(depot: "Depot", update: str | None, satellite: str | None) -> tuple["Update", ...]:
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import InputError, UnknownError

    if update is None and satellite is None:
        raise InputError("which update?", hint="give an update's handle, or --for SATELLITE for all that is staged")
    if update is not None and satellite is not None:
        raise InputError("an update and --for are two answers to one question", hint="give one of them")
    if update is not None:
        return (depot.find_update(update),)
    assert satellite is not None
    depot.satellite(satellite)
    found = depot.updates(satellite, [state for state in FlightState if state.is_open])
    if not found:
        raise UnknownError(
            f"nothing is staged for {satellite}", hint=f"stage an update first: skyload stage MODEL --for {satellite}"
        )
    return found


def _load(depot: "Depot", updates: tuple["Update", ...], *, is_one_way: bool) -> "Load":
    from groundsegment.planner.forecast import Load
    from protocol.blocks import block_layout, symbols_needed
    from protocol.limits import SYMBOL_SIZE_DEFAULT
    from protocol.report import SOLVED

    sizes, extra, already = [], 0, 0
    for entry in updates:
        extra += entry.metadata_path.stat().st_size if entry.metadata_path.exists() else 4096
        known = {(block.handle, block.block): block.have for block in depot.journal.progress(entry.satellite)}
        for bundle in depot.bundles(entry.handle):
            sizes.append(bundle.size_bytes)
            layout = block_layout(symbols_needed(bundle.size_bytes, SYMBOL_SIZE_DEFAULT), SYMBOL_SIZE_DEFAULT)
            for number in range(layout.num_blocks):
                have = known.get((bundle.handle, number), 0)
                needed = layout.symbols_of(number)
                already += needed if have == SOLVED else min(have, needed)
    return Load(bundle_sizes=tuple(sizes), extra_bytes=extra, already=already, is_one_way=is_one_way)


def _known_loss(depot: "Depot", updates: tuple["Update", ...]) -> float:
    for contact in reversed(depot.journal.contacts(updates[0].satellite, newest=10)):
        if contact.loss is not None:
            return contact.loss
    return 0.1


def _as_json(
    updates: tuple["Update", ...], load: "Load", result: "Forecast", loss: float, now_s: float
) -> dict[str, Any]:
    import math

    from groundsegment.planner.forecast import ASSUMED_RATE_BPS, QUANTILES
    from groundsegment.planner.quantities import format_utc

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
            }
        )
    done = {
        f"p{quantile * 100:g}": None if moment is None else format_utc(moment)
        for quantile, moment in zip(QUANTILES, result.done_s, strict=True)
    }
    return {
        "updates": [entry.handle.hex() for entry in updates],
        "payload_bytes": load.payload_bytes,
        "symbols_to_deliver": load.symbols,
        "frames": result.frames,
        "link_bytes": result.link_bytes,
        "loss": loss,
        "contacts": rows,
        "done_utc": done,
        "p_deadline": None if result.p_deadline is None else round(result.p_deadline, 6),
    }


def _print(values: dict[str, Any], result: "Forecast", deadline: str | None) -> None:
    from rich.table import Table

    from groundsegment.planner.quantities import format_bytes, format_duration, format_rate

    out.print(
        f"{format_bytes(values['payload_bytes'])} of bundles in {len(values['updates'])} update(s): "
        f"about {values['frames']} frames, {format_bytes(values['link_bytes'])} on the link "
        f"at {values['loss']:.1%} loss",
        soft_wrap=False,
    )
    rates = sorted({row["rate_bit_per_s"] for row in values["contacts"]})
    out.print(f"contacts at {', '.join(format_rate(rate) for rate in rates)}")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for header in ("#", "station", "start", "lasts", "carries", "bundles", "total", "P(done)"):
        table.add_column(header, no_wrap=header != "station")  # where room is short, a long name loses its end
    for row in _shortened(values["contacts"]):
        if row is None:
            table.add_row("...")
            continue
        bundles = row["bundles"]
        table.add_row(
            str(row["number"]),
            row["station"] or "-",
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


def _by_moment(done_utc: dict[str, str | None]) -> list[tuple[str, str | None]]:
    """Join the certainties that are reached at the same moment: p50 and p90 become "50, 90"."""
    import itertools

    groups = itertools.groupby(done_utc.items(), key=lambda item: item[1])
    return [(", ".join(name[1:] for name, _ in group), moment) for moment, group in groups]


def _shortened(rows: list[dict[str, Any]], *, length_max: int = 40) -> list[dict[str, Any] | None]:
    if len(rows) <= length_max:
        return list(rows)
    half = length_max // 2
    return [*rows[:half], None, *rows[-half:]]
