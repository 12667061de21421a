"""The envelope: a small signed statement, ground to satellite (command) or satellite to ground (message).

    offset  size  field
    0       8     object prefix: SKC1 (command) or SKA1 (message), total size (`objects`)
    8       8     key id       first 8 bytes of the SHA-256 of the signer's raw public key
    16      64    signature    over context || bytes 80 .. end, as the signer's key is (below)
    80      n     statement    msgpack map, see `command` and `message`

A raw public key of 32 bytes is Ed25519's (RFC 8032). One of 33 is a point of P-256, compressed (SEC 1, 2.3.3): its
signatures are ECDSA with SHA-256, r and s of 32 bytes each, big-endian (IEEE P1363), because tokens sign so.

The context string differs by kind, so a command can never pass as a message. The statement is verified as it came
and never re-encoded. Whoever signs is passed in: no private key lives in the protocol.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from protocol.errors import SignatureError, TruncatedError
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.packing import pack_map, unpack_map

KEY_ID_SIZE = 8
ED25519_SIZE, P256_SIZE = 32, 33
_SIGNATURE_SIZE = 64
_HALF = _SIGNATURE_SIZE // 2
_STATEMENT_AT = KEY_ID_SIZE + _SIGNATURE_SIZE


def key_id(public_key: bytes) -> bytes:
    """Return the id of a raw public key."""
    return hashlib.sha256(public_key).digest()[:KEY_ID_SIZE]


def seal_statement(
    kind: ObjectKind, statement: Mapping[str, Any], *, public_key: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return a signed object.

    Args:
        kind: COMMAND or MESSAGE.
        statement: what to say; msgpack types only.
        public_key: raw public key that goes with `sign`.
        sign: signs the bytes it is given; returns 64 bytes.
    """
    body = pack_map(statement)
    signature = sign(_context(kind) + body)
    size = PREFIX_SIZE + _STATEMENT_AT + len(body)
    return object_prefix(kind, size) + key_id(public_key) + signature + body


def open_statement(kind: ObjectKind, data: bytes, public_keys: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Verify and parse a signed object.

    Args:
        kind: what is expected.
        data: the whole object.
        public_keys: raw public keys that may sign, by key id.

    Raises:
        DecodeError: not such an object.
        SignatureError: unknown signer, or the signature does not fit.
    """
    body = unpack_object(data, kind)
    if len(body) <= _STATEMENT_AT:
        raise TruncatedError(f"{kind.name} object", expected=_STATEMENT_AT + 1, got=len(body))
    signer = public_keys.get(body[:KEY_ID_SIZE])
    if signer is None:
        raise SignatureError(f"{kind.name}: key {body[:KEY_ID_SIZE].hex()} may not sign this")
    statement = body[_STATEMENT_AT:]
    try:
        _verify(signer, body[KEY_ID_SIZE:_STATEMENT_AT], _context(kind) + statement)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"{kind.name}: the signature does not fit") from error
    return unpack_map(statement, unit=kind.name, size_max=MESSAGE_SIZE_MAX)


def _verify(public_key: bytes, signature: bytes, data: bytes) -> None:
    """Raises InvalidSignature, or ValueError if it is no public key."""
    if len(public_key) == P256_SIZE:
        r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
        point = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), public_key)
        point.verify(encode_dss_signature(r, s), data, ECDSA(SHA256()))
    else:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)


def _context(kind: ObjectKind) -> bytes:
    return b"skyload v1 " + kind.value + b"\0"
