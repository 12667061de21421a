"""Receipts: what the satellite signed verifies with its public key alone, and everything else has a name."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.command import Command, Operation
from protocol.envelope import key_id
from protocol.message import Message, MessageKind
from protocol.objects import ObjectKind, object_prefix
from protocol.receipt import ReceiptRefusedError, ReceiptState, ReceiptVerdict, open_receipt

OURS = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
BODY = {
    "state": "confirmed",
    "reason": "none",
    "release": bytes(range(32)),
    "sequence": 7,
    "canary": {"agreeing": 8, "expected": 8, "permille": 1000, "swap_ms": 0.5},
    "text": "",
    "serving": bytes(range(32)),
    "boot": 3,
    "uptime_s": 120,
    "utc": 1_795_000_000,
}
MESSAGE = Message(satellite="SAT-1", counter=12, kind=MessageKind.RECEIPT, re=b"update", body=BODY)


def public(key):
    return key.public_key().public_bytes_raw()


def sealed(message=MESSAGE, key=OURS):
    return message.seal(public_key=public(key), sign=key.sign)


RECEIPT = sealed()
OTHERS = {key_id(public(OTHER)): "SAT-2"}


def verdict_on(data, **options):
    with pytest.raises(ReceiptRefusedError) as caught:
        open_receipt(data, public_key=public(OURS), **{"satellite": "SAT-1", "others": OTHERS, **options})
    return caught.value.verdict


def test_a_good_one_says_what_was_signed():
    receipt = open_receipt(RECEIPT, public_key=public(OURS), satellite="SAT-1")

    assert (receipt.state, receipt.update, receipt.sequence) == (ReceiptState.CONFIRMED, b"update", 7)
    assert (receipt.boot, receipt.uptime_s, receipt.utc_s) == (3, 120, 1_795_000_000)
    assert receipt.serving == receipt.release == bytes(range(32))
    assert receipt.canary["permille"] == 1000


def test_one_of_a_satellite_that_did_not_stamp_them_yet_is_good_too():
    old = {name: value for name, value in BODY.items() if name not in {"serving", "boot", "uptime_s", "utc"}}
    receipt = open_receipt(sealed(replace(MESSAGE, body=old)), public_key=public(OURS))

    assert (receipt.boot, receipt.serving) == (None, None)


def stolen_name():
    """Signed by a stranger who writes our key's id over his own."""
    data = sealed(key=STRANGER)
    return data[:8] + key_id(public(OURS)) + data[16:]


COMMAND = Command(satellite="SAT-1", counter=1, operation=Operation.CANCEL, args={"update": b"update"}).seal(
    public_key=public(OURS), sign=OURS.sign
)
ATTACKS = {
    "signed by a stranger": (sealed(key=STRANGER), ReceiptVerdict.FORGED),
    "signed by a stranger under our key's name": (stolen_name(), ReceiptVerdict.ALTERED),
    "of another satellite": (sealed(replace(MESSAGE, satellite="SAT-2"), OTHER), ReceiptVerdict.OTHER_SATELLITE),
    "signed by our key for another": (sealed(replace(MESSAGE, satellite="SAT-2")), ReceiptVerdict.OTHER_SATELLITE),
    "one byte altered": (RECEIPT[:-1] + bytes([RECEIPT[-1] ^ 1]), ReceiptVerdict.ALTERED),
    "rejected turned into confirmed": (
        sealed(replace(MESSAGE, body={**BODY, "state": "rejected "[:8]})).replace(b"rejected", b"accepted"),
        ReceiptVerdict.ALTERED,
    ),
    "cut short": (RECEIPT[:-1], ReceiptVerdict.NOT_A_RECEIPT),
    "something after it": (RECEIPT + b"\0", ReceiptVerdict.NOT_A_RECEIPT),
    "nothing": (b"", ReceiptVerdict.NOT_A_RECEIPT),
    "an event, not a receipt": (sealed(replace(MESSAGE, kind=MessageKind.EVENT)), ReceiptVerdict.NOT_A_RECEIPT),
    "a command": (COMMAND, ReceiptVerdict.NOT_A_RECEIPT),
    "a command dressed up as a message": (
        object_prefix(ObjectKind.MESSAGE, len(COMMAND)) + COMMAND[8:],
        ReceiptVerdict.ALTERED,
    ),
    "a state that is none": (sealed(replace(MESSAGE, body={**BODY, "state": "fine"})), ReceiptVerdict.NOT_A_RECEIPT),
    "a field too many": (sealed(replace(MESSAGE, body={**BODY, "more": 1})), ReceiptVerdict.NOT_A_RECEIPT),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_everything_else_is_refused_by_name(attack):
    data, verdict = ATTACKS[attack]

    assert verdict_on(data) is verdict


def test_without_knowing_the_other_satellites_theirs_are_forged():
    assert verdict_on(sealed(key=OTHER), others={}) is ReceiptVerdict.FORGED


@given(at=st.integers(0, len(RECEIPT) - 1), flip=st.integers(1, 255))
def test_no_single_byte_can_be_altered(at, flip):
    data = bytearray(RECEIPT)
    data[at] ^= flip

    assert verdict_on(bytes(data)) is not ReceiptVerdict.GOOD
