"""`skyload revert`: back to an older release, by command through the link."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot


@command
def revert(
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[
        str, typer.Option("--link", envvar="SKYLOAD_LINK", help="HOST:PORT of modem, emulator, satellite.")
    ],
    digest: Annotated[
        str | None, typer.Argument(help="Digest of the release, or its first digits; the one before if left out.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result.")] = 180.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Have the satellite serve an older release again; it must still be on board.

    Examples:
    ```
    skyload revert --for SAT-1 --link 127.0.0.1:7001
    skyload revert 1f2e3d4c5b6a7988 --for SAT-1 --link modem:7001 --yes
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.uplink.wire.exchange import send_command
    from groundsegment.uplink.wire.link_socket import Endpoint
    from protocol.command import Operation

    endpoint = Endpoint.parse(link)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        target = None if digest is None else _whole_digest(opened, digest)
        goal = "the release before the one it serves" if target is None else f"release {target.hex()[:16]}"
        if not yes and not confirm(f"Have {satellite} go back to {goal}?"):
            err.print("nothing was sent")
            raise typer.Exit(1)
        answer = send_command(
            opened,
            satellite,
            endpoint,
            Operation.REVERT,
            {"digest": target},
            timeout_s=timeout,
            tell=err.print,
        )
    ok, text = bool(answer.message.body.get("ok")), str(answer.message.body.get("text", ""))
    if as_json:
        print_json({"satellite": satellite, "ok": ok, "text": text, "seconds": round(answer.seconds, 3)})
    elif ok:
        out.print(text or f"{satellite} has reverted", markup=False)
    if not ok:
        err.print(f"error: {satellite} did not revert: {text}", markup=False)
        err.print("hint: it keeps the newest releases only; `skyload status` shows what it serves", markup=False)
        raise typer.Exit(1)


def confirm(question: str) -> bool:
    """Ask a person; whoever is none must say --yes."""
    import sys

    from groundsegment.errors import InputError

    sys.stderr.write(f"{question} [y/N]: ")  # typer's own prompt writes to stdout too, where scripts read
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        sys.stderr.write("\n")
        raise InputError("nobody is there to confirm; nothing was done", hint="--yes does without asking")
    return answer.strip().lower() in {"y", "yes"}


def _whole_digest(depot: "Depot", text: str) -> bytes:
    """The digest that the digits mean: all 64, or enough of them to find one release in the depot."""
    from groundsegment.errors import InputError, UnknownError

    digits = text.lower()
    if not digits or len(digits) > 64 or set(digits) - set("0123456789abcdef"):
        raise InputError(f"{text!r} is not a digest", hint="give 64 hex digits, or the first few of a staged release")
    if len(digits) == 64:
        return bytes.fromhex(digits)
    found = [entry for entry in depot.releases() if entry.digest.hex().startswith(digits)]
    if len(found) != 1:
        problem = "no such release" if not found else f"{len(found)} releases start so"
        raise UnknownError(f"{text}: {problem}", hint="give all 64 digits; `skyload status` shows what was staged")
    return found[0].digest
