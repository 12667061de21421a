"""`skyload uplink`: fly what is staged for a satellite, contact after contact, until the satellite has decided."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.output import command, err, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.planner.contact_plan import ContactPlan
    from groundsegment.uplink.flight.flight_records import FlightPlan, FlightSummary


@command
def uplink(
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[
        str, typer.Option("--link", envvar="SKYLOAD_LINK", help="HOST:PORT of modem, emulator, satellite.")
    ],
    contacts: Annotated[Path | None, typer.Option("--contacts", help="A contact plan (YAML).")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Contacts and rate of an emulator profile.")] = None,
    station: Annotated[
        str | None, typer.Option("--station", help="Fly as this ground station: its contacts, its key, its symbols.")
    ] = None,
    epoch: Annotated[
        float | None, typer.Option("--epoch", help="Unix seconds of the profile's link time 0; now if left out.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="2Mbit/s, or max: as fast as reports allow. Default: as contacts say.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Fly one contact only.")] = False,
    until: Annotated[str | None, typer.Option("--until", help="Stop at this time (ISO 8601, UTC).")] = None,
    silence_s: Annotated[
        float,
        typer.Option(
            "--silence", min=0.0, help="Seconds without a report after which to send on blindly; 0 never waits."
        ),
    ] = 2.0,
    contact: Annotated[
        int | None, typer.Option("--contact", min=1, help="Number of the first contact; the next one if left out.")
    ] = None,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No display.")] = False,
) -> None:
    """Send all staged updates of a satellite, inside contacts only, until it has confirmed or rejected them.

    Those of higher priority go first, those of one priority share the link by weight. What is staged or cancelled
    meanwhile is heeded within a second. Run it again after an interruption, a reboot, a power cut: it goes on where it
    was; the summary counts what the last run did. Without a contact plan the link counts as always there. Without a
    rate it is found from reports. Several stations may fly one satellite at the same time, each with --station.

    Each contact has a number and keys of its own, and the satellite finds the next ones by itself; --contact is for a
    depot that was restored from a backup so old that nobody answers.

    Exit codes:
    ```
    0 confirmed, or held (`stage --hold`)    1 rejected, cancelled or expired    5 nothing staged
    6 the plan ended before a decision       7 another uplink flies this satellite from this station
    8 a staged file is damaged
    ```

    Examples:
    ```
    skyload uplink --for SAT-1 --link 127.0.0.1:7001 --profile demo
    skyload uplink --for SAT-1 --link modem:7001 --contacts today.yaml --rate 2Mbit/s
    skyload uplink --for SAT-1 --link modem:7001 --rate 2Mbit/s --until 2026-11-23T00:00:00Z --json
    skyload uplink --for SAT-1 --link inuvik:7001 --contacts today.yaml --station inuvik
    ```
    """
    import asyncio
    import signal

    from groundsegment.console.uplink_words import finish, print_summary, summary_json
    from groundsegment.depot.depot import Depot
    from groundsegment.planner.quantities import parse_rate, parse_utc
    from groundsegment.uplink.flight.flight_records import FlightPlan
    from groundsegment.uplink.screen.display import FlightDisplay
    from groundsegment.uplink.shell import UplinkShell
    from groundsegment.uplink.wire.link_contacts import set_contact_by_hand
    from groundsegment.uplink.wire.link_socket import Endpoint

    endpoint, chosen = Endpoint.parse(link), chosen_contacts(contacts, profile, epoch)
    plan = FlightPlan(
        satellite=satellite,
        endpoint=endpoint,
        contacts=chosen if station is None else contacts_of(chosen, station),
        rate_bps=None if rate is None else 0.0 if rate == "max" else parse_rate(rate),
        once=once,
        until_s=float("inf") if until is None else parse_utc(until, option="--until").timestamp(),
        silence_s=silence_s,
    )
    check_rate(plan)

    async def fly(opened: "Depot", display: FlightDisplay) -> "FlightSummary":
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await UplinkShell(opened, plan, on_tick=display.show).run(stop)

    with Depot.open(depot) as opened:
        if station is not None:
            plan = replace(plan, station=opened.station(satellite, station).id)
        if contact is not None:
            set_contact_by_hand(opened, satellite, plan.station, contact)
        with FlightDisplay(err, is_quiet=quiet) as display:
            summary = asyncio.run(fly(opened, display))
        values = summary_json(opened, plan, summary)
    if as_json:
        print_json(values)
    else:
        print_summary(values)
    finish(plan, summary)


def chosen_contacts(contacts: Path | None, profile: str | None, epoch: float | None) -> "ContactPlan":
    """The contact plan that the options mean."""
    from groundsegment.emulator.profile import load_profile
    from groundsegment.errors import InputError
    from groundsegment.planner.contact_plan import always, from_profile, load_contact_plan
    from groundsegment.planner.quantities import check_epoch

    now_s = datetime.now(tz=UTC).timestamp()
    if contacts is not None and profile is not None:
        raise InputError("--contacts and --profile are two answers to one question", hint="give one of them")
    if epoch is not None and profile is None:
        raise InputError("--epoch belongs to --profile", hint="a contact plan says its epoch itself")
    check_epoch(epoch)
    if contacts is not None:
        return load_contact_plan(contacts, now_s=now_s)
    if profile is not None:
        return from_profile(load_profile(profile), epoch_s=now_s if epoch is None else epoch)
    return always()


def contacts_of(plan: "ContactPlan", station: str) -> "ContactPlan":
    """What one station flies of a plan; all of one that names no stations.

    Raises:
        InputError: the plan has nothing for it.
    """
    from groundsegment.errors import InputError

    if not plan.stations:
        return plan
    if station not in plan.stations:
        hint = f"stations of this plan: {', '.join(plan.stations)}"
        raise InputError(f"--station {station}: the contact plan has no contact of it", hint=hint)
    return plan.for_station(station)


def check_rate(plan: "FlightPlan") -> None:
    """Refuse to guess how fast a link is on which nobody answers.

    Raises:
        InputError: nobody says it.
    """
    from groundsegment.errors import InputError

    if not plan.contacts.is_one_way:
        return
    first = next(plan.contacts.from_time(datetime.now(tz=UTC).timestamp()), None)
    if first is not None and plan.is_rate_open(first):
        raise InputError(
            "nothing ever comes down on this link, so its rate cannot be found",
            hint="say it: --rate 2Mbit/s, or rate: in the contact plan",
        )
