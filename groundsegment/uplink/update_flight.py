"""One update on its way up: the core, the bytes it sends, and what the depot remembers of both.

Between the pure core and the depot. It makes a killed uplink go on: block progress is written before the frames it
covers are sent, so no ESI is ever used twice. It knows neither sockets nor the display.
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, FlightState, ReceivedMessage, ReceivedReport, Update
from groundsegment.downlink import MessageReceived, ReportReceived
from groundsegment.errors import DiskError
from groundsegment.uplink.cargo import OutgoingObject, Progress
from groundsegment.uplink.core import Uplink, UplinkOptions
from groundsegment.uplink.events import AllBundlesComplete, Event, StateChanged
from groundsegment.uplink.schedule import SymbolRun
from groundsegment.uplink.symbols import ObjectFile, SymbolSource
from protocol.blocks import symbols_needed
from protocol.limits import SYMBOL_SIZE_DEFAULT
from protocol.message import MessageKind
from protocol.report import Reason, Report, UpdateState

_FLIGHT_STATES = {
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
        state: CONFIRMED, REJECTED, ...
        reason: why.
        body: all of it, JSON types.
    """

    state: str
    reason: str
    body: dict[str, Any]


class UpdateFlight:
    """One update. Use it in a `with`: it holds files open and saves at the end."""

    def __init__(self, depot: Depot, update: Update, options: UplinkOptions, executor: Executor) -> None:
        self.update, self._depot = update, depot
        files = {file.item.handle: file for file in _object_files(depot, update)}
        items = [file.item for file in files.values()]
        kept = depot.journal.progress(update.satellite)
        progress = [
            Progress(handle=entry.handle, block=entry.block, next_esi=entry.next_esi, have=entry.have)
            for entry in kept
            if entry.handle in files
        ]
        self.core = Uplink(options)
        self.core.add_update(items, progress, priority=update.priority, weight=update.weight)
        self.source = SymbolSource(files, options.kind, executor)
        self._items = {item.handle: item for item in items}
        self.receipt: Receipt | None = None
        self.is_superseded = False
        self._saved: dict[tuple[bytes, int], Progress] = {}
        self._is_unsaved = False
        self._share_before = self.core.share_there(update.handle)

    def __enter__(self) -> Self:
        self.source.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save(exact=True)
        self.source.__exit__(kind, error, trace)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of sending."""
        return self.core.is_decided or self.is_superseded or self._receipt_is_final

    @property
    def share_brought(self) -> float:
        """How much of it has come on board since we began, as reports say."""
        return max(0.0, self.core.share_there(self.update.handle) - self._share_before)

    def item(self, handle: bytes) -> OutgoingObject:
        """An object of this update."""
        return self._items[handle]

    def save(self, *, exact: bool = False) -> None:
        """Write down what changed of the progress.

        Args:
            exact: all frames counted as sent were sent, and no more will be.
        """
        self._is_unsaved |= self.core.has_unsaved_progress
        changed = [
            entry for entry in self.core.progress(exact=exact) if self._saved.get((entry.handle, entry.block)) != entry
        ]
        self._depot.journal.save_progress(
            self.update.satellite,
            [
                BlockProgress(handle=entry.handle, block=entry.block, next_esi=entry.next_esi, have=entry.have)
                for entry in changed
            ],
        )
        self._saved.update({(entry.handle, entry.block): entry for entry in changed})
        self._is_unsaved = False

    @property
    def has_unsaved_progress(self) -> bool:
        """Whether `save` must succeed before anything more is sent."""
        return self._is_unsaved or self.core.has_unsaved_progress

    def mark_flying(self, runs: Iterable[SymbolRun]) -> None:
        """These symbols of it are sent. If bundles are, they are not all on board, whatever was said before."""
        sends_bundles = any(self._items[run.handle].bundle is not None for run in runs)
        if self.update.state is FlightState.STAGED or (self.update.state is FlightState.COMPLETE and sends_bundles):
            self._set_state(FlightState.FLYING)

    def receive_report(self, received: ReportReceived, *, now: float) -> None:
        """Hand a fresh report to the core."""
        self.core.receive_report(received.report, session=received.session, now=now)
        report = received.report
        if report.accepted > self.update.sequence and report.update != self.update.handle and not self.is_superseded:
            self._set_state(
                FlightState.CANCELLED, f"superseded: the satellite has accepted update {report.accepted} already"
            )
            self.is_superseded = True

    def receive_message(self, received: MessageReceived) -> bool:
        """Take in a message; returns whether it is about this update."""
        message = received.message
        if message.kind is not MessageKind.RECEIPT or message.re != self.update.handle:
            return False
        body = json_body(message.body)
        state, reason = str(body.get("state", "")), str(body.get("reason", ""))
        self.receipt = Receipt(state=state, reason=reason, body=body)
        final = flight_state(state)
        if final is not None:
            if reason in {"", Reason.NONE.name}:
                reason = self.update.reason  # as a report said it
            self._set_state(final, "" if final is FlightState.CONFIRMED else reason)
        return True

    def record(self, event: Event) -> None:
        """Keep what an event says of the update."""
        if isinstance(event, AllBundlesComplete) and self.update.state is FlightState.FLYING:
            self._set_state(FlightState.COMPLETE)
        elif isinstance(event, StateChanged):
            state = _FLIGHT_STATES.get(event.state)
            reason = event.reason.name if event.reason else ""
            if state is not None:
                self._set_state(state, reason)
            elif event.state in {UpdateState.BLOCKED, UpdateState.RECEIVING}:
                self._set_state(self.update.state, reason)

    @property
    def _receipt_is_final(self) -> bool:
        return self.receipt is not None and flight_state(self.receipt.state) is not None

    def _set_state(self, state: FlightState, reason: str = "") -> None:
        if (self.update.state, self.update.reason) != (state, reason):
            self.update = self._depot.set_update_state(self.update.handle, state, reason=reason)


def record_report(depot: Depot, satellite: str, received: ReportReceived, *, station: str) -> None:
    """Keep the newest report."""
    depot.journal.record_report(
        ReceivedReport(
            satellite=satellite,
            session=received.session,
            sequence=received.sequence,
            station=station,
            received_utc=datetime.now(tz=UTC),  # noqa: TID251 - the depot's stamp, nothing is decided by it
            report=received.report,
        )
    )


def record_message(depot: Depot, satellite: str, received: MessageReceived) -> bool:
    """Keep a verified message; False if it was kept before."""
    message = received.message
    return depot.journal.add_message(
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


def serving_of(depot: Depot, report: Report) -> str:
    """The digest of the serving release as hex: all of it if the depot knows it, else its first 6 bytes."""
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


def flight_state(name: str) -> FlightState | None:
    """How an update ended, by the state that a receipt names; None if that is no end."""
    state = UpdateState.__members__.get(name.upper())
    flight = None if state is None else _FLIGHT_STATES.get(state)
    return flight if flight is not None and not flight.is_open else None


def _object_files(depot: Depot, update: Update) -> list[ObjectFile]:
    hint = "restore the depot from a backup, or stage the update again"
    result = []
    entries: list[tuple[bytes, Path, int | None, int | None]] = [(update.handle, update.metadata_path, None, None)]
    entries += [(entry.handle, entry.path, entry.size_bytes, entry.number) for entry in depot.bundles(update.handle)]
    for handle, path, expected, number in entries:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DiskError(f"{path}: {error.strerror or error}", hint=hint) from error
        if size == 0 or (expected is not None and size != expected):
            raise DiskError(f"{path}: {size} bytes, the depot says {expected}", hint=hint)
        num_symbols = symbols_needed(size, SYMBOL_SIZE_DEFAULT)
        item = OutgoingObject(handle=handle, num_symbols=num_symbols, symbol_size=SYMBOL_SIZE_DEFAULT, bundle=number)
        result.append(ObjectFile(item=item, path=path))
    return result
