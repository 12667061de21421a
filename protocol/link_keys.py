"""Keys of a link and of a release, derived and wrapped. Secrets are arguments; nothing here makes one.

A link key is 32 random bytes shared by the ground and one satellite. Each ground station has a key that is derived
from it, so that a stolen station says nothing of the others; from that, each batch of contacts, so that a station
need not hold the keys of all; from that, each contact; from that, each direction, frame kind and symbol size its own
AES-256 key. All with HKDF-SHA256 (RFC 5869); that is what makes a frame's nonce unique.

A release key (32 bytes) is wrapped for a satellite by `recipient_keys`; `info` names satellite and release.
"""

from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import VerificationError
from protocol.recipient_keys import unwrap_key, wrap_key

LINK_KEY_SIZE = 32
CONTACTS_PER_BATCH = 64
WRAPPED_BATCH_SIZE = 48
_NONCE = bytes(12)  # every wrapping key wraps one thing
RELEASE_KEY_SIZE = 32


class Direction(StrEnum):
    """Which way a frame goes."""

    UP = "up"
    DOWN = "down"


def derive_station_key(link_key: bytes, station: int, generation: int = 0) -> bytes:
    """Return the 32-byte key of one ground station (0 .. 15) of a satellite.

    A `withdraw` command raises the generation, and with that makes all earlier keys of the station void.
    """
    suffix = f" {generation}" if generation else ""
    return _derive(link_key, f"skyload station v1 {station}{suffix}")


def derive_batch_key(station_key: bytes, batch: int) -> bytes:
    """Return the 32-byte key of a station for contacts `batch * CONTACTS_PER_BATCH` and those that follow it."""
    return _derive(station_key, f"skyload contacts v1 {batch}")


def derive_contact_key(station_key: bytes, contact: int) -> bytes:
    """Return the 32-byte key of one contact of a station, by its number; see `contacts`."""
    return contact_key_of_batch(derive_batch_key(station_key, contact // CONTACTS_PER_BATCH), contact)


def contact_key_of_batch(batch_key: bytes, contact: int) -> bytes:
    """Return the key of a contact from that of its batch."""
    return _derive(batch_key, f"skyload contact v1 {contact}")


def derive_letters_key(station_key: bytes) -> bytes:
    """Return the 32-byte key of what home and a station write each other; no key of any frame follows from it."""
    return _derive(station_key, "skyload letters v1")


def wrap_batch_key(letters_key: bytes, batch: int, batch_key: bytes) -> bytes:
    """Make a batch key unreadable for whoever carries a letter: 48 bytes, always the same ones."""
    return AESGCM(_batch_wrapping_key(letters_key, batch)).encrypt(_NONCE, batch_key, None)


def unwrap_batch_key(letters_key: bytes, batch: int, wrapped: bytes) -> bytes:
    """Open a wrapped batch key.

    Raises:
        VerificationError: of another batch or station, or damaged.
    """
    try:
        return AESGCM(_batch_wrapping_key(letters_key, batch)).decrypt(_NONCE, wrapped, None)
    except (InvalidTag, ValueError) as error:
        raise VerificationError("keys of contacts: not for this station, or damaged") from error


def _batch_wrapping_key(letters_key: bytes, batch: int) -> bytes:
    return _derive(letters_key, f"skyload batch v1 {batch}")


def derive_frame_key(contact_key: bytes, direction: Direction, kind: int, symbol_size: int) -> bytes:
    """Return the AES-256 key of one direction, frame kind and symbol size in a contact of a station."""
    return _derive(contact_key, f"skyload frame v1 {direction.value} {kind} {symbol_size}")


def _derive(key: bytes, info: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode()).derive(key)


def wrap_release_key(release_key: bytes, recipient: bytes, *, satellite: str, release_digest: bytes) -> bytes:
    """Wrap a release key for a satellite's public key (see `recipient_keys`): 80 bytes, or 1168 for a hybrid one."""
    return wrap_key(release_key, recipient, info=_info(satellite, release_digest))


def unwrap_release_key(wrapped: bytes, private_key: bytes, *, satellite: str, release_digest: bytes) -> bytes:
    """Open a wrapped release key with the satellite's private key.

    Raises:
        VerificationError: wrapped for somebody else, or damaged.
    """
    try:
        return unwrap_key(wrapped, private_key, info=_info(satellite, release_digest))
    except VerificationError as error:
        raise VerificationError("release key: not wrapped for this satellite and release") from error


def _info(satellite: str, release_digest: bytes) -> bytes:
    return b"skyload release key v1 " + satellite.encode() + b" " + release_digest
