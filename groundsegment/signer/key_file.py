"""A private key in a file: PKCS #8 in PEM, mode 0600, sealed under a passphrase if there is one.

Sealed is PBES2 (RFC 8018) with scrypt (RFC 7914; 16 MiB, N 16384, r 8, p 5) and AES-256-CBC, so that
`openssl pkey -in FILE` opens it as well. The DER around scrypt is written here, because `cryptography` reads it and
writes only PBKDF2 with 2048 rounds, which a stick found in the street would not outlast.
"""

import binascii
import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from groundsegment.errors import KeyStoreError
from groundsegment.signer.files import replace_durably, write_new
from groundsegment.signer.key_costs import is_affordable
from groundsegment.signer.passphrase import Passphrase

Private = Ed25519PrivateKey | MLDSA65PrivateKey

_COST, _BLOCK_SIZE, _PARALLEL = 2**14, 8, 5
_SALT_SIZE, _KEY_SIZE, _IV_SIZE, _BLOCK_BITS = 16, 32, 16, 128
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_SIZE_MAX = 64 * 1024
_NO_KEY = "not a private key (PKCS8 in PEM)"
_NO_KEY_HINT = "name the .pem file of a private key; a damaged one comes back from a backup"
_SEALED_LABEL, _PLAIN_LABEL = b"ENCRYPTED PRIVATE KEY", b"PRIVATE KEY"
_SEALED = re.compile(rb"-----BEGIN " + _SEALED_LABEL + rb"-----(.*?)-----END", re.DOTALL)


def write_key(path: Path, key: Private, passphrase: Passphrase, *, replaces: bool = False) -> None:
    """Write a key, sealed if there is a passphrase; with `replaces`, in the place of another one.

    Raises:
        KeyStoreError: it is there already; or there is no passphrase, and there must be one.
    """
    words = passphrase.for_new_key()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    data = _pem(_PLAIN_LABEL, der) if words is None else _pem(_SEALED_LABEL, _seal(der, words))
    (replace_durably if replaces else write_new)(path, data, mode=0o600)


def read_key(path: Path, passphrase: Passphrase) -> Private:
    """Read a key; asks for the passphrase only if it is sealed.

    Raises:
        KeyStoreError: missing, open to others, sealed under another passphrase, or not a key.
    """
    data = _read(path)
    _check_costs(path, data)
    words = passphrase.for_key(path) if is_sealed(data) else None
    try:
        key = serialization.load_pem_private_key(data, password=words)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        if words is not None:
            passphrase.forget()
            hint = "give the passphrase that it was sealed with; without it only a backup helps"
            raise KeyStoreError(f"{path}: it does not open with this passphrase", hint=hint) from None
        raise KeyStoreError(f"{path}: {_NO_KEY}", hint=_NO_KEY_HINT) from None
    if not isinstance(key, Private):
        raise KeyStoreError(f"{path}: neither an Ed25519 nor an ML-DSA-65 key", hint="restore it from a backup")
    return key


def is_sealed_file(path: Path) -> bool:
    """Whether a key wants a passphrase.

    Raises:
        KeyStoreError: missing, or open to others.
    """
    return is_sealed(_read(path))


def is_sealed(data: bytes) -> bool:
    """Whether what is in a key file wants a passphrase."""
    return b"-----BEGIN " + _SEALED_LABEL + b"-----" in data


def _check_costs(path: Path, data: bytes) -> None:
    """Refuse a sealed key that would take all memory, or a day, to try a passphrase on."""
    for armoured in _SEALED.findall(data):
        try:
            der = binascii.a2b_base64(armoured)
        except ValueError:
            continue
        if not is_affordable(der):
            hint = "seal it anew: openssl pkcs8 -topk8 -scrypt -in FILE -out NEW"
            raise KeyStoreError(f"{path}: trying a passphrase on this key would take too much", hint=hint)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data, mode = file.read(_SIZE_MAX), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        hint = "bring the key file back from where it is kept, or from a backup of the depot"
        raise KeyStoreError(f"{path}: the private key is missing", hint=hint) from None
    if mode & 0o077:
        if _PLAIN_LABEL + b"-----" not in data:
            raise KeyStoreError(f"{path}: {_NO_KEY}", hint=_NO_KEY_HINT)
        raise KeyStoreError(f"{path}: others may read this private key", hint=f"chmod 600 {path}")
    return data


def _seal(der: bytes, words: bytes) -> bytes:
    salt, vector = secrets.token_bytes(_SALT_SIZE), secrets.token_bytes(_IV_SIZE)
    key = Scrypt(salt=salt, length=_KEY_SIZE, n=_COST, r=_BLOCK_SIZE, p=_PARALLEL).derive(words)
    padder = padding.PKCS7(_BLOCK_BITS).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    costs = b"".join(map(_integer, (_COST, _BLOCK_SIZE, _PARALLEL)))
    derivation = _sequence(_SCRYPT, _sequence(_octets(salt), costs))
    cipher = _sequence(_AES_256_CBC, _octets(vector))
    return _sequence(_sequence(_PBES2, _sequence(derivation, cipher)), _octets(sealed))


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _octets(data: bytes) -> bytes:
    return _der(0x04, data)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + content


def _pem(label: bytes, der: bytes) -> bytes:
    from base64 import b64encode

    text = b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN " + label + b"-----", *lines, b"-----END " + label + b"-----", b""])
