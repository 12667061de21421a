"""`skyload revert`: back to an older release, by command through the link, in two steps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.dangerous import BLIND_HELP, LINK_HELP, check_way, command_dangerously, confirm, tell_outcome
from groundsegment.console.output import command, err

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot


@command
def revert(
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    digest: Annotated[
        str | None, typer.Argument(help="Digest of the release, or its first digits; the one before if left out.")
    ] = None,
    link: Annotated[str | None, typer.Option("--link", envvar="SKYLOAD_LINK", help=LINK_HELP)] = None,
    blind: Annotated[bool, typer.Option("--blind", help=BLIND_HELP)] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for each answer.")] = 180.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Have the satellite serve an older release again; it must still be on board.

    Goes in two steps, like all that is dangerous: the satellite is armed, answers, and only then the command is fired,
    with that answer in it. Interrupted, the same command goes on where it was.

    Examples:
    ```
    skyload revert --for SAT-1 --link 127.0.0.1:7001
    skyload revert 1f2e3d4c5b6a7988 --for SAT-1 --link modem:7001 --yes
    skyload revert --for SAT-1 --blind --yes
    ```
    """
    from groundsegment.depot.depot import Depot
    from protocol.command import Operation

    check_way(None if blind else link, is_blind=blind)
    with Depot.open(depot) as opened:
        opened.satellite(satellite)
        target = None if digest is None else whole_digest(opened, digest)
        goal = "the release before the one it serves" if target is None else f"release {target.hex()[:16]}"
        if not yes and not confirm(f"Have {satellite} go back to {goal}?"):
            err.print("nothing was sent")
            raise typer.Exit(1)
        values = command_dangerously(
            opened,
            satellite,
            Operation.REVERT,
            {"digest": target},
            link=None if blind else link,
            timeout_s=timeout,
        )
    hint = "it keeps the newest releases only; `skyload status` shows what it serves"
    if not tell_outcome(values, as_json=as_json, verb="revert", hint=hint):
        raise typer.Exit(1)


def whole_digest(depot: "Depot", text: str) -> bytes:
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
