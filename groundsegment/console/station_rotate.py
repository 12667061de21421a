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
from groundsegment.console.output import command, err


@command
def rotate(
    name: Annotated[str, typer.Argument(help="The station's name.")],
    satellite: SatelliteOption,
    link: LinkOption = None,
    generation: Annotated[
        int | None, typer.Option("--generation", min=1, help="Of the new key; one above that of home if left out.")
    ] = None,
    blind: BlindOption = False,
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

    Goes in two steps, like all that is dangerous (see `skyload revert`). Interrupted, the same command goes on.

    Examples:
    ```
    skyload station rotate svalbard --for SAT-1 --link modem:7001
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from protocol.command import Operation

    way = Way.of_options(link, blind=blind, yes=yes, timeout=timeout)
    with Depot.open(depot) as opened, opened.lock("stations"):
        opened.link_key(satellite)  # a station's directory rotates nothing
        entry = opened.station(satellite, name)
        question = f"Make the key of {name}, station {entry.id} of {satellite}, void?"
        # The satellite first: if we are killed in between, the same generation again is no error there.
        before = opened.station_generation(satellite, entry.id)
        chosen = before + 1 if generation is None else generation
        if chosen <= before:
            raise InputError(
                f"{name} has keys of generation {before}", hint=f"--generation {before + 1}, or a higher one"
            )
        args = {"station": entry.id, "generation": chosen}
        values = way.command(opened, satellite, Operation.WITHDRAW, args, question=question)
        is_done = values["ok"] is not False
        if is_done:
            opened.raise_station_generation(satellite, entry.id, chosen)
    values |= {"station": entry.id, "name": name, "generation": chosen if is_done else before}
    hint = "its key is as it was; where the satellite says that it has generation N already, give --generation N+1"
    if not tell_outcome(values, as_json=as_json, verb="withdraw it", hint=hint):
        raise typer.Exit(1)
    err.print(f"next: skyload station export {name} --for {satellite} DIR, and carry DIR there", markup=False)
