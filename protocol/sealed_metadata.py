"""Metadata sealed for its satellites, so that whoever carries it learns its size: no names, no digests, no canary.

    offset  size  field
    0       8     object prefix: SKM1, total size (`objects`), as of metadata that is not sealed
    8       4     magic SKE1
    12      n     msgpack map:
                  to         {satellite: bin}   the key, wrapped for each (`recipient_keys`)
                  body       bin                AES-256-GCM under that key, nonce 0, of what follows the prefix of the
                                                metadata object (`metadata`)

The key is used once. What is inside is signed as ever: opening says nothing of trust, and a satellite takes metadata
that is not sealed just as well. Only the names of the satellites can be read from outside.
"""

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import DecodeError, VerificationError, WrongSatelliteError
from protocol.limits import METADATA_SIZE_MAX
from protocol.names import check_name
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.packing import Fields, pack_map, unpack_map
from protocol.recipient_keys import unwrap_key, wrap_key

_MAGIC = b"SKE1"
_NONCE = bytes(12)
_CONTEXT = b"skyload metadata v1"
_WRAPPED_MAX = 2048
_SATELLITES_MAX = 4096


def seal_metadata(data: bytes, recipients: Mapping[str, bytes], *, key: bytes) -> bytes:
    """Seal a metadata object.

    Args:
        data: the whole object.
        recipients: public keys (`recipient_keys`) by the satellite's name.
        key: 32 random bytes, never used again.
    """
    body = AESGCM(key).encrypt(_NONCE, unpack_object(data, ObjectKind.METADATA), _CONTEXT)
    wrapped = {name: wrap_key(key, public, info=_info(name)) for name, public in recipients.items()}
    sealed = _MAGIC + pack_map({"to": wrapped, "body": body})
    return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(sealed)) + sealed


def is_sealed(data: bytes) -> bool:
    """Whether a metadata object has to be opened first."""
    return data[PREFIX_SIZE : PREFIX_SIZE + len(_MAGIC)] == _MAGIC


def open_metadata(data: bytes, private_key: bytes, *, satellite: str) -> bytes:
    """Return the metadata object that was sealed; one that is not sealed comes back as it is.

    Raises:
        DecodeError: not a metadata object.
        WrongSatelliteError: sealed for others.
        VerificationError: sealed for another key, or altered.
    """
    if not is_sealed(data):
        return data
    sealed = unpack_object(data, ObjectKind.METADATA)[len(_MAGIC) :]
    fields = Fields(unpack_map(sealed, unit="sealed metadata", size_max=METADATA_SIZE_MAX), unit="sealed metadata")
    recipients, body = fields.mapping("to"), fields.data("body", size_max=METADATA_SIZE_MAX)
    fields.finish()
    if len(recipients) > _SATELLITES_MAX:
        raise DecodeError(f"sealed metadata: for {len(recipients)} satellites, at most {_SATELLITES_MAX}")
    if satellite not in recipients:
        others = ", ".join(check_name(name, unit="sealed metadata") for name in list(recipients)[:4])
        raise WrongSatelliteError(f"metadata: sealed for {others or 'nobody'}, we are {satellite}")
    wrapped = Fields(recipients, unit="sealed metadata").data(satellite, size_max=_WRAPPED_MAX)
    key = unwrap_key(wrapped, private_key, info=_info(satellite))
    try:
        inner = AESGCM(key).decrypt(_NONCE, body, _CONTEXT)
    except InvalidTag as error:
        raise VerificationError("metadata: its seal does not fit what it covers") from error
    return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(inner)) + inner


def _info(satellite: str) -> bytes:
    return b"skyload metadata key v1 " + satellite.encode()
