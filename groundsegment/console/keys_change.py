"""`skyload keys rotate`, `revoke`, `send`, `protect`, `make`, `export`: keys that change. A ceremony: `keys_root`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.dangerous import confirm
from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_entry import KeyEntry
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.rotation import NextRoot

DepotOption = Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="Its first line opens and seals private keys. "
        "Default: SKYLOAD_PASSPHRASE_FILE, SKYLOAD_PASSPHRASE, the terminal.",
    ),
]
_KeyUri = Annotated[
    str | None,
    typer.Option("--key-uri", help="Where the new key is: hsm:2?label=TOKEN, ssh-agent:COMMENT, or another service's."),
]
_Public = Annotated[
    Path | None, typer.Option("--public", help="The new key's public half, made elsewhere: NAME.public, or a PEM file.")
]


def add_commands(app: typer.Typer) -> None:
    """Put the commands into the group `keys`."""
    for name, function in (
        ("rotate", rotate),
        ("revoke", revoke),
        ("send", send),
        ("protect", protect),
        ("make", make),
        ("export", export),
    ):
        app.command(name)(command(function))


def rotate(
    names: Annotated[
        list[str], typer.Argument(metavar="KEY...", help="root-1..3, root-pq-1..2, targets, command, ...")
    ],
    key_uri: _KeyUri = None,
    public: _Public = None,
    passphrase_file: PassphraseFile = None,
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Replace keys by new ones, in a new root that satellites follow. What was signed before stays good.

    With two root keys here it is in force at once, and queued for all satellites; else see `skyload keys root prepare`.
    root-pq-1, where there is none yet, makes roots hybrid: ML-DSA-65 beside Ed25519.

    Examples:
    ```
    skyload keys rotate timestamp snapshot
    skyload keys rotate targets --key-uri 'hsm:2?label=skyload'
    skyload keys rotate command --key-uri ssh-agent:skyload-command
    skyload keys rotate root-1 --public /media/stick/root-1.public
    ```
    """
    _change(names, depot, passphrase_file, key_uri, public, is_leaked=False, floor=0, as_json=as_json)


def revoke(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Names, or first digits of key ids.")],
    floor: Annotated[
        int | None,
        typer.Option("--floor", help="No update below may be installed in the new epoch. Default: as it is."),
    ] = None,
    key_uri: _KeyUri = None,
    public: _Public = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    passphrase_file: PassphraseFile = None,
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Replace keys that somebody else may have. If they sign updates, a new epoch begins; that is asked first.

    Then versions are counted from the start, so whatever version a thief has signed shuts nobody out, and updates that
    are not confirmed yet end on board: stage them again.

    Examples:
    ```
    skyload keys revoke timestamp snapshot targets
    skyload keys revoke 3f2a9c
    skyload keys revoke root-2
    ```
    """
    from groundsegment.errors import UnknownError
    from groundsegment.signer.key_store import KNOWN_NAMES, KeyStore
    from groundsegment.signer.rotation import begins_epoch

    store = KeyStore(depot / "keys")
    ids = {name: entry.key.keyid for name in KNOWN_NAMES if (entry := store.entry(name)) is not None}
    names = []
    for key in keys:
        found = [name for name in KNOWN_NAMES if name == key or (len(key) >= 4 and ids.get(name, "").startswith(key))]
        if len(found) != 1:
            raise UnknownError(f"{key}: no key, or several", hint="`skyload keys list` shows names and ids")
        names += found
    question = f"Revoke {', '.join(names)}? A new epoch begins: updates that are not confirmed end on board."
    if begins_epoch(names, is_leaked=True) and not yes and not confirm(question):
        err.print("nothing was done")
        raise typer.Exit(1)
    _change(names, depot, passphrase_file, key_uri, public, is_leaked=True, floor=floor, as_json=as_json)


def send(
    satellite: Annotated[str | None, typer.Option("--for", help="The satellite's name. Default: all.")] = None,
    all_roots: Annotated[
        bool, typer.Option("--all-roots", help="From the first root on, whatever it last reported.")
    ] = False,
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Queue new roots for the next uplink, without an update. `rotate` and `revoke` do so by themselves.

    Examples:
    ```
    skyload keys send
    skyload keys send --for SAT-1 --all-roots
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_store import KeyStore

    with Depot.open(depot) as opened, opened.lock("keys"):
        if satellite is not None:
            opened.satellite(satellite)
        counts = _queue(opened, KeyStore(opened.keys_path), only=satellite, is_anew=all_roots)
    if as_json:
        print_json({"queued": counts})
        return
    for name, count in counts.items():
        words = f"{count} queued for the next uplink" if count else "has reported the newest root"
        out.print(f"{name}: {words}", markup=False)


def protect(
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="Its first line seals them from now on.")
    ] = None,
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Seal all private keys in the depot under a passphrase, or under another one.

    The satellites' link keys stay as they are, for uplinks need them with nobody there. Wherever another key is needed
    later, the passphrase comes from the file that SKYLOAD_PASSPHRASE_FILE names, else from SKYLOAD_PASSPHRASE, else
    somebody at the terminal is asked. Under `skyload keys`, --passphrase-file comes first.

    Examples:
    ```
    skyload keys protect
    skyload keys protect --passphrase-file old.txt --new-passphrase-file new.txt
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_file import read_key, write_key
    from groundsegment.signer.passphrase import Passphrase

    old, new = Passphrase(passphrase_file), Passphrase(new_passphrase_file, seals=True, asks_only=True)
    with Depot.open(depot) as opened, opened.lock("keys"):
        paths = sorted(opened.keys_path.glob("**/*.pem"))
        keys = [read_key(path, old) for path in paths]
        for path, key in zip(paths, keys, strict=True):
            write_key(path, key, new, replaces=True)
    if as_json:
        print_json({"sealed": [path.stem for path in paths]})
        return
    out.print(f"sealed: {', '.join(path.stem for path in paths)}", markup=False)
    err.print("backups of the depot still hold the keys as they were", markup=False)


def make(
    path: Annotated[Path, typer.Argument(help="The private key's file; its public half is beside it as .public.")],
    post_quantum: Annotated[bool, typer.Option("--post-quantum", help="ML-DSA-65 instead of Ed25519.")] = False,
    seal: Annotated[bool, typer.Option("--seal/--no-seal", help="Under a passphrase. Without one it is plain.")] = True,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key where no depot is: on the offline machine, or on its stick. Carry only the .public file away.

    Examples:
    ```
    skyload keys make /media/stick/root-1.pem
    ```
    """
    from groundsegment.signer.key_store import make_key
    from groundsegment.signer.passphrase import Passphrase

    entry = make_key(path, Passphrase(passphrase_file, seals=seal), is_post_quantum=post_quantum)
    values = {"private": str(path), "public": str(path.with_suffix(".public")), "key_id": entry.key.keyid}
    if as_json:
        print_json(values)
    else:
        out.print(f"{values['public']}: key {entry.key.keyid[:16]}", markup=False)


def export(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made if it is not there.")],
    depot: DepotOption = Path("depot"),
    as_json: AsJson = False,
) -> None:
    """Write what anybody may know: all roots and the public keys. No private key is read.

    Examples:
    ```
    skyload keys export trust
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.files import check_directory, replace_durably
    from groundsegment.signer.key_store import KNOWN_NAMES, KeyStore

    with Depot.open(depot) as opened:
        store = KeyStore(opened.keys_path)
        files = {"root.json": store.root()}
        files |= {f"roots/{path.name}": path.read_bytes() for path in sorted(store.roots_path.glob("*.json"))}
        publics = [store.path / f"{name}.public" for name in KNOWN_NAMES]
        files |= {path.name: path.read_bytes() for path in publics if path.exists()}
    check_directory(directory)
    (directory / "roots").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        replace_durably(directory / name, data, mode=0o644)
    if as_json:
        print_json({"directory": str(directory), "files": sorted(files)})
    else:
        out.print(f"{len(files)} files in {directory}", markup=False)


def _change(
    names: list[str],
    depot: Path,
    passphrase_file: Path | None,
    key_uri: str | None,
    public: Path | None,
    *,
    is_leaked: bool,
    floor: int | None,
    as_json: bool,
) -> None:
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.passphrase import Passphrase
    from groundsegment.staging.behind import refuse_roots_behind

    passphrase = Passphrase(passphrase_file)
    entries = _entries(names, key_uri, public, passphrase)
    with Depot.open(depot) as opened, opened.lock("keys"):
        refuse_roots_behind(opened)
        store = KeyStore(opened.keys_path, passphrase)
        floor = _floor_of(opened) if floor is None else floor
        next_ = _next_root(opened, store, names, is_leaked=is_leaked, floor=floor, entries=entries)
        conclude(opened, store, next_, as_json=as_json)


def _next_root(
    depot: "Depot",
    store: "KeyStore",
    names: list[str],
    *,
    is_leaked: bool,
    floor: int,
    entries: "Mapping[str, KeyEntry]",
) -> "NextRoot":
    """The next root with all signatures that can be had here: the one that an interruption left, or a new one."""
    from datetime import UTC, datetime

    from groundsegment.errors import GroundError
    from groundsegment.signer.rotation import drop, is_same, pending, prepare, sign_here

    waiting = pending(store)
    if waiting is not None and is_same(store, waiting, names, is_leaked=is_leaked, floor=floor, entries=entries):
        return sign_here(store) if waiting.missing else waiting
    if waiting is not None and not waiting.missing:
        _put_in_force(depot, store, waiting)
        drop(store)
    prepare(store, names, is_leaked=is_leaked, floor=floor, utc=datetime.now(UTC), entries=entries)
    try:
        return sign_here(store)
    except GroundError:
        drop(store)  # a root key does not open, or its token's PIN is wrong; nobody has seen the new keys yet
        raise


def conclude(depot: "Depot", store: "KeyStore", next_: "NextRoot", *, as_json: bool) -> None:
    """Put the next root in force if that can be, and say where it stands; whoever is interrupted goes on from here."""
    from groundsegment.signer.rotation import drop

    if next_.missing:
        _tell_next(next_, {}, [], is_in_force=False, as_json=as_json)
        return
    counts, ended = _put_in_force(depot, store, next_)
    _tell_next(next_, counts, ended, is_in_force=True, as_json=as_json)
    drop(store)


def _tell_next(
    next_: "NextRoot", counts: "Mapping[str, int]", ended: list[str], *, is_in_force: bool, as_json: bool
) -> None:
    if as_json:
        values: dict[str, Any] = {
            "root_version": next_.version,
            "changes": list(next_.changes),
            "begins_epoch": next_.begins_epoch,
            "in_force": is_in_force,
            "resumed": next_.is_in_force,
            "missing": list(next_.missing),
            "queued": dict(counts),
            "ended_updates": ended,
        }
        print_json(values)
        return
    epoch = ", and a new epoch begins" if next_.begins_epoch else ""
    out.print(f"root {next_.version}: new {', '.join(next_.changes)}{epoch}", markup=False)
    if next_.is_in_force:
        err.print("it was in force since an interrupted run of this command, which has ended now", markup=False)
        err.print("to replace the keys once more, give the command again", markup=False)
    if is_in_force:
        for name in counts:
            err.print(f"{name}: queued for the next uplink", markup=False)
        for handle in ended:
            err.print(f"update {handle}: no satellite would take it any more; stage it again", markup=False)
        if next_.begins_epoch:
            err.print("updates that are not confirmed end on board when the root arrives", markup=False)
        err.print("make a backup of the depot's keys now: older ones do not sign any more", markup=False)
        return
    for words in next_.missing:
        err.print(f"missing: {words}", markup=False)
    err.print("next: skyload keys root prepare DIR, and carry DIR to the root keys", markup=False)


def _queue(depot: "Depot", store: "KeyStore", *, only: str | None = None, is_anew: bool = False) -> dict[str, int]:
    from datetime import UTC, datetime

    from groundsegment.signer.publishing import queue_rotation

    names = [satellite.name for satellite in depot.satellites() if only in {None, satellite.name}]
    return {name: queue_rotation(depot, store, name, utc=datetime.now(UTC), is_anew=is_anew) for name in names}


def _put_in_force(depot: "Depot", store: "KeyStore", next_: "NextRoot") -> tuple[dict[str, int], list[str]]:
    """Put the next root in force; returns how much is queued for each satellite, and handles of updates that end.

    The updates end first, and what is queued is made anew each time: interrupted, the same command still finds what to
    go on with. Once it is in force no update ends any more: what was staged since is signed by the new keys.
    """
    from groundsegment.signer.publishing import end_outdated
    from groundsegment.signer.rotation import commit

    ended = [] if next_.is_in_force else [update.handle.hex() for update in end_outdated(depot, next_)]
    commit(store)
    return _queue(depot, store), ended


def _floor_of(depot: "Depot") -> int:
    """The highest floor that a confirmed update has set: a new epoch must not let older ones in again."""
    from groundsegment.depot.records import FlightState
    from protocol.manifest import Manifest

    floors = [0]
    for update in depot.updates():
        if update.state is FlightState.CONFIRMED and update.manifest_path.exists():
            floors.append(Manifest.decode(update.manifest_path.read_bytes()).floor)
    return max(floors)


def _entries(names: list[str], key_uri: str | None, public: Path | None, passphrase: Any) -> "dict[str, KeyEntry]":  # noqa: ANN401
    from groundsegment.errors import InputError
    from groundsegment.signer.key_entry import check_use, import_entry, read_public

    if key_uri is None and public is None:
        return {}
    if len(names) != 1:
        raise InputError("--key-uri and --public are for one key", hint="rotate the others by themselves")
    entry = import_entry(str(key_uri), passphrase) if public is None else read_public(public, key_uri)
    check_use(names[0], entry)
    return {names[0]: entry}
