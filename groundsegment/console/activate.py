"""`skyload activate`: let the trial of an update begin that was staged with --hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from groundsegment.console.output import UPDATE_HELP, command

if TYPE_CHECKING:
    from groundsegment.depot.records import Update


@command
def activate(
    update: Annotated[str, typer.Argument(help=UPDATE_HELP)],
    satellite: SatelliteOption,
    link: LinkOption = None,
    blind: BlindOption = False,
    yes: YesOption = False,
    timeout: TimeoutOption = 180.0,
    depot: DepotOption = Path("depot"),
    as_json: JsonOption = False,
) -> None:
    """Let the trial of an update begin that waits on board, verified: one staged with --hold.

    It serves once it has passed its canary, as any other; a receipt says what came of it. Goes in two steps, like all
    that is dangerous (see `skyload revert`). Interrupted, the same command goes on where it was.

    Examples:
    ```
    skyload activate 1f2e3d --for SAT-1 --link modem:7001
    skyload activate 1f2e3d --for SAT-1 --blind
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import FlightState
    from groundsegment.naming import find_update
    from protocol.command import Operation

    way = Way.of_options(link, blind=blind, yes=yes, timeout=timeout)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        entry = find_update(opened, update, satellite=satellite, is_wanted=lambda each: each.state.is_open)
        _refuse_ended(entry)
        name = f"{entry.release_name} ({entry.handle.hex()})"
        question = f"Have {satellite} try {name}, and serve it if it passes?"
        values = way.command(opened, satellite, Operation.ACTIVATE, {"update": entry.handle}, question=question)
        # Asked again: a receipt that came with the answer may have said by now what came of it.
        if values["ok"] is not False and opened.update(entry.handle).state is FlightState.COMPLETE:
            opened.set_update_state(entry.handle, FlightState.COMPLETE)  # it is held no more: an uplink may wait for it
    values["update"] = entry.handle.hex()
    hint = "it waits only if it was staged with --hold, once all of it is on board; `skyload status` shows where it is"
    if not tell_outcome(values, as_json=as_json, verb="activate", hint=hint):
        raise typer.Exit(1)


def _refuse_ended(entry: "Update") -> None:
    """Refuse at home what the satellite would refuse after both steps."""
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import InputError

    if not entry.state.is_open:
        is_confirmed = entry.state is FlightState.CONFIRMED
        hint = "its trial is over, and it passed" if is_confirmed else "`skyload stage --hold` makes one that waits"
        raise InputError(f"update {entry.handle.hex()} is {entry.state}: there is nothing to activate", hint=hint)
