"""The uplink as a process: clock, socket, depot around the pure core. It flies the updates of one satellite.

Here are the contacts and the turns of the loop; `flights` has the updates, `transmitter` sends, `flight_book` writes
down and shows.

It waits for the contacts of the plan, sends inside them only, at their rate, and listens. Everything it learns is in
the depot within a second, what must not be forgotten before it is acted upon; so it may be killed at any moment and
started again. Nothing but the operator's cancel, or metadata that has expired, ends an update from here: no gap is too
long. One uplink per satellite and station at a time.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from groundsegment.depot.depot import Depot
from groundsegment.downlink import SESSION_SIZE, Downlink, MessageReceived, ReportReceived
from groundsegment.errors import BusyError, UnknownError
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.command_flight import CommandFlight
from groundsegment.uplink.core import UplinkOptions
from groundsegment.uplink.events import AllBundlesComplete, DepotBusy, RateUnknown, ReceiverRestarted
from groundsegment.uplink.flight_book import TICK_S, FlightBook
from groundsegment.uplink.flight_records import FlightPlan, FlightSummary, FlightView
from groundsegment.uplink.flights import Flights
from groundsegment.uplink.link_socket import LinkSocket
from groundsegment.uplink.loss import LossEstimate
from groundsegment.uplink.outcome import receipt_of, record_message
from groundsegment.uplink.pace import Pacer
from groundsegment.uplink.rate_search import RateSearch
from groundsegment.uplink.symbols import encoder_process
from groundsegment.uplink.transmitter import FRAMES_PER_TURN, Transmitter
from protocol.fec import best_kind
from protocol.link_keys import Direction

IDLE_S = 0.01
SILENCE_S_OPEN = 8.0
LOOK_PERIOD_S = 0.5  # into the depot, for what was staged, cancelled or confirmed meanwhile
PACE_SHARE = 0.99  # of the contact's rate: a modem's queue must not grow over minutes
_PLAN_LOSS_WEIGHT = 100.0  # frames that a plan's word is worth


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
            link_key=depot.station_key(plan.satellite, plan.station),
            station=plan.station,
            satellite=satellite.name,
            identity_public=satellite.identity_public,
            session=secrets.token_bytes(SESSION_SIZE),
            known_sessions=depot.journal.report_sessions(plan.satellite, station=plan.station),
        )
        self._book = FlightBook(depot, plan.satellite, plan.station, self._downlink, on_tick=on_tick)
        self._options = _options(depot, plan, clock())
        self._search = RateSearch(self._options.loss.mean)
        self._commands = CommandFlight(depot, plan.satellite)
        self._looked_s = float("-inf")
        self._to_keep: deque[Callable[[], object]] = deque()  # for the depot, in order
        self._said_rate_unknown = False

    async def run(self, stop: asyncio.Event) -> FlightSummary:
        """Fly until all updates are decided, the plan ends, or somebody says stop.

        Raises:
            UnknownError: nothing is staged.
            BusyError: another uplink flies this satellite from this station.
            DiskError: the files of all that is staged are damaged.
        """
        loop = asyncio.get_running_loop()
        self._loop, self._stop = loop, stop
        self._set_clock()
        began_s, plan = loop.time(), self._plan
        with self._depot.uplink_lock(plan.satellite, plan.station), encoder_process() as executor:
            try:
                with Flights(self._depot, plan.satellite, plan.station, self._options, executor) as self._flights:
                    self._look(began_s)
                    self._check_work()
                    is_exhausted = await self._fly()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
        return self._summary(duration_s=loop.time() - began_s, is_exhausted=is_exhausted)

    async def _fly(self) -> bool:
        async with LinkSocket(self._plan.endpoint, self._downlink.receive) as self._socket:
            self._transmitter = Transmitter(
                self._socket, self._downlink, self._book, self._search, self._flights, self._commands
            )
            is_exhausted = await self._fly_contacts()
        self._keep()
        self._flights.save(exact=True)
        self._flights.save_losses()
        self._close_settled()
        loss = self._flights.core.loss
        for flight in self._flights.shown:
            self._book.close_flight(flight, p_complete=flight.probability_complete(loss))
        return is_exhausted

    def _check_work(self) -> None:
        if self._has_work():
            return
        if self._flights.damage:
            raise next(iter(self._flights.damage.values()))
        if not self._depot.updates(self._plan.satellite):
            raise UnknownError(
                f"nothing to fly for {self._plan.satellite}",
                hint=f"stage an update first: skyload stage MODEL_DIR --for {self._plan.satellite}",
            )

    def _summary(self, *, duration_s: float, is_exhausted: bool) -> FlightSummary:
        book = self._book
        told, received = self._flights.core.frame_totals()
        share_lost = 1 - received / told if told else None
        return FlightSummary(
            updates=tuple(book.flown),
            frames_sent=book.frames_sent,
            bytes_sent=book.bytes_sent,
            frames_lost=round(book.frames_sent * (share_lost or 0.0)),
            contacts=book.num_contacts,
            duration_s=duration_s,
            transfer_s=book.transfer_s,
            loss=share_lost,
            report=book.report,
            is_interrupted=self._stop.is_set(),
            is_exhausted=is_exhausted,
            waiting=tuple((update, str(why)) for update, why in self._flights.lineup.waiting),
            expired=tuple(self._flights.expired),
            damage=tuple(self._flights.damage.values()),
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
                now = self._loop.time()
                self._hear(now)
                self._book.save_report()
                self._look(now)
                if not self._has_work():
                    return False
            if self._unix_s() >= self._plan.until_s or self._stop.is_set():
                return False
            self._tick()
            await _sleep_or(self._stop, min(left_s, TICK_S))
            self._set_clock()
        return not self._stop.is_set() and self._unix_s() < self._plan.until_s and self._has_work()

    def _has_work(self) -> bool:
        return self._flights.has_work or not self._commands.is_empty

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
                    if not await self._turn(pacer):
                        break
                except BusyError:
                    # Somebody holds the database. Nothing is sent that is not written down, and nothing forgotten.
                    self._book.happened(DepotBusy())
                    self._tick()
                    await _sleep_or(self._stop, TICK_S)
        finally:
            self._end_contact(following)

    def _begin_contact(self, contact: PlannedContact, now: float) -> None:
        self._downlink.begin_contact()
        self._book.begin_contact(contact, self._flights, now, self._unix_s())
        self._search.begin_contact()
        self._transmitter.begin_contact(now)
        self._flights.core.begin_contact(now, self._end_s(contact))

    def _end_s(self, contact: PlannedContact) -> float:
        """When sending ends, by the loop's clock."""
        return min(contact.end_s - contact.guard_s, self._plan.until_s) - self._unix_offset_s

    def _end_contact(self, following: PlannedContact | None) -> None:
        now, unix_s = self._loop.time(), self._unix_s()
        self._flights.core.end_contact()
        self._to_keep.append(self._flights.save)
        self._to_keep.append(self._flights.save_losses)
        self._to_keep.append(partial(self._book.end_contact, self._flights, now, unix_s))
        self._book.is_up = False
        with contextlib.suppress(BusyError):  # then in the gap
            self._keep()
        if following is not None and not self._stop.is_set() and self._has_work():
            self._book.contact = following
        self._tick(force=True)

    # One turn of the loop

    async def _turn(self, pacer: Pacer) -> bool:
        """Send, listen, save; False when nothing is left to do."""
        now = self._loop.time()
        self._hear(now)
        self._look(now)
        if not self._has_work():
            await self._transmitter.say_farewell(now)
            return False
        await self._transmitter.send_voice(now)
        sent = await self._transmitter.send_symbols(pacer, now)
        self._book.save(self._flights, now)
        self._tell_if_rate_is_unknown(pacer, now)
        self._tick()
        if sent < FRAMES_PER_TURN:
            # A whole budget was not used: wait for tokens, a report, or simply a little.
            self._socket.heard.clear()
            await _sleep_or(self._socket.heard, IDLE_S)
        else:
            await asyncio.sleep(0)
        return True

    def _look(self, now: float) -> None:
        """Heed what the depot says of updates and commands, if it is time."""
        self._flights.settle(now)
        is_due = self._close_settled() or now - self._looked_s >= LOOK_PERIOD_S
        while is_due:
            self._flights.look(datetime.fromtimestamp(self._unix_s(), tz=UTC), now)
            self._commands.look(now)
            self._looked_s = now
            is_due = self._close_settled()  # another may have its turn

    def _close_settled(self) -> bool:
        settled = self._flights.take_settled()
        for flight in settled:
            self._book.close_flight(flight, p_complete=1.0)
        return bool(settled)

    def _hear(self, now: float) -> None:
        while (event := self._downlink.next_event()) is not None:
            if isinstance(event, ReportReceived):
                self._hear_report(event, now)
            else:
                self._to_keep.append(partial(self._keep_message, event))
            self._keep()
            self._learn(now)

    def _hear_report(self, event: ReportReceived, now: float) -> None:
        report = event.report
        self._book.heard(event)
        self._transmitter.heard(now)
        self._search.heard(report.frames_received, session=event.session, now=now)
        self._flights.core.receive_report(report, session=event.session, sequence=event.sequence, now=now)
        self._to_keep.append(partial(self._flights.heard, event))
        self._to_keep.append(partial(self._commands.heard, report))

    def _learn(self, now: float) -> None:
        """Take in what the core makes of it."""
        while (happened := self._flights.core.next_event()) is not None:
            if isinstance(happened, AllBundlesComplete):
                self._book.all_on_board(now)
            elif isinstance(happened, ReceiverRestarted):
                self._transmitter.receiver_restarted()
            self._book.happened(happened)
            self._to_keep.append(partial(self._flights.record, happened))
        self._keep()

    def _keep(self) -> None:
        """Write down what has happened; what cannot be written now is first next time."""
        while self._to_keep:
            self._to_keep[0]()
            self._to_keep.popleft()

    def _keep_message(self, event: MessageReceived) -> None:
        record_message(self._depot, self._plan.satellite, event)
        self._downlink.message_kept(event.handle)
        self._commands.answered(event.message.re)
        receipt = receipt_of(event)
        if receipt is not None:
            self._flights.take_receipt(receipt)

    # Rates and times

    def _bytes_per_s(self, contact: PlannedContact) -> float | None:
        """Of the link; None where nobody says."""
        if self._plan.is_rate_open(contact):
            return None
        rate_bps = self._plan.rate_bps or contact.rate_bps
        assert rate_bps is not None
        return rate_bps / 8 * PACE_SHARE

    def _tell_if_rate_is_unknown(self, pacer: Pacer, now: float) -> None:
        if self._said_rate_unknown or not self._flights.flying:
            return
        if pacer.needs_rate(self._flights.core.statistics(now)):
            self._said_rate_unknown = True
            self._book.happened(RateUnknown())

    def _tick(self, *, force: bool = False) -> None:
        self._book.tick(self._flights, self._loop.time(), self._unix_s(), force=force)

    def _set_clock(self) -> None:
        """Between contacts the clock may be set, or stand still with a machine that sleeps; inside one it may not."""
        self._unix_offset_s = self._clock() - self._loop.time()

    def _unix_s(self) -> float:
        return self._loop.time() + self._unix_offset_s


def _options(depot: Depot, plan: FlightPlan, now_s: float) -> UplinkOptions:
    """How to send, with what earlier runs have learned of this station's link, or else what the plan says."""
    kept = {
        direction: depot.journal.loss(plan.satellite, plan.station, direction)
        for direction in (Direction.UP, Direction.DOWN)
    }
    up, down = kept[Direction.UP], kept[Direction.DOWN]
    loss = LossEstimate()
    if up is not None:
        loss = LossEstimate.from_dict(up).as_prior()
    elif plan.contacts.loss is not None:
        loss = LossEstimate.of_mean(plan.contacts.loss, _PLAN_LOSS_WEIGHT)
    first = next(plan.contacts.from_time(now_s), None)
    # Who sends as fast as reports allow needs them: a busy satellite is late before it is silent.
    is_open = first is not None and plan.is_rate_open(first)
    silence_s = max(plan.silence_s, SILENCE_S_OPEN) if is_open else plan.silence_s
    return UplinkOptions(
        kind=best_kind(),
        silence_s=0.0 if plan.contacts.is_one_way else silence_s,
        loss=loss,
        loss_down=LossEstimate() if down is None else LossEstimate.from_dict(down).as_prior(),
    )


async def _sleep_or(event: asyncio.Event, seconds: float) -> None:
    """Sleep, or less if the event comes."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
