"""`skyload activate`: let the trial of an update begin that was staged with --hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.dangerous import BLIND_HELP, LINK_HELP, check_way, command_dangerously, confirm, tell_outcome
from groundsegment.console.output import command, err

if TYPE_CHECKING:
    from groundsegment.depot.records import Update


@command
def activate(
    update: Annotated[
        str, typer.Argument(help="The update: first digits of its handle, the release's name, or newest.")
    ],
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

    check_way(None if blind else link, is_blind=blind)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        entry = find_update(opened, update, satellite=satellite, is_wanted=lambda each: each.state.is_open)
        _refuse_ended(entry)
        name = f"{entry.release_name} ({entry.handle.hex()})"
        if not yes and not confirm(f"Have {satellite} try {name}, and serve it if it passes?"):
            err.print("nothing was sent")
            raise typer.Exit(1)
        values = command_dangerously(
            opened,
            satellite,
            Operation.ACTIVATE,
            {"update": entry.handle},
            link=None if blind else link,
            timeout_s=timeout,
        )
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
