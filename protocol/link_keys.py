"""Keys of a link and of a release, derived and wrapped. Secrets are arguments; nothing here makes one.

A link key is 32 random bytes shared by the ground and one satellite. Each ground station has a key that is derived
from it, so that a stolen station says nothing of the others; from that, each direction, frame kind and symbol size
has its own AES-256 key. All with HKDF-SHA256 (RFC 5869); that is what makes a frame's nonce unique.

A release key (32 bytes) is wrapped for a satellite with HPKE base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256),
HKDF-SHA256, AES-256-GCM; `info` names satellite and release. HPKE gives secrecy only; trust comes from signatures.
"""

from enum import StrEnum

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import VerificationError

LINK_KEY_SIZE = 32
RELEASE_KEY_SIZE = 32


class Direction(StrEnum):
    """Which way a frame goes."""

    UP = "up"
    DOWN = "down"


def derive_station_key(link_key: bytes, station: int) -> bytes:
    """Return the 32-byte key of one ground station (0 .. 15) of a satellite."""
    return _derive(link_key, f"skyload station v1 {station}")


def derive_frame_key(station_key: bytes, direction: Direction, kind: int, symbol_size: int) -> bytes:
    """Return the AES-256 key of one direction, frame kind and symbol size of a station."""
    return _derive(station_key, f"skyload frame v1 {direction.value} {kind} {symbol_size}")


def _derive(key: bytes, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode()).derive(key)


def wrap_release_key(release_key: bytes, recipient: bytes, *, satellite: str, release_digest: bytes) -> bytes:
    """Wrap a release key for a satellite's X25519 public key (32 bytes). 80 bytes long."""
    suite = _suite()
    public = X25519PublicKey.from_public_bytes(recipient)
    return suite.encrypt(release_key, public, info=_info(satellite, release_digest))


def unwrap_release_key(wrapped: bytes, private_key: bytes, *, satellite: str, release_digest: bytes) -> bytes:
    """Open a wrapped release key with the satellite's X25519 private key (32 bytes).

    Raises:
        VerificationError: wrapped for somebody else, or damaged.
    """
    suite = _suite()
    private = X25519PrivateKey.from_private_bytes(private_key)
    try:
        key = suite.decrypt(wrapped, private, info=_info(satellite, release_digest))
    except Exception as error:
        raise VerificationError("release key: not wrapped for this satellite and release") from error
    if len(key) != RELEASE_KEY_SIZE:
        raise VerificationError(f"release key: {len(key)} bytes, expected {RELEASE_KEY_SIZE}")
    return key


def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _info(satellite: str, release_digest: bytes) -> bytes:
    return b"skyload release key v1 " + satellite.encode() + b" " + release_digest
