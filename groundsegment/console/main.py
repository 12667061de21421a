"""`skyload`: the one door for people on the ground."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from groundsegment.console import (
    activate,
    ask,
    cancel,
    export,
    forget,
    import_,
    keys,
    link,
    model,
    plan,
    receipt,
    revert,
    scrub,
    simulate,
    stage,
    station,
    status,
    uplink,
)

_SETUP, _GO, _SAT = "Prepare", "Fly an update", "A satellite and what it says"
_FILES, _REH = "Without a link", "Rehearse"

app = typer.Typer(
    name="skyload",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Update the AI model on a satellite: stage, plan, fly, watch, ask, revert.",
    epilog="First: `skyload keys init --satellite SAT-1 --kit kit`, then `stage`, `plan`, `uplink`, `status`: each has "
    "`--help` with examples. Or `make demo`: a real model over an emulated link. Docs: README.md, docs/runbook.md.",
)
app.add_typer(keys.app, name="keys", rich_help_panel=_SETUP)
app.add_typer(link.app, name="link", rich_help_panel=_REH)
app.add_typer(model.app, name="model", rich_help_panel=_SETUP)
app.add_typer(station.app, name="station", rich_help_panel=_SETUP)
app.add_typer(receipt.app, name="receipt", rich_help_panel=_SAT)
app.command("stage", rich_help_panel=_GO)(stage.stage)
app.command("plan", rich_help_panel=_GO)(plan.plan)
app.command("uplink", rich_help_panel=_GO)(uplink.uplink)
app.command("simulate", rich_help_panel=_REH)(simulate.simulate)
app.command("export", rich_help_panel=_FILES)(export.export)
app.command("import", rich_help_panel=_FILES)(import_.import_)
app.command("status", rich_help_panel=_GO)(status.status)
app.command("ask", rich_help_panel=_SAT)(ask.ask)
app.command("cancel", rich_help_panel=_GO)(cancel.cancel)
app.command("revert", rich_help_panel=_SAT)(revert.revert)
app.command("activate", rich_help_panel=_GO)(activate.activate)
app.command("forget", rich_help_panel=_SAT)(forget.forget)
app.command("scrub", rich_help_panel=_SAT)(scrub.scrub)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"skyload {version('skyload')}\n")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Update the AI model on a satellite."""


def main() -> None:
    """Run the command line."""
    app()
