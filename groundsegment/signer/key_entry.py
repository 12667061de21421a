"""What is known of a key: its public half, and where the private one is if it is not in a file here.

    NAME.public     JSON {"keyid", "keytype", "scheme", "keyval": {"public"}, "uri"}

A URI is one that `securesystemslib` signs with: `hsm:` (PKCS #11: a token, a YubiKey), `ssh-agent:` (`agent`), `hv:` (a
Vault agent), `gcpkms:`, `awskms:`, `azurekms:`, `tkey:`, `file2:`. What such a signer needs (a library, an account) is
its own. OpenPGP (`gnupg:`) is not among them: its signatures are over more than the metadata, and a satellite verifies
with `cryptography` alone; a key in gpg-agent signs by way of `ssh-agent:`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.signer import Signer, SSlibKey

from groundsegment.errors import KeyStoreError
from groundsegment.signer.agent import SCHEME as AGENT_SCHEME
from groundsegment.signer.agent import import_agent_key
from groundsegment.signer.files import replace_durably
from groundsegment.signer.passphrase import Passphrase

_T = TypeVar("_T")
_SIZE_MAX = 64 * 1024
KEYTYPES = ("ed25519", "ecdsa", "ml-dsa")  # what a satellite verifies with `cryptography` alone


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """See the module.

    Attributes:
        key: the public key.
        uri: what signs with it; None for a file of ours, or a key that is kept elsewhere.
    """

    key: SSlibKey
    uri: str | None = None


def read_entry(path: Path) -> KeyEntry | None:
    """Read what is known of a key, None if there is nothing.

    Raises:
        KeyStoreError: it is damaged.
    """
    try:
        with path.open("rb") as file:
            fields: dict[str, Any] = json.loads(file.read(_SIZE_MAX))
        uri = fields.pop("uri", None)
        key = SSlibKey.from_dict(fields.pop("keyid"), fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "restore it from a backup of the depot, or from where it was exported"
        raise KeyStoreError(f"{path}: not a public key ({error})", hint=hint) from None
    if not isinstance(uri, str | None) or key.keytype not in KEYTYPES:
        raise KeyStoreError(f"{path}: not a public key that a satellite can use", hint=f"one of {', '.join(KEYTYPES)}")
    return KeyEntry(key=key, uri=uri)


def read_public(path: Path, uri: str | None) -> KeyEntry:
    """Read a public key that was made elsewhere: a NAME.public of ours, or PEM.

    Args:
        path: of the file.
        uri: what signs with it, if this machine can reach that.

    Raises:
        KeyStoreError: it is neither.
    """
    hint = "a .public file that `skyload keys make` wrote, or the PEM file of a public key"
    try:
        data = path.read_bytes()[:_SIZE_MAX]
        if data.lstrip().startswith(b"{"):
            entry = read_entry(path)
            assert entry is not None
            return KeyEntry(key=entry.key, uri=uri or entry.uri)
        key = SSlibKey.from_crypto(load_pem_public_key(data))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyStoreError(f"{path}: {error}", hint=hint) from None
    return KeyEntry(key=key, uri=uri)


def check_use(name: str, entry: KeyEntry) -> None:
    """Make sure that a key can have a place.

    Raises:
        KeyStoreError: it is of the wrong kind.
    """
    from protocol.roots import raw_key  # TUF takes its time to import, and listing keys needs none of it

    kind, hint = entry.key.keytype, f"one of {', '.join(KEYTYPES)}"
    if kind not in KEYTYPES:
        raise KeyStoreError(f"{name}: a satellite cannot verify {kind} keys", hint=hint)
    if name.startswith("root-pq") != (kind == "ml-dsa"):
        hint = "ML-DSA keys are root-pq-1 and root-pq-2, and nothing else: updates would grow by 10 kB each"
        raise KeyStoreError(f"{name}: cannot be a key of kind {kind}", hint=hint)
    if name == "command" and raw_key(entry.key) is None:
        hint = "commands are signed with Ed25519, or with ECDSA on P-256"
        raise KeyStoreError(f"command: cannot be a key of kind {entry.key.scheme}", hint=hint)


def write_entry(path: Path, entry: KeyEntry) -> None:
    """Write down what is known of a key."""
    fields = {"keyid": entry.key.keyid, **entry.key.to_dict()}
    if entry.uri is not None:
        fields["uri"] = entry.uri
    replace_durably(path, json.dumps(fields, indent=1).encode() + b"\n", mode=0o644)


def import_entry(uri: str, passphrase: Passphrase) -> KeyEntry:
    """Ask a PKCS #11 token, or an SSH agent, for the public half of a key.

    Args:
        uri: `hsm:ID?label=LABEL`, `ssh-agent:FINGERPRINT`, or `ssh-agent:COMMENT`.
        passphrase: whom to ask for the token's PIN, if it wants one to show public keys.

    Raises:
        KeyStoreError: it is another kind of place, or there is no such key.
    """
    from urllib.parse import parse_qsl, urlparse

    from securesystemslib.signer import HSMSigner

    if uri.partition(":")[0] == AGENT_SCHEME:
        lasting, key = import_agent_key(uri)
        return KeyEntry(key=key, uri=lasting)
    parsed = urlparse(uri)
    if parsed.scheme != HSMSigner.SCHEME:
        hint = "take the PEM file of the public key that its service gives, and name it with --public"
        raise KeyStoreError(f"{uri}: cannot be asked for its public key", hint=hint)
    number = int(parsed.path) if parsed.path.isdigit() else None
    label = dict(parse_qsl(parsed.query)).get("label")
    return _with_its_own_errors(
        uri, lambda: KeyEntry(key=HSMSigner.import_(number, label, _pin_of(uri, passphrase))[1], uri=uri)
    )


def open_signer(entry: KeyEntry, passphrase: Passphrase) -> Signer:
    """Return what signs with a key that is not in a file of ours.

    Raises:
        KeyStoreError: its library, device or service is not there.
    """
    assert entry.uri is not None
    uri = entry.uri
    signer = _with_its_own_errors(uri, lambda: Signer.from_priv_key_uri(uri, entry.key, _pin_of(uri, passphrase)))
    return _Guarded(uri, signer)


class _Guarded(Signer):
    """A signer whose troubles are ours to tell."""

    def __init__(self, uri: str, inner: Signer) -> None:
        self._uri, self._inner = uri, inner

    @property
    def public_key(self) -> Any:  # noqa: ANN401 - the library's own kinds of keys
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> "_Guarded":  # noqa: ANN401
        return cls(priv_key_uri, Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler))

    def sign(self, payload: bytes) -> Any:  # noqa: ANN401
        return _with_its_own_errors(self._uri, lambda: self._inner.sign(payload))


def _pin_of(uri: str, passphrase: Passphrase) -> Callable[[str], str]:
    return lambda _: passphrase.pin(uri)


def _with_its_own_errors(uri: str, work: Callable[[], _T]) -> _T:
    try:
        return work()
    except KeyStoreError:
        raise
    except (SecureSystemsError, ValueError, OSError, ImportError) as error:
        hint = "is the device in, its library installed, PYKCS11LIB or the account set?"
        raise KeyStoreError(f"{uri}: {error}", hint=hint) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pkcs11":  # it need not be installed
            raise
        hint = "a wrong PIN, or another token than the one with that label"
        raise KeyStoreError(f"{uri}: {type(error).__name__} {error}", hint=hint) from error
