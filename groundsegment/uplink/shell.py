"""The uplink as a process: clock, socket, depot around the pure core. It flies the updates of one satellite.

It waits for the contacts of the plan, sends inside them only, at their rate, and listens. Everything it learns is in
the depot within a second, what must not be forgotten before it is acted upon; so it may be killed at any moment and
started again. One uplink per satellite at a time.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ContactLog, FlightState, Update
from groundsegment.downlink import Downlink, MessageReceived, ReportReceived
from groundsegment.errors import UnknownError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.uplink.core import UplinkOptions, UplinkStatistics
from groundsegment.uplink.events import AllBundlesComplete, Event
from groundsegment.uplink.link_socket import Endpoint, LinkSocket
from groundsegment.uplink.loss import LossEstimate
from groundsegment.uplink.pace import RateSearch, TokenBucket
from groundsegment.uplink.schedule import SymbolRun
from groundsegment.uplink.symbols import encoder_process
from groundsegment.uplink.update_flight import Receipt, UpdateFlight, record_message, record_report
from protocol.fec import best_kind
from protocol.frame import Frame
from protocol.report import Report

FRAMES_PER_TURN = 256  # then the event loop has its turn, and reports are read
SAVE_PERIOD_S = 1.0
TICK_S = 0.25
HELLO_PERIOD_S = 1.0  # keeps reports coming to us while there is nothing to send
HELLO_PERIOD_S_UNHEARD = 0.25
IDLE_S = 0.01
RECEIPT_PATIENCE_S = 5.0  # the state is known from a report; the signed receipt follows
RESOLVE_SILENCE_S = 10.0
SILENT_RATE = 2e6  # bytes per second where the rate is up to reports, and none comes
SILENCE_S_OPEN = 8.0
PACE_SHARE = 0.99  # of the contact's rate: a modem's queue must not grow over minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightPlan:
    """What to fly, when, and how.

    Attributes:
        satellite: which one.
        endpoint: where the link is.
        contacts: when there is one.
        rate_bps: bits per second, over what contacts say; None: as they say; 0: as fast as reports allow.
        once: one contact only.
        until_s: Unix seconds; infinity for no limit.
        silence_s: see `UplinkOptions`.
    """

    satellite: str
    endpoint: Endpoint
    contacts: ContactPlan
    rate_bps: float | None = None
    once: bool = False
    until_s: float = float("inf")
    silence_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightView:
    """A snapshot for a display.

    Attributes:
        now_s: Unix seconds.
        update: being flown; None before the first.
        statistics: of the core.
        contact: the current one, or the next one.
        contact_number: counted from 1.
        is_up: whether the contact is on.
        rate_bps: sent lately, bits per second.
        bytes_sent, frames_sent: since the start.
        report: the newest one heard.
        events: since the last snapshot.
    """

    now_s: float
    update: Update | None
    statistics: UplinkStatistics | None
    contact: PlannedContact | None
    contact_number: int
    is_up: bool
    rate_bps: float
    bytes_sent: int
    frames_sent: int
    report: Report | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSummary:
    """How one update ended, or where it stands."""

    handle: bytes
    release_name: str
    release_digest: bytes
    state: FlightState
    reason: str
    payload_bytes: int
    receipt: Receipt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightSummary:
    """What a run of the uplink did.

    Attributes:
        updates: those that were flown, in order.
        frames_sent, bytes_sent: up, of all kinds, frames whole.
        frames_lost: estimated from reports.
        contacts: used.
        duration_s: of the whole run.
        transfer_s: of contact time, until all bundles of the last update were on board.
        loss: share of frames lost, as reports told; None if none did.
        report: the newest one heard.
        is_interrupted: somebody asked us to stop.
        is_exhausted: no contact is left.
    """

    updates: tuple[UpdateSummary, ...]
    frames_sent: int
    bytes_sent: int
    frames_lost: int
    contacts: int
    duration_s: float
    transfer_s: float
    loss: float | None
    report: Report | None
    is_interrupted: bool
    is_exhausted: bool


class UplinkShell:
    """One run."""

    def __init__(self, depot: Depot, plan: FlightPlan, *, on_tick: Callable[[FlightView], None]) -> None:
        self._depot, self._plan, self._on_tick = depot, plan, on_tick
        satellite = depot.satellite(plan.satellite)
        self._downlink = Downlink(
            link_key=depot.link_key(plan.satellite),
            satellite=satellite.name,
            identity_public=satellite.identity_public,
            session=secrets.token_bytes(8),
            known_sessions=depot.journal.report_sessions(plan.satellite),
        )
        self._loss = _known_loss(depot, plan)
        self._flight: UpdateFlight | None = None
        self._flown: list[UpdateSummary] = []
        self._events: list[Event] = []
        self._report: Report | None = None
        self._unrecorded: ReportReceived | None = None
        self._contact: PlannedContact | None = None
        self._log: ContactLog | None = None
        self._num_contacts = 0
        self._is_up = self._was_heard = False
        self._frames_sent = self._bytes_sent = 0
        self._search = RateSearch()
        self._saved_s = self._ticked_s = self._hello_due_s = self._heard_s = 0.0
        self._rate_mark = (0.0, 0, 0.0)
        self._lost = self._settled = 0
        self._transfer_s = self._contact_s = 0.0

    async def run(self, stop: asyncio.Event) -> FlightSummary:
        """Fly until all updates are decided, the plan ends, or somebody says stop.

        Raises:
            UnknownError: nothing is staged.
            BusyError: another uplink flies this satellite.
        """
        loop = asyncio.get_running_loop()
        self._loop, self._stop = loop, stop
        self._unix_offset_s = time.time() - loop.time()
        began_s = loop.time()
        with self._depot.lock(f"uplink-{self._plan.satellite}"), encoder_process() as executor:
            self._executor: Executor = executor
            if not self._open_updates() and not self._depot.updates(self._plan.satellite):
                raise UnknownError(
                    f"nothing to fly for {self._plan.satellite}",
                    hint=f"stage an update first: skyload stage MODEL_DIR --for {self._plan.satellite}",
                )
            try:
                async with LinkSocket(self._plan.endpoint, self._downlink.receive) as self._socket:
                    is_exhausted = await self._fly_contacts()
            finally:
                self._close_flight()
                executor.shutdown(wait=False, cancel_futures=True)
        return FlightSummary(
            updates=tuple(self._flown),
            frames_sent=self._frames_sent,
            bytes_sent=self._bytes_sent,
            frames_lost=round(self._frames_sent * self._lost / self._settled) if self._settled else 0,
            contacts=self._num_contacts,
            duration_s=loop.time() - began_s,
            transfer_s=self._transfer_s,
            loss=self._lost / self._settled if self._settled else None,
            report=self._report,
            is_interrupted=stop.is_set(),
            is_exhausted=is_exhausted,
        )

    # Contacts

    async def _fly_contacts(self) -> bool:
        """Returns whether the plan ran out before all was decided."""
        for contact in self._plan.contacts.from_time(self._unix_s()):
            self._contact = contact
            if not await self._wait_for(contact):
                return not self._stop.is_set()
            await self._fly_contact(contact)
            if self._stop.is_set() or not (self._flight or self._open_updates()):
                return False
            if self._plan.once:
                return True
        return True

    async def _wait_for(self, contact: PlannedContact) -> bool:
        """Wait for a contact's start; False if told to stop, or if it starts too late."""
        while (left_s := contact.start_s - self._unix_s()) > 0:
            if self._unix_s() >= self._plan.until_s or self._stop.is_set():
                return False
            self._tick()
            await _sleep_or(self._stop, min(left_s, TICK_S))
        return not self._stop.is_set() and self._unix_s() < self._plan.until_s

    async def _fly_contact(self, contact: PlannedContact) -> None:
        now = self._loop.time()
        self._begin_contact(contact, now)
        bucket = TokenBucket(self._bytes_per_s(contact), now)
        try:
            while not self._stop.is_set() and self._unix_s() < min(contact.end_s - contact.guard_s, self._plan.until_s):
                if not await self._turn(bucket, contact):
                    break
        finally:
            self._end_contact()

    def _begin_contact(self, contact: PlannedContact, now: float) -> None:
        self._num_contacts += 1
        self._is_up, self._was_heard = True, False
        self._hello_due_s = self._heard_s = self._begun_s = now
        self._mark = (self._frames_sent, self._bytes_sent)
        start = datetime.fromtimestamp(max(contact.start_s, self._unix_s()), tz=UTC)
        self._log = self._depot.journal.begin_contact(self._plan.satellite, contact.station, start)
        if self._flight is not None:
            self._flight.core.begin_contact(now)

    def _end_contact(self) -> None:
        self._is_up = False
        self._contact_s += self._loop.time() - self._begun_s
        if self._flight is not None:
            self._flight.core.end_contact()
            self._flight.save(exact=True)
        self._save_contact(is_over=True)
        self._tick(force=True)

    # One turn of the loop

    async def _turn(self, bucket: TokenBucket, contact: PlannedContact) -> bool:
        """Send, listen, save; False when nothing is left to do."""
        now = self._loop.time()
        self._hear(now, contact.station)
        if self._flight is None and not self._next_flight(now):
            return False
        await self._send_voice(now)
        sent = await self._send_symbols(bucket, contact, now)
        self._save(now)
        self._tick()
        flight = self._flight
        if flight is not None and flight.is_over and self._is_receipt_settled(flight, now):
            self._close_flight()
        if sent < FRAMES_PER_TURN:
            # A whole budget was not used: wait for tokens, a report, or simply a little.
            self._socket.heard.clear()
            await _sleep_or(self._socket.heard, IDLE_S)
        else:
            await asyncio.sleep(0)
        return True

    def _hear(self, now: float, station: str) -> None:
        while (event := self._downlink.next_event()) is not None:
            if isinstance(event, ReportReceived):
                self._report, self._unrecorded = event.report, event
                self._heard_s, self._was_heard = now, True
                if self._flight is not None:
                    self._flight.receive_report(event, now=now)
            else:
                self._keep_message(event)
        if self._flight is None:
            return
        while (sample := self._flight.core.next_sample()) is not None:
            self._search.sample(sent=sample[0], arrived=sample[1])
        while (happened := self._flight.core.next_event()) is not None:
            if isinstance(happened, AllBundlesComplete):
                self._transfer_s = self._contact_s + now - self._begun_s
            self._flight.record(happened)
            self._events.append(happened)

    def _keep_message(self, event: MessageReceived) -> None:
        record_message(self._depot, self._plan.satellite, event)
        self._downlink.message_kept(event.handle)
        if self._flight is not None:
            self._flight.receive_message(event)

    async def _send_voice(self, now: float) -> None:
        """Acknowledgements, and a word now and then so that the satellite knows where to answer."""
        for data in self._downlink.frames_to_send(now):
            await self._send(data)
        if now >= self._hello_due_s:
            self._hello_due_s = now + (HELLO_PERIOD_S if self._was_heard else HELLO_PERIOD_S_UNHEARD)
            await self._send(self._downlink.hello(now))
        if now - self._heard_s > RESOLVE_SILENCE_S:
            self._heard_s = now
            await self._socket.resolve_again()

    async def _send_symbols(self, bucket: TokenBucket, contact: PlannedContact, now: float) -> int:
        flight = self._flight
        if flight is None or flight.is_over:
            return 0
        frame_size = flight.item(flight.update.handle).symbol_size + self._downlink.overhead
        bucket.set_rate(self._bytes_per_s(contact))
        budget = min(FRAMES_PER_TURN, int(bucket.available(now) // frame_size))
        if self._is_rate_open(contact):
            statistics = flight.core.statistics(now)
            flying = statistics.symbols_sent - statistics.symbols_settled
            if not statistics.is_silent:
                budget = min(budget, self._search.window_frames(frame_size, statistics.feedback_s) - flying)
            bucket.set_rate(SILENT_RATE if statistics.is_silent else self._search.rate_bytes_per_s)
        if budget <= 0:
            return 0
        runs = flight.core.frames_to_send(now, budget)
        if flight.core.has_unsaved_progress:
            flight.save()
        if runs:
            flight.mark_flying()
        for run in runs:
            await self._send_run(flight, run)
        num_sent = sum(run.count for run in runs)
        bucket.spend(num_sent * frame_size)
        return num_sent

    async def _send_run(self, flight: UpdateFlight, run: SymbolRun) -> None:
        item = flight.item(run.handle)
        symbols = await flight.source.symbols(run)
        encode, kind = self._downlink.encode, best_kind()
        for esi, symbol in enumerate(symbols, start=run.first_esi):
            frame = Frame(
                kind=kind,
                handle=run.handle,
                num_symbols=item.num_symbols,
                block=run.block,
                esi=esi,
                payload=symbol,
            )
            data = encode(frame)
            if not self._socket.send_now(data):
                await self._socket.send(data)
            self._frames_sent += 1
            self._bytes_sent += len(data)

    async def _send(self, data: bytes) -> None:
        await self._socket.send(data)
        self._frames_sent += 1
        self._bytes_sent += len(data)
        if self._flight is not None:
            self._flight.core.other_frames_sent(1, self._loop.time())

    # Updates

    def _open_updates(self) -> tuple[Update, ...]:
        states = [state for state in FlightState if state.is_open]
        return self._depot.updates(self._plan.satellite, states)

    def _next_flight(self, now: float) -> bool:
        waiting = self._open_updates()
        if not waiting:
            return False
        options = UplinkOptions(
            kind=best_kind(),
            silence_s=self._silence_s(),
            loss=self._loss,
        )
        self._flight = UpdateFlight(self._depot, waiting[0], options, self._executor)
        self._flight.__enter__()
        self._flight.core.begin_contact(now)
        self._hello_due_s = now
        self._decided_s: float | None = None
        return True

    def _is_receipt_settled(self, flight: UpdateFlight, now: float) -> bool:
        if flight.receipt is not None or flight.is_superseded:
            return True
        self._decided_s = now if self._decided_s is None else self._decided_s
        return now - self._decided_s > RECEIPT_PATIENCE_S

    def _close_flight(self) -> None:
        flight = self._flight
        if flight is None:
            return
        self._flight = None
        self._loss = flight.core.loss_for_next_contact()
        told, received = flight.core.frame_totals()
        self._settled, self._lost = self._settled + told, self._lost + told - received
        flight.__exit__(None, None, None)
        update = flight.update
        self._flown.append(
            UpdateSummary(
                handle=update.handle,
                release_name=update.release_name,
                release_digest=update.release_digest,
                state=update.state,
                reason=update.reason,
                payload_bytes=update.payload_bytes,
                receipt=flight.receipt,
            )
        )

    # Saving and showing

    def _save(self, now: float) -> None:
        if now - self._saved_s < SAVE_PERIOD_S:
            return
        self._saved_s = now
        if self._flight is not None:
            self._flight.save()
        self._save_contact(is_over=False)

    def _save_contact(self, *, is_over: bool) -> None:
        if self._unrecorded is not None:
            station = self._contact.station if self._contact else ""
            record_report(self._depot, self._plan.satellite, self._unrecorded, station=station)
            self._unrecorded = None
        if self._log is None:
            return
        frames, size = self._frames_sent - self._mark[0], self._bytes_sent - self._mark[1]
        loss = None
        if self._was_heard:
            estimate = self._loss if self._flight is None else self._flight.core.statistics(self._loop.time()).loss
            loss = estimate.mean
        self._log = replace(
            self._log,
            end_utc=datetime.fromtimestamp(self._unix_s(), tz=UTC) if is_over else None,
            frames_sent=frames,
            bytes_sent=size,
            frames_received=round(frames * (1 - loss)) if loss is not None else 0,
            loss=self._log.loss if loss is None else loss,
        )
        self._depot.journal.save_contact(self._log)

    def _tick(self, *, force: bool = False) -> None:
        now = self._loop.time()
        if now - self._ticked_s < TICK_S and not force:
            return
        self._ticked_s = now
        mark_s, mark_bytes, rate_bps = self._rate_mark
        if now - mark_s >= 1.0:
            rate_bps = 8 * (self._bytes_sent - mark_bytes) / (now - mark_s) if mark_s else 0.0
            self._rate_mark = (now, self._bytes_sent, rate_bps)
        flight, events = self._flight, tuple(self._events)
        self._events.clear()
        self._on_tick(
            FlightView(
                now_s=self._unix_s(),
                update=flight.update if flight else None,
                statistics=flight.core.statistics(now) if flight else None,
                contact=self._contact,
                contact_number=self._num_contacts + (not self._is_up),
                is_up=self._is_up,
                rate_bps=rate_bps if self._is_up else 0.0,
                bytes_sent=self._bytes_sent,
                frames_sent=self._frames_sent,
                report=self._report,
                events=events,
            )
        )

    # Rates and times

    def _is_rate_open(self, contact: PlannedContact) -> bool:
        return self._plan.rate_bps == 0 or (self._plan.rate_bps is None and contact.rate_bps is None)

    def _silence_s(self) -> float:
        if self._plan.contacts.is_one_way:
            return 0.0
        # Who sends as fast as reports allow needs them: a busy satellite is late before it is silent.
        is_open = self._contact is not None and self._is_rate_open(self._contact)
        return max(self._plan.silence_s, SILENCE_S_OPEN) if is_open else self._plan.silence_s

    def _bytes_per_s(self, contact: PlannedContact) -> float:
        if self._is_rate_open(contact):
            return self._search.rate_bytes_per_s
        rate_bps = self._plan.rate_bps or contact.rate_bps
        assert rate_bps is not None
        return rate_bps / 8 * PACE_SHARE

    def _unix_s(self) -> float:
        return self._loop.time() + self._unix_offset_s


def _known_loss(depot: Depot, plan: FlightPlan) -> LossEstimate:
    """What the last contacts, or else the plan, say of the link."""
    for contact in reversed(depot.journal.contacts(plan.satellite, newest=10)):
        if contact.loss is not None:
            return LossEstimate.of_mean(contact.loss, 100.0)
    return LossEstimate() if plan.contacts.loss is None else LossEstimate.of_mean(plan.contacts.loss, 100.0)


async def _sleep_or(event: asyncio.Event, seconds: float) -> None:
    """Sleep, or less if the event comes."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
