"""`skyload station rotate`: make the key of a ground station void on board, and give it a new one."""

from pathlib import Path
from typing import Annotated

import typer

from groundsegment.console.dangerous import (
    BlindOption,
    DepotOption,
    JsonOption,
    LinkOption,
    SatelliteOption,
    TimeoutOption,
    Way,
    YesOption,
    tell_outcome,
)
from groundsegment.console.output import command, err, out, print_json


@command
def rotate(
    name: Annotated[str, typer.Argument(help="The station's name.")],
    satellite: SatelliteOption,
    link: LinkOption = None,
    generation: Annotated[
        int | None, typer.Option("--generation", min=1, help="Of the new key; one above that of home if left out.")
    ] = None,
    blind: BlindOption = False,
    done: Annotated[
        bool, typer.Option("--done", help="Send nothing: it is known to have obeyed --blind, and nobody can hear it.")
    ] = False,
    yes: YesOption = False,
    timeout: TimeoutOption = 180.0,
    depot: DepotOption = Path("depot"),
    as_json: JsonOption = False,
) -> None:
    """Withdraw the key of a station, on board and at home, and begin a new one: it was stolen, lent out, or is old.

    From the moment the satellite obeys, frames under the old key are counted as forged, and home refuses letters under
    it. Export the station again to let it fly on; remove it if it is not to. Home's own key is not a station's.

    Each rotation begins a new generation of keys. Where the depot was restored from a backup, the satellite may be
    ahead: it refuses, and says where it is. Then give a --generation above that.

    Goes in two steps, like all that is dangerous (see `skyload revert`). Interrupted, the same command goes on. With
    --blind, home goes by the old key until the satellite's answer comes; where none can come, say --done when it has
    obeyed. `skyload station list` says where it stands.

    Examples:
    ```
    skyload station rotate svalbard --for SAT-1 --link modem:7001
    skyload station rotate svalbard --for SAT-1 --done
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.stations.rotation import begin_rotation, end_rotation, rotation_of
    from protocol.command import Operation

    if done:
        _finish(depot, satellite, name, as_json=as_json)
        return
    way = Way.of_options(link, blind=blind, yes=yes, timeout=timeout)
    with Depot.open(depot) as opened, opened.lock("stations"):
        opened.link_key(satellite)  # a station's directory rotates nothing
        entry = opened.station(satellite, name)
        question = f"Make the key of {name}, station {entry.id} of {satellite}, void?"
        rotation_of(opened, entry)  # an answer may have come
        # The satellite first: if we are killed in between, the same generation again is no error there.
        before = opened.station_generation(satellite, entry.id)
        chosen = before + 1 if generation is None else generation
        if chosen <= before:
            raise InputError(
                f"{name} has keys of generation {before}", hint=f"--generation {before + 1}, or a higher one"
            )
        args = {"station": entry.id, "generation": chosen}
        way.ask(question)
        begin_rotation(opened, entry, chosen)
        values = way.command(opened, satellite, Operation.WITHDRAW, args)
        if values["ok"]:
            opened.raise_station_generation(satellite, entry.id, chosen)
        elif values["ok"] is None:
            begin_rotation(opened, entry, chosen, fire=values["fire"])
        else:
            end_rotation(opened, entry)
        now = opened.station_generation(satellite, entry.id)
    values |= {"station": entry.id, "name": name, "generation": now}
    hint = "its key is as it was; where the satellite says that it has generation N already, give --generation N+1"
    if not tell_outcome(values, as_json=as_json, verb="withdraw it", hint=hint):
        raise typer.Exit(1)
    if values["ok"] is None:
        err.print(f"home goes by its old key until {satellite} answers: `skyload station list` says it", markup=False)
        err.print(f"where no answer can come: skyload station rotate {name} --for {satellite} --done", markup=False)
    else:
        _tell_next(name, satellite)


def _finish(depot: Path, satellite: str, name: str, *, as_json: bool) -> None:
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.stations.rotation import rotation_of

    with Depot.open(depot) as opened, opened.lock("stations"):
        opened.link_key(satellite)
        entry = opened.station(satellite, name)
        rotation = rotation_of(opened, entry)
        if rotation is None:
            raise InputError(
                f"no rotation of {name}'s key was begun", hint="leave out --done, and give --link or --blind"
            )
        if rotation.text:
            raise InputError(f"{satellite} refused: {rotation.text}", hint="leave out --done, and rotate it again")
        opened.raise_station_generation(satellite, entry.id, rotation.generation)
    if as_json:
        print_json({"satellite": satellite, "station": entry.id, "name": name, "generation": rotation.generation})
        return
    out.print(f"{name} has keys of generation {rotation.generation}", markup=False)
    _tell_next(name, satellite)


def _tell_next(name: str, satellite: str) -> None:
    err.print(f"next: skyload station export {name} --for {satellite} DIR, and carry DIR there", markup=False)
