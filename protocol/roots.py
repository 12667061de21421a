"""Root metadata: who may sign what, how one root follows another, and what a root says beyond TUF.

Fields of ours in the signed part of root metadata; a root without them is as good:

    x-skyload-command    {keyids, threshold}   whose commands the satellite obeys; one signature is enough
    x-skyload-root-pq    {keyids, threshold}   a second root role: its threshold is needed beside that of `root`, so a
                                               root falls only to whoever breaks both kinds of keys (Ed25519 and ML-DSA)
    x-skyload-epoch      {number, floor}       see `trust.TrustState`: a higher number starts the counters again
    x-skyload-signed-at  seconds since 1970    when the root was signed: it is later than that

A root is followed only by one that both judge good, the old one and itself, in both roles (TUF 1.0.34, 5.3.4).

The id of a key is its SHA-256, which TUF does not ask: people compare ids before they sign a root, so another key under
an old id must not get past them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.exceptions import FormatError, StorageError, UnsupportedAlgorithmError, UnsupportedLibraryError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Role, Root, Signed
from tuf.api.serialization import DeserializationError

from protocol.envelope import ED25519_SIZE, key_id
from protocol.errors import DecodeError, RollbackError, RootSignatureError, SignatureError, VerificationError

COMMAND_FIELD = "x-skyload-command"
POST_QUANTUM_FIELD = "x-skyload-root-pq"
EPOCH_FIELD = "x-skyload-epoch"
SIGNED_AT_FIELD = "x-skyload-signed-at"
_NUMBER_MAX = 2**32 - 1
_EPOCH_MAX = 2**16 - 1  # a report has 16 bits for it
_SECONDS_MAX = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoot:
    """A root that may be believed: the one we have, or one that follows it.

    Attributes:
        data: its bytes as they came.
        root: parsed.
        epoch: of the counters.
        floor: the floor that its epoch begins with.
        signed_at: seconds since 1970; 0 if it does not say.
    """

    data: bytes
    root: Root
    epoch: int
    floor: int
    signed_at: int

    @property
    def version(self) -> int:
        """Its number; the next one is one higher."""
        return self.root.version


def read_root(data: bytes) -> TrustedRoot:
    """Parse a root that is trusted already: from the kit, or as it was kept.

    Raises:
        DecodeError: it is not readable.
    """
    root = parse_metadata(Root, data).signed
    epoch = root.unrecognized_fields.get(EPOCH_FIELD, {"number": 0, "floor": 0})
    if not isinstance(epoch, dict):
        raise DecodeError(f"root: {EPOCH_FIELD} must be an object")
    _check_key_ids(root)
    _check_roles(root)
    return TrustedRoot(
        data=data,
        root=root,
        epoch=_integer(epoch.get("number"), EPOCH_FIELD, highest=_EPOCH_MAX),
        floor=_integer(epoch.get("floor", 0), EPOCH_FIELD, highest=_NUMBER_MAX),
        signed_at=_integer(root.unrecognized_fields.get(SIGNED_AT_FIELD, 0), SIGNED_AT_FIELD, highest=_SECONDS_MAX),
    )


def follow_roots(newer: Sequence[bytes], trusted: bytes, *, lost: tuple[int, bytes] | None = None) -> TrustedRoot:
    """Follow a chain of roots as far as it goes; those that we have passed already are skipped.

    Args:
        newer: root metadata, oldest first.
        trusted: what we believe now.
        lost: version and SHA-256 of a newer root that was believed and is lost: the chain must go through that one,
            for keys that were revoked since `trusted` could sign another one of its version.

    Raises:
        DecodeError: a root is not readable.
        RootSignatureError: one lacks a threshold, or is not the one that was lost.
        RollbackError: a version is missing, or an epoch goes back.
    """
    current = read_root(trusted)
    for data in newer:
        current = _follow_root(data, current, lost)
    return current


def follow_good_roots(newer: Sequence[bytes], trusted: bytes, *, lost: tuple[int, bytes] | None = None) -> TrustedRoot:
    """Follow a chain of roots up to the first that is not good; the arguments are those of `follow_roots`."""
    current = read_root(trusted)
    for data in newer:
        try:
            current = _follow_root(data, current, lost)
        except (DecodeError, VerificationError):
            break
    return current


def _follow_root(data: bytes, current: TrustedRoot, lost: tuple[int, bytes] | None) -> TrustedRoot:
    metadata = parse_metadata(Root, data)
    if metadata.signed.version <= current.version:
        return current  # sent again for a satellite that may have missed it
    for judge in (current.root, metadata.signed):
        verify_root(judge, metadata)
    if metadata.signed.version != current.version + 1:
        raise RollbackError("root", trusted=current.version, offered=metadata.signed.version)
    if lost is not None and lost[0] == metadata.signed.version and lost[1] != hashlib.sha256(data).digest():
        raise RootSignatureError(f"root: not the version {lost[0]} that was trusted before it was lost")
    candidate = read_root(data)
    command_keys(data)  # else the next command would find out
    if candidate.epoch < current.epoch:
        raise RollbackError("epoch", trusted=current.epoch, offered=candidate.epoch)
    return candidate


def verify_root(judge: Root, metadata: Metadata[Any]) -> None:
    """Check a root's signatures against both root roles of a judge.

    Raises:
        RootSignatureError: too few are good.
        DecodeError: the judge's second role is not one.
    """
    judges = [judge]
    second = second_root_role(judge)
    if second is not None:
        roles = {**judge.roles, Root.type: second}
        judges.append(Root(version=judge.version, expires=judge.expires, keys=judge.keys, roles=roles))
    for each in judges:
        try:
            verify_signatures(each, Root.type, metadata)
        except SignatureError as error:
            raise RootSignatureError(f"{error}, by version {judge.version}") from None


def second_root_role(root: Root) -> Role | None:
    """The second root role of hybrid roots, None if there is none.

    Raises:
        DecodeError: it is not a role.
    """
    value = root.unrecognized_fields.get(POST_QUANTUM_FIELD)
    if value is None:
        return None
    try:
        return Role(list(value["keyids"]), value["threshold"])
    except (TypeError, KeyError, ValueError) as error:
        raise DecodeError(f"root: {POST_QUANTUM_FIELD} is not a role: {error}") from None


def command_keys(data: bytes) -> Mapping[bytes, bytes]:
    """Return the raw public keys of the command role (`envelope`), by key id (`envelope.key_id`).

    Without a root, because it was lost, nobody commands.

    Raises:
        DecodeError: the trusted root is not readable.
    """
    if not data:
        return {}
    root = parse_metadata(Root, data).signed
    role = root.unrecognized_fields.get(COMMAND_FIELD, {})
    ids = role.get("keyids", []) if isinstance(role, dict) else []
    if not isinstance(ids, list):
        raise DecodeError(f"root: {COMMAND_FIELD} must list key ids")
    result = {}
    for name in ids:
        key = root.keys.get(name) if isinstance(name, str) else None
        raw = None if key is None else raw_key(key)
        if raw is None:
            raise DecodeError(f"root: command key {name!r} is no Ed25519 or P-256 key of the root")
        result[key_id(raw)] = raw
    return result


def raw_key(key: Key) -> bytes | None:
    """Return a public key as envelopes have it; None if they cannot."""
    try:
        if key.keytype == "ed25519":
            raw = bytes.fromhex(key.keyval["public"])
            return raw if len(raw) == ED25519_SIZE else None
        if (key.keytype, key.scheme) == ("ecdsa", "ecdsa-sha2-nistp256"):
            point = load_pem_public_key(key.keyval["public"].encode())
            if isinstance(point, EllipticCurvePublicKey) and isinstance(point.curve, SECP256R1):
                return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    except (KeyError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm):
        pass
    return None


def parse_metadata(kind: type[Signed], data: bytes) -> Metadata[Any]:
    """Parse TUF metadata of a kind; that says nothing of trust.

    Raises:
        DecodeError: it is not that.
    """
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (DeserializationError, StorageError, ValueError, RecursionError) as error:
        raise DecodeError(f"{kind.type}: not valid TUF metadata: {error}") from None
    if not isinstance(metadata.signed, kind):
        raise DecodeError(f"expected {kind.type} metadata, got {metadata.signed.type}")
    if type(metadata.signed.version) is not int:  # the library takes whatever is above zero: 1.0, true
        raise DecodeError(f"{kind.type}: version {metadata.signed.version!r} is not an integer")
    return metadata


def verify_signatures(judge: Root, role: str, metadata: Metadata[Any]) -> None:
    """Check that a role is signed by as many of its keys as the judge asks.

    Raises:
        SignatureError: it is not.
    """
    try:
        judge.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (
        UnsignedMetadataError,
        RepositoryError,
        UnsupportedAlgorithmError,
        UnsupportedLibraryError,
        ValueError,
        RecursionError,
    ) as error:
        raise SignatureError(f"{role}: {error}") from None


def _check_roles(root: Root) -> None:
    """The library takes anything for key ids, and 1.0 for a threshold."""
    for role in (*root.roles.values(), second_root_role(root)):
        if role is not None and not (
            type(role.threshold) is int and all(isinstance(keyid, str) for keyid in role.keyids)
        ):
            raise DecodeError("root: a role is not a number of key ids")


def _check_key_ids(root: Root) -> None:
    for keyid, key in root.keys.items():
        try:
            text = encode_canonical({"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval})
            found = hashlib.sha256(text.encode()).hexdigest() if isinstance(text, str) else ""
        except (FormatError, RecursionError, UnicodeEncodeError):  # JSON may hold half a surrogate pair
            found = ""
        if found != keyid:
            raise DecodeError(f"root: {keyid[:16]!r} is not the id of the key that goes by it")


def _integer(value: object, name: str, *, highest: int) -> int:
    if type(value) is not int or not 0 <= value <= highest:
        raise DecodeError(f"root: {name} must be an integer in 0..{highest}, got {value!r}")
    return value
