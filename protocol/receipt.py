"""Receipts: what a satellite signed about updates and what it serves, and what to think of a file that says it is one.

A receipt is a message (`message`) whose body says:

state      str          accepted: its metadata is trusted | refused: it is not | confirmed | rejected | cancelled
                        serving: another release serves, by command or by itself
reason     str          why, "none" or a word of `report.Reason`
release    bin32 | nil  that it makes, or that serves
sequence   int          of the update, 0 if none
canary     map          of a trial that passed, see `message`
text       str          the reason in words
serving    bin32 | nil  the release that answered when it was signed  } since receipts
boot       int          in which life of the satellite                } can be verified
uptime_s   int          how long that had lasted                      } by others
utc        int | nil    POSIX seconds, where it believes its clock    }

The handle of the update is the message's `re`, all zero for `serving`. It takes the object as it was signed and the
satellite's public key to verify one: no depot, no network, no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from protocol.envelope import KEY_ID_SIZE, key_id
from protocol.errors import DecodeError, SignatureError, VerificationError
from protocol.message import Message, MessageKind
from protocol.objects import PREFIX_SIZE
from protocol.packing import Fields
from protocol.report import Reason

_DIGEST_SIZE = 32
_TEXT_MAX = 4096
_CANARY_MAX = 16


class ReceiptState(StrEnum):
    """What a receipt is about."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    SERVING = "serving"


class ReceiptVerdict(StrEnum):
    """What to think of it."""

    GOOD = "good"
    NOT_A_RECEIPT = "not-a-receipt"  # another object, or none at all
    FORGED = "forged"  # signed by a key that is not this satellite's, nor another's that is known here
    ALTERED = "altered"  # it names this satellite's key, and the signature does not fit what it says
    OTHER_SATELLITE = "other-satellite"  # another satellite's


class ReceiptRefusedError(VerificationError):
    """Not a receipt of that satellite.

    Attributes:
        verdict: why not.
    """

    def __init__(self, verdict: ReceiptVerdict, text: str) -> None:
        super().__init__(f"{verdict}: {text}")
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt that was verified; the fields are those of the layout above. Only `open_receipt` makes one."""

    satellite: str
    counter: int
    update: bytes
    state: ReceiptState
    reason: str
    release: bytes | None
    sequence: int
    text: str
    canary: Mapping[str, Any] = field(default_factory=dict)
    serving: bytes | None = None
    boot: int | None = None
    uptime_s: int | None = None
    utc_s: int | None = None

    @classmethod
    def of_message(cls, message: Message) -> Self:
        """Read a verified message.

        Raises:
            DecodeError: its body is not a receipt's.
        """
        fields = Fields(message.body, unit="receipt")
        has_stamp = fields.has("boot")
        receipt = cls(
            satellite=message.satellite,
            counter=message.counter,
            update=message.re,
            state=fields.choice("state", ReceiptState),
            reason=_reason(fields),
            release=_optional_digest(fields, "release"),
            sequence=fields.integer("sequence"),
            canary=_canary(fields.mapping("canary")),
            text=fields.text("text", length_max=_TEXT_MAX),
            serving=_optional_digest(fields, "serving") if has_stamp else None,
            boot=fields.integer("boot") if has_stamp else None,
            uptime_s=fields.integer("uptime_s") if has_stamp else None,
            utc_s=fields.integer("utc") if has_stamp and not fields.is_none("utc") else None,
        )
        fields.finish()
        return receipt


def open_receipt(
    data: bytes, *, public_key: bytes, satellite: str | None = None, others: Mapping[bytes, str] | None = None
) -> SignedReceipt:
    """Verify and parse a receipt.

    Args:
        data: the whole object, as it was signed.
        public_key: raw Ed25519 key of the satellite, 32 bytes.
        satellite: its name; None takes the name that the key signed.
        others: names of other satellites by the id of their key, to tell theirs from forged ones.

    Raises:
        ReceiptRefusedError: it is none, or not of that satellite.
    """
    signer = data[PREFIX_SIZE : PREFIX_SIZE + KEY_ID_SIZE]
    try:
        message = Message.open(data, public_keys={key_id(public_key): public_key})
    except SignatureError as error:
        raise ReceiptRefusedError(*_blame(signer, public_key, others or {}, error)) from None
    except DecodeError as error:
        raise ReceiptRefusedError(ReceiptVerdict.NOT_A_RECEIPT, str(error)) from None
    if message.kind is not MessageKind.RECEIPT:
        raise ReceiptRefusedError(ReceiptVerdict.NOT_A_RECEIPT, f"it is signed, and it is an {message.kind}")
    if satellite is not None and message.satellite != satellite:
        raise ReceiptRefusedError(ReceiptVerdict.OTHER_SATELLITE, f"of {message.satellite}, not of {satellite}")
    try:
        return SignedReceipt.of_message(message)
    except DecodeError as error:
        raise ReceiptRefusedError(ReceiptVerdict.NOT_A_RECEIPT, str(error)) from None


def _blame(
    signer: bytes, public_key: bytes, others: Mapping[bytes, str], error: SignatureError
) -> tuple[ReceiptVerdict, str]:
    if signer == key_id(public_key):
        return ReceiptVerdict.ALTERED, str(error)
    if signer in others:
        return ReceiptVerdict.OTHER_SATELLITE, f"it names the key of {others[signer]}"
    return ReceiptVerdict.FORGED, str(error)


def _reason(fields: Fields) -> str:
    reason = fields.text("reason", length_max=32)
    if reason.upper() not in Reason.__members__:
        raise DecodeError(f"receipt: reason {reason!r} is not known")
    return reason


def _canary(value: dict[str, Any]) -> dict[str, int | float]:
    if len(value) > _CANARY_MAX or not all(type(number) in {int, float} for number in value.values()):
        raise DecodeError("receipt: a canary's result is a few numbers")
    return value


def _optional_digest(fields: Fields, name: str) -> bytes | None:
    return None if fields.is_none(name) else fields.data(name, size=_DIGEST_SIZE)
