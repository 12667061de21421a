"""What a satellite has said, into the depot: its reports, its messages, and what they decide about updates. A shell.

Whoever hears it writes it down here: an uplink, a command's exchange, a station that comes home. So a receipt settles
its update even if nobody flies that any more.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION, FlightState, ReceivedMessage, ReceivedReport, Update
from groundsegment.downlink import MessageReceived, ReportReceived
from groundsegment.errors import UnknownError
from protocol.message import MessageKind
from protocol.report import Reason, Report, UpdateState

FLIGHT_STATES = {
    UpdateState.CONFIRMED: FlightState.CONFIRMED,
    UpdateState.REJECTED: FlightState.REJECTED,
    UpdateState.CANCELLED: FlightState.CANCELLED,
    UpdateState.VERIFIED: FlightState.COMPLETE,
    UpdateState.TRIAL: FlightState.COMPLETE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the satellite signed about an update.

    Attributes:
        update: handle of the update.
        state: CONFIRMED, REJECTED, ...
        reason: why.
        body: all of it, JSON types.
    """

    update: bytes
    state: str
    reason: str
    body: dict[str, Any]

    @classmethod
    def of_kept(cls, message: ReceivedMessage) -> Self:
        """The receipt that a message of the depot is."""
        return cls.of_body(message.re, dict(message.body))

    @classmethod
    def of_body(cls, update: bytes, body: dict[str, Any]) -> Self:
        """The receipt with that body, JSON types."""
        return cls(update=update, state=str(body.get("state", "")), reason=str(body.get("reason", "")), body=body)

    @property
    def flight_state(self) -> FlightState | None:
        """How the update ended by it; None if it did not end."""
        state = UpdateState.__members__.get(self.state.upper())
        flight = None if state is None else FLIGHT_STATES.get(state)
        return flight if flight is not None and not flight.is_open else None


def record_report(
    depot: Depot, satellite: str, received: ReportReceived, *, station: str, station_id: int = HOME_STATION
) -> None:
    """Keep the newest report."""
    depot.journal.record_report(
        ReceivedReport(
            satellite=satellite,
            session=received.session,
            sequence=received.sequence,
            station=station,
            station_id=station_id,
            received_utc=datetime.now(tz=UTC),  # noqa: TID251 - the depot's stamp, nothing is decided by it
            report=received.report,
        )
    )


def settle_by_report(depot: Depot, satellite: str, report: Report) -> None:
    """Record where updates stand by a report that no flight of theirs has heard; see `UpdateFlight.record`."""
    for update in depot.open_updates(satellite):
        status = report.status_of(update.handle)
        if status is None or status.state is UpdateState.NONE:
            continue
        state = FLIGHT_STATES.get(status.state, update.state)
        reason = status.reason.name if status.reason else ""
        if (update.state, update.reason) != (state, reason):
            depot.set_update_state(update.handle, state, reason=reason)


def record_message(depot: Depot, satellite: str, received: MessageReceived) -> bool:
    """Keep a verified message and what it settles; False if it was kept before."""
    message = received.message
    is_new = depot.journal.add_message(
        ReceivedMessage(
            satellite=satellite,
            counter=message.counter,
            kind=str(message.kind),
            re=message.re,
            body=json_body(message.body),
            received_utc=datetime.now(tz=UTC),  # noqa: TID251 - the depot's stamp, nothing is decided by it
            data=received.data,
        )
    )
    receipt = receipt_of(received)
    if receipt is not None:
        settle(depot, receipt)
    return is_new


def receipt_of(received: MessageReceived) -> Receipt | None:
    """The receipt that a message is."""
    message = received.message
    if message.kind is not MessageKind.RECEIPT:
        return None
    return Receipt.of_body(message.re, json_body(message.body))


def settle(depot: Depot, receipt: Receipt) -> Update | None:
    """Record how an update ended by its receipt; returns it, None if it has not ended or is not of this depot."""
    final = receipt.flight_state
    if final is None:
        return None
    try:
        update = depot.update(receipt.update)
    except UnknownError:
        return None
    reason = "" if final is FlightState.CONFIRMED else receipt.reason
    if reason.upper() in {"", Reason.NONE.name} and final is not FlightState.CONFIRMED:
        reason = update.reason  # as a report said it
    if (update.state, update.reason) == (final, reason):
        return update
    return depot.set_update_state(update.handle, final, reason=reason)


def serving_of(depot: Depot, report: Report) -> str:
    """The digest of the serving release as hex: all of it if the depot knows it, else its first bytes."""
    if not any(report.serving):
        return ""
    release = depot.find_release(report.serving)
    return (release.digest if release else report.serving).hex()


def json_body(value: Any) -> Any:  # noqa: ANN401 - any msgpack value
    """A message's body with bytes as hex, so that it is JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): json_body(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_body(item) for item in value]
    return value
