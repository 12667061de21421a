"""The kit: the directory that is carried to a satellite at integration, with the only copies of its private keys.

    satellite.toml       the daemon's configuration, every key explained
    root.json            whom it trusts
    keys/link.key        shared with the ground: authenticates frames
    keys/release.key     private key that opens release keys and metadata: X25519, or the hybrid with ML-KEM-768
    keys/identity.key    Ed25519 private key: signs what it says

Key files hold 64 hex digits (a hybrid release key 192) and a newline, mode 0600. A kit is made beside its place and
renamed, so it is whole or not there; one that is there is never changed.
"""

import os
import secrets
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.errors import InputError, KeyStoreError
from groundsegment.signer.key_store import sync_directory, write_new
from protocol.link_keys import LINK_KEY_SIZE
from protocol.recipient_keys import HYBRID_PRIVATE_SIZE, PRIVATE_SIZES, X25519_SIZE, public_key_of

CONFIG_NAME = "satellite.toml"
_KEY_NAMES = ("link", "release", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class KitKeys:
    """What the ground keeps of a kit.

    Attributes:
        satellite: its name.
        root: the trust root in the kit.
        link_key: shared, 32 bytes.
        release_public: public key that release keys are wrapped for, see `protocol.recipient_keys`.
        identity_public: raw Ed25519 public key.
    """

    satellite: str
    root: bytes
    link_key: bytes
    release_public: bytes
    identity_public: bytes


def make_kit(path: Path, *, satellite: str, root: bytes, is_hybrid: bool = False) -> None:
    """Make the kit of a new satellite; with `is_hybrid`, what is wrapped for it holds against quantum computers too.

    Raises:
        InputError: something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already and is never overwritten", hint="give another --kit directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _fill(part, satellite, root, is_hybrid=is_hybrid)
        os.rename(part, path)  # noqa: PTH104 - onto an empty directory, too, which Path.rename says nothing of
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # private keys lie in it
        raise
    sync_directory(path.parent)


def _fill(part: Path, satellite: str, root: bytes, *, is_hybrid: bool) -> None:
    keys = part / "keys"
    for directory in (part, keys):
        directory.mkdir(mode=0o700)
    private = {
        "link": secrets.token_bytes(LINK_KEY_SIZE),
        "release": secrets.token_bytes(HYBRID_PRIVATE_SIZE if is_hybrid else X25519_SIZE),  # any bytes are a key
        "identity": Ed25519PrivateKey.generate().private_bytes_raw(),
    }
    for name in _KEY_NAMES:
        write_new(keys / f"{name}.key", private[name].hex().encode() + b"\n", mode=0o600)
    write_new(part / "root.json", root, mode=0o644)
    write_new(part / CONFIG_NAME, config_text(satellite).encode(), mode=0o644)


def read_kit(path: Path) -> KitKeys:
    """Read back what the ground keeps of a kit.

    Raises:
        InputError: not a kit.
        KeyStoreError: a key file is damaged.
    """
    try:
        satellite = tomllib.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))["satellite"]["name"]
        root = (path / "root.json").read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is there already and not a kit", hint="give another --kit directory") from None
    sizes = {name: PRIVATE_SIZES if name == "release" else (LINK_KEY_SIZE,) for name in _KEY_NAMES}
    keys = {name: _read_key(path / "keys" / f"{name}.key", sizes[name]) for name in _KEY_NAMES}
    return KitKeys(
        satellite=satellite,
        root=root,
        link_key=keys["link"],
        release_public=public_key_of(keys["release"]),
        identity_public=Ed25519PrivateKey.from_private_bytes(keys["identity"]).public_key().public_bytes_raw(),
    )


def config_text(satellite: str) -> str:
    """Return the daemon's configuration for a satellite."""
    return _CONFIG.substitute(name=satellite)


def _read_key(path: Path, sizes: tuple[int, ...]) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) not in sizes:
        raise KeyStoreError(f"{path}: not a key file ({2 * sizes[0]} hex digits)", hint="make a new kit elsewhere")
    return key


_CONFIG = Template("""\
# The configuration of skyloadd on $name. Relative paths are relative to this file.
# This directory holds the only copies of the satellite's private keys: move it, do not share it.

[satellite]
name = "$name"                # as the ground calls it; commands and updates for others are refused
state_dir = "state"           # inbox, releases and trust record; on a disk with room for two releases and more

[link]
listen = "127.0.0.1:7003"     # UDP address where frames come in; reports go back to whoever sent the newest good one
link_key_file = "keys/link.key"
report_interval_s = 0.1       # seconds between two reports while frames arrive
report_bytes_per_s = 20000    # what the return link can carry, bytes per second
sync_interval_s = 1.0         # symbols are made durable this often: what a power cut may cost
silent = false                # true: never send anything (one-way link)

[trust]
root_file = "root.json"       # the trust root of the day of integration
release_key_file = "keys/release.key"
identity_key_file = "keys/identity.key"
clock = "untrusted"           # "trusted": refuse expired updates; only where the clock survives a reboot
freshness = "optional"        # "required": refuse updates that do not echo what reports told in the last day or two

[endpoint]
listen = "127.0.0.1:8080"     # where the model answers, OpenAI's protocol over HTTP

[engine]
kind = "transformers"         # the engine that runs releases
command = []                  # a command line that replaces the engine worker; empty: the built-in one
threads = 1                   # CPU threads of one engine worker
confinement = "best-effort"   # "required": no engine without all its locks; docs/serving.md

[install]
probation_s = 2.0             # seconds a new release must serve without a crash before it is confirmed
attempts_max = 3              # trials of one update before it is rejected, interrupted ones included
keep_releases = 2             # confirmed releases kept on board, the serving one included: what revert can go back to
drain_timeout_s = 60          # seconds the old release may finish its answers

[scrub]
period_s = 5700               # seconds in which all releases are read for flipped bits, and weights in memory; 0: never

[limits]
inbox_bytes_max = 536870912   # disk for what is still being received, bytes
open_objects_max = 64         # objects being received at once

[commands]
arm_expires_s = 600           # seconds in which an armed revert, activate or forget may be fired
blind = false                 # true: also by a ground that cannot hear us (one-way link), without our answer
""")
