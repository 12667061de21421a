"""`skyload cancel`: an update that nobody wants any more."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import UPDATE_HELP, command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import Update
    from groundsegment.uplink.wire.link_socket import Endpoint


@command
def cancel(
    update: Annotated[str, typer.Argument(help=UPDATE_HELP)],
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[
        str | None,
        typer.Option(
            "--link", envvar="SKYLOAD_LINK", help="HOST:PORT, to tell it at once. Without it, the uplink does."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the satellite.")] = 10.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Cancel an update: a running uplink stops sending it within a second, and the satellite drops what it has.

    Where nothing of it was ever sent, the depot alone is told. Else the satellite must hear it: with --link at once, if
    there is a contact; otherwise the command waits in the depot, and the uplink sends it in the next contact. What the
    satellite serves does not change. An update that it confirmed first stays confirmed: see `skyload revert`.

    Exit codes:
    ```
    0 cancelled on board, or queued, or never sent    1 the satellite had decided before    5 no such update
    ```

    Examples:
    ```
    skyload cancel 1f2e3d --for SAT-1
    skyload cancel 1f2e3d --for SAT-1 --link modem:7001 --yes --json
    skyload cancel 1f2e3d --for SAT-1 --dry-run
    ```
    """
    from groundsegment.console.dangerous import confirm
    from groundsegment.depot.depot import Depot
    from groundsegment.stations.home import exchange_if_free
    from groundsegment.uplink.wire.link_socket import Endpoint

    endpoint = None if link is None else Endpoint.parse(link)
    with Depot.open(depot) as opened:
        if not dry_run:
            exchange_if_free(opened, satellite, utc=datetime.now(UTC))  # a station may have flown it
        entry = _open_update(opened, update, satellite)
        is_known = _may_be_on_board(opened, entry)
        if dry_run:
            values = _values(entry, on_board="to be told" if is_known else "never sent", text="nothing was done")
        else:
            name = f"{entry.release_name} ({entry.handle.hex()}, {entry.state})"
            if not yes and not confirm(f"Cancel {name} for {satellite}?"):
                err.print("nothing was done")
                raise typer.Exit(1)
            values = _cancel(opened, entry, endpoint if is_known else None, is_known=is_known, timeout_s=timeout)
            exchange_if_free(opened, satellite, utc=datetime.now(UTC))
    if as_json:
        print_json({**values, "dry_run": dry_run})
    else:
        _print(values, satellite, is_dry=dry_run)
    if values["on_board"] == "decided before":
        err.print(f"error: {satellite} had decided before: the update is {values['state']}", markup=False)
        err.print("hint: `skyload revert` brings back the release before it", markup=False)
        raise typer.Exit(1)


def _open_update(depot: "Depot", text: str, satellite: str) -> "Update":
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import InputError
    from groundsegment.naming import find_update

    entry = find_update(depot, text, satellite=satellite, is_wanted=lambda each: each.state.is_open)
    handle = entry.handle.hex()
    if not entry.state.is_open:
        hint = "`skyload status` shows what is open"
        if entry.state is FlightState.CONFIRMED:
            hint = f"`skyload revert --for {satellite}` brings back the release before it"
        raise InputError(f"update {handle} is {entry.state}: there is nothing to cancel", hint=hint)
    return entry


def _may_be_on_board(depot: "Depot", entry: "Update") -> bool:
    """Whether the satellite may have heard of it; a station of its own depot may have flown what is staged here."""
    from groundsegment.depot.records import FlightState

    return entry.state is not FlightState.STAGED or bool(depot.stations(entry.satellite))


def _cancel(
    depot: "Depot", entry: "Update", endpoint: "Endpoint | None", *, is_known: bool, timeout_s: float
) -> dict[str, Any]:
    """Queue the command, then tell the depot: killed in between, the satellite is told all the same."""
    from groundsegment.depot.records import CommandState, FlightState
    from groundsegment.errors import LinkError
    from groundsegment.uplink.flight.update_flight import CANCELLED_HERE
    from groundsegment.uplink.wire.exchange import keep_command, send_kept
    from protocol.command import Operation

    queued = None
    if is_known:
        args = {"update": entry.handle}
        queued = keep_command(depot, entry.satellite, Operation.CANCEL, args, state=CommandState.QUEUED)
    entry = depot.set_update_state(entry.handle, FlightState.CANCELLED, reason=CANCELLED_HERE)
    if queued is None:
        return _values(entry, on_board="never sent")
    if endpoint is None:
        return _values(entry, on_board="to be told")
    try:
        answer = send_kept(depot, queued, endpoint, timeout_s=timeout_s, tell=err.print)
    except LinkError as error:
        return _values(entry, on_board="to be told", text=str(error))
    text = str(answer.message.body.get("text", ""))
    if answer.message.body.get("ok"):
        return _values(entry, on_board="cancelled", text=text)
    entry = depot.update(entry.handle)  # a receipt of what it had decided may have come meanwhile
    decided = entry.state is not FlightState.CANCELLED
    return _values(entry, on_board="decided before" if decided else "not on board", text=text)


def _values(entry: "Update", *, on_board: str, text: str = "") -> dict[str, Any]:
    return {
        "satellite": entry.satellite,
        "update": entry.handle.hex(),
        "release": entry.release_name,
        "state": entry.state.value,
        "on_board": on_board,
        "text": text,
    }


def _print(values: dict[str, Any], satellite: str, *, is_dry: bool) -> None:
    name = f"{values['release']} {values['update']}"
    words = {
        "never sent": f"nothing of it was ever sent to {satellite}",
        "to be told": f"{satellite} will be told at the next contact: keep the uplink running, or start it",
        "cancelled": f"{satellite} has dropped it",
        "not on board": f"{satellite} had nothing of it",
        "decided before": f"{satellite} had decided before",
    }[values["on_board"]]
    out.print(f"{name}: {'would be cancelled' if is_dry else values['state']}; {words}", markup=False)
    if values["text"]:
        err.print(values["text"], markup=False)
