"""`skyload keys root` and `keys sign`: a new root is signed where the root keys are, and carried there and back.

depot    skyload keys rotate timestamp          says what is missing
depot    skyload keys root prepare STICK        root-2.json and root-1.json, which it follows
offline  skyload keys sign --offline STICK --key root-1.pem      says what would change, and who may sign then; asks
offline  skyload keys sign --offline STICK --key root-2.pem
depot    skyload keys root combine STICK        in force, and queued for all satellites
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.dangerous import confirm
from groundsegment.console.keys_change import AsJson, DepotOption, PassphraseFile, conclude
from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.signer.ceremony import Ceremony

app = typer.Typer(no_args_is_help=True, help="The next trust root: where it stands, and its ceremony.")


@app.command("status")
@command
def status(depot: DepotOption = Path("depot"), as_json: AsJson = False) -> None:
    """Show the trust root, who may sign what, and what the next one lacks.

    Examples:
    ```
    skyload keys root status
    skyload keys root status --json | jq .next.missing
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.overview import root_overview

    with Depot.open(depot) as opened:
        values = root_overview(KeyStore(opened.keys_path))
    if as_json:
        print_json(values)
        return
    out.print(f"root {values['version']}, epoch {values['epoch']}, good until {values['expires'][:10]}", markup=False)
    for role in values["roles"]:
        names = ", ".join(key["name"] or key["key_id"][:16] for key in role["keys"])
        out.print(f"{role['role']:10} {role['threshold']} of {len(role['keys'])}: {names}", markup=False)
    next_ = values["next"]
    if next_ is not None:
        out.print(f"next: root {next_['version']} with new {', '.join(next_['changes'])}", markup=False)
        for words in next_["missing"]:
            out.print(f"      missing: {words}", markup=False)
        for words in _next_steps(is_complete=not next_["missing"]):
            err.print(words, markup=False)


def _next_steps(*, is_complete: bool) -> tuple[str, ...]:
    if is_complete:
        return ("all have signed: the command that began it, given again, puts it in force",)
    return (
        "next: skyload keys root prepare DIR, and carry DIR to the root keys",
        "then, with what was signed there: skyload keys root combine DIR",
        "to give it up: skyload keys root drop",
    )


@app.command("prepare")
@command
def prepare(
    directory: Annotated[Path, typer.Argument(help="On the stick; made if it is not there.")],
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Write the next root, and the one that it follows, for the machine with the root keys.

    Examples:
    ```
    skyload keys root prepare /media/stick
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.ceremony import write_ceremony
    from groundsegment.signer.key_store import KeyStore

    with Depot.open(depot) as opened, opened.lock("keys"):
        ceremony = write_ceremony(KeyStore(opened.keys_path), directory)
    if as_json:
        print_json({"file": str(ceremony.path), "root_version": ceremony.version, "missing": list(ceremony.missing)})
        return
    out.print(str(ceremony.path), markup=False)
    err.print(f"next, where the keys are: skyload keys sign --offline {directory} --key KEY", markup=False)


@app.command("combine")
@command
def combine(
    source: Annotated[Path, typer.Argument(help="The stick's directory, or the signed file.")],
    passphrase_file: PassphraseFile = None,
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Take the signatures that came back; with enough of them the root is in force. Several sticks may come in turn.

    Examples:
    ```
    skyload keys root combine /media/stick
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.ceremony import read_signed
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.passphrase import Passphrase
    from groundsegment.signer.rotation import take_signatures

    with Depot.open(depot) as opened, opened.lock("keys"):
        store = KeyStore(opened.keys_path, Passphrase(passphrase_file))
        data, path = read_signed(source)
        next_ = take_signatures(store, data, path)
        conclude(opened, store, next_, as_json=as_json)


@app.command("drop")
@command
def drop(depot: DepotOption = Path("depot"), as_json: AsJson = False) -> None:
    """Forget the next root and its new keys, as if it had never been begun.

    Examples:
    ```
    skyload keys root drop
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.rotation import check_droppable, pending
    from groundsegment.signer.rotation import drop as drop_next

    with Depot.open(depot) as opened, opened.lock("keys"):
        store = KeyStore(opened.keys_path)
        next_ = pending(store)
        if next_ is not None:
            check_droppable(store, next_)
            next_ = None if next_.is_in_force else next_
        drop_next(store)
    if as_json:
        print_json({"dropped": next_.version if next_ else None})
    else:
        out.print(f"root {next_.version} is dropped" if next_ else "no next root was being made", markup=False)


def sign(
    offline: Annotated[Path, typer.Option("--offline", help="What `keys root prepare` wrote: directory or file.")],
    key: Annotated[str, typer.Option("--key", help="A private key's file, or a URI: hsm:2?label=TOKEN.")],
    trusted: Annotated[
        Path | None, typer.Option("--trusted", help="A root known here from before: what is prepared must follow it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign a prepared root with one root key. Needs no depot and no network; says what it changes, and asks.

    Whoever wrote the stick wrote also the root that the changes are told from. So keep a root of your own where the
    root keys are, of a kit or signed there before, for --trusted; and compare who may sign with what you know.

    Examples:
    ```
    skyload keys sign --offline /media/stick --key root-1.pem --trusted root.json
    skyload keys sign --offline /media/stick --key 'hsm:2?label=root-1' --yes
    ```
    """
    from groundsegment.errors import InputError
    from groundsegment.signer.ceremony import check_follows, check_signer, open_key, read_ceremony, sign_ceremony
    from groundsegment.signer.passphrase import Passphrase

    ceremony = read_ceremony(offline)
    if trusted is not None:
        check_follows(ceremony, trusted)
    if not as_json:
        _show(ceremony, is_known=trusted is not None)
    signer = open_key(key, Passphrase(passphrase_file))
    check_signer(ceremony, signer)
    if not yes and not confirm("sign this root?"):
        raise InputError("not signed", hint="answer y, or give --yes")
    signed = sign_ceremony(ceremony, signer)
    if as_json:
        values: dict[str, Any] = {"file": str(signed.path), "missing": list(signed.missing)}
        shown = {"changes": list(signed.changes), "holds": list(signed.holds)}
        print_json({**values, **shown, "root_version": signed.version})
        return
    words = f"missing: {'; '.join(signed.missing)}" if signed.missing else "complete: skyload keys root combine"
    out.print(f"{signed.path}: signed; {words}", markup=False)


def _show(ceremony: "Ceremony", *, is_known: bool) -> None:
    words = "" if is_known else ", as the stick tells it (see --trusted)"
    err.print(f"root {ceremony.version} follows root {ceremony.version - 1}{words}", markup=False)
    for line in ceremony.changes:
        err.print(f"  {line}", markup=False)
    err.print("then may sign", markup=False)
    for line in ceremony.holds:
        err.print(f"  {line}", markup=False)
