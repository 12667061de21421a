"""All updates that one station flies to one satellite: who joins, who leaves, what is written down. A shell.

One core sends them all. Progress is in the depot before the frames it covers leave, so no ESI of the station's lane is
ever used twice, however often we are killed. Every so often it looks into the depot: an update that was staged, changed
or cancelled meanwhile is heeded in mid-flight. It knows neither sockets nor the display.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, FlightState, Update
from groundsegment.downlink import ReportReceived
from groundsegment.errors import DiskError
from groundsegment.uplink.flight.outcome import Receipt
from groundsegment.uplink.flight.update_flight import UpdateFlight, is_held
from groundsegment.uplink.sender.cargo import OutgoingObject, Progress
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.events import Event
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.lineup import Lineup, Waiting, line_up
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.symbols import ObjectFile, SymbolSource
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.report import SOLVED

RECEIPT_PATIENCE_S = 5.0  # the state is known from a report; the signed receipt follows


class Flights:
    """The updates of one run.

    Attributes:
        core: sends them.
        source: the bytes of their symbols.
        flying: those in the core, by handle, most urgent first.
        settling: those that are over, until the satellite's receipt is here or nobody waits for it any more.
        lineup: as of the last look.
        expired: updates whose metadata has expired before the satellite had it.
        damage: updates whose files are damaged, and what is wrong.
    """

    def __init__(self, depot: Depot, satellite: str, station: int, options: UplinkOptions, executor: Executor) -> None:
        self._depot, self._satellite, self._station = depot, satellite, station
        self.core = Uplink(options)
        self._files: dict[bytes, ObjectFile] = {}
        self.source = SymbolSource(self._files, options.kind, executor)
        self.flying: dict[bytes, UpdateFlight] = {}
        self.settling: dict[bytes, UpdateFlight] = {}
        self._shares: dict[bytes, tuple[int, float]] = {}
        self.lineup = Lineup(flying=(), waiting=())
        self.expired: list[Update] = []
        self.damage: dict[bytes, DiskError] = {}
        self._known: tuple[Update, ...] = ()
        self._saved: dict[tuple[bytes, int], Progress] = {}
        self._settled: list[UpdateFlight] = []
        self._saved_losses = {Direction.UP: options.loss, Direction.DOWN: options.loss_down}
        self._is_unsaved = False

    def __enter__(self) -> Self:
        self.source.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.__exit__(kind, error, trace)

    # Who flies

    def look(self, utc: datetime, now: float) -> list[UpdateFlight]:
        """Heed what the depot says now; returns those that fly no more although they are not over."""
        self._known = self._depot.updates(self._satellite)
        there = {update.handle: update for update in self._known}
        for handle, flight in (self.flying | self.settling).items():
            flight.look(there[handle])
        for flight in self.settling.values():
            if flight.receipt is None:
                self._find_receipt(flight)
        self.settle(now)
        is_open = [update for update in self._known if update.state.is_open and update.handle not in self.damage]
        self.lineup = line_up(
            is_open,
            station=self._station,
            utc=utc,
            on_board=self._accepted(is_open, utc),
            stuck=[handle for handle, flight in self.flying.items() if flight.is_stuck],
        )
        self._mark_expired()
        wanted = {update.handle: update for update in self.lineup.flying if not is_held(update)}
        left = [flight for handle, flight in self.flying.items() if handle not in wanted]
        for flight in left:
            self.leave(flight, now)
        for flight in list(self.flying.values()):
            if (flight.update.priority, flight.update.weight) != self._shares[flight.update.handle]:
                self.leave(flight, now)  # and joins again, with its new share
        for handle, update in wanted.items():
            if handle not in self.flying:
                self._join(update, now)
        return left

    def _accepted(self, updates: Sequence[Update], utc: datetime) -> set[bytes]:
        """Of those whose metadata is too old: which a satellite has accepted in time."""
        late = {update.handle for update in updates if update.expires_utc is not None and update.expires_utc <= utc}
        if not late:
            return set()
        there = self._depot.journal.on_board(self._satellite)
        return {handle for handle in late if there.get((handle, 0)) == SOLVED}

    def _mark_expired(self) -> None:
        for update, why in self.lineup.waiting:
            if why is Waiting.EXPIRED:
                self.expired.append(self._depot.set_update_state(update.handle, FlightState.EXPIRED, reason=str(why)))

    def _join(self, update: Update, now: float) -> None:
        lane = Lane(index=self._station, count=update.lanes)
        try:
            flight = UpdateFlight(self._depot, update, self.core, lane)
        except DiskError as error:
            self.damage[update.handle] = error
            return
        flight.join(self._depot.journal.progress(self._satellite, station=self._station), now)
        self._files.update(flight.files)
        self.flying[update.handle] = flight
        self._order()

    def _order(self) -> None:
        ordered = sorted(self.flying.values(), key=lambda flight: (-flight.update.priority, flight.update.sequence))
        self.flying = {flight.update.handle: flight for flight in ordered}
        self._shares = {handle: (entry.update.priority, entry.update.weight) for handle, entry in self.flying.items()}

    def leave(self, flight: UpdateFlight, now: float) -> None:
        """Send no more of an update."""
        handle = flight.update.handle
        self._write(self.core.progress(handle, exact=True))
        flight.leave(now)
        del self.flying[handle]

    def settle(self, now: float) -> None:
        """Send no more of those that are over; `take_settled` has those of which nothing is to be heard any more."""
        for flight in [flight for flight in self.flying.values() if flight.is_over]:
            self.leave(flight, now)
            flight.decided_s = now
            self.settling[flight.update.handle] = flight
        settled = [flight for flight in self.settling.values() if self._is_settled(flight, now)]
        for flight in settled:
            del self.settling[flight.update.handle]
            self._settled.append(flight)

    def take_settled(self) -> list[UpdateFlight]:
        """Those that were settled since the last time."""
        settled, self._settled = self._settled, []
        return settled

    def _is_settled(self, flight: UpdateFlight, now: float) -> bool:
        assert flight.decided_s is not None
        if flight.is_cancelled_here or flight.is_superseded or flight.is_held:
            return True  # no receipt need come, or none will for now
        if now - flight.decided_s > RECEIPT_PATIENCE_S:
            return True
        return flight.receipt is not None

    def _find_receipt(self, flight: UpdateFlight) -> None:
        """Another process may have heard it."""
        found = self._depot.journal.messages(self._satellite, kind=MessageKind.RECEIPT, re=flight.update.handle)
        receipts = [Receipt.of_kept(message) for message in found]
        if receipts and receipts[-1].flight_state is not None:
            flight.receipt = receipts[-1]

    def damaged(self, flight: UpdateFlight, error: DiskError, now: float) -> None:
        """A file of an update turned out to be damaged: it flies no more, the others do."""
        self.damage[flight.update.handle] = error
        self.leave(flight, now)

    @property
    def has_work(self) -> bool:
        """Whether anything is left that may come to an end by flying."""
        return bool(self.flying or self.settling)

    def flight_of(self, handle: bytes) -> UpdateFlight | None:
        """Whose object that is, if it flies."""
        return next((flight for flight in self.flying.values() if handle in flight.files), None)

    def item(self, handle: bytes) -> OutgoingObject:
        """An object of any of them."""
        return self._files[handle].item

    @property
    def shown(self) -> tuple[UpdateFlight, ...]:
        """Those to be shown, most urgent first."""
        return (*self.settling.values(), *self.flying.values())

    @property
    def symbol_size_max(self) -> int:
        """The largest symbol that may be sent now."""
        return max((flight.update.symbol_size for flight in self.flying.values()), default=0)

    # What is written down

    def save(self, *, exact: bool = False) -> None:
        """Write down what changed of the progress.

        Args:
            exact: all frames counted as sent were sent, and this process sends no more.
        """
        self._is_unsaved |= self.core.has_unsaved_progress
        self._write(self.core.progress(exact=exact))
        self._is_unsaved = False

    def _write(self, progress: Sequence[Progress]) -> None:
        changed = [entry for entry in progress if self._saved.get((entry.handle, entry.block)) != entry]
        rows = [
            BlockProgress(handle=entry.handle, block=entry.block, next_esi=entry.next_esi, have=entry.have)
            for entry in changed
        ]
        self._depot.journal.save_progress(self._satellite, rows, station=self._station)
        self._saved.update({(entry.handle, entry.block): entry for entry in changed})

    @property
    def has_unsaved_progress(self) -> bool:
        """Whether `save` must succeed before anything more is sent."""
        return self._is_unsaved or self.core.has_unsaved_progress

    def save_losses(self) -> None:
        """Write down what is believed of the link, if that has changed."""
        utc = datetime.now(tz=UTC)  # noqa: TID251 - the depot's stamp, nothing is decided by it
        for direction, loss in ((Direction.UP, self.core.loss), (Direction.DOWN, self.core.loss_down)):
            if self._saved_losses[direction] != loss:
                self._depot.journal.save_loss(self._satellite, self._station, direction, loss.to_dict(), utc=utc)
                self._saved_losses[direction] = loss

    def mark_flying(self, runs: Sequence[SymbolRun]) -> None:
        """These symbols are sent."""
        for flight in self.flying.values():
            flight.mark_flying(runs)

    def heard(self, received: ReportReceived) -> None:
        """A report came: see whether updates were ended by newer ones."""
        for flight in self.flying.values():
            sequence = flight.update.sequence
            flight.heard(received.report, [update for update in self._known if update.sequence > sequence])

    def record(self, event: Event) -> None:
        """Keep what an event says."""
        flight = self.flying.get(getattr(event, "update", b""))
        if flight is not None:
            flight.record(event)

    def take_receipt(self, receipt: Receipt) -> None:
        """A receipt is safe in the depot."""
        if receipt.flight_state is None:
            return  # it was accepted, say; what it comes to is still to be told
        flight = self.flying.get(receipt.update) or self.settling.get(receipt.update)
        if flight is not None:
            flight.take_receipt(receipt)
