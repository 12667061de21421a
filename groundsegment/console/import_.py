"""`skyload import`: what a satellite said, brought down as files by `skyloadd export-messages`."""

from pathlib import Path
from typing import Annotated

import typer

from groundsegment.console.output import command, err, out, print_json


@command
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files, or directories of files.")],
    satellite: Annotated[
        str | None, typer.Option("--for", help="The satellite's name; not needed if there is one.")
    ] = None,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Take in receipts, answers and reports of a satellite that came down as files.

    Each is verified, and kept as if it had come by the link: `skyload status` shows it, a receipt settles its update,
    and `skyload export --missing` knows what is on board. Files that go up by the same stick are passed over.

    Exit codes:
    ```
    0 all of it is in    3 a file was refused, or there was none
    ```

    Examples:
    ```
    skyload import /media/stick
    skyload import /media/stick --for SAT-1 --json | jq .files
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.file_import import Fate, import_files

    rows: list[dict[str, str]] = []
    num_passed_over = 0
    with Depot.open(depot) as opened:
        known = [entry.name for entry in opened.satellites()]
        if satellite is None and len(known) != 1:
            raise InputError("which satellite said it?", hint=f"add --for; known: {', '.join(known) or 'none'}")
        for imported in import_files(opened, satellite or known[0], paths):
            if imported.fate is Fate.PASSED_OVER:
                num_passed_over += 1
                continue
            name = imported.path.name.encode("unicode_escape", "surrogateescape").decode("ascii")
            rows.append({"path": str(imported.path), "outcome": imported.fate.value, "reason": imported.reason})
            if not as_json:
                reason = f"  ({imported.reason})" if imported.reason else ""
                out.print(f"{imported.fate.value:<13}  {name}{reason}", markup=False)
    num_refused = sum(row["outcome"] == Fate.REFUSED for row in rows)
    if num_passed_over and not as_json:
        files = f"{num_passed_over} file{'s' * (num_passed_over != 1)}"
        out.print(f"{Fate.PASSED_OVER.value:<13}  {files} of updates and commands: on their way up", markup=False)
    if not rows:
        raise InputError("no message or report there", hint="give the directory that `skyloadd export-messages` wrote")
    if as_json:
        print_json({"files": rows, "num_refused": num_refused, "num_passed_over": num_passed_over})
    if num_refused:
        hint = "the others are in; bring those again, and see that --for and --depot are right"
        raise InputError(f"{num_refused} of {len(rows)} files refused", hint=hint)
    err.print("next: skyload status", markup=False)
