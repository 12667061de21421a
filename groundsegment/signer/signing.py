"""What is signed: the trust root, updates, commands. Every product is verified with the satellite's own rules first.

TUF 1.0.34 metadata as compact JSON. All four roles of an update carry its sequence as version, so versions rise with
updates and a replay of an older one is seen. The clock is passed in.
"""

from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from groundsegment.errors import KeyStoreError
from groundsegment.signer.key_store import COMMAND_NAME, ONLINE_NAMES, ROOT_NAMES, KeyStore, PrivateKey, write_new
from protocol.command import Command
from protocol.errors import ProtocolError
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle
from protocol.trust import COMMAND_FIELD, TrustState, accept_update, command_keys, target_path

ROOT_THRESHOLD = 2
EXPIRY = timedelta(days=365)
# Judged only where the clock is trusted, and there is no way yet to send a new root: outlive the satellite.
ROOT_EXPIRY = timedelta(days=3650)
_COMPACT = JSONSerializer(compact=True)


def create_trust(store: KeyStore, *, utc: datetime) -> bytes:
    """Make all keys that are missing, and the trust root from them; returns the root's bytes.

    Raises:
        KeyStoreError: there is a trust root already.
    """
    if store.root_path.exists():
        hint = "`skyload keys list` shows it; `skyload keys add-satellite` adds a satellite to it"
        raise KeyStoreError(f"{store.root_path}: there is a trust root already", hint=hint)
    signers = {name: _signer(store.make(name)) for name in (*ROOT_NAMES, *ONLINE_NAMES, COMMAND_NAME)}
    root = Root(expires=_whole_seconds(utc + ROOT_EXPIRY), consistent_snapshot=False)
    for name in ROOT_NAMES:
        root.add_key(signers[name].public_key, Root.type)
    root.roles[Root.type].threshold = ROOT_THRESHOLD
    for name in ONLINE_NAMES:
        root.add_key(signers[name].public_key, name)
    command_key: Key = signers[COMMAND_NAME].public_key
    root.keys[command_key.keyid] = command_key
    root.unrecognized_fields[COMMAND_FIELD] = {"keyids": [command_key.keyid]}
    data = _signed(root, *(signers[name] for name in ROOT_NAMES))
    _check_root(data, store)
    write_new(store.root_path, data, mode=0o644)
    return data


def check_signers(store: KeyStore) -> None:
    """Make sure that updates can be signed, before hours are spent on one.

    Raises:
        KeyStoreError: a key is missing, unreadable, or not the one that the trust root names.
    """
    root: Metadata[Root] = Metadata.from_bytes(store.root())
    for name in ONLINE_NAMES:
        key_id = _signer(store.load(name)).public_key.keyid
        if key_id not in root.signed.roles[name].keyids:
            raise _unacceptable(store, f"root.json does not name this {name} key")


def sign_update(store: KeyStore, manifest: bytes, *, utc: datetime) -> bytes:
    """Return the metadata object of an update.

    Args:
        store: needs the keys of targets, snapshot and timestamp; no root key.
        manifest: the manifest's bytes, signed as they are.
        utc: now; what is signed expires a year later.

    Raises:
        KeyStoreError: a key is missing, or a satellite would not accept the result.
    """
    decoded = Manifest.decode(manifest)
    version, expires = decoded.sequence, expiry(utc)
    target = TargetFile.from_data(target_path(version), manifest, ["sha256"])
    targets = _signed(
        Targets(version=version, expires=expires, targets={target.path: target}), _signer(store.load("targets"))
    )
    meta = {"targets.json": MetaFile.from_data(version, targets, ["sha256"])}
    snapshot = _signed(Snapshot(version=version, expires=expires, meta=meta), _signer(store.load("snapshot")))
    snapshot_meta = MetaFile.from_data(version, snapshot, ["sha256"])
    timestamp = _signed(
        Timestamp(version=version, expires=expires, snapshot_meta=snapshot_meta), _signer(store.load("timestamp"))
    )
    bundle = MetadataBundle(timestamp=timestamp, snapshot=snapshot, targets=targets, manifest=manifest)
    data = bundle.encode()
    state = TrustState(root=store.root(), accepted=version - 1)
    try:
        for satellite in decoded.satellites:
            accept_update(data, state, satellite=satellite, utc=utc)
    except ProtocolError as error:
        raise _unacceptable(store, error) from error
    return data


def expiry(utc: datetime) -> datetime:
    """When metadata that is signed now is good for nothing any more."""
    return _whole_seconds(utc + EXPIRY)


def sign_command(store: KeyStore, command: Command) -> bytes:
    """Return a signed command object.

    Raises:
        KeyStoreError: the command key is missing, or a satellite would not obey the result.
    """
    key = store.load(COMMAND_NAME)
    data = command.seal(public_key=key.public, sign=key.sign)
    try:
        Command.open(data, public_keys=command_keys(store.root()), satellite=command.satellite)
    except ProtocolError as error:
        raise _unacceptable(store, error) from error
    return data


def _check_root(data: bytes, store: KeyStore) -> None:
    root: Metadata[Root] = Metadata.from_bytes(data)
    root.verify_delegate(Root.type, root)
    assert list(command_keys(data).values()) == [store.load(COMMAND_NAME).public]


def _signer(key: PrivateKey) -> CryptoSigner:
    return CryptoSigner(key.ed25519)


def _signed(role: Signed, *signers: CryptoSigner) -> bytes:
    metadata: Metadata[Any] = Metadata(role)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_COMPACT)


def _whole_seconds(utc: datetime) -> datetime:
    return utc.replace(microsecond=0)  # TUF 1.0.34, 4.2: no fractions


def _unacceptable(store: KeyStore, error: ProtocolError | str) -> KeyStoreError:
    return KeyStoreError(
        f"{store.path}: a satellite would refuse what these keys sign: {error}",
        hint="keys and root.json do not belong together; restore both from one backup",
    )
