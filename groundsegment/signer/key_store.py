"""The key store: Ed25519 private keys as PKCS8 PEM files of mode 0600, one for each role.

    keys/root-1.pem root-2.pem root-3.pem   a threshold of 2 makes a trust root; wanted again only for a new root
    keys/targets.pem snapshot.pem timestamp.pem   sign updates
    keys/command.pem                        signs commands
    keys/root.json                          the trust root: TUF root metadata, public

A root key that is not there is no error until a root is to be signed: keep them elsewhere. Files are made, never
overwritten. Encryption of the files by a passphrase has its place in `_write_private` and `_read_private`, and no
code yet.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.errors import KeyStoreError
from protocol.errors import ProtocolError

ROOT_NAMES = ("root-1", "root-2", "root-3")
ONLINE_NAMES = ("targets", "snapshot", "timestamp")
COMMAND_NAME = "command"
ALL_NAMES = (*ROOT_NAMES, *ONLINE_NAMES, COMMAND_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """One signing key.

    Attributes:
        name: of its file.
        public: raw Ed25519 public key, 32 bytes.
        sign: signs the bytes it is given.
        ed25519: for libraries that want the key itself.
    """

    name: str
    public: bytes
    sign: Callable[[bytes], bytes]
    ed25519: Ed25519PrivateKey


class KeyStore:
    """The private keys in one directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def root_path(self) -> Path:
        """The trust root's file."""
        return self.path / "root.json"

    def root(self) -> bytes:
        """Return the trust root.

        Raises:
            KeyStoreError: there is none, or what is there is none.
        """
        from protocol.trust import command_keys  # TUF takes its time to import, and listing keys needs none of it

        hint = "restore it from a backup of the depot; every kit holds a copy as root.json"
        try:
            root = self.root_path.read_bytes()
            command_keys(root)
        except FileNotFoundError:
            raise KeyStoreError(f"{self.root_path}: no trust root", hint=hint) from None
        except ProtocolError as error:
            raise KeyStoreError(f"{self.root_path}: not a trust root ({error})", hint=hint) from None
        return root

    def has(self, name: str) -> bool:
        """Whether the private key is here."""
        return self._file(name).exists()

    def make(self, name: str) -> PrivateKey:
        """Return a key, making it if it is not there: an interrupted set-up goes on where it was."""
        if not self.has(name):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_private(self._file(name), Ed25519PrivateKey.generate())
        return self.load(name)

    def load(self, name: str) -> PrivateKey:
        """Read a key.

        Raises:
            KeyStoreError: missing, unreadable, or open to others.
        """
        key = _read_private(self._file(name))
        return PrivateKey(name=name, public=key.public_key().public_bytes_raw(), sign=key.sign, ed25519=key)

    def _file(self, name: str) -> Path:
        assert name in ALL_NAMES
        return self.path / f"{name}.pem"


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not exist, whole or not at all, and make it durable.

    Raises:
        KeyStoreError: it exists.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike rename, it refuses to overwrite
    except FileExistsError:
        hint = "another skyload made it meanwhile; run the same command again"
        raise KeyStoreError(f"{path}: is there already and is never overwritten", hint=hint) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file by itself
    finally:
        part.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_private(path: Path, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_new(path, pem, mode=0o600)


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        if path.stat().st_mode & 0o077:
            raise KeyStoreError(f"{path}: others may read this private key", hint=f"chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        hint = "bring the key file back from where it is kept, or from a backup of the depot"
        raise KeyStoreError(f"{path}: the private key is missing", hint=hint) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyStoreError(f"{path}: not an unencrypted PKCS8 key", hint="restore it from a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyStoreError(f"{path}: not an Ed25519 key", hint="restore it from a backup")
    return key
