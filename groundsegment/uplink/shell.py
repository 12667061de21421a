"""The uplink as a process: clock, socket, depot around the pure core. It flies the updates of one satellite.

Here are the contacts and the turns of the loop; `transmitter` sends, `flight_book` writes down and shows.

It waits for the contacts of the plan, sends inside them only, at their rate, and listens. Everything it learns is in
the depot within a second, what must not be forgotten before it is acted upon; so it may be killed at any moment and
started again. One uplink per satellite at a time.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, Update
from groundsegment.downlink import Downlink, MessageReceived, ReportReceived
from groundsegment.errors import BusyError, UnknownError
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.core import UplinkOptions
from groundsegment.uplink.events import AllBundlesComplete, DepotBusy
from groundsegment.uplink.flight_book import TICK_S, FlightBook
from groundsegment.uplink.flight_records import FlightPlan, FlightSummary, FlightView
from groundsegment.uplink.link_socket import LinkSocket
from groundsegment.uplink.loss import LossEstimate
from groundsegment.uplink.pace import Pacer
from groundsegment.uplink.rate_search import RateSearch
from groundsegment.uplink.symbols import encoder_process
from groundsegment.uplink.transmitter import FRAMES_PER_TURN, Transmitter
from groundsegment.uplink.update_flight import UpdateFlight, record_message
from protocol.fec import best_kind
from protocol.frame import HANDLE_SIZE
from protocol.report import Reason, UpdateState

IDLE_S = 0.01
RECEIPT_PATIENCE_S = 5.0  # the state is known from a report; the signed receipt follows
SILENCE_S_OPEN = 8.0
LOOK_PERIOD_S = 1.0  # into the depot, for a newer update
_STUCK = {Reason.BASE_MISSING.name, Reason.BASE_DAMAGED.name}  # nothing that is sent of this update will help
PACE_SHARE = 0.99  # of the contact's rate: a modem's queue must not grow over minutes


class UplinkShell:
    """One run."""

    def __init__(
        self,
        depot: Depot,
        plan: FlightPlan,
        *,
        on_tick: Callable[[FlightView], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._depot, self._plan, self._clock = depot, plan, clock
        satellite = depot.satellite(plan.satellite)
        self._downlink = Downlink(
            link_key=depot.link_key(plan.satellite),
            satellite=satellite.name,
            identity_public=satellite.identity_public,
            session=secrets.token_bytes(HANDLE_SIZE),
            known_sessions=depot.journal.report_sessions(plan.satellite),
        )
        loss = _known_loss(depot, plan)
        self._book = FlightBook(depot, plan.satellite, loss, on_tick=on_tick)
        self._search = RateSearch(loss.mean)
        self._flight: UpdateFlight | None = None
        self._looked_s = 0.0
        self._to_keep: deque[Callable[[], object]] = deque()  # for the depot, in order

    async def run(self, stop: asyncio.Event) -> FlightSummary:
        """Fly until all updates are decided, the plan ends, or somebody says stop.

        Raises:
            UnknownError: nothing is staged.
            BusyError: another uplink flies this satellite.
        """
        loop = asyncio.get_running_loop()
        self._loop, self._stop = loop, stop
        self._set_clock()
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
                    self._transmitter = Transmitter(self._socket, self._downlink, self._book, self._search)
                    is_exhausted = await self._fly_contacts()
                self._keep()
                self._close_flight()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
        book, share_lost = self._book, self._book.share_lost
        return FlightSummary(
            updates=tuple(book.flown),
            frames_sent=book.frames_sent,
            bytes_sent=book.bytes_sent,
            frames_lost=round(book.frames_sent * (share_lost or 0.0)),
            contacts=book.num_contacts,
            duration_s=loop.time() - began_s,
            transfer_s=book.transfer_s,
            loss=share_lost,
            report=book.report,
            is_interrupted=stop.is_set(),
            is_exhausted=is_exhausted,
        )

    # Contacts

    async def _fly_contacts(self) -> bool:
        """Returns whether the plan ran out before all was decided."""
        contacts = self._plan.contacts.from_time(self._unix_s())
        contact = next(contacts, None)
        while contact is not None:
            self._book.contact = contact
            if not await self._wait_for(contact):
                return self._has_work() and not self._stop.is_set()
            following = next(contacts, None)
            if not self._is_over(contact):  # the clock may have been set while we waited
                await self._fly_contact(contact, following)
                if self._stop.is_set() or not self._has_work():
                    return False
                if self._plan.once:
                    return True
            contact = following
        return True

    async def _wait_for(self, contact: PlannedContact) -> bool:
        """Wait for a contact's start, and listen; False if it is no use to go on."""
        while (left_s := contact.start_s - self._unix_s()) > 0:
            with contextlib.suppress(BusyError):  # then later
                self._hear(self._loop.time())
                self._book.save_report()
                self._close_if_over(self._loop.time())
                if not self._has_work():
                    return False
            if self._unix_s() >= self._plan.until_s or self._stop.is_set():
                return False
            self._tick()
            await _sleep_or(self._stop, min(left_s, TICK_S))
            self._set_clock()
        return not self._stop.is_set() and self._unix_s() < self._plan.until_s

    def _has_work(self) -> bool:
        return self._flight is not None or bool(self._open_updates())

    def _is_over(self, contact: PlannedContact) -> bool:
        return self._unix_s() >= contact.end_s - contact.guard_s

    async def _fly_contact(self, contact: PlannedContact, following: PlannedContact | None) -> None:
        while self._to_keep and not self._is_over(contact) and not self._stop.is_set():
            with contextlib.suppress(BusyError):  # of the last contact
                self._keep()
            await asyncio.sleep(0)
        now = self._loop.time()
        self._begin_contact(contact, now)
        pacer = Pacer(self._bytes_per_s(contact), self._search, now)
        try:
            while not (self._stop.is_set() or self._is_over(contact) or self._unix_s() >= self._plan.until_s):
                try:
                    if not await self._turn(pacer, contact):
                        break
                except BusyError:
                    # Somebody holds the database. Nothing is sent that is not written down, and nothing forgotten.
                    self._book.happened(DepotBusy())
                    self._tick()
                    await _sleep_or(self._stop, TICK_S)
        finally:
            self._end_contact(following)

    def _begin_contact(self, contact: PlannedContact, now: float) -> None:
        self._book.begin_contact(contact, now, self._unix_s())
        self._search.begin_contact()
        self._transmitter.begin_contact(now)
        if self._flight is not None:
            self._flight.core.begin_contact(now, self._end_s(contact))

    def _end_s(self, contact: PlannedContact) -> float:
        """When sending ends, by the loop's clock."""
        return min(contact.end_s - contact.guard_s, self._plan.until_s) - self._unix_offset_s

    def _end_contact(self, following: PlannedContact | None) -> None:
        now, unix_s = self._loop.time(), self._unix_s()
        if self._flight is not None:
            self._flight.core.end_contact()
            self._to_keep.append(partial(self._flight.save, exact=True))
        self._to_keep.append(partial(self._book.end_contact, self._flight, now, unix_s))
        self._book.is_up = False
        with contextlib.suppress(BusyError):  # then in the gap
            self._keep()
        if following is not None and not self._stop.is_set() and self._has_work():
            self._book.contact = following
        self._tick(force=True)

    # One turn of the loop

    async def _turn(self, pacer: Pacer, contact: PlannedContact) -> bool:
        """Send, listen, save; False when nothing is left to do."""
        now = self._loop.time()
        self._hear(now)
        if self._flight is None and not self._next_flight(now):
            return False
        await self._transmitter.send_voice(self._flight, now)
        sent = 0
        if self._flight is not None and not self._flight.is_over:
            sent = await self._transmitter.send_symbols(self._flight, pacer, now)
        self._book.save(self._flight, now)
        self._tick()
        self._close_if_over(now)
        if sent < FRAMES_PER_TURN:
            # A whole budget was not used: wait for tokens, a report, or simply a little.
            self._socket.heard.clear()
            await _sleep_or(self._socket.heard, IDLE_S)
        else:
            await asyncio.sleep(0)
        return True

    def _hear(self, now: float) -> None:
        while (event := self._downlink.next_event()) is not None:
            if isinstance(event, ReportReceived):
                self._book.heard(event)
                self._transmitter.heard(now)
                self._search.heard(event.report.frames_received, session=event.session, now=now)
                if self._flight is not None:
                    self._to_keep.append(partial(self._flight.receive_report, event, now=now))
            else:
                self._to_keep.append(partial(self._keep_message, event, self._flight))
            self._keep()
            self._learn(now)

    def _learn(self, now: float) -> None:
        """Take in what the core makes of it."""
        flight = self._flight
        while flight is not None and (happened := flight.core.next_event()) is not None:
            if isinstance(happened, AllBundlesComplete):
                self._book.all_on_board(now)
            self._book.happened(happened)
            self._to_keep.append(partial(flight.record, happened))
        self._keep()

    def _keep(self) -> None:
        """Write down what has happened; what cannot be written now is first next time."""
        while self._to_keep:
            self._to_keep[0]()
            self._to_keep.popleft()

    def _keep_message(self, event: MessageReceived, flight: UpdateFlight | None) -> None:
        record_message(self._depot, self._plan.satellite, event)
        self._downlink.message_kept(event.handle)
        if flight is not None:
            flight.receive_message(event)

    # Updates

    def _open_updates(self) -> tuple[Update, ...]:
        states = [state for state in FlightState if state.is_open]
        return self._depot.updates(self._plan.satellite, states)

    def _next_flight(self, now: float) -> bool:
        waiting = self._open_updates()
        if not waiting:
            return False
        chosen = next((update for update in waiting if update.reason not in _STUCK), waiting[0])
        options = UplinkOptions(
            kind=best_kind(),
            silence_s=self._silence_s(),
            loss=self._book.loss,
        )
        self._flight = UpdateFlight(self._depot, chosen, options, self._executor)
        self._flight.__enter__()
        contact = self._book.contact
        self._flight.core.begin_contact(now, math.inf if contact is None else self._end_s(contact))
        self._transmitter.say_hello(now)
        self._decided_s: float | None = None
        return True

    def _is_receipt_settled(self, flight: UpdateFlight, now: float) -> bool:
        if flight.receipt is not None or flight.is_superseded:
            return True
        self._decided_s = now if self._decided_s is None else self._decided_s
        return now - self._decided_s > RECEIPT_PATIENCE_S

    def _close_if_over(self, now: float) -> None:
        flight = self._flight
        if flight is None:
            return
        if (flight.is_over and self._is_receipt_settled(flight, now)) or self._gives_way(flight, now):
            self._close_flight()

    def _gives_way(self, flight: UpdateFlight, now: float) -> bool:
        """Whether it stands still for good, and a newer update waits: the cure for it."""
        state, reason = flight.core.state(flight.update.handle), flight.core.reason(flight.update.handle)
        if state is not UpdateState.BLOCKED or reason.name not in _STUCK:
            return False
        if now - self._looked_s < LOOK_PERIOD_S:
            return False
        self._looked_s = now
        return any(update.sequence > flight.update.sequence for update in self._open_updates())

    def _close_flight(self) -> None:
        flight = self._flight
        if flight is None:
            return
        flight.save(exact=True)
        self._flight = None
        self._book.close_flight(flight)
        flight.__exit__(None, None, None)

    # Rates and times

    def _is_rate_open(self, contact: PlannedContact) -> bool:
        return self._plan.rate_bps == 0 or (self._plan.rate_bps is None and contact.rate_bps is None)

    def _silence_s(self) -> float:
        if self._plan.contacts.is_one_way:
            return 0.0
        # Who sends as fast as reports allow needs them: a busy satellite is late before it is silent.
        contact = self._book.contact
        is_open = contact is not None and self._is_rate_open(contact)
        return max(self._plan.silence_s, SILENCE_S_OPEN) if is_open else self._plan.silence_s

    def _bytes_per_s(self, contact: PlannedContact) -> float | None:
        """Of the link; None where nobody says."""
        if self._is_rate_open(contact):
            return None
        rate_bps = self._plan.rate_bps or contact.rate_bps
        assert rate_bps is not None
        return rate_bps / 8 * PACE_SHARE

    def _tick(self, *, force: bool = False) -> None:
        self._book.tick(self._flight, self._loop.time(), self._unix_s(), force=force)

    def _set_clock(self) -> None:
        """Between contacts the clock may be set, or stand still with a machine that sleeps; inside one it may not."""
        self._unix_offset_s = self._clock() - self._loop.time()

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
