"""Whose fault it is, in one tree.

ProtocolError                     never raised itself
├── DecodeError                   the bytes are not a valid unit: drop and count
│   ├── TruncatedError            unit, expected, got
│   ├── ChecksumError             damaged, or not from a holder of the key
│   └── UnsupportedVersionError   unit, version
├── VerificationError             well formed, not trusted: reject and report
│   ├── SignatureError            too few good signatures
│   │   └── RootSignatureError    of a new root: it needs the old root's threshold and its own
│   ├── HashMismatchError         unit, expected, got
│   ├── MixedError                good parts of different statements
│   ├── RollbackError             trusted version, offered version
│   │   └── ReplayError           the very statement, or one that it closed, was accepted before
│   ├── ExpiredError
│   ├── NotFreshError             it does not show that it was signed lately
│   └── WrongSatelliteError
└── MisuseError                   our caller broke the order: a bug
"""


class ProtocolError(Exception):
    """Anything that can go wrong with bytes of the protocol."""


class DecodeError(ProtocolError):
    """The bytes are not a valid unit."""


class TruncatedError(DecodeError):
    """Too few (or too many) bytes."""

    def __init__(self, unit: str, *, expected: int, got: int) -> None:
        super().__init__(f"{unit}: expected {expected} bytes, got {got}")
        self.unit, self.expected, self.got = unit, expected, got


class ChecksumError(DecodeError):
    """Damaged on the way, or made by somebody without the key."""


class UnknownObjectError(ChecksumError):
    """A short header that names no object known here; it may be damage as well."""


class UnsupportedVersionError(DecodeError):
    """A version or kind this code does not know."""

    def __init__(self, unit: str, *, version: int) -> None:
        super().__init__(f"{unit}: version or kind {version} is not known")
        self.unit, self.version = unit, version


class VerificationError(ProtocolError):
    """Well formed, but not to be trusted."""


class SignatureError(VerificationError):
    """Not enough good signatures."""


class RootSignatureError(SignatureError):
    """A new root without the threshold of the old one, or of its own."""


class HashMismatchError(VerificationError):
    """A digest differs from the signed one."""

    def __init__(self, unit: str, *, expected: bytes, got: bytes) -> None:
        super().__init__(f"{unit}: expected digest {expected.hex()[:16]}, got {got.hex()[:16]}")
        self.unit, self.expected, self.got = unit, expected, got


class MixedError(VerificationError):
    """Parts that are good each, and do not belong together."""


class RollbackError(VerificationError):
    """An older statement than one already accepted."""

    def __init__(self, unit: str, *, trusted: int, offered: int) -> None:
        super().__init__(f"{unit}: version {offered} offered, but {trusted} was already accepted")
        self.unit, self.trusted, self.offered = unit, trusted, offered


class ReplayError(RollbackError):
    """A statement that was accepted before, or that a later one shut out."""


class ExpiredError(VerificationError):
    """Signed for a time that has passed."""


class NotFreshError(VerificationError):
    """It echoes nothing that the satellite said lately, and this satellite wants that."""


class WrongSatelliteError(VerificationError):
    """Signed for somebody else."""


class MisuseError(ProtocolError):
    """The caller broke the order of calls. A bug of ours."""
