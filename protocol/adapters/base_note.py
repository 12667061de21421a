"""The file that says of which base the adapter beside it is: so that an adapter's release names its base by itself.

    skyload_adapter.json    {"base": digest of the base release, 64 hex digits, "v": 1}

One adapter on two bases makes two releases, with two digests. Only the bytes that `encode` makes are believed.
"""

import json

from protocol.adapters.errors import AdapterError
from protocol.adapters.names import NOTE_NAME

NOTE_SIZE_MAX = 256


def encode(base: bytes) -> bytes:
    """Return the file's bytes for a base with that digest."""
    return (json.dumps({"base": base.hex(), "v": 1}, separators=(",", ":")) + "\n").encode()


def decode(data: bytes) -> bytes:
    """Return the digest of the base.

    Raises:
        AdapterError: these are not bytes that `encode` makes.
    """
    try:
        base = bytes.fromhex(json.loads(data[:NOTE_SIZE_MAX])["base"])
    except (ValueError, KeyError, TypeError, RecursionError):
        base = b""
    if len(base) != 32 or encode(base) != data:
        raise AdapterError(f"{NOTE_NAME}: does not name a base")
    return base
