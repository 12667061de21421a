"""`skyload station rotate`: make the key of a ground station void on board, and give it a new one."""

from pathlib import Path
from typing import Annotated

import typer

from groundsegment.console.dangerous import BLIND_HELP, LINK_HELP, check_way, command_dangerously, confirm, tell_outcome
from groundsegment.console.output import command, err


@command
def rotate(
    name: Annotated[str, typer.Argument(help="The station's name.")],
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[str | None, typer.Option("--link", envvar="SKYLOAD_LINK", help=LINK_HELP)] = None,
    blind: Annotated[bool, typer.Option("--blind", help=BLIND_HELP)] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for each answer.")] = 180.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Withdraw the key of a station, on board and at home, and begin a new one: it was stolen, lent out, or is old.

    From the moment the satellite obeys, frames under the old key are counted as forged, and home refuses letters under
    it. Export the station again to let it fly on; remove it if it is not to. Home's own key is not a station's.

    Goes in two steps, like all that is dangerous (see `skyload revert`). Interrupted, the same command goes on.

    Examples:
    ```
    skyload station rotate svalbard --for SAT-1 --link modem:7001
    ```
    """
    from groundsegment.depot.depot import Depot
    from protocol.command import Operation

    check_way(None if blind else link, is_blind=blind)
    with Depot.open(depot) as opened, opened.lock("stations"):
        opened.link_key(satellite)  # a station's directory rotates nothing
        entry = opened.station(satellite, name)
        if not yes and not confirm(f"Make the key of {name}, station {entry.id} of {satellite}, void?"):
            err.print("nothing was sent")
            raise typer.Exit(1)
        # The satellite first: if we are killed in between, the same generation again is no error there.
        generation = opened.station_generation(satellite, entry.id) + 1
        values = command_dangerously(
            opened,
            satellite,
            Operation.WITHDRAW,
            {"station": entry.id, "generation": generation},
            link=None if blind else link,
            timeout_s=timeout,
        )
        is_done = values["ok"] is not False
        if is_done:
            opened.raise_station_generation(satellite, entry.id)
    values |= {"station": entry.id, "name": name, "generation": generation if is_done else generation - 1}
    hint = "its key is as it was; `skyload station list` shows the stations"
    if not tell_outcome(values, as_json=as_json, verb="withdraw it", hint=hint):
        raise typer.Exit(1)
    err.print(f"next: skyload station export {name} --for {satellite} DIR, and carry DIR there", markup=False)
