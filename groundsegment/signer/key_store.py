"""The key store: the keys that sign, one for each name, and the roots that say what each may sign.

    keys/root-1.pem root-2.pem root-3.pem   a threshold of 2 makes a trust root; wanted again only for a new root
    keys/root-pq-1.pem root-pq-2.pem        only with post-quantum roots: one of them has to sign as well (ML-DSA-65)
    keys/targets.pem snapshot.pem timestamp.pem   sign updates
    keys/command.pem                        signs commands
    keys/NAME.public                        JSON: the public key, and where the private one is if not here (`key_entry`)
    keys/root.json                          the trust root: TUF root metadata, public
    keys/roots/N.json                       every version of it: a satellite that missed some needs them in order
    keys/next/                              the next root while it is being made (`rotation`): new keys, root.json

A private key is a file (`key_file`), or in a device or service that `securesystemslib` signs with: then NAME.public has
its URI. A root key that is not there is no error until a root is to be signed: keep them elsewhere. Only a rotation
ever puts a file in another's place.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from groundsegment.errors import KeyStoreError
from groundsegment.signer.files import sync_directory, write_new
from groundsegment.signer.key_entry import KeyEntry, open_signer, read_entry, write_entry
from groundsegment.signer.key_file import Private, is_sealed_file, read_key, write_key
from groundsegment.signer.passphrase import PASSPHRASE, Passphrase
from protocol.errors import ProtocolError

__all__ = ["ALL_NAMES", "KeyStore", "sync_directory", "write_new"]

ROOT_NAMES = ("root-1", "root-2", "root-3")
POST_QUANTUM_NAMES = ("root-pq-1", "root-pq-2")
ONLINE_NAMES = ("targets", "snapshot", "timestamp")
COMMAND_NAME = "command"
ALL_NAMES = (*ROOT_NAMES, *ONLINE_NAMES, COMMAND_NAME)
KNOWN_NAMES = (*ROOT_NAMES, *POST_QUANTUM_NAMES, *ONLINE_NAMES, COMMAND_NAME)


class KeyStore:
    """The keys in one directory.

    Args:
        path: of the directory.
        passphrase: where that of sealed keys comes from.
    """

    def __init__(self, path: Path, passphrase: Passphrase = PASSPHRASE) -> None:
        self.path, self.passphrase = path, passphrase

    @property
    def root_path(self) -> Path:
        """The trust root's file."""
        return self.path / "root.json"

    @property
    def roots_path(self) -> Path:
        """Where every version of it is."""
        return self.path / "roots"

    @property
    def next_path(self) -> Path:
        """Where the next root is made."""
        return self.path / "next"

    def root(self) -> bytes:
        """Return the trust root.

        Raises:
            KeyStoreError: there is none, or what is there is none.
        """
        from protocol.roots import command_keys  # TUF takes its time to import, and listing keys needs none of it

        hint = "restore it from a backup of the depot; every kit holds a copy as root.json"
        try:
            root = self.root_path.read_bytes()
            command_keys(root)
        except FileNotFoundError:
            raise KeyStoreError(f"{self.root_path}: no trust root", hint=hint) from None
        except ProtocolError as error:
            raise KeyStoreError(f"{self.root_path}: not a trust root ({error})", hint=hint) from None
        return root

    def roots_after(self, version: int) -> tuple[bytes, ...]:
        """Return the roots that follow a version, oldest first.

        Raises:
            KeyStoreError: one is missing.
        """
        from protocol.roots import read_root

        newest = read_root(self.root()).version
        return tuple(self.version(number) for number in range(max(version, 1) + 1, newest + 1))

    def has_version(self, number: int) -> bool:
        """Whether a root of that number is here."""
        return (self.roots_path / f"{number}.json").exists()

    def version(self, number: int) -> bytes:
        """Return a root by its number.

        Raises:
            KeyStoreError: it is missing.
        """
        path = self.roots_path / f"{number}.json"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            hint = "restore it from a backup of the depot: satellites follow roots one by one"
            raise KeyStoreError(f"{path}: a root is missing", hint=hint) from None

    def has(self, name: str) -> bool:
        """Whether the private key is in a file here."""
        return self._file(name).exists()

    def is_sealed(self, name: str) -> bool:
        """Whether the private key is here, under a passphrase.

        Raises:
            KeyStoreError: it is open to others.
        """
        return self.has(name) and is_sealed_file(self._file(name))

    def can_sign(self, name: str) -> bool:
        """Whether the private key is in a file here, or in a device or service that is named here."""
        entry = self.entry(name)
        return self.has(name) or (entry is not None and entry.uri is not None)

    def entry(self, name: str) -> KeyEntry | None:
        """What is known of a key, None if nothing is."""
        return read_entry(self.path / f"{name}.public")

    def public_key(self, name: str) -> SSlibKey:
        """Return a public key; asks for no passphrase if it was written down, as it is for every key made here.

        Raises:
            KeyStoreError: it is not known, and neither is the private one.
        """
        entry = self.entry(name)
        return entry.key if entry is not None else _public_of(read_key(self._file(name), self.passphrase))

    def make(self, name: str) -> Signer:
        """Return a key's signer, making the key if it is not there: an interrupted set-up goes on where it was."""
        if not self.can_sign(name):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            make_key(self._file(name), self.passphrase, is_post_quantum=name in POST_QUANTUM_NAMES)
        return self.signer(name)

    def use(self, name: str, entry: KeyEntry) -> None:
        """Take a key that is elsewhere, where there is no key yet.

        Raises:
            KeyStoreError: there is another one.
        """
        known = self.entry(name)
        if self.has(name) or (known is not None and known != entry):
            hint = "leave it out: `skyload keys rotate` replaces it later"
            raise KeyStoreError(f"{self._file(name)}: there is a {name} key already", hint=hint)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_entry(self.path / f"{name}.public", entry)

    def signer(self, name: str) -> Signer:
        """Return what signs with a key.

        Raises:
            KeyStoreError: it is missing, unreadable, open to others, or its device is not there.
        """
        entry = self.entry(name)
        if entry is not None and entry.uri is not None:
            return open_signer(entry, self.passphrase)
        key = read_key(self._file(name), self.passphrase)
        return CryptoSigner(key, _public_of(key))

    def _file(self, name: str) -> Path:
        assert name in KNOWN_NAMES
        return self.path / f"{name}.pem"


def make_key(path: Path, passphrase: Passphrase, *, is_post_quantum: bool = False) -> KeyEntry:
    """Make a key in a file, and what is known of it beside.

    Raises:
        KeyStoreError: there is one already.
    """
    key: Private = MLDSA65PrivateKey.generate() if is_post_quantum else Ed25519PrivateKey.generate()
    write_key(path, key, passphrase)
    entry = KeyEntry(key=_public_of(key))
    write_entry(path.with_suffix(".public"), entry)
    return entry


def _public_of(key: Private) -> SSlibKey:
    return SSlibKey.from_crypto(key.public_key())
