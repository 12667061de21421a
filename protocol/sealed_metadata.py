"""Metadata sealed for its satellite, so that whoever carries it learns its size: no names, no digests, no canary.

    offset  size  field
    0       8     object prefix: SKM1, total size (`objects`), as of metadata that is not sealed
    8       4     magic SKE1
    12      1     length of the satellite's name, n
    13      n     name, ASCII
    13 + n        to the end: HPKE (`recipient_keys`) over what follows the prefix of the metadata object (`metadata`)

What is inside is signed as ever: opening says nothing of trust, and a satellite takes metadata that is not sealed just
as well. Only the name of the satellite can be read from outside; it is bound to what is inside.
"""

from protocol.errors import DecodeError, TruncatedError, WrongSatelliteError
from protocol.names import check_name
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.recipient_keys import open_sealed, seal_for

_MAGIC = b"SKE1"
_NAME_AT = len(_MAGIC) + 1


def seal_metadata(data: bytes, public_key: bytes, *, satellite: str) -> bytes:
    """Seal a metadata object.

    Args:
        data: the whole object.
        public_key: the satellite's (`recipient_keys`).
        satellite: its name.
    """
    name = check_name(satellite, unit="sealed metadata").encode()
    sealed = seal_for(unpack_object(data, ObjectKind.METADATA), public_key, info=_info(name))
    body = _MAGIC + bytes([len(name)]) + name + sealed
    return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body


def is_sealed(data: bytes) -> bool:
    """Whether a metadata object has to be opened first."""
    return data[PREFIX_SIZE : PREFIX_SIZE + len(_MAGIC)] == _MAGIC


def open_metadata(data: bytes, private_key: bytes, *, satellite: str) -> bytes:
    """Return the metadata object that was sealed; one that is not sealed comes back as it is.

    Raises:
        DecodeError: not a metadata object.
        WrongSatelliteError: sealed for another.
        VerificationError: sealed for another key, or altered.
    """
    if not is_sealed(data):
        return data
    body = unpack_object(data, ObjectKind.METADATA)
    end = _NAME_AT + (body[_NAME_AT - 1] if len(body) >= _NAME_AT else 0)
    if len(body) <= end:
        raise TruncatedError("sealed metadata", expected=end + 1, got=len(body))
    try:
        name = body[_NAME_AT:end].decode("ascii")
    except UnicodeDecodeError:
        raise DecodeError("sealed metadata: its satellite has no name") from None
    if check_name(name, unit="sealed metadata") != satellite:
        raise WrongSatelliteError(f"metadata: sealed for {name}, we are {satellite}")
    inner = open_sealed(body[end:], private_key, info=_info(name.encode()))
    return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(inner)) + inner


def _info(satellite: bytes) -> bytes:
    return b"skyload metadata v1 " + satellite
