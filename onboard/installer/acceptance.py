"""Is this metadata object to be trusted, and if not, which reason goes down? The rules are `protocol.trust`'s."""

from collections.abc import Collection, Mapping
from datetime import datetime

from onboard.errors import InstallError
from protocol.errors import (
    DecodeError,
    ExpiredError,
    MixedError,
    NotFreshError,
    ProtocolError,
    ReplayError,
    RollbackError,
    RootSignatureError,
    SignatureError,
    VerificationError,
    WrongSatelliteError,
)
from protocol.link_keys import RELEASE_KEY_SIZE, unwrap_release_key
from protocol.manifest import Manifest
from protocol.report import Reason
from protocol.sealed_metadata import open_metadata
from protocol.trust import TrustedRotation, TrustedUpdate, TrustState, accept_metadata, follow_metadata

VERDICTS: Mapping[type[ProtocolError], Reason] = {
    RootSignatureError: Reason.ROOT_UNSIGNED,
    SignatureError: Reason.UNSIGNED,
    MixedError: Reason.MIXED,
    ReplayError: Reason.REPLAYED,
    RollbackError: Reason.ROLLBACK,
    ExpiredError: Reason.EXPIRED,
    NotFreshError: Reason.NOT_FRESH,
    WrongSatelliteError: Reason.WRONG_SATELLITE,
    DecodeError: Reason.MALFORMED,
}
"""What goes down for each refusal; the first that fits, so that the narrower stands before the wider."""


def follow_roots_of(data: bytes, state: TrustState, *, satellite: str, private_key: bytes) -> TrustState:
    """Return what is trusted after the roots in a metadata object; `state` if it brings none that is new and good."""
    try:
        return follow_metadata(open_metadata(data, private_key, satellite=satellite), state)
    except ProtocolError:
        return state  # whoever judges it says what is wrong


def judge_metadata(
    data: bytes,
    state: TrustState,
    *,
    satellite: str,
    private_key: bytes,
    utc: datetime | None,
    nonces: Collection[bytes] = (),
    must_be_fresh: bool = False,
    is_root_lost: bool = False,
) -> TrustedUpdate | TrustedRotation:
    """Return a trusted update, or trusted roots; the arguments are those of `accept_metadata`, and the key of the seal.

    Raises:
        InstallError: with a reason of VERDICTS, or TRUST_LOST.
    """
    try:
        data = open_metadata(data, private_key, satellite=satellite)
        return accept_metadata(data, state, satellite=satellite, utc=utc, nonces=nonces, must_be_fresh=must_be_fresh)
    except ProtocolError as error:
        reason = reason_of_refusal(error)
        if is_root_lost and reason is not Reason.MALFORMED:
            reason = Reason.TRUST_LOST
        raise InstallError(str(error), reason=reason) from error


def open_release_key(manifest: Manifest, private_key: bytes, *, satellite: str) -> bytes:
    """Return the key of a release's segments.

    Raises:
        InstallError: WRONG_SATELLITE: it is not wrapped for us.
    """
    if not manifest.bundles:
        return bytes(RELEASE_KEY_SIZE)  # nothing to decrypt: the release is on board
    wrapped = manifest.keys.get(satellite)
    if wrapped is None:
        raise InstallError("it brings no release key for us", reason=Reason.WRONG_SATELLITE)
    try:
        return unwrap_release_key(wrapped, private_key, satellite=satellite, release_digest=manifest.release_digest)
    except VerificationError as error:
        raise InstallError(str(error), reason=Reason.WRONG_SATELLITE) from error


def reason_of_refusal(error: ProtocolError) -> Reason:
    """What goes down for an error."""
    return next((reason for kind, reason in VERDICTS.items() if isinstance(error, kind)), Reason.UNTRUSTED)
