"""TUF metadata in few bytes: what all of it has in common is known beforehand, and hexadecimal digits are bytes.

Exactly reversible, for signatures are over the text:

    00 00          a byte 0 of the text
    00 n  n bytes  2n lowercase hexadecimal digits of the text, n of 1..255
    other          a byte of the text

DICTIONARY is the metadata of an update and its manifest without their numbers, so packed: zstd looks things up there.
Changing a byte of it changes the format.
"""

import re

from protocol.errors import DecodeError, TruncatedError
from protocol.packing import pack_map

_RUN = re.compile(rb"(?:[0-9a-f]{2}){8,255}|\0")
_ESCAPE = 0


def pack_text(text: bytes) -> bytes:
    """Return a text with its hexadecimal runs as bytes."""
    return _RUN.sub(_packed, text)


def unpack_text(packed: bytes, *, size_max: int) -> bytes:
    """Return the text that was packed.

    Raises:
        DecodeError: it was not packed so, or the text is longer than allowed.
    """
    parts, at, size = [], 0, 0
    while (found := packed.find(_ESCAPE, at)) >= 0:
        parts.append(packed[at:found])
        if found + 1 == len(packed):
            raise TruncatedError("packed text", expected=found + 2, got=len(packed))
        count = packed[found + 1]
        at = found + 2 + count
        if at > len(packed):
            raise TruncatedError("packed text", expected=at, got=len(packed))
        parts.append(packed[found + 2 : at].hex().encode() if count else b"\0")
        size += len(parts[-1]) + len(parts[-2])
        if size > size_max:
            break
    parts.append(packed[at:])
    if size + len(parts[-1]) > size_max:
        raise DecodeError(f"packed text: more than {size_max} bytes")
    return b"".join(parts)


def _packed(match: re.Match[bytes]) -> bytes:
    run = match[0]
    if run == b"\0":
        return b"\0\0"
    return bytes((_ESCAPE, len(run) // 2)) + bytes.fromhex(run.decode())


def _skeleton() -> bytes:
    def hexadecimal(size: int) -> bytes:
        return bytes((_ESCAPE, size))

    def role(name: bytes, body: bytes) -> bytes:
        signature = b'{"signatures":[{"keyid":"%b","sig":"%b"}],"signed":{' % (hexadecimal(32), hexadecimal(64))
        return b'%b"_type":"%b","expires":"2027-11-22T00:00:00Z",%b}}' % (signature, name, body)

    version, spec = b'"version":1', b'"spec_version":"1.0.31"'
    named = b'{"hashes":{"sha256":"%b"},"length":400' % hexadecimal(32)
    nonce = b'"x-skyload-nonce":"%b"' % hexadecimal(12)
    roles = (
        role(b"timestamp", b'"meta":{"snapshot.json":%b,%b}},%b,%b,%b' % (named, version, spec, version, nonce)),
        role(b"snapshot", b'"meta":{"targets.json":%b,%b}},%b,%b' % (named, version, spec, version)),
        role(b"targets", b'%b,"targets":{"updates/1.manifest":%b}},%b' % (spec, named, version)),
    )
    names = (b"\xa9timestamp\xc4", b"\xa8snapshot\xc4", b"\xa7targets\xc4")
    return b"".join(part for pair in zip(names, roles, strict=True) for part in pair) + b"\xa8manifest\xc5"


_MANIFEST = {
    "v": 1,
    "sequence": 1,
    "satellites": [""],
    "release": {"name": "", "digest": b"", "files": [["config.json", 0, b""], ["model.safetensors", 0, b""]]},
    "base": None,
    "bundles": [],
    "keys": {},
    "floor": 0,
    "beside": False,
    "engine": {"format": "huggingface", "memory_bytes": 0},
    "canary": {"max_tokens": 16, "timeout_s": 600, "agreement_permille": 1000, "prompts": []},
}
DICTIONARY = pack_map(_MANIFEST) + b"\x85\xa5roots\x90" + _skeleton()
