"""`skyload keys`: make the keys, list them, add a satellite. Private keys never appear on a screen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console import keys_change, keys_root
from groundsegment.console.keys_change import PassphraseFile
from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_entry import KeyEntry
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.overview import RootStanding
    from groundsegment.signer.passphrase import Passphrase

app = typer.Typer(no_args_is_help=True, help="The keys of ground and satellites: make, list, replace, revoke.")

_Depot = Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_SymbolSize = Annotated[
    int | None,
    typer.Option("--symbol-size", help="Bytes of a symbol: what the link's frames hold, less 20. A multiple of 8."),
]


@app.command("init")
@command
def init(
    satellite: Annotated[list[str], typer.Option("--satellite", help="A satellite's name; may be given again.")],
    kit: Annotated[
        Path,
        typer.Option("--kit", help="What goes on board is written here: one kit, or NAME/ for each of several."),
    ],
    symbol_size: _SymbolSize = None,
    post_quantum: Annotated[
        bool,
        typer.Option(
            "--post-quantum",
            help="Roots also need one of two ML-DSA-65 keys and grow to 22 kB; kits get hybrid keys with ML-KEM-768.",
        ),
    ] = False,
    key_uri: Annotated[
        list[str] | None,
        typer.Option("--key-uri", help="NAME=URI of a key that is on a token or in an agent; may be given again."),
    ] = None,
    seal: Annotated[bool, typer.Option("--seal", help="Seal private keys under a passphrase; ask for it.")] = False,
    passphrase_file: PassphraseFile = None,
    depot: _Depot = Path("depot"),
    as_json: _AsJson = False,
) -> None:
    """Make a depot, its keys and trust root, and a kit for each satellite. Nothing is ever overwritten.

    Interrupted, the same command goes on where it was.
    Any key may be on a PKCS #11 token or in an SSH agent instead of a file: --key-uri, now or with `rotate` later.
    Private keys are sealed if there is a passphrase: `skyload keys protect --help` says where it comes from.
    A kit holds the only copies of a satellite's private keys: carry it on board, keep no copy.
    Keep keys/root-*.pem of the depot elsewhere, offline: nothing that flies every day needs them.

    Examples:
    ```
    skyload keys init --satellite SAT-1 --kit kit
    skyload keys init --satellite SAT-1 --satellite SAT-2 --kit kits --depot /srv/depot
    skyload keys init --satellite SAT-1 --kit kit --symbol-size 1448
    skyload keys init --satellite SAT-1 --kit kit --seal --post-quantum
    skyload keys init --satellite SAT-1 --kit kit --key-uri command=ssh-agent:ops --key-uri 'targets=hsm:2?label=TOKEN'
    ```
    """
    from datetime import UTC, datetime

    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.signer.key_store import ALL_NAMES, KeyStore
    from groundsegment.signer.passphrase import Passphrase
    from groundsegment.signer.signing import create_trust

    names, size = _checked_names(satellite), _checked_size(symbol_size)
    if len(set(names)) != len(names):
        raise InputError("a satellite is named twice", hint="give each --satellite once")
    kits = {name: kit if len(names) == 1 else kit / name for name in names}
    goes_on = KeyStore(depot / "keys").root_path.exists()
    for path in kits.values():
        _check_kit_place(path, depot, may_be_there=goes_on)
    with Depot.create(depot) as opened, opened.lock("keys"):
        passphrase = Passphrase(passphrase_file, seals=seal)
        store = KeyStore(opened.keys_path, passphrase)
        known = {satellite.name for satellite in opened.satellites()}
        if not goes_on or not known < set(names):
            entries = _entries(key_uri or [], passphrase)
            create_trust(store, utc=datetime.now(UTC), is_post_quantum=post_quantum, entries=entries)
            if any(store.has(name) and not store.is_sealed(name) for name in ALL_NAMES):
                err.print("private keys are not sealed: `skyload keys protect` does that", markup=False)
        for name, path in kits.items():
            if name not in known:
                _add_satellite(opened, name, path, size, is_hybrid=post_quantum)
    _tell(depot, kits, as_json=as_json)


@app.command("add-satellite")
@command
def add_satellite(
    name: Annotated[str, typer.Argument(help="The satellite's name.")],
    kit: Annotated[Path, typer.Option("--kit", help="What goes on board is written here.")],
    symbol_size: _SymbolSize = None,
    post_quantum: Annotated[
        bool,
        typer.Option("--post-quantum", help="What is encrypted for it holds if X25519 falls: 2 kB more per update."),
    ] = False,
    depot: _Depot = Path("depot"),
    as_json: _AsJson = False,
) -> None:
    """Add a satellite to a depot, and write its kit. A kit made before for this depot and name is taken over.

    Examples:
    ```
    skyload keys add-satellite SAT-2 --kit kit-sat-2
    skyload keys add-satellite SAT-2 --kit kit-sat-2 --post-quantum
    ```
    """
    from groundsegment.depot.depot import Depot

    _checked_names([name])
    size = _checked_size(symbol_size)
    _check_kit_place(kit, depot, may_be_there=True)
    with Depot.open(depot) as opened, opened.lock("keys"):
        _add_satellite(opened, name, kit, size, is_hybrid=post_quantum)
    _tell(depot, {name: kit}, as_json=as_json)


@app.command("list")
@command
def list_keys(depot: _Depot = Path("depot"), as_json: _AsJson = False) -> None:
    """List which keys are here, what they may do, and which satellites are known. Opens no private key.

    Of each satellite: the root and epoch that it said it trusts (`on_board`), and those that are in force at home.

    Examples:
    ```
    skyload keys list
    skyload keys list --json
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.signer.key_store import KeyStore
    from groundsegment.signer.overview import RootStanding, keys_overview

    with Depot.open(depot) as opened:
        store = KeyStore(opened.keys_path)
        keys = keys_overview(store)
        home = RootStanding.of(store)
        on_board = {satellite.name: _on_board(opened, store, satellite.name) for satellite in opened.satellites()}
        satellites = [
            {
                "name": satellite.name,
                "identity_public": satellite.identity_public.hex(),
                "release_public": satellite.release_public.hex(),
                "added_utc": satellite.added_utc.isoformat(),
                "symbol_size": satellite.symbol_size,
                "has_link_key": opened.link_key_path(satellite.name).exists(),
                "on_board": seen.as_json() if (seen := on_board[satellite.name]) else None,
                "at_home": home.as_json(),
                "queued": _num_rotations(opened, satellite.name),
            }
            for satellite in opened.satellites()
        ]
    if as_json:
        print_json({"keys": keys, "satellites": satellites})
    else:
        _print_list(keys, satellites)


def _on_board(depot: "Depot", store: "KeyStore", satellite: str) -> "RootStanding | None":
    """What a satellite said last that it trusts; None if nothing was heard."""
    from groundsegment.console.status_word import last_word
    from groundsegment.signer.overview import RootStanding

    heard = depot.journal.last_report(satellite)
    if heard is None:
        return None
    version, told = last_word(depot, heard)["root_version"], heard.report.root_version
    if version > told and store.has_version(version):
        return RootStanding.of(store, version)  # an event told of it, and it says what epoch that is
    return RootStanding(version=version, epoch=heard.report.epoch)


def _num_rotations(depot: "Depot", satellite: str) -> int:
    from groundsegment.depot.records import ROTATE, CommandState

    queued = depot.journal.commands(satellite, CommandState.QUEUED)
    return sum(entry.operation == ROTATE for entry in queued)


def _checked_names(names: list[str]) -> list[str]:
    from groundsegment.errors import InputError
    from protocol.names import is_safe_name

    for name in names:
        if not is_safe_name(name):
            hint = "use letters, digits, dot, dash, underscore, at most 128, no leading dot"
            raise InputError(f"{name!r} cannot be a satellite's name", hint=hint)
    return names


def _entries(given: list[str], passphrase: "Passphrase") -> "dict[str, KeyEntry]":
    from groundsegment.errors import InputError
    from groundsegment.signer.key_entry import check_use, import_entry
    from groundsegment.signer.key_store import KNOWN_NAMES

    entries: dict[str, KeyEntry] = {}
    for words in given:
        name, _, uri = words.partition("=")
        if name not in KNOWN_NAMES or not uri or name in entries:
            raise InputError(f"--key-uri {words}: not NAME=URI", hint=f"names are {', '.join(KNOWN_NAMES)}, each once")
        entries[name] = import_entry(uri, passphrase)
        check_use(name, entries[name])
    return entries


def _checked_size(symbol_size: int | None) -> int:
    from groundsegment.errors import InputError
    from protocol.limits import SYMBOL_ALIGNMENT, SYMBOL_SIZE_DEFAULT, SYMBOL_SIZE_MAX

    if symbol_size is None:
        return SYMBOL_SIZE_DEFAULT
    if symbol_size % SYMBOL_ALIGNMENT or not SYMBOL_ALIGNMENT <= symbol_size <= SYMBOL_SIZE_MAX:
        hint = (
            f"a multiple of {SYMBOL_ALIGNMENT} up to {SYMBOL_SIZE_MAX}; {SYMBOL_SIZE_DEFAULT} crosses almost any path"
        )
        raise InputError(f"--symbol-size: {symbol_size} bytes cannot be a symbol's size", hint=hint)
    return symbol_size


def _check_kit_place(path: Path, depot: Path, *, may_be_there: bool) -> None:
    """Refuse a place for a kit before anything is made.

    Args:
        path: of the kit.
        depot: whose it will be.
        may_be_there: an interrupted run may have made it; whose it is shows later.
    """
    import os

    from groundsegment.errors import InputError

    hint = "give another --kit directory"
    whole, home = path.resolve(), depot.resolve()
    if whole == home or home in whole.parents or whole in home.parents:
        raise InputError(f"{path}: the kit leaves the ground, the depot {depot} stays: keep them apart", hint=hint)
    if not may_be_there and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already and is never overwritten", hint=hint)
    parent = next(parent for parent in whole.parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: {parent} is not a directory that we may write", hint=hint)


def _add_satellite(depot: "Depot", name: str, path: Path, symbol_size: int, *, is_hybrid: bool) -> None:
    """Make the kit first and register what it holds: interrupted in between, the same command takes it up again."""
    from datetime import UTC, datetime

    from groundsegment.depot.records import Satellite
    from groundsegment.errors import InputError
    from groundsegment.signer.key_store import KeyStore, write_new
    from groundsegment.signer.kit import CONFIG_NAME, make_kit, read_kit

    root = KeyStore(depot.keys_path).root()
    if name in {satellite.name for satellite in depot.satellites()}:
        hint = "choose another name; a satellite's kit is made once and never again"
        raise InputError(f"{name}: there is already a satellite of that name", hint=hint)
    if not (path / CONFIG_NAME).exists():
        make_kit(path, satellite=name, root=root, is_hybrid=is_hybrid)
    kit = read_kit(path)
    if kit.satellite != name or kit.root != root:
        problem = f"the kit of {kit.satellite}" if kit.satellite != name else "a kit of another depot"
        raise InputError(f"{path}: {problem} is there already", hint="give another --kit directory")
    link = depot.link_key_path(name)
    link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    link.unlink(missing_ok=True)  # left by an interrupted run: no satellite is registered with it
    write_new(link, kit.link_key.hex().encode() + b"\n", mode=0o600)
    depot.add_satellite(
        Satellite(
            name=name,
            identity_public=kit.identity_public,
            release_public=kit.release_public,
            added_utc=datetime.now(UTC),
            symbol_size=symbol_size,
        )
    )


def _tell(depot: Path, kits: dict[str, Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"depot": str(depot), "kits": {name: str(path) for name, path in kits.items()}})
        return
    for name, path in kits.items():
        out.print(f"{name}: its kit is in {path}; start it there with: skyloadd run --config {path}/satellite.toml")
    err.print(
        "the kit holds the only copies of the satellite's private keys: carry it on board, keep no copy\n"
        f"keep {depot}/keys/root-*.pem offline, and a backup of {depot}/keys\n"
        f"next: skyload stage MODEL_DIR --for {next(iter(kits))}",
        markup=False,
    )


def _print_list(keys: list[dict[str, Any]], satellites: list[dict[str, Any]]) -> None:
    for key in keys:
        key_id = (key["public_key_id"] or "unknown")[:16]
        out.print(f"{key['name']:10} {key_id:16}  {key['scheme'] or '':12}  {key['where']}", markup=False)
    for satellite in satellites:
        missing = "" if satellite["has_link_key"] else "  LINK KEY MISSING"
        since = satellite["added_utc"][:16]
        out.print(f"satellite {satellite['name']}  since {since}  {_root_words(satellite)}{missing}", markup=False)
    if not satellites:
        err.print("hint: add a satellite: skyload keys add-satellite NAME --kit DIR", markup=False)


def _root_words(satellite: dict[str, Any]) -> str:
    on_board, at_home = satellite["on_board"], satellite["at_home"]
    words = "nothing heard yet" if on_board is None else f"follows root {on_board['root_version']}"
    words += "" if on_board is None else f", epoch {on_board['epoch']}"
    if on_board != at_home:
        words += f"; at home: root {at_home['root_version']}, epoch {at_home['epoch']}"
        words += ", queued" if satellite["queued"] else ""
    return words


app.add_typer(keys_root.app, name="root")
app.command("sign")(command(keys_root.sign))
keys_change.add_commands(app)
