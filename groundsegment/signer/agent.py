"""Keys in an SSH agent: `ssh-agent`, gpg-agent with SSH support, and whatever else speaks draft-miller-ssh-agent.

    ssh-agent:SHA256:DIGEST     as `ssh-add -l` shows it
    ssh-agent:COMMENT           the only key with that comment; looked up once, then kept as the form above

`securesystemslib` has no signer for SSH agents, but takes ones of others: this is one, by its own interface, and in its
own table of URI schemes. The private half never leaves the agent. Ed25519 keys sign as files of ours do; P-256 keys as
tokens do. Keys of other kinds, and those on FIDO tokens ("sk-"), which sign something else than they are given, are not
offered. An agent signs for whoever reaches its socket: do not forward it.
"""

import base64
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signature, Signer, SSlibKey

from groundsegment.errors import KeyStoreError

SCHEME = "ssh-agent"
SOCKET_VARIABLE = "SSH_AUTH_SOCK"
_REQUEST_IDENTITIES, _IDENTITIES, _SIGN_REQUEST, _SIGNED = 11, 12, 13, 14
_ED25519, _P256 = b"ssh-ed25519", b"ecdsa-sha2-nistp256"
_SIZE_MAX = 256 * 1024
_TIMEOUT_S = 120.0  # somebody may have to confirm (`ssh-add -c`), or to touch a key
_HINT = f"`ssh-add -l` shows what the agent at {SOCKET_VARIABLE} has; it takes Ed25519 and P-256 keys"


class AgentSigner(Signer):
    """Signs with a key of the agent.

    Args:
        blob: the public key as SSH writes it.
        public_key: the same key.
    """

    def __init__(self, blob: bytes, public_key: SSlibKey) -> None:
        self._blob, self._public_key, self._kind = blob, public_key, _Reader(blob).string()

    @property
    def public_key(self) -> SSlibKey:
        """See `Signer`."""
        return self._public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> "AgentSigner":  # noqa: ANN401 - as the library calls it
        """See `Signer`.

        Raises:
            KeyStoreError: the agent has no such key, or there is none.
        """
        blob, key = _find(priv_key_uri)
        if key.keyid != public_key.keyid:
            raise KeyStoreError(f"{priv_key_uri}: the agent has another key under that name", hint=_HINT)
        return cls(blob, key)

    def sign(self, payload: bytes) -> Signature:
        """See `Signer`.

        Raises:
            KeyStoreError: the agent would not sign.
        """
        answer = _ask(_SIGN_REQUEST, _string(self._blob) + _string(payload) + struct.pack(">I", 0), expected=_SIGNED)
        parts = _Reader(_Reader(answer).string())
        kind, value = parts.string(), parts.string()
        if kind != self._kind:
            raise KeyStoreError(
                f"the SSH agent signed as {_shown(kind)}, with a key of {_shown(self._kind)}", hint=_HINT
            )
        if kind == _P256:
            numbers = _Reader(value)
            r, s = (int.from_bytes(numbers.string(), "big") for _ in range(2))
            value = encode_dss_signature(r, s)
        return Signature(self._public_key.keyid, value.hex())


SIGNER_FOR_URI_SCHEME[SCHEME] = AgentSigner


def import_agent_key(uri: str) -> tuple[str, SSlibKey]:
    """Ask the agent for the public half of a key; returns the lasting URI and the key.

    Raises:
        KeyStoreError: the agent has no such key, several, or there is none.
    """
    blob, key = _find(uri)
    return f"{SCHEME}:{_fingerprint(blob)}", key


def _find(uri: str) -> tuple[bytes, SSlibKey]:
    name = unquote(uri.removeprefix(f"{SCHEME}:"))
    identities = list(_identities())
    offered = [(blob, comment, key) for blob, comment, key in identities if key is not None]
    found = [(blob, key) for blob, comment, key in offered if not name or name in {_fingerprint(blob), comment}]
    if len(found) != 1:
        num_broken = len(identities) - len(offered)
        broken = f"; {num_broken} of its keys cannot be read" if num_broken else ""
        raise KeyStoreError(f"{uri}: the agent has {len(found) or 'no'} keys of that name{broken}", hint=_HINT)
    return found[0]


def _identities() -> Iterator[tuple[bytes, str, SSlibKey | None]]:
    """Blob, comment and key of each identity; None for a broken one, which hides no other. Other kinds are left out."""
    reader = _Reader(_ask(_REQUEST_IDENTITIES, b"", expected=_IDENTITIES))
    for _ in range(reader.number()):
        blob, comment = reader.string(), reader.string().decode(errors="replace")
        try:
            kind = _Reader(blob).string()
            if kind in {_ED25519, _P256}:
                key = load_ssh_public_key(kind + b" " + base64.b64encode(blob))
                yield blob, comment, SSlibKey.from_crypto(key)
        except (KeyStoreError, ValueError, UnsupportedAlgorithm):
            yield blob, comment, None


def _shown(kind: bytes) -> str:
    return kind[:40].decode("ascii", errors="replace") or "no kind"


def _fingerprint(blob: bytes) -> str:
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def _ask(request: int, body: bytes, *, expected: int) -> bytes:
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        hint = (
            f"start one (`eval $(ssh-agent)`), add the key (`ssh-add FILE`), and let {SOCKET_VARIABLE} name its socket"
        )
        raise KeyStoreError("there is no SSH agent here", hint=hint)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
            connection.sendall(_string(bytes([request]) + body))
            (size,) = struct.unpack(">I", _receive(connection, 4))
            answer = _receive(connection, size) if size <= _SIZE_MAX else b""
    except (OSError, EOFError) as error:
        raise KeyStoreError(f"{path}: the SSH agent does not answer ({error})", hint=_HINT) from None
    if answer[:1] != bytes([expected]):
        hint = "it may be locked, or somebody did not confirm; " + _HINT
        raise KeyStoreError(f"{path}: the SSH agent refuses", hint=hint)
    return answer[1:]


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise EOFError("it hung up")
        data += chunk
    return bytes(data)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class _Reader:
    """Reads what SSH writes: numbers, and strings behind their lengths."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise KeyStoreError("the SSH agent's answer is cut short", hint=_HINT)
        self._at += size
        return self._data[self._at - size : self._at]
