"""Trust: may this update be installed? TUF's roles and rules (TUF 1.0.34, section 5.3), as one pure function.

What is not used of python-tuf is its client, which forgets across power cuts and reads the system clock. Here the
caller brings the durable state and, if it has one it believes in, the time. Nothing is accepted by halves: either
all of it is good, or an error says what was not.

The command role: root metadata lists, in the signed field `x-skyload-command`, the ids of the keys whose commands the
satellite obeys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from securesystemslib.exceptions import StorageError
from tuf.api.exceptions import (
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from protocol.envelope import key_id
from protocol.errors import (
    DecodeError,
    ExpiredError,
    RollbackError,
    SignatureError,
    VerificationError,
    WrongSatelliteError,
)
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle

COMMAND_FIELD = "x-skyload-command"
VERSION_MAX = 2**32 - 1  # a report has 32 bits for it
WINDOW_SIZE = 64  # versions that may come late: updates in flight at once are a few
ALL_CLOSED = 2**WINDOW_SIZE - 1
_S = TypeVar("_S", bound=Signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustState:
    """What a satellite already trusts; durable, changed only after it was written.

    Attributes:
        root: root metadata, raw bytes.
        accepted: version of the newest accepted timestamp, 0 for none. It never goes back.
        closed: bit i set = version `accepted` - i may not be accepted: it was, or a newer update ended it before it
            came. What lies further back than WINDOW_SIZE may not either.
    """

    root: bytes
    accepted: int
    closed: int = ALL_CLOSED

    def may_accept(self, version: int) -> bool:
        """Whether a version is newer than all, or comes late beside newer ones that let it go on."""
        behind = self.accepted - version
        return behind < 0 or (behind < WINDOW_SIZE and not self.closed >> behind & 1)

    def with_accepted(self, version: int, *, root: bytes, beside: bool) -> "TrustState":
        """Return the state after a version was accepted; unless `beside`, no older one may follow."""
        assert self.may_accept(version)
        ahead = max(version - self.accepted, 0)
        accepted = self.accepted + ahead
        closed = self.closed << ahead if ahead < WINDOW_SIZE else 0
        closed |= 1 << accepted - version if beside else ALL_CLOSED << accepted - version
        return TrustState(root=root, accepted=accepted, closed=closed & ALL_CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedUpdate:
    """An update that may be installed. Only `accept_update` makes one.

    Attributes:
        manifest: what to install.
        version: of its timestamp.
        state: the trust state to make durable before acting.
    """

    manifest: Manifest
    version: int
    state: TrustState


def target_path(sequence: int) -> str:
    """The TUF target path of the manifest of an update."""
    return f"updates/{sequence}.manifest"


def accept_update(data: bytes, state: TrustState, *, satellite: str, utc: datetime | None) -> TrustedUpdate:
    """Decide whether a metadata object is to be trusted.

    Args:
        data: the whole object, as solved.
        state: what is trusted so far.
        satellite: our own name.
        utc: the time, if the clock is believed; None leaves expiry to the ground (counters carry the safety).

    Raises:
        DecodeError: not a metadata object, or a part does not parse.
        SignatureError, VerificationError, RollbackError, ExpiredError, WrongSatelliteError: as they say.
    """
    bundle = MetadataBundle.decode(data)
    root_bytes, root = _follow_roots(bundle.roots, state.root)
    timestamp = _verified(Timestamp, bundle.timestamp, root)
    if not state.may_accept(timestamp.version):
        raise RollbackError("timestamp", trusted=state.accepted, offered=timestamp.version)
    if timestamp.version > VERSION_MAX:
        raise VerificationError(f"timestamp: version {timestamp.version} is above {VERSION_MAX}: none could follow it")
    _check_length_and_hash("snapshot", timestamp.snapshot_meta, bundle.snapshot)
    snapshot = _verified(Snapshot, bundle.snapshot, root)
    if snapshot.version != timestamp.snapshot_meta.version:
        raise VerificationError("snapshot: another version than the timestamp says")
    meta = snapshot.meta.get("targets.json")
    if meta is None:
        raise VerificationError("snapshot: says nothing of targets")
    _check_length_and_hash("targets", meta, bundle.targets)
    targets = _verified(Targets, bundle.targets, root)
    if targets.version != meta.version:
        raise VerificationError("targets: another version than the snapshot says")
    if utc is not None:
        for role in (root, timestamp, snapshot, targets):
            if role.is_expired(utc):
                raise ExpiredError(f"{role.type}: expired at {role.expires.isoformat()}")
    manifest = _trusted_manifest(bundle.manifest, targets, satellite)
    state = state.with_accepted(timestamp.version, root=root_bytes, beside=manifest.beside)
    return TrustedUpdate(manifest=manifest, version=timestamp.version, state=state)


def command_keys(root_bytes: bytes) -> Mapping[bytes, bytes]:
    """Return the raw Ed25519 public keys of the command role, by key id (`envelope.key_id`).

    Raises:
        DecodeError: the trusted root is not readable.
    """
    root = _parse(Root, root_bytes).signed
    role = root.unrecognized_fields.get(COMMAND_FIELD, {})
    ids = role.get("keyids", []) if isinstance(role, dict) else []
    result = {}
    for name in ids:
        key = root.keys.get(name)
        if key is None or key.keytype != "ed25519":
            raise DecodeError(f"root: command key {name!r} is not an Ed25519 key of the root")
        raw = bytes.fromhex(key.keyval["public"])
        result[key_id(raw)] = raw
    return result


def _follow_roots(newer: tuple[bytes, ...], trusted: bytes) -> tuple[bytes, Root]:
    """TUF 5.3.4: each root is signed by a threshold of its own keys and of its predecessor's."""
    root_bytes, root = trusted, _parse(Root, trusted).signed
    for data in newer:
        candidate = _parse(Root, data)
        if candidate.signed.version <= root.version:
            continue  # sent again for a satellite that may have missed it
        for judge in (root, candidate.signed):
            _verify(judge, Root.type, candidate)
        if candidate.signed.version != root.version + 1:
            raise RollbackError("root", trusted=root.version, offered=candidate.signed.version)
        root_bytes, root = data, candidate.signed
    return root_bytes, root


def _trusted_manifest(data: bytes, targets: Targets, satellite: str) -> Manifest:
    for path, target in targets.targets.items():
        try:
            target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError:
            continue
        manifest = Manifest.decode(data)  # parsed only now that its hash is good
        if path != target_path(manifest.sequence):
            raise VerificationError(f"manifest: sequence {manifest.sequence} is signed as {path}")
        if satellite not in manifest.satellites:
            raise WrongSatelliteError(f"manifest: for {', '.join(manifest.satellites)}, we are {satellite}")
        return manifest
    raise VerificationError("manifest: no signed target has its length and hash")


def _parse(kind: type[Signed], data: bytes) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (DeserializationError, StorageError, ValueError, RecursionError) as error:
        raise DecodeError(f"{kind.type}: not valid TUF metadata: {error}") from None
    if not isinstance(metadata.signed, kind):
        raise DecodeError(f"expected {kind.type} metadata, got {metadata.signed.type}")
    return metadata


def _verified(kind: type[_S], data: bytes, root: Root) -> _S:
    metadata = _parse(kind, data)
    _verify(root, kind.type, metadata)
    signed: _S = metadata.signed
    return signed


def _verify(judge: Root, role: str, metadata: Metadata[Any]) -> None:
    try:
        judge.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, RepositoryError, ValueError) as error:
        raise SignatureError(f"{role}: {error}") from None


def _check_length_and_hash(unit: str, meta: MetaFile, data: bytes) -> None:
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise VerificationError(f"{unit}: {error}") from None
