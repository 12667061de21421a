"""`skyload scrub`: have a satellite look for flipped bits in its releases, by command through the link."""

from pathlib import Path
from typing import Annotated

import typer

from groundsegment.console.output import command, err, out, print_json


@command
def scrub(
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    release: Annotated[
        str | None,
        typer.Argument(help="A release: first digits of its digest, or its name; all on board if left out."),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="At full speed, and say what came of it; else anew at the slow pace.")
    ] = False,
    link: Annotated[
        str | None,
        typer.Option(
            "--link", envvar="SKYLOAD_LINK", help="HOST:PORT, to tell it at once. Without it, the uplink does."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result.")] = 600.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Have a satellite read its releases from the medium and undo flipped bits.

    It does so by itself all the time, slowly. What it cannot undo it asks for: `skyload status` shows it.

    Exit codes:
    ```
    0 whole, or repaired, or queued    1 something is lost    6 no answer; it waits for the next contact
    ```

    Examples:
    ```
    skyload scrub --for SAT-1
    skyload scrub --for SAT-1 --now --link modem:7001
    skyload scrub 1f2e3d --for SAT-1 --now --link modem:7001 --json
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import CommandState
    from groundsegment.naming import find_release_on_board
    from groundsegment.uplink.wire.exchange import keep_command, send_kept
    from groundsegment.uplink.wire.link_socket import Endpoint
    from protocol.command import Operation

    endpoint = None if link is None else Endpoint.parse(link)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        digest = None if release is None else find_release_on_board(opened, release, satellite=satellite)
        args = {"release": digest, "now": now}
        queued = keep_command(opened, satellite, Operation.SCRUB, args, state=CommandState.QUEUED)
        if endpoint is None:
            values = {"satellite": satellite, "ok": True, "sent": False, "text": "it is told at the next contact"}
        else:
            answer = send_kept(opened, queued, endpoint, timeout_s=timeout, tell=err.print)
            body = answer.message.body
            ok, text = bool(body.get("ok")), str(body.get("text", ""))
            values = {"satellite": satellite, "ok": ok, "sent": True, "text": text}
    if as_json:
        print_json(values)
    else:
        out.print(f"{satellite}: {values['text']}", markup=False)
    if not values["ok"]:
        err.print(
            "hint: `skyload status` shows what is lost; `skyload revert` goes back to another release", markup=False
        )
        raise typer.Exit(1)
