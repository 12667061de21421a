"""What is signed: the trust root, updates, rotations, commands. Each is verified with the satellite's own rules first.

TUF 1.0.34 metadata as compact JSON. All four roles of an update carry its sequence as version, so versions rise with
updates and a replay of an older one is seen. The clock is passed in.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from groundsegment.errors import KeyStoreError
from groundsegment.signer.key_entry import KeyEntry
from groundsegment.signer.key_store import COMMAND_NAME, KNOWN_NAMES, ONLINE_NAMES, POST_QUANTUM_NAMES, KeyStore
from groundsegment.signer.roots import (
    COMPACT,
    add_signature,
    check_one_place_each,
    check_root,
    first_root,
    whole_seconds,
)
from groundsegment.signer.rotation import keep_first
from protocol.command import Command
from protocol.envelope import P256_SIZE
from protocol.errors import ProtocolError
from protocol.limits import MESSAGE_SIZE_MAX, ROOTS_MAX
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle
from protocol.report import NO_NONCE
from protocol.roots import raw_key, read_root
from protocol.trust import NONCE_FIELD, TrustState, accept_metadata, command_keys, target_path

EXPIRY = timedelta(days=365)


def create_trust(
    store: KeyStore,
    *,
    utc: datetime,
    is_post_quantum: bool = False,
    entries: Mapping[str, KeyEntry] | None = None,
) -> bytes:
    """Make all keys that are missing, and the trust root from them; returns the root's bytes.

    Args:
        store: empty, or as an interruption left it.
        utc: now.
        is_post_quantum: whether roots are hybrid.
        entries: keys that are elsewhere, by name; the others are made here.

    Raises:
        KeyStoreError: there is a trust root already, or one key would have two places.
    """
    if store.root_path.exists():
        hint = "`skyload keys list` shows it; `skyload keys add-satellite` adds a satellite to it"
        raise KeyStoreError(f"{store.root_path}: there is a trust root already", hint=hint)
    names = [name for name in KNOWN_NAMES if is_post_quantum or name not in POST_QUANTUM_NAMES]
    given = {name: entry.key for name, entry in (entries or {}).items()}
    check_one_place_each(given, [key.keyid for key in given.values()])  # before any of it is written
    for name, entry in (entries or {}).items():
        store.use(name, entry)
    signers = {name: store.make(name) for name in names}
    metadata = first_root({name: store.public_key(name) for name in names}, utc=utc)
    for name, signer in signers.items():
        if name.startswith("root"):
            add_signature(metadata, signer)
    data: bytes = metadata.to_bytes(COMPACT)
    check_root(data, None)
    assert list(command_keys(data).values()) == [raw_key(store.public_key(COMMAND_NAME))]
    keep_first(store, data)
    return data


def check_signers(store: KeyStore) -> None:
    """Make sure that updates can be signed, before hours are spent on one.

    Raises:
        KeyStoreError: a key is missing, unreadable, or not the one that the trust root names.
    """
    root: Metadata[Root] = Metadata.from_bytes(store.root())
    for name in ONLINE_NAMES:
        key_id = store.signer(name).public_key.keyid
        if key_id not in root.signed.roles[name].keyids:
            raise _unacceptable(store, f"root.json does not name this {name} key")


def sign_update(
    store: KeyStore, manifest: bytes, *, utc: datetime, root_version: int | None = None, nonce: bytes = NO_NONCE
) -> bytes:
    """Return the metadata object of an update.

    Args:
        store: needs the keys of targets, snapshot and timestamp; no root key.
        manifest: the manifest's bytes, signed as they are.
        utc: now; what is signed expires a year later.
        root_version: that the satellites are known to trust: those that follow it go along. None: the newest.
        nonce: what the satellite told last, all zero for nothing.

    Raises:
        KeyStoreError: a key is missing, or a satellite would not accept the result.
    """
    decoded = Manifest.decode(manifest)
    version, expires = decoded.sequence, expiry(utc)
    target = TargetFile.from_data(target_path(version), manifest, ["sha256"])
    targets = _signed(Targets(version=version, expires=expires, targets={target.path: target}), store.signer("targets"))
    meta = {"targets.json": MetaFile.from_data(version, targets, ["sha256"])}
    snapshot = _signed(Snapshot(version=version, expires=expires, meta=meta), store.signer("snapshot"))
    timestamp = Timestamp(
        version=version, expires=expires, snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"])
    )
    if nonce != NO_NONCE:
        timestamp.unrecognized_fields[NONCE_FIELD] = nonce.hex()
    base, roots = _chain(store, root_version)
    bundle = MetadataBundle(
        roots=roots[:ROOTS_MAX],
        timestamp=_signed(timestamp, store.signer("timestamp")),
        snapshot=snapshot,
        targets=targets,
        manifest=manifest,
    )
    data = bundle.encode()
    state = TrustState(root=base, epoch=read_root(base).epoch, accepted=version - 1)
    try:
        for satellite in decoded.satellites:
            accept_metadata(data, state, satellite=satellite, utc=utc, nonces=(nonce,))
    except ProtocolError as error:
        raise _unacceptable(store, error) from error
    return data


def make_rotations(store: KeyStore, root_version: int, *, label: str = "") -> tuple[bytes, ...]:
    """Return objects that bring a satellite from a root to the newest: one, or a few if it missed many.

    Args:
        store: with all roots.
        root_version: that it is known to trust.
        label: tells objects of several satellites apart.

    Raises:
        KeyStoreError: a root is missing.
    """
    roots, objects = list(_chain(store, root_version)[1]), []
    while roots:
        count = min(len(roots), ROOTS_MAX)
        data = MetadataBundle(roots=tuple(roots[:count]), label=label).encode()
        while count > 1 and len(data) > MESSAGE_SIZE_MAX:  # they fly as commands do
            count //= 2
            data = MetadataBundle(roots=tuple(roots[:count]), label=label).encode()
        objects.append(data)
        del roots[:count]
    return tuple(objects)


def expiry(utc: datetime) -> datetime:
    """When metadata that is signed now is good for nothing any more."""
    return whole_seconds(utc + EXPIRY)


def sign_command(store: KeyStore, command: Command) -> bytes:
    """Return a signed command object.

    Raises:
        KeyStoreError: the command key is missing, or a satellite would not obey the result.
    """
    signer = store.signer(COMMAND_NAME)
    public = raw_key(signer.public_key)
    if public is None:
        raise _unacceptable(store, f"commands cannot be signed with a key of kind {signer.public_key.scheme}")
    data = command.seal(public_key=public, sign=lambda data: _envelope_signature(public, signer, data))
    try:
        Command.open(data, public_keys=command_keys(store.root()), satellite=command.satellite)
    except ProtocolError as error:
        raise _unacceptable(store, error) from error
    return data


def _envelope_signature(public: bytes, signer: Signer, data: bytes) -> bytes:
    """As envelopes have it: ECDSA comes from a signer as DER of two numbers."""
    signature = bytes.fromhex(signer.sign(data).signature)
    if len(public) != P256_SIZE:
        return signature
    return b"".join(number.to_bytes(P256_SIZE - 1, "big") for number in decode_dss_signature(signature))


def _chain(store: KeyStore, root_version: int | None) -> tuple[bytes, tuple[bytes, ...]]:
    """The root that a satellite trusts, and those that follow it."""
    newest = store.root()
    if root_version is None or root_version >= read_root(newest).version:
        return newest, ()
    roots = store.roots_after(root_version)
    return (store.roots_path / f"{max(root_version, 1)}.json").read_bytes(), roots


def _signed(role: Signed, signer: Signer) -> bytes:
    metadata: Metadata[Any] = Metadata(role)
    add_signature(metadata, signer)
    return metadata.to_bytes(COMPACT)


def _unacceptable(store: KeyStore, error: ProtocolError | str) -> KeyStoreError:
    return KeyStoreError(
        f"{store.path}: a satellite would refuse what these keys sign: {error}",
        hint="keys and root.json do not belong together; restore both from one backup",
    )
