"""`skyload station`: ground stations that fly a satellite on their own: add, show, export, rotate, remove. At home."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console import station_rotate, station_run, station_sync
from groundsegment.console.output import command, err, out, print_json
from groundsegment.console.station_sync import AsJson, Contacts, Epoch, Profile

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot

app = typer.Typer(
    no_args_is_help=True, help="Let several ground stations feed one transfer, without talking in a pass."
)
app.command("sync")(station_sync.sync)
app.command("run")(station_run.run)
app.command("rotate")(station_rotate.rotate)

_Name = Annotated[str, typer.Argument(help="The station's name, as contact plans say it.")]
_For = Annotated[str, typer.Option("--for", help="The satellite's name.")]
_Depot = Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")]
_Endpoint = Annotated[str | None, typer.Option("--endpoint", help="HOST:PORT of the modem at the station.")]


@app.command("add")
@command
def add(
    name: _Name,
    satellite: _For,
    endpoint: _Endpoint = None,
    contacts: Contacts = None,
    profile: Profile = None,
    epoch: Epoch = None,
    number: Annotated[
        int | None, typer.Option("--number", help="1 to 15: its lane and key. The next one never used if left out.")
    ] = None,
    depot: _Depot = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Add a ground station with a lane of its own: symbols that nobody else sends.

    Updates that are staged from now on have that lane; those that are staged already have not. A number that was used
    before has the key that it had before, unless that was withdrawn (`skyload station rotate`).

    Examples:
    ```
    skyload station add svalbard --for SAT-1 --endpoint modem:7001 --contacts week.yaml
    skyload station add inuvik --for SAT-1
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.stations.notes import Notes, StationNotes, note_number
    from groundsegment.uplink.wire.link_socket import Endpoint
    from protocol.names import is_safe_name

    if not is_safe_name(name):
        hint = "use letters, digits, dot, dash, underscore, at most 128, no leading dot"
        raise InputError(f"{name!r} cannot be a station's name", hint=hint)
    if endpoint is not None:
        Endpoint.parse(endpoint, option="--endpoint")
    plan = station_sync.station_contacts(name, contacts, profile, epoch)
    with Depot.open(depot) as opened, opened.lock("stations"):
        opened.link_key(satellite)  # a station's directory adds no stations
        chosen = _number(opened, satellite, number)
        entry = opened.add_station(satellite, name, added_utc=datetime.now(UTC), station=chosen)
        note_number(opened, entry)
        StationNotes(opened, entry).write(Notes(endpoint=endpoint or "", contacts=plan))
        without = [update for update in opened.open_updates(satellite) if update.lanes <= entry.id]
    if as_json:
        print_json({"satellite": satellite, "station": entry.id, "name": name, "endpoint": endpoint or ""})
        return
    out.print(f"{name} is station {entry.id} of {satellite}", markup=False)
    for update in without:
        err.print(f"{update.release_name} ({update.handle.hex()}) is staged already: {name} has no lane in it")
    err.print(f"next: skyload station export {name} --for {satellite} DIR, and carry DIR there", markup=False)


@app.command("list")
@command
def list_stations(
    satellite: Annotated[str | None, typer.Option("--for", help="One satellite only.")] = None,
    depot: _Depot = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """List ground stations, and when each was heard of last.

    Examples:
    ```
    skyload station list
    skyload station list --for SAT-1 --json
    ```
    """
    from groundsegment.console.station_words import rotation_words, station_json
    from groundsegment.depot.depot import Depot

    with Depot.open(depot) as opened:
        names = [opened.satellite(satellite).name] if satellite else [entry.name for entry in opened.satellites()]
        rows = [station_json(opened, entry) for name in names for entry in opened.stations(name)]
    if as_json:
        print_json({"stations": rows})
        return
    for row in rows:
        heard = f"letter of {row['logbook']['written_utc']}" if row["logbook"] else "nothing brought home yet"
        place = f"  at {row['endpoint']}" if row["endpoint"] else ""
        out.print(f"{row['satellite']}  {row['station']:2}  {row['name']}{place}  {heard}", markup=False)
        if row["rotation"] is not None:
            out.print(f"    {rotation_words(row)}", markup=False)
    if not rows:
        err.print("no station but home; `skyload station add NAME --for SATELLITE` adds one", markup=False)


@app.command("show")
@command
def show(name: _Name, satellite: _For, depot: _Depot = Path("depot"), as_json: AsJson = False) -> None:
    """Show what home knows of a station: its contacts, its last letter, how far it believes updates to be.

    Examples:
    ```
    skyload station show svalbard --for SAT-1
    ```
    """
    from groundsegment.console.station_words import print_station, station_json
    from groundsegment.depot.depot import Depot

    with Depot.open(depot) as opened:
        row = station_json(opened, opened.station(satellite, name))
    if as_json:
        print_json(row)
        return
    print_station(row)


@app.command("export")
@command
def export(
    name: _Name,
    satellite: _For,
    directory: Annotated[Path, typer.Argument(help="What goes to the station is written here; never overwritten.")],
    depot: _Depot = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Write what a station needs to begin: the keys of its next contacts and letters, its orders and contact plan.

    The satellite's public key too; no signing key, no other station's key, no key of a release, no file of a model. The
    directory is the station's: a second export makes the first one void, so that one lane is never flown twice.

    Examples:
    ```
    skyload station export svalbard --for SAT-1 svalbard-kit
    ```
    """
    from groundsegment.console.station_words import rotation_words, station_json
    from groundsegment.depot.depot import Depot
    from groundsegment.stations.export import export_station
    from groundsegment.stations.home import exchange

    now = datetime.now(UTC)
    with Depot.open(depot) as opened, opened.lock("stations"):
        identity = export_station(opened, opened.station(satellite, name), directory, utc=now)
        exchange(opened, satellite, utc=now)
        row = station_json(opened, opened.station(satellite, name))
    if row["rotation"] is not None:
        err.print(f"{rotation_words(row)}; then this directory is void, and another is to be exported", markup=False)
    if as_json:
        print_json({"directory": str(directory), "station": identity.id, "instance": identity.instance})
        return
    out.print(f"{directory} is for {name}, station {identity.id} of {satellite}", markup=False)
    err.print(
        f"it holds keys of this station: carry it there, keep no copy\n"
        f"next, there: skyload station run --station-dir {directory.name} --depot PATH_OF_THIS_DEPOT_OR_A_MIRROR",
        markup=False,
    )


@app.command("remove")
@command
def remove(
    name: _Name,
    satellite: _For,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    depot: _Depot = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Remove a station: what it says is not believed any more, and its number not given again.

    Its lane stays empty in updates that are staged; the other stations send what is missing. Its key stays good on
    board: was it stolen, withdraw it first with `skyload station rotate`.

    Examples:
    ```
    skyload station remove svalbard --for SAT-1 --yes
    ```
    """
    import shutil

    from groundsegment.console.dangerous import confirm
    from groundsegment.depot.depot import Depot
    from groundsegment.stations.letters import LetterKind
    from groundsegment.stations.notes import StationNotes
    from groundsegment.stations.post import letter_path

    with Depot.open(depot) as opened, opened.lock("stations"), opened.lock(f"exchange-{satellite}"):
        entry = opened.station(satellite, name)
        if not yes and not confirm(f"Remove {name}, station {entry.id} of {satellite}?"):
            err.print("nothing was done")
            raise typer.Exit(1)
        StationNotes(opened, entry).forget()
        shutil.rmtree(letter_path(opened.path, satellite, name, LetterKind.ORDERS).parent, ignore_errors=True)
        opened.remove_station(satellite, name)
    if as_json:
        print_json({"satellite": satellite, "station": entry.id, "name": name})
        return
    out.print(f"{name}, station {entry.id} of {satellite}, is removed", markup=False)
    err.print("delete its directory there; its key stays good on board unless it was rotated first", markup=False)


def _number(depot: "Depot", satellite: str, wanted: int | None) -> int:
    """A number that no station ever had, unless one is asked for."""
    from groundsegment.errors import InputError
    from groundsegment.stations.notes import numbers_given
    from protocol.limits import STATIONS_MAX

    if wanted is not None:
        return wanted
    given = numbers_given(depot, satellite) | {entry.id for entry in depot.stations(satellite)}
    number = next((number for number in range(1, STATIONS_MAX) if number not in given), None)
    if number is None:
        hint = "--number N gives that of a removed station again; was it stolen, rotate its key before"
        raise InputError(f"{satellite}: all {STATIONS_MAX - 1} numbers were given", hint=hint)
    return number
