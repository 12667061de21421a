"""`skyload forget`: a release that nobody may have any more: its keys wiped, on board and on the ground."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.dangerous import BLIND_HELP, LINK_HELP, check_way, command_dangerously, confirm
from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.staging.forgetting import Forgotten


@command
def forget(
    release: Annotated[str, typer.Argument(help="The release: first digits of its digest, or its name.")],
    satellite: Annotated[
        str | None, typer.Option("--for", help="The satellite that is to forget it; without it, the ground alone does.")
    ] = None,
    link: Annotated[str | None, typer.Option("--link", envvar="SKYLOAD_LINK", help=LINK_HELP)] = None,
    blind: Annotated[bool, typer.Option("--blind", help=BLIND_HELP)] = False,
    keep_ground: Annotated[
        bool, typer.Option("--keep-ground", help="On board only; the depot keeps its copies.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for each answer.")] = 180.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Forget a release for good: crypto-erasure. There is no way back.

    On board (--for): its files are deleted, and every copy of its wrapped key is overwritten. What serves, what an
    update builds on, and the golden release are not forgotten. It goes in two steps (see `skyload revert`).
    On the ground: all wrapped keys of it in the depot are overwritten, so that its bundles are noise, and deleted.
    What stays readable, and for whom, is printed.

    Exit codes:
    ```
    0 forgotten, or queued    1 the satellite refused: nothing was done    3 an update to it is under way, or it serves
    ```

    Examples:
    ```
    skyload forget 1f2e3d4c --for SAT-1 --link modem:7001
    skyload forget 1f2e3d4c --dry-run --json
    skyload forget second --yes
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.naming import find_release
    from groundsegment.staging import forgetting
    from protocol.command import Operation

    if satellite is not None:
        check_way(None if blind else link, is_blind=blind)
    elif keep_ground:
        raise InputError("neither on board nor on the ground: nothing to forget", hint="--for SATELLITE")
    with Depot.open(depot) as opened:
        if satellite is not None:
            opened.satellite(satellite)
        digest = find_release(opened, release)
        if satellite is not None:
            forgetting.refuse_serving(opened, digest, satellite)
        done = forgetting.look(opened, digest, asked=None if blind else satellite)
        where = " and ".join(([satellite] if satellite else []) + ([] if keep_ground else ["the depot"]))
        if not dry_run and not yes and not confirm(f"Have {where} forget {done.name} {digest.hex()[:16]} for good?"):
            err.print("nothing was done")
            raise typer.Exit(1)
        on_board: dict[str, Any] | None = None
        if satellite is not None and not dry_run:
            args = {"release": digest}
            way = None if blind else link
            on_board = command_dangerously(opened, satellite, Operation.FORGET, args, link=way, timeout_s=timeout)
            if on_board["ok"]:
                forgetting.mark_on_board(opened, digest, satellite)
        has_failed = on_board is not None and on_board["ok"] is False
        if not dry_run and not keep_ground and not has_failed:
            done = forgetting.forget(opened, digest)
    values = _values(done, on_board, dry_run=dry_run, is_done=not (dry_run or keep_ground or has_failed))
    if as_json:
        print_json(values)
    else:
        _print(values)
    if on_board is not None and has_failed:
        err.print(f"error: {satellite} did not forget it: {on_board['text']}", markup=False)
        err.print(
            "hint: nothing was wiped on the ground either; --for left out, the ground alone forgets", markup=False
        )
        raise typer.Exit(1)


def _values(done: "Forgotten", on_board: dict[str, Any] | None, *, dry_run: bool, is_done: bool) -> dict[str, Any]:
    return {
        "release": done.digest.hex(),
        "name": done.name,
        "dry_run": dry_run,
        "on_board": on_board,
        "ground": {
            "forgotten": is_done,
            "updates": [handle.hex() for handle in done.updates],
            "keys": done.num_keys,
            "bundle_bytes": done.bundle_bytes,
        },
        "stays": list(done.stays),
    }


def _print(values: dict[str, Any]) -> None:
    from groundsegment.planner.quantities import format_bytes, format_count

    ground = values["ground"]
    would = "would be " if values["dry_run"] else ""
    if values["on_board"] is not None and values["on_board"]["ok"] is not False:
        out.print(values["on_board"]["text"], markup=False)
    if ground["forgotten"] or values["dry_run"]:
        out.print(
            f"depot: {format_count(ground['keys'], 'wrapped key')} {would}overwritten, "
            f"{format_bytes(ground['bundle_bytes'])} of bundles {would}deleted, "
            f"of {format_count(len(ground['updates']), 'update')} to {values['name']}",
            markup=False,
        )
    is_refused = values["on_board"] is not None and values["on_board"]["ok"] is False
    for sentence in () if is_refused else values["stays"]:  # it would read as if something had been wiped
        err.print(f"stays: {sentence}", markup=False)
