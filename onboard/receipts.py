"""Receipts that follow from events: what was accepted, what was refused, and when another release serves.

How an update ended is the installer's to say, once and durably (`installer.book`); this is what the daemon says beside
it. Refusals are throttled as their event is and not kept across a restart: whoever may send frames could make any
number of them. It knows the record; it decides nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from onboard.store.facts import OnboardRecord
from onboard.telemetry import RETURNED, REVERTED, UPDATE_ACCEPTED, UPDATE_REFUSED, Event
from protocol.message import MessageKind
from protocol.receipt import ReceiptState
from protocol.report import NO_HANDLE, Reason

_TEXT_MAX = 1000
_STATES: Mapping[str, ReceiptState] = {
    UPDATE_ACCEPTED.name: ReceiptState.ACCEPTED,
    UPDATE_REFUSED.name: ReceiptState.REFUSED,
    REVERTED.name: ReceiptState.SERVING,
    RETURNED.name: ReceiptState.SERVING,
}


class Saying(Protocol):
    """Queues messages."""

    def say(self, kind: MessageKind, *, re: bytes = ..., body: Mapping[str, Any], is_kept: bool = ...) -> object:
        """See `messages`."""
        ...


class ReceiptWriter:
    """Writes receipts of events.

    Args:
        record: the trust record as it is now.
        messages: to the ground; they stamp receipts.
    """

    def __init__(self, record: Callable[[], OnboardRecord], messages: Saying) -> None:
        self._record, self._messages = record, messages

    def hear(self, event: Event, about: bytes | None, arguments: Mapping[str, object]) -> None:
        """Write the receipt that an event calls for, if any."""
        state = _STATES.get(event.name)
        if state is None:
            return
        record = self._record()
        update = record.update(about) if about is not None else None
        release = record.current if state is ReceiptState.SERVING else update.release if update else None
        body: dict[str, Any] = {
            "state": state.value,
            "reason": _reason(arguments),
            "release": release,
            "sequence": update.sequence if update else 0,
            "canary": {},
            "text": str(arguments.get("error") or event.text)[:_TEXT_MAX],
        }
        is_kept = state is not ReceiptState.REFUSED
        self._messages.say(MessageKind.RECEIPT, re=about or NO_HANDLE, body=body, is_kept=is_kept)


def _reason(arguments: Mapping[str, object]) -> str:
    name = str(arguments.get("reason", Reason.NONE.name))
    return name.lower() if name in Reason.__members__ else Reason.NONE.name.lower()
