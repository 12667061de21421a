"""Keys that secrets are wrapped for: a satellite's X25519 key or, by choice, the hybrid with ML-KEM-768.

    private key   32 bytes   X25519                        public key   32 bytes
                  96         X25519 || ML-KEM-768 seed     1216         X25519 || ML-KEM-768 encapsulation key

Data is sealed, and a secret of 32 bytes wrapped, with HPKE base mode (RFC 9180), HKDF-SHA256, AES-256-GCM, and
DHKEM(X25519) or MLKEM768-X25519 (draft-ietf-hpke-pq): a wrapped secret has 80 or 1168 bytes. The length of the key says
which, so a satellite with a hybrid key opens nothing that was sealed without it. The hybrid holds as long as one of the
two does.

HPKE gives secrecy only; trust comes from signatures. `info` binds it to its use.
"""

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol.errors import VerificationError

SECRET_SIZE = 32
X25519_SIZE = 32
HYBRID_PRIVATE_SIZE = X25519_SIZE + 64
HYBRID_PUBLIC_SIZE = X25519_SIZE + 1184
PRIVATE_SIZES = (X25519_SIZE, HYBRID_PRIVATE_SIZE)
PUBLIC_SIZES = (X25519_SIZE, HYBRID_PUBLIC_SIZE)


def public_key_of(private_key: bytes) -> bytes:
    """Return the public key that goes with a private one."""
    assert len(private_key) in PRIVATE_SIZES
    public = X25519PrivateKey.from_private_bytes(private_key[:X25519_SIZE]).public_key().public_bytes_raw()
    if len(private_key) == X25519_SIZE:
        return public
    return public + MLKEM768PrivateKey.from_seed_bytes(private_key[X25519_SIZE:]).public_key().public_bytes_raw()


def wrap_key(secret: bytes, recipient: bytes, *, info: bytes) -> bytes:
    """Wrap 32 bytes for a public key."""
    assert len(secret) == SECRET_SIZE
    return seal_for(secret, recipient, info=info)


def unwrap_key(wrapped: bytes, private_key: bytes, *, info: bytes) -> bytes:
    """Open a wrapped secret.

    Raises:
        VerificationError: wrapped for another key or use, or damaged.
    """
    secret = open_sealed(wrapped, private_key, info=info)
    if len(secret) != SECRET_SIZE:
        raise VerificationError(f"wrapped key: {len(secret)} bytes, expected {SECRET_SIZE}")
    return secret


def seal_for(data: bytes, recipient: bytes, *, info: bytes) -> bytes:
    """Encrypt for a public key: 48 bytes more than the data has, or 1136 for a hybrid one."""
    assert len(recipient) in PUBLIC_SIZES
    x25519 = X25519PublicKey.from_public_bytes(recipient[:X25519_SIZE])
    if len(recipient) == X25519_SIZE:
        return _suite(hpke.KEM.X25519).encrypt(data, x25519, info=info)
    mlkem = MLKEM768PublicKey.from_public_bytes(recipient[X25519_SIZE:])
    both = hpke.MLKEM768X25519PublicKey(mlkem, x25519)
    return _suite(hpke.KEM.MLKEM768_X25519).encrypt(data, both, info=info)


def open_sealed(sealed: bytes, private_key: bytes, *, info: bytes) -> bytes:
    """Decrypt what was encrypted for the public key that goes with a private one.

    Raises:
        VerificationError: for another key or use, or damaged.
    """
    assert len(private_key) in PRIVATE_SIZES
    x25519 = X25519PrivateKey.from_private_bytes(private_key[:X25519_SIZE])
    try:
        if len(private_key) == X25519_SIZE:
            return _suite(hpke.KEM.X25519).decrypt(sealed, x25519, info=info)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(private_key[X25519_SIZE:])
        both = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        return _suite(hpke.KEM.MLKEM768_X25519).decrypt(sealed, both, info=info)
    except Exception as error:
        raise VerificationError("sealed: not for this key and use, or damaged") from error


def _suite(kem: hpke.KEM) -> hpke.Suite:
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
