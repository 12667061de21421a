"""`skyload station sync`: letters and files between home and stations, at either end."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json, report_error

if TYPE_CHECKING:
    from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
    from groundsegment.stations.home import StationExchange

Contacts = Annotated[Path | None, typer.Option("--contacts", help="A contact plan (YAML).")]
Profile = Annotated[str | None, typer.Option("--profile", help="Contacts and rates of an emulator profile.")]
Epoch = Annotated[
    float | None, typer.Option("--epoch", help="Unix seconds of the profile's link time 0; now if left out.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@command
def sync(
    station_dir: Annotated[
        Path | None, typer.Option("--station-dir", help="At a station: the directory that `station export` made.")
    ] = None,
    satellite: Annotated[str | None, typer.Option("--for", help="At home: the stations of this satellite.")] = None,
    via: Annotated[
        Path | None, typer.Option("--via", help="At home: a directory that is carried to the stations.")
    ] = None,
    contacts: Contacts = None,
    profile: Profile = None,
    epoch: Epoch = None,
    every: Annotated[str | None, typer.Option("--every", help="Again and again, as 60s, until interrupted.")] = None,
    depot: Annotated[
        Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The home depot, or a directory kept alike.")
    ] = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Exchange letters and files between home and stations, through a directory that both can reach.

    At home, with --for: give every station its orders, take in what they brought. With --contacts or --profile, each
    gets its own contacts of that plan. At a station, with --station-dir: follow new orders, fetch the ciphertext they
    name, write home. Copies go on where they were; nothing flies before all of it is there and checked. Keep `updates`
    and `exchange` of the depot alike on both sides, by rsync or on a stick (--via), and nothing else of it.

    Examples:
    ```
    skyload station sync --for SAT-1 --contacts week.yaml
    skyload station sync --for SAT-1 --via /media/stick
    skyload station sync --station-dir svalbard-kit --depot /mnt/home/depot
    skyload station sync --for SAT-1 --every 60s
    ```
    """
    import time

    from groundsegment.errors import BusyError, DiskError, InputError
    from groundsegment.planner.quantities import parse_duration

    if (station_dir is None) == (satellite is None):
        raise InputError("at home, or at a station?", hint="give --for SATELLITE at home, --station-dir DIR there")
    if station_dir is not None and not (via is None and contacts is None and profile is None):
        raise InputError("--via, --contacts and --profile are for home", hint="leave them out at a station")
    period_s = None if every is None else parse_duration(every, option="--every")
    plan = chosen_plan(contacts, profile, epoch)
    while True:
        try:
            if station_dir is not None:
                is_well = _sync_station(station_dir, depot, as_json=as_json)
            else:
                assert satellite is not None
                is_well = _sync_home(depot, satellite, via, plan, as_json=as_json)
        except (BusyError, DiskError) as error:
            if period_s is None:
                raise
            report_error(error)  # another has it now, or a disk was full: the next time comes
        if period_s is None:
            if not is_well:
                err.print("hint: what could be done is done; put that right, then run the same command again")
                raise typer.Exit(6)
            return
        time.sleep(period_s)


def chosen_plan(contacts: Path | None, profile: str | None, epoch: float | None) -> "ContactPlan | None":
    """The contact plan that the options mean; None if they mean none."""
    from groundsegment.console.uplink import chosen_contacts

    plan = chosen_contacts(contacts, profile, epoch)  # it also refuses an --epoch without a profile
    return None if contacts is None and profile is None else plan


def station_contacts(
    name: str, contacts: Path | None, profile: str | None, epoch: float | None
) -> "tuple[PlannedContact, ...] | None":
    """A station's own contacts of the plan that the options mean; None if they mean none."""
    from groundsegment.stations.notes import contacts_of

    plan = chosen_plan(contacts, profile, epoch)
    return None if plan is None else contacts_of(plan, name, now_s=datetime.now(tz=UTC).timestamp())


def _sync_station(path: Path, root: Path, *, as_json: bool) -> bool:
    from dataclasses import asdict

    from groundsegment.planner.quantities import format_count
    from groundsegment.stations.directory import StationDirectory
    from groundsegment.stations.station_sync import sync_station

    with StationDirectory.open(path) as directory:
        outcome = sync_station(directory, root, utc=datetime.now(UTC))
    if as_json:
        print_json(asdict(outcome))
    else:
        orders = "new orders" if outcome.has_new_orders else "no new orders"
        files = "all that is ordered can fly" if outcome.is_complete else "files are missing"
        added = format_count(outcome.updates_added, "update")
        out.print(f"{orders}, {added} added, {outcome.updates_ended} ended; {files}", markup=False)
    for problem in outcome.problems:
        err.print(problem, markup=False)
    return not outcome.problems


def _sync_home(depot: Path, satellite: str, via: Path | None, plan: "ContactPlan | None", *, as_json: bool) -> bool:
    from dataclasses import replace

    from groundsegment.depot.depot import Depot
    from groundsegment.stations.home import exchange
    from groundsegment.stations.notes import StationNotes, contacts_of

    now = datetime.now(UTC)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        for station in opened.stations(satellite) if plan is not None else ():
            assert plan is not None
            notes, own = StationNotes(opened, station), contacts_of(plan, station.name, now_s=now.timestamp())
            notes.write(replace(notes.read(), contacts=own))
            if not own:
                err.print(f"{station.name} has no contact in this plan", markup=False)
        results = exchange(opened, satellite, utc=now, via=via)
    rows = [_exchange_json(result) for result in results]
    if as_json:
        print_json({"satellite": satellite, "stations": rows})
    for row in rows:
        if not as_json:
            news = "nothing new" if row["messages"] is None else f"{row['messages']} new messages"
            refused = f", {row['refused']} entries not believed" if row["refused"] else ""
            out.print(f"{row['name']}: {news}{refused}{', new orders' if row['new_orders'] else ''}", markup=False)
        if row["problem"]:
            err.print(f"{row['name']}: {row['problem']}", markup=False)
    if not rows:
        err.print(f"{satellite} has no station but home: `skyload station add` adds one", markup=False)
    return not any(row["problem"] for row in rows)


def _exchange_json(result: "StationExchange") -> dict[str, Any]:
    taken = result.collected
    return {
        "station": result.station.id,
        "name": result.station.name,
        "new_orders": result.has_new_orders,
        "messages": None if taken is None else taken.messages,
        "contacts": None if taken is None else taken.contacts,
        "refused": 0 if taken is None else taken.refused,
        "problem": result.problem,
    }
