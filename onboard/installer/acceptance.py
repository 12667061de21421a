"""Is this metadata object to be trusted, and if not, which reason goes down? The rules are `protocol.trust`'s."""

from datetime import datetime

from onboard.errors import InstallError
from protocol.errors import ExpiredError, ProtocolError, RollbackError, VerificationError, WrongSatelliteError
from protocol.link_keys import RELEASE_KEY_SIZE, unwrap_release_key
from protocol.manifest import Manifest
from protocol.report import Reason
from protocol.trust import TrustedUpdate, TrustState, accept_update


def judge_metadata(
    data: bytes, state: TrustState, *, satellite: str, utc: datetime | None, floor: int
) -> TrustedUpdate:
    """Return a trusted update.

    Raises:
        InstallError: UNTRUSTED, ROLLBACK, EXPIRED, WRONG_SATELLITE.
    """
    try:
        trusted = accept_update(data, state, satellite=satellite, utc=utc)
    except ProtocolError as error:
        raise InstallError(str(error), reason=_reason_of(error)) from error
    if trusted.manifest.sequence < floor:
        raise InstallError(f"sequence {trusted.manifest.sequence} is below the floor {floor}", reason=Reason.ROLLBACK)
    return trusted


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


def _reason_of(error: ProtocolError) -> Reason:
    match error:
        case RollbackError():
            return Reason.ROLLBACK
        case ExpiredError():
            return Reason.EXPIRED
        case WrongSatelliteError():
            return Reason.WRONG_SATELLITE
        case _:
            return Reason.UNTRUSTED
