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

app = typer.Typer(
    name="skyload",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Update the AI model on a satellite: stage, plan, fly, watch, ask, revert.",
    epilog="Try it: `make demo` flies a real model over an emulated link. Docs: docs/architecture.md.",
)
app.add_typer(keys.app, name="keys")
app.add_typer(link.app, name="link")
app.add_typer(model.app, name="model")
app.add_typer(station.app, name="station")
app.add_typer(receipt.app, name="receipt")
app.command("stage")(stage.stage)
app.command("plan")(plan.plan)
app.command("uplink")(uplink.uplink)
app.command("simulate")(simulate.simulate)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("status")(status.status)
app.command("ask")(ask.ask)
app.command("cancel")(cancel.cancel)
app.command("revert")(revert.revert)
app.command("activate")(activate.activate)
app.command("forget")(forget.forget)
app.command("scrub")(scrub.scrub)


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
