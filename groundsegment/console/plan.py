"""`skyload plan`: which contact carries what, and when it will be done with what probability."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.output import UPDATE_HELP, command, err, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.planner.contact_plan import ContactPlan


@command
def plan(
    update: Annotated[str | None, typer.Argument(help=UPDATE_HELP)] = None,
    satellite: Annotated[
        str | None, typer.Option("--for", help="The satellite's name; all its open updates, if none is named.")
    ] = None,
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
    station: Annotated[str | None, typer.Option("--station", help="Only what this ground station flies.")] = None,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show how many contacts an update takes, and when it will be done.

    Frames are counted with their headers; what the satellite has already is left out. What flies before the update, or
    takes its share beside it, is counted in. Registered stations each fly their own contacts, also at the same time. A
    contact plan looks like this:

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
    skyload plan newest --for SAT-1 --contacts today.yaml --deadline 2026-11-24T00:00:00Z
    skyload plan --for SAT-1 --rate 2Mbit/s --per-day 4.3 --duration 435s --missed 5% --json
    ```
    """
    from groundsegment.console.plan_queue import chosen_updates, known_loss, queue_of
    from groundsegment.console.plan_words import plan_json, print_plan
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.planner.forecast import Weather, forecast
    from groundsegment.planner.quantities import parse_share, parse_utc

    now_s = datetime.now(tz=UTC).timestamp()
    chosen = chosen_plan(contacts, profile, epoch, rate, per_day, duration, now_s)
    if next(chosen.from_time(now_s), None) is None:
        raise InputError("no contact of this plan is in the future", hint="give a later plan, or another --epoch")
    with Depot.open(depot) as opened:
        updates = chosen_updates(opened, update, satellite)
        chosen = _flown(opened, chosen, updates[0].satellite, station)
        queue = queue_of(opened, updates, is_one_way=chosen.is_one_way)
        known = known_loss(opened, updates[0].satellite)
    if loss:
        chosen = chosen.at_loss(parse_share(loss, option="--loss"))
    share = chosen.loss if chosen.loss is not None else known.mean
    deviation = known.deviation if loss is None and chosen.loss is None else 0.0
    result = forecast(
        queue.load,
        chosen.from_time(now_s),
        Weather(loss=share, loss_deviation=deviation, p_missed=parse_share(missed, option="--missed")),
        start_s=now_s,
        deadline_s=None if deadline is None else parse_utc(deadline, option="--deadline").timestamp(),
    )
    values = plan_json(queue, result, share, now_s)
    if as_json:
        print_json(values)
        return
    print_plan(values, result, deadline)


def chosen_plan(
    contacts: Path | None,
    profile: str | None,
    epoch: float | None,
    rate: str | None,
    per_day: float,
    duration: str,
    now_s: float,
) -> "ContactPlan":
    """The contact plan that the options mean; without any, passes as they usually are."""
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


def _flown(depot: "Depot", plan: "ContactPlan", satellite: str, station: str | None) -> "ContactPlan":
    """The contacts that are flown: of one station, or of all that are registered, each by its own process."""
    from groundsegment.console.plan_queue import station_losses

    if station is not None:
        depot.station(satellite, station)
        return plan.for_station(station).with_losses(station_losses(depot, satellite))
    registered = {entry.name for entry in depot.stations(satellite)}
    if not registered & set(plan.stations):
        return plan
    return plan.whole().with_losses(station_losses(depot, satellite))
