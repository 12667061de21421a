"""`skyload receipt`: what a satellite signed about updates: list, show, verify (also without a depot), export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.output import UPDATE_HELP, command, err, out, print_json
from groundsegment.console.receipt_words import print_table, tell, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from groundsegment.receipts import Checked

app = typer.Typer(
    no_args_is_help=True, help="What a satellite signed: accepted, refused, confirmed, rejected, what it serves."
)

_DepotOption = Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_KeyOption = Annotated[
    Path | None, typer.Option("--key", help="The satellite's public key: verify a file with it alone, no depot.")
]
_WhatArgument = Annotated[
    str, typer.Argument(help="A receipt's file; or an update: first digits of its handle, its name, or newest.")
]
_SatelliteOption = Annotated[str | None, typer.Option("--for", help="The satellite's name.")]


@app.command("list")
@command
def list_(
    satellite: _SatelliteOption = None, depot: _DepotOption = Path("depot"), as_json: _JsonOption = False
) -> None:
    """List the receipts of the depot, oldest first, each verified again.

    Examples:
    ```
    skyload receipt list
    skyload receipt list --for SAT-1 --json
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.receipts import kept

    with Depot.open(depot) as opened:
        found = [values_of(checked) for checked in kept(opened, satellite)]
    if as_json:
        print_json({"receipts": found})
    elif not found:
        out.print("no receipt has come yet")
    else:
        print_table(found)


@app.command()
@command
def show(
    what: _WhatArgument,
    satellite: _SatelliteOption = None,
    key: _KeyOption = None,
    depot: _DepotOption = Path("depot"),
    as_json: _JsonOption = False,
) -> None:
    """Show what a receipt says, once it is verified.

    Examples:
    ```
    skyload receipt show 1f2e3d
    skyload receipt show receipt-SAT-1-confirmed-0a1b2c3d4e5f.ska --key SAT-1.pub
    ```
    """
    found = _find(what, satellite, key, depot)
    tell(found, as_json=as_json, is_long=True)


@app.command()
@command
def verify(
    what: _WhatArgument,
    satellite: _SatelliteOption = None,
    key: _KeyOption = None,
    depot: _DepotOption = Path("depot"),
    as_json: _JsonOption = False,
) -> None:
    """Verify that a satellite signed exactly this receipt.

    With --key a file is verified by it and the satellite's public key alone: no depot, no network, on any machine. Else
    with the keys of the depot. Verdicts: good, not-a-receipt, forged, altered, other-satellite.

    Exit codes:
    ```
    0 good    1 any other verdict    3 no such file, or not a key    5 no such update, or no receipt of it
    ```

    Examples:
    ```
    skyload receipt verify 1f2e3d
    skyload receipt verify receipt-SAT-1-confirmed-0a1b2c3d4e5f.ska --key SAT-1.pub --for SAT-1 --json
    ```
    """
    found = _find(what, satellite, key, depot)
    tell(found, as_json=as_json, is_long=False)


@app.command()
@command
def export(
    update: Annotated[str, typer.Argument(help=UPDATE_HELP)],
    satellite: _SatelliteOption = None,
    directory: Annotated[Path, typer.Option("--out", help="Where the files go.")] = Path(),
    key_out: Annotated[
        Path | None, typer.Option("--key-out", help="Write the satellite's public key there, too.")
    ] = None,
    depot: _DepotOption = Path("depot"),
    as_json: _JsonOption = False,
) -> None:
    """Write the receipts of an update as files that others can verify.

    Give them the satellite's public key by another way than the receipts: who could swap both could forge both.

    Examples:
    ```
    skyload receipt export newest --for SAT-1
    skyload receipt export 1f2e3d --out receipts --key-out SAT-1.pub
    ```
    """
    from groundsegment import receipts
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import UnknownError
    from groundsegment.naming import find_update

    with Depot.open(depot) as opened:
        entry = find_update(opened, update, satellite=satellite)
        good = [checked for checked in receipts.of_update(opened, entry) if checked.is_good]
        if not good:
            raise UnknownError(f"update {entry.handle.hex()}: no receipt that verifies", hint="`skyload receipt list`")
        paths = receipts.export(good, directory)
        public_key = opened.satellite(entry.satellite).identity_public
    if key_out is not None:
        key_out.write_text(receipts.key_text(public_key), encoding="ascii")
    if as_json:
        print_json({"files": [str(path) for path in paths], "key": public_key.hex()})
        return
    for path in paths:
        out.print(str(path), markup=False)
    if key_out is not None:
        err.print(f"{entry.satellite}'s public key: {key_out}", markup=False)


def _find(what: str, satellite: str | None, key: Path | None, depot: Path) -> "Sequence[Checked]":
    from groundsegment import receipts
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.naming import find_update
    from protocol.names import is_safe_name

    path = Path(what)
    if key is not None:
        return [receipts.check(receipts.read_file(path), public_key=receipts.read_public_key(key), satellite=satellite)]
    is_name = is_safe_name(what) and path.suffix != ".ska"
    if not is_name and not path.exists():
        raise InputError(f"{what}: no such file, and not the name of an update", hint="`skyload receipt list`")
    with Depot.open(depot) as opened:
        if path.is_file():
            return [receipts.check_in_depot(opened, receipts.read_file(path), satellite=satellite)]
        return receipts.of_update(opened, find_update(opened, what, satellite=satellite))
