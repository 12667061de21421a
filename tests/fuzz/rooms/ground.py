"""What the ground reads besides: letters of stations, notes, indexes, key files, roots on a stick."""

import json
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from groundsegment.errors import GroundError
from groundsegment.packer.bundles import Index
from groundsegment.receipts import read_public_key
from groundsegment.signer import key_file
from groundsegment.signer.ceremony import read_ceremony
from groundsegment.signer.key_entry import read_entry, read_public
from groundsegment.signer.key_file import read_key
from groundsegment.stations import letters, logbook, orders
from groundsegment.stations.letters import LetterKind, open_letter
from groundsegment.uplink.sender.loss import LossEstimate
from tests.fakes.updates import FakeGround
from tests.fuzz import good
from tests.fuzz.in_file import home, in_file
from tests.fuzz.target import Form, Target
from tests.unit.groundsegment.test_station_letters import KEY
from tests.vectors import make

_GROUND = (GroundError,)


def _letter(kind: LetterKind, read: Callable[[bytes, bytes], object]) -> Callable[[bytes], None]:
    """What stands in a letter, under a MAC that is right."""

    def parse(data: bytes) -> None:
        mac = letters._mac(kind, make.STATION_KEY, data)
        read(f"{letters._MAGIC} {kind} {mac}\n".encode() + data, make.STATION_KEY)

    return parse


class _Words:
    """Whoever is asked for a passphrase knows it."""

    def for_key(self, _path: Path) -> bytes:
        """It."""
        return b"words"

    def forget(self) -> None:
        """It was not it."""


def _sealed_key() -> bytes:
    """Sealed under a passphrase at a cost that a million cases can pay."""
    cost, key_file._COST = key_file._COST, 2
    try:
        der = make.SIGNER.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key_file._pem(b"ENCRYPTED PRIVATE KEY", key_file._seal(der, b"words"))
    finally:
        key_file._COST = cost


def _plain_key() -> bytes:
    return make.SIGNER.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_key() -> bytes:
    return make.SIGNER.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _der(data: bytes) -> bytes:
    """What is in a sealed key's armour, in armour that is right."""
    return key_file._pem(b"ENCRYPTED PRIVATE KEY", data)


def _sealed_der() -> bytes:
    import base64

    return base64.b64decode(b"".join(_sealed_key().splitlines()[1:-1]))


_read_key = in_file("key.pem", lambda path: read_key(path, _Words()))  # type: ignore[arg-type]
_ENTRY = json.dumps(
    {
        "keyid": "11" * 32,
        "keytype": "ed25519",
        "scheme": "ed25519",
        "keyval": {"public": "22" * 32},
        "uri": "hsm:2?label=x",
    }
).encode()


class _Stick:
    """A stick with two roots: the newer one is the input."""

    def __init__(self) -> None:
        self._read = in_file("stick/root-2.json", self._look)

    def __call__(self, data: bytes) -> None:
        """Read it."""
        before = home() / "stick" / "root-1.json"
        if not before.exists():
            before.parent.mkdir(exist_ok=True)
            before.write_bytes(good.ROOTS[0])
        self._read(data)

    @staticmethod
    def _look(path: Path) -> None:
        read_ceremony(path)


def _index(path: Path) -> None:
    Index.open(path, "11" * 32)


def _loss(data: bytes) -> None:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        raise GroundError("not a case: a depot holds JSON") from None
    if isinstance(state, dict):
        LossEstimate.from_dict(state)


TARGETS: dict[str, Target] = {
    "letter": Target(
        parse=lambda data: open_letter(LetterKind.ORDERS, KEY, data), refusals=_GROUND, seeds=[good.ORDERS.seal(KEY)]
    ),
    "orders": Target(
        parse=_letter(LetterKind.ORDERS, orders.Orders.open),
        refusals=_GROUND,
        seeds=good.ORDERS_LETTERS,
        form=Form.JSON,
    ),
    "logbook": Target(
        parse=_letter(LetterKind.LOGBOOK, logbook.Logbook.open),
        refusals=_GROUND,
        seeds=good.LOGBOOKS,
        form=Form.JSON,
    ),
    "key-plain": Target(parse=_read_key, refusals=_GROUND, seeds=[_plain_key()]),
    "key-sealed": Target(
        parse=lambda data: _read_key(_der(data)), refusals=_GROUND, seeds=[_sealed_der()], size_max=1024
    ),
    "key-public": Target(
        parse=in_file("key.public.pem", lambda path: read_public(path, None)), refusals=_GROUND, seeds=[_public_key()]
    ),
    "key-entry": Target(parse=in_file("key.public", read_entry), refusals=_GROUND, seeds=[_ENTRY], form=Form.JSON),
    "key-hex": Target(
        parse=in_file("key.hex", read_public_key), refusals=_GROUND, seeds=[b"11" * 32 + b"\n"], size_max=200
    ),
    "stick": Target(
        parse=_Stick(), refusals=_GROUND, seeds=[FakeGround(root_version=2).root], form=Form.JSON, size_max=1 << 14
    ),
    "bundle-index": Target(
        parse=in_file("bundles/index", _index),
        refusals=_GROUND,
        seeds=[b"11" * 32 + b'\n[100, "' + b"22" * 32 + b'", 3]\n'],
        form=Form.TEXT,
    ),
    "loss": Target(
        parse=_loss,
        refusals=_GROUND,
        seeds=[b'{"lost": 1.5, "arrived": 19.0, "scatter": 0.0, "samples": 3}'],
        form=Form.JSON,
    ),
}
