"""What a satellite said last, for `skyload status`: its newest report, put right by what it has signed since.

Reports and messages cross the link apart: when a run ends with a receipt, the newest report may be older than that, or
none tells of it any more. By the times of the depot one cannot say, for a report is written down late; by what they say
one can. A trial that has a final receipt has ended, and a root is never followed by an older one.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groundsegment.planner.quantities import format_utc
from groundsegment.uplink.flight.outcome import FLIGHT_STATES, Receipt, serving_of
from groundsegment.uplink.wire.exchange import seconds_since
from protocol.message import MessageKind
from protocol.receipt import ReceiptState
from protocol.report import Reason

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import ReceivedMessage, ReceivedReport
    from protocol.report import UpdateStatus

_ROOT_ROTATED = "root_rotated"
_VERSION = re.compile(r" version=([0-9]{1,9})$")
_EVENTS_MAX = 1000  # an older one is older than the report
_SERVES = {ReceiptState.CONFIRMED, ReceiptState.SERVING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an update stands on board.

    Attributes:
        handle: of the update.
        state: CONFIRMED, TRIAL, ...
        reason: why; empty for none.
        is_signed: a receipt says so, and the report does not yet.
    """

    handle: bytes
    state: str
    reason: str = ""
    is_signed: bool = False

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        said_by = "receipt" if self.is_signed else "report"
        return {"update": self.handle.hex(), "state": self.state, "reason": self.reason, "said_by": said_by}


def last_word(depot: "Depot", received: "ReceivedReport") -> dict[str, Any]:
    """The newest that is known, as JSON values."""
    report = received.report
    standings = [_standing(depot, received.satellite, entry) for entry in report.updates]
    first = standings[0] if standings else Standing(handle=b"", state=report.state.name)
    serving = _serving(depot, received, standings)
    known = depot.find_release(bytes.fromhex(serving)) if serving else None
    return {
        "state": first.state,
        "reason": first.reason,
        "update": first.handle.hex(),
        "updates": [entry.as_json() for entry in standings],
        "serving": serving,
        "serving_name": known.name if known else "",
        "accepted": report.accepted,
        "root_version": max([report.root_version, *_rotated_to(depot, received.satellite)]),
        "received_utc": format_utc(received.received_utc.timestamp()),
        "age_s": round(seconds_since(received.received_utc), 1),
        "station": received.station,
        "epoch": report.epoch,
        "boot_count": report.boot_count,
        "free_mib": report.free_mib,
        "frames_received": report.frames_received,
        "frames_rejected": report.frames_rejected,
    }


def _standing(depot: "Depot", satellite: str, status: "UpdateStatus") -> Standing:
    """Where an update stands: as the report says, unless a receipt says that it has ended."""
    state = FLIGHT_STATES.get(status.state)
    if state is None or state.is_open:
        receipts = [Receipt.of_kept(message) for message in _receipts(depot, satellite, status.handle)]
        final = next((receipt for receipt in reversed(receipts) if receipt.flight_state is not None), None)
        if final is not None:
            reason = "" if final.reason.upper() == Reason.NONE.name else final.reason.upper()
            return Standing(handle=status.handle, state=final.state.upper(), reason=reason, is_signed=True)
    reason = status.reason.name if status.reason else ""
    return Standing(handle=status.handle, state=status.state.name, reason=reason)


def _serving(depot: "Depot", received: "ReceivedReport", standings: list[Standing]) -> str:
    """The digest of what serves: of the release whose receipt came last, if the report knows nothing of that yet."""
    if any(entry.is_signed and entry.state == ReceiptState.CONFIRMED.upper() for entry in standings):
        for message in reversed(_receipts(depot, received.satellite)):
            if str(message.body.get("state", "")).lower() in _SERVES and message.body.get("release"):
                return str(message.body["release"])
    return serving_of(depot, received.report)


def _receipts(depot: "Depot", satellite: str, update: bytes | None = None) -> list["ReceivedMessage"]:
    """Receipts in the order in which they were signed."""
    found = depot.journal.messages(satellite, kind=str(MessageKind.RECEIPT), re=update)
    return sorted(found, key=lambda message: message.counter)


def _rotated_to(depot: "Depot", satellite: str) -> list[int]:
    """The roots that it said it trusts now."""
    events = depot.journal.messages(satellite, kind=str(MessageKind.EVENT), newest=_EVENTS_MAX)
    texts = [str(entry.body.get("text", "")) for entry in events if entry.body.get("name") == _ROOT_ROTATED]
    return [int(match[1]) for match in map(_VERSION.search, texts) if match]
