"""The envelope: a small signed statement, ground to satellite (command) or satellite to ground (message).

    offset  size  field
    0       8     object prefix: SKC1 (command) or SKA1 (message), total size (`objects`)
    8       8     key id       first 8 bytes of the SHA-256 of the signer's raw Ed25519 public key
    16      64    signature    Ed25519 (RFC 8032) over context || bytes 80 .. end
    80      n     statement    msgpack map, see `command` and `message`

The context string differs by kind, so a command can never pass as a message. The statement is verified as it came
and never re-encoded. Whoever signs is passed in: no private key lives in the protocol.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.errors import SignatureError, TruncatedError
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.packing import pack_map, unpack_map

KEY_ID_SIZE = 8
_SIGNATURE_SIZE = 64
_STATEMENT_AT = KEY_ID_SIZE + _SIGNATURE_SIZE


def key_id(public_key: bytes) -> bytes:
    """Return the id of a raw Ed25519 public key (32 bytes)."""
    return hashlib.sha256(public_key).digest()[:KEY_ID_SIZE]


def seal_statement(
    kind: ObjectKind, statement: Mapping[str, Any], *, public_key: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return a signed object.

    Args:
        kind: COMMAND or MESSAGE.
        statement: what to say; msgpack types only.
        public_key: raw Ed25519 public key that goes with `sign`.
        sign: signs the bytes it is given.
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
        public_keys: raw Ed25519 public keys that may sign, by key id.

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
        Ed25519PublicKey.from_public_bytes(signer).verify(body[KEY_ID_SIZE:_STATEMENT_AT], _context(kind) + statement)
    except InvalidSignature as error:
        raise SignatureError(f"{kind.name}: the signature does not fit") from error
    return unpack_map(statement, unit=kind.name, size_max=MESSAGE_SIZE_MAX)


def _context(kind: ObjectKind) -> bytes:
    return b"skyload v1 " + kind.value + b"\0"
