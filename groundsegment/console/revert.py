"""`skyload revert`: back to an older release, by command through the link, in two steps."""

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
from groundsegment.console.output import command


@command
def revert(
    satellite: SatelliteOption,
    release: Annotated[
        str | None,
        typer.Argument(help="The release: first digits of its digest, or its name; the one before if left out."),
    ] = None,
    link: LinkOption = None,
    blind: BlindOption = False,
    yes: YesOption = False,
    timeout: TimeoutOption = 180.0,
    depot: DepotOption = Path("depot"),
    as_json: JsonOption = False,
) -> None:
    """Have the satellite serve an older release again; it must still be on board.

    Goes in two steps, like all that is dangerous: the satellite is armed, answers, and only then the command is fired,
    with that answer in it. Interrupted, the same command goes on where it was.

    Examples:
    ```
    skyload revert --for SAT-1 --link 127.0.0.1:7001
    skyload revert second --for SAT-1 --link modem:7001
    skyload revert 1f2e3d4c --for SAT-1 --link modem:7001 --yes
    skyload revert --for SAT-1 --blind --yes
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.naming import find_release_on_board
    from protocol.command import Operation

    way = Way.of_options(link, blind=blind, yes=yes, timeout=timeout)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        target = None if release is None else find_release_on_board(opened, release, satellite=satellite)
        goal = "the release before the one it serves" if target is None else f"release {target.hex()[:16]}"
        question = f"Have {satellite} go back to {goal}?"
        values = way.command(opened, satellite, Operation.REVERT, {"digest": target}, question=question)
    hint = "it keeps the newest releases only; `skyload status` shows what it serves"
    if not tell_outcome(values, as_json=as_json, verb="revert", hint=hint):
        raise typer.Exit(1)
