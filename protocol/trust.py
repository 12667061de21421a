"""Trust: may this update be installed? TUF's roles and rules (TUF 1.0.34, section 5.3), as one pure function.

What is not used of python-tuf is its client, which forgets across power cuts and reads the system clock. Here the
caller brings the durable state and, if it has one it believes in, the time. Nothing is accepted by halves: either
all of it is good, or an error says what was not.

Stricter than TUF, because each update has metadata of its own: timestamp, snapshot and targets carry one version, and
name each other with length and hash. So whoever has one online key, or two, can pair nothing old with anything new.

Epochs cure a fast-forward (TUF 1.0.34, 5.3.11). `accepted` only rises, so a thief of online keys could sign the highest
version there is and shut out everybody. A root may raise the epoch; then version, floor and time floor begin again with
what that root says, and what was accepted in an older epoch and has not been confirmed is not wanted any more.

Freshness without a clock: a timestamp may echo, in the signed field `x-skyload-nonce`, a number that the satellite
made and told lately. Then it was signed after that.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from protocol.errors import (
    ExpiredError,
    MixedError,
    NotFreshError,
    ReplayError,
    RollbackError,
    VerificationError,
    WrongSatelliteError,
)
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle
from protocol.roots import (
    COMMAND_FIELD,
    TrustedRoot,
    command_keys,
    follow_good_roots,
    follow_roots,
    parse_metadata,
    verify_signatures,
)

__all__ = [
    "ALL_CLOSED",
    "COMMAND_FIELD",
    "NONCE_FIELD",
    "VERSION_MAX",
    "WINDOW_SIZE",
    "TrustState",
    "TrustedRotation",
    "TrustedUpdate",
    "accept_metadata",
    "accept_update",
    "command_keys",
    "follow_metadata",
    "target_path",
]

NONCE_FIELD = "x-skyload-nonce"
VERSION_MAX = 2**32 - 1  # a report has 32 bits for it
WINDOW_SIZE = 64  # versions that may come late: updates in flight at once are a few
ALL_CLOSED = 2**WINDOW_SIZE - 1
_S = TypeVar("_S", bound=Signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustState:
    """What a satellite already trusts; durable, changed only after it was written.

    Attributes:
        root: root metadata, raw bytes.
        root_version: of the newest root ever trusted; `root` may be an older one if that one was lost, and then a
            chain of roots has to lead there before anything else is believed.
        epoch: of all that follows. It never goes back.
        accepted: version of the newest timestamp accepted in this epoch, 0 for none. Within it, it never goes back.
        closed: bit i set = version `accepted` - i may not be accepted: it was, or a newer update ended it before it
            came. What lies further back than WINDOW_SIZE may not either.
        floor: lowest sequence of an update that may be accepted (`min_release`).
        time_floor: seconds since 1970: it is later than that, because root keys signed that it is.
        lost_root: SHA-256 of the root of that version, if `root` is an older one; the chain has to go through it.
        commands_are_void: by the root that was just followed, all command keys were replaced. No command that was
            signed before is good any more, so their counters start again: a thief may have used up all there are.
    """

    root: bytes
    root_version: int = 0
    epoch: int = 0
    accepted: int
    closed: int = ALL_CLOSED
    floor: int = 0
    time_floor: int = 0
    lost_root: bytes = b""
    commands_are_void: bool = False

    def may_accept(self, version: int) -> bool:
        """Whether a version is newer than all, or comes late beside newer ones that let it go on."""
        behind = self.accepted - version
        return behind < 0 or (behind < WINDOW_SIZE and not self.closed >> behind & 1)

    def with_accepted(self, version: int, *, beside: bool) -> "TrustState":
        """Return the state after a version was accepted; unless `beside`, no older one may follow."""
        assert self.may_accept(version)
        ahead = max(version - self.accepted, 0)
        accepted = self.accepted + ahead
        closed = self.closed << ahead if ahead < WINDOW_SIZE else 0
        closed |= 1 << accepted - version if beside else ALL_CLOSED << accepted - version
        return replace(self, accepted=accepted, closed=closed & ALL_CLOSED)

    def with_root(self, root: TrustedRoot) -> "TrustState":
        """Return the state after a root was followed."""
        are_void = root.version > self.root_version and self._are_void_under(root)
        state = replace(self, root=root.data, root_version=root.version, lost_root=b"", commands_are_void=are_void)
        if root.epoch > self.epoch:
            return replace(
                state,
                epoch=root.epoch,
                accepted=0,
                closed=ALL_CLOSED,
                floor=root.floor,
                time_floor=root.signed_at,
            )
        return replace(state, time_floor=max(self.time_floor, root.signed_at))

    def _are_void_under(self, root: TrustedRoot) -> bool:
        """Whether no command key of our root is one of a newer root's; after a loss, nobody knows."""
        old, new = command_keys(self.root), command_keys(root.data)
        return not self.lost_root and bool(old) and bool(new) and old.keys().isdisjoint(new)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedUpdate:
    """An update that may be installed. Only `accept_metadata` makes one.

    Attributes:
        manifest: what to install.
        version: of its timestamp.
        is_fresh: it echoes a nonce that the satellite made lately.
        state: the trust state to make durable before acting.
    """

    manifest: Manifest
    version: int
    is_fresh: bool
    state: TrustState


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRotation:
    """New roots and nothing else. Only `accept_metadata` makes one.

    Attributes:
        state: the trust state to make durable before acting; the old one if none of the roots was new.
    """

    state: TrustState


def target_path(sequence: int) -> str:
    """The TUF target path of the manifest of an update."""
    return f"updates/{sequence}.manifest"


def follow_metadata(data: bytes, state: TrustState) -> TrustState:
    """Return what is trusted after the roots of a metadata object, as far as they are good, whatever else is in it.

    To be made durable before the rest is judged (TUF 1.0.34, 5.3.3 to 5.3.9): a root that its predecessor signed takes
    keys away also where it comes with an update that is refused, has expired, or is followed by one that is not good.

    Raises:
        DecodeError: not a metadata object.
    """
    bundle = MetadataBundle.decode(data)
    root = follow_good_roots(bundle.roots, state.root, lost=_lost(state))
    is_new = root.data != state.root and root.version >= state.root_version
    return state.with_root(root) if is_new else state


def accept_metadata(
    data: bytes,
    state: TrustState,
    *,
    satellite: str,
    utc: datetime | None,
    nonces: Collection[bytes] = (),
    must_be_fresh: bool = False,
) -> TrustedUpdate | TrustedRotation:
    """Decide whether a metadata object is to be trusted.

    Args:
        data: the whole object, as solved.
        state: what is trusted so far.
        satellite: our own name.
        utc: the time, if the clock is believed; None leaves expiry to the time floor (counters carry the safety).
        nonces: what the satellite made and told lately.
        must_be_fresh: refuse an update that echoes none of them.

    Raises:
        DecodeError: not a metadata object, or a part does not parse.
        SignatureError, RootSignatureError, MixedError, ReplayError, RollbackError, ExpiredError, NotFreshError,
        WrongSatelliteError, VerificationError: as they say.
    """
    bundle = MetadataBundle.decode(data)
    root = follow_roots(bundle.roots, state.root, lost=_lost(state))
    if root.version < state.root_version:
        raise RollbackError("root", trusted=state.root_version, offered=root.version)
    state = state.with_root(root)
    if bundle.is_rotation:
        _check_expiry([root.root], state, utc)
        return TrustedRotation(state=state)
    return _accept_roles(bundle, root.root, state, satellite, utc, nonces, must_be_fresh=must_be_fresh)


def accept_update(data: bytes, state: TrustState, *, satellite: str, utc: datetime | None) -> TrustedUpdate:
    """Decide as `accept_metadata`, where an update is expected.

    Raises:
        VerificationError: it is new roots and no update; and all that `accept_metadata` raises.
    """
    trusted = accept_metadata(data, state, satellite=satellite, utc=utc)
    if isinstance(trusted, TrustedRotation):
        raise VerificationError("metadata: roots only, no update")
    return trusted


def _lost(state: TrustState) -> tuple[int, bytes] | None:
    return (state.root_version, state.lost_root) if state.lost_root else None


def _accept_roles(
    bundle: MetadataBundle,
    root: Root,
    state: TrustState,
    satellite: str,
    utc: datetime | None,
    nonces: Collection[bytes],
    *,
    must_be_fresh: bool,
) -> TrustedUpdate:
    timestamp = _verified(Timestamp, bundle.timestamp, root)
    version = timestamp.version
    if not state.may_accept(version):
        raise ReplayError("timestamp", trusted=state.accepted, offered=version)
    if version > VERSION_MAX:
        raise VerificationError(f"timestamp: version {version} is above {VERSION_MAX}: none could follow it")
    _check_named("snapshot", timestamp.snapshot_meta, bundle.snapshot, version)
    snapshot = _verified(Snapshot, bundle.snapshot, root)
    _check_named("targets", snapshot.meta.get("targets.json"), bundle.targets, version)
    targets = _verified(Targets, bundle.targets, root)
    for role in (snapshot, targets):
        if role.version != version:
            raise MixedError(f"{role.type}: version {role.version} beside a timestamp of version {version}")
    _check_expiry([root, timestamp, snapshot, targets], state, utc)
    is_fresh = _nonce_of(timestamp) in nonces
    if must_be_fresh and not is_fresh:
        raise NotFreshError("timestamp: it echoes no nonce that we made lately")
    manifest = _trusted_manifest(bundle.manifest, targets, satellite)
    if manifest.sequence < state.floor:
        raise RollbackError("sequence", trusted=state.floor, offered=manifest.sequence)
    return TrustedUpdate(
        manifest=manifest,
        version=version,
        is_fresh=is_fresh,
        state=state.with_accepted(version, beside=manifest.beside),
    )


def _check_expiry(roles: Collection[Signed], state: TrustState, utc: datetime | None) -> None:
    """Whatever the clock says, it is later than the time floor; a clock nobody believes says nothing."""
    now = datetime.fromtimestamp(state.time_floor, UTC)
    now = now if utc is None else max(now, utc)
    for role in roles:
        if role.is_expired(now):
            raise ExpiredError(f"{role.type}: expired at {role.expires.isoformat()}")


def _nonce_of(timestamp: Timestamp) -> bytes:
    value = timestamp.unrecognized_fields.get(NONCE_FIELD, "")
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        return b""


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
    raise MixedError("manifest: no signed target has its length and hash")


def _verified(kind: type[_S], data: bytes, root: Root) -> _S:
    metadata = parse_metadata(kind, data)
    verify_signatures(root, kind.type, metadata)
    signed: _S = metadata.signed
    return signed


def _check_named(unit: str, meta: MetaFile | None, data: bytes, version: int) -> None:
    """TUF lets a role name another one by its version only; we do not."""
    if meta is None or not meta.hashes or meta.length is None or meta.version != version:
        raise MixedError(f"{unit}: not named with version {version}, length and hash by the role above it")
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise MixedError(f"{unit}: {error}") from None
