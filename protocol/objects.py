"""Objects: everything that crosses the link is one, named by its content.

    offset  size  field
    0       4     magic   what it is, see `ObjectKind`
    4       4     size    of the whole object, these 8 bytes included, big-endian
    8       n     body    laid out by the module of its kind

The handle of an object is the first 6 bytes of the SHA-256 of all its bytes. It names the object in frames and
reports; it is no proof of anything (16 bytes of a bundle's stand in the signed manifest).
"""

import hashlib
import struct
from enum import Enum

from protocol.errors import DecodeError, HashMismatchError, TruncatedError
from protocol.frame import HANDLE_SIZE
from protocol.limits import MESSAGE_SIZE_MAX, METADATA_SIZE_MAX, OBJECT_SIZE_MAX

PREFIX_SIZE = 8
_PREFIX = struct.Struct(">4sI")


class ObjectKind(Enum):
    """The kinds of object; the value is the magic."""

    METADATA = b"SKM1"  # `metadata`: TUF metadata and the manifest of one update
    BUNDLE = b"SKB1"  # `bundle`: segments
    COMMAND = b"SKC1"  # `envelope`: ground to satellite
    MESSAGE = b"SKA1"  # `envelope`: satellite to ground

    @property
    def size_max(self) -> int:
        """The largest object of this kind, bytes."""
        return {
            ObjectKind.METADATA: METADATA_SIZE_MAX,
            ObjectKind.BUNDLE: OBJECT_SIZE_MAX,
        }.get(self, MESSAGE_SIZE_MAX)


def object_prefix(kind: ObjectKind, size_bytes: int) -> bytes:
    """Return the first 8 bytes of an object of `size_bytes` in all."""
    assert PREFIX_SIZE <= size_bytes <= kind.size_max
    return _PREFIX.pack(kind.value, size_bytes)


def parse_prefix(data: bytes) -> tuple[ObjectKind, int]:
    """Read kind and total size from the start of an object.

    Raises:
        DecodeError: not one of our objects, or too large for its kind.
    """
    if len(data) < PREFIX_SIZE:
        raise TruncatedError("object", expected=PREFIX_SIZE, got=len(data))
    magic, size = _PREFIX.unpack_from(data)
    try:
        kind = ObjectKind(magic)
    except ValueError:
        raise DecodeError(f"object: unknown magic {magic!r}") from None
    if not PREFIX_SIZE <= size <= kind.size_max:
        raise DecodeError(f"object: {kind.name} of {size} bytes is out of range")
    return kind, size


def object_handle(data: bytes) -> bytes:
    """Return the handle of a whole object, HANDLE_SIZE bytes."""
    return handle_of_digest(hashlib.sha256(data).digest())


def handle_of_digest(digest: bytes) -> bytes:
    """Return the handle of the object with that SHA-256."""
    return digest[:HANDLE_SIZE]


def strip_padding(padded: bytes, handle: bytes) -> tuple[ObjectKind, bytes]:
    """Cut a solved small object to its size and check its handle. Large ones are checked on disk, as a stream.

    Raises:
        DecodeError: not an object, or its size does not go with its padding.
        HashMismatchError: another object than the handle says: a symbol was poisoned.
    """
    kind, size = parse_prefix(padded)
    if size > len(padded) or any(padded[size:]):
        raise DecodeError(f"object: says {size} bytes, {len(padded)} solved")
    data = padded[:size]
    got = object_handle(data)
    if got != handle:
        raise HashMismatchError("object", expected=handle, got=got)
    return kind, data


def unpack_object(data: bytes, expected: ObjectKind) -> bytes:
    """Return the body of a whole object of the expected kind.

    Raises:
        DecodeError: another kind, or the size field differs from the length.
    """
    kind, size = parse_prefix(data)
    if kind is not expected:
        raise DecodeError(f"object: expected {expected.name}, got {kind.name}")
    if size != len(data):
        raise TruncatedError(f"{kind.name} object", expected=size, got=len(data))
    return data[PREFIX_SIZE:]
