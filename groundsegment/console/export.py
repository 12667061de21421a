"""`skyload export`: an update as plain files, for any transport that carries files; `skyloadd import` takes them in."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import Update
    from groundsegment.file_export import ExportedFile, ExportItem, OnBytes


@command
def export(
    update: Annotated[
        str, typer.Argument(help="First digits of its handle, its name, or newest; or commands, those that wait.")
    ],
    directory: Annotated[Path, typer.Argument(help="Where the files go; made if it is not there.")],
    satellite: Annotated[str | None, typer.Option("--for", help="The satellite's name.")] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="metadata, bundles, or numbers of bundles: 0-3,7. Default: all.")
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only what the satellite has not reported complete.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written; write nothing.")] = False,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Write an update as plain files, to be carried by a disk, a network or another protocol.

    They hold what the link would carry: signed metadata, encrypted bundles. On board, `skyloadd import` takes them in
    any order; what comes both ways is used once. An interrupted export goes on where it was.

    Examples:
    ```
    skyload export newest /media/stick --for SAT-1
    skyload export 3f2a9c /media/stick --only 0-9
    skyload export newest out --for SAT-1 --missing --json | jq .bytes_written
    skyload export commands /media/stick --for SAT-1
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.file_export import export as run_export
    from groundsegment.file_export import items_of

    with Depot.open(depot) as opened:
        if update == "commands":
            _export_commands(opened, satellite, directory, is_dry_run=dry_run, as_json=as_json)
            return
        found = _find(opened, update, satellite)
        items = items_of(opened, found)
        chosen, complete = _choose(opened, found, items, only=only, is_missing=missing)
        files: list[ExportedFile] = []
        if chosen and not dry_run:
            with _progress(sum(item.size_bytes for item in chosen)) as on_bytes:
                files = run_export(found, items, chosen, directory, on_bytes=on_bytes)
    values = _facts(found, directory, items, chosen, files, complete)
    if as_json:
        print_json({**values, "dry_run": dry_run})
    _tell(found, values, is_dry_run=dry_run, is_quiet=as_json)


def _export_commands(
    depot: "Depot", satellite: str | None, directory: Path, *, is_dry_run: bool, as_json: bool
) -> None:
    from groundsegment.depot.records import CommandState
    from groundsegment.errors import InputError
    from groundsegment.file_export import export_commands

    if satellite is None:
        raise InputError("commands to which satellite?", hint="add --for SATELLITE")
    waiting = depot.journal.commands(depot.satellite(satellite).name, CommandState.QUEUED)
    files = export_commands(waiting, directory) if waiting and not is_dry_run else []
    if as_json:
        rows = [
            {"handle": entry.handle.hex(), "operation": entry.operation, "counter": entry.counter} for entry in waiting
        ]
        print_json({"satellite": satellite, "directory": str(directory), "commands": rows, "dry_run": is_dry_run})
    for entry, (name, is_new) in zip(waiting, files, strict=False):
        if not as_json:
            out.print(f"  {entry.operation:8} {name}" + ("" if is_new else "  (was there)"), markup=False)
    if not waiting:
        err.print(f"no command to {satellite} waits", markup=False)
    elif is_dry_run:
        err.print(f"{len(waiting)} wait; nothing was written", markup=False)
    else:
        err.print(f"next: carry {directory} to the satellite; obeyed once, also if an uplink sends them", markup=False)


def _find(depot: "Depot", text: str, satellite: str | None) -> "Update":
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import InputError
    from groundsegment.naming import find_update

    dead = {FlightState.CANCELLED, FlightState.EXPIRED, FlightState.REJECTED}
    found = find_update(
        depot, text, satellite=satellite, is_wanted=lambda each: each.state not in dead and not each.is_forgotten_here
    )
    if found.is_forgotten_here:
        hint = (
            "`skyload receipt show` has what became of it; staging the model again makes a new update, with a new key"
        )
        raise InputError(
            f"update {found.handle.hex()} ({found.release_name}) was forgotten: its files are no more", hint=hint
        )
    return found


def _choose(
    depot: "Depot", update: "Update", items: "tuple[ExportItem, ...]", *, only: str | None, is_missing: bool
) -> "tuple[list[ExportItem], int]":
    """What is to be written, and how many more are left out because they are on board."""
    from groundsegment.file_export import chosen_items, reported_complete

    chosen = chosen_items(items, only)
    if not is_missing:
        return chosen, 0
    if depot.journal.last_report(update.satellite) is None:
        err.print(f"{update.satellite} was never heard: nothing of it counts as complete", markup=False)
    complete = reported_complete(depot, update, items)
    left = [item for item in chosen if item.handle not in complete]
    return left, len(chosen) - len(left)


@contextmanager
def _progress(total_bytes: int) -> "Iterator[OnBytes]":
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("exporting", total=total_bytes)
        yield lambda done: progress.advance(task, done)


def _facts(
    update: "Update",
    directory: Path,
    items: "tuple[ExportItem, ...]",
    chosen: "list[ExportItem]",
    files: "list[ExportedFile]",
    num_complete: int,
) -> dict[str, Any]:
    new = {file.item.name for file in files if file.is_new}
    there = {file.item.name for file in files if not file.is_new}
    return {
        "update": update.handle.hex(),
        "sequence": update.sequence,
        "satellite": update.satellite,
        "release": update.release_name,
        "directory": str(directory),
        "num_objects": len(items),
        "num_complete_on_board": num_complete,
        "bytes_chosen": sum(item.size_bytes for item in chosen),
        "bytes_written": sum(item.size_bytes for item in chosen if item.name in new),
        "files": [
            {
                "name": item.name,
                "kind": item.kind.name.lower(),
                "number": item.number if item.number >= 0 else None,
                "handle": item.handle.hex(),
                "size_bytes": item.size_bytes,
                "sha256": item.sha256.hex(),
                "outcome": "written" if item.name in new else "already there" if item.name in there else "planned",
            }
            for item in chosen
        ],
    }


def _tell(update: "Update", values: dict[str, Any], *, is_dry_run: bool, is_quiet: bool) -> None:
    from groundsegment.planner.quantities import format_bytes

    directory, files = values["directory"], values["files"]
    if not files:
        err.print("nothing to export: the satellite has reported all of it complete", markup=False)
        return
    num_there = sum(file["outcome"] == "already there" for file in files)
    if not is_quiet:
        size = format_bytes(values["bytes_chosen"])
        out.print(
            f"update {values['update']}: {update.release_name} for {update.satellite}, {len(files)} of "
            f"{values['num_objects']} files, {size}" + (f"; {num_there} were there already" if num_there else ""),
            markup=False,
        )
        for file in files:
            out.print(f"  {file['size_bytes']:>12}  {file['name']}", markup=False)
    if is_dry_run:
        err.print("nothing was written", markup=False)
        return
    if not values["num_complete_on_board"] and all(file["kind"] != "metadata" for file in files):
        err.print("without its metadata: until that arrives, the satellite keeps bundles only as far as its quota goes")
    err.print(
        f"next: carry {directory} to the satellite; there: skyloadd import {directory} --config satellite.toml",
        markup=False,
    )
