"""The uplink as a process: clock, socket, depot around the pure core. It flies the updates of one satellite.

Here are the contacts and the turns of the loop; `flights` has the updates, `transmitter` sends, `ear` takes in what
comes down, `flight_book` writes down and shows.

It waits for the contacts of the plan, sends inside them only, at their rate, and listens. Everything it learns is in
the depot within a second, what must not be forgotten before it is acted upon; so it may be killed at any moment and
started again. Nothing but the operator's cancel, or metadata that has expired, ends an update from here: no gap is too
long. One uplink per satellite and station at a time.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from groundsegment.depot.depot import Depot
from groundsegment.downlink import SESSION_SIZE, Downlink
from groundsegment.errors import BusyError, UnknownError
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.flight.command_flight import CommandFlight
from groundsegment.uplink.flight.flight_book import TICK_S, FlightBook
from groundsegment.uplink.flight.flight_records import FlightPlan, FlightSummary, FlightView
from groundsegment.uplink.flight.flights import Flights
from groundsegment.uplink.flight.link_prior import begin_options
from groundsegment.uplink.rate.pace import Pacer
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.events import ContactSkipped, DepotBusy, RateUnknown
from groundsegment.uplink.sender.patience import Patience
from groundsegment.uplink.wire.ear import Ear
from groundsegment.uplink.wire.encoder import EncoderProcess
from groundsegment.uplink.wire.link_contacts import LinkContacts
from groundsegment.uplink.wire.link_socket import LinkSocket
from groundsegment.uplink.wire.transmitter import FRAMES_PER_TURN, Transmitter
from groundsegment.uplink.wire.wall_clock import WallClock, sleep_or

IDLE_S = 0.01
LOOK_PERIOD_S = 0.5  # into the depot, for what was staged, cancelled or confirmed meanwhile


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
            station=plan.station,
            satellite=satellite.name,
            identity_public=satellite.identity_public,
            session=secrets.token_bytes(SESSION_SIZE),
            known_sessions=depot.journal.report_sessions(plan.satellite, station=plan.station),
        )
        self._contacts = LinkContacts(
            depot, plan.satellite, plan.station, self._downlink, is_answered=not plan.contacts.is_one_way
        )
        self._book = FlightBook(depot, plan.satellite, plan.station, self._downlink, on_tick=on_tick)
        self._options = begin_options(depot, plan, clock())
        self._search = RateSearch(self._options.loss.mean)
        self._commands = CommandFlight(depot, plan.satellite)
        self._looked_s = float("-inf")
        self._said_rate_unknown = False

    async def run(self, stop: asyncio.Event) -> FlightSummary:
        """Fly until all updates are decided, the plan ends, or somebody says stop.

        Raises:
            UnknownError: nothing is staged.
            BusyError: another uplink flies this satellite from this station.
            DiskError: the files of all that is staged are damaged.
        """
        loop = asyncio.get_running_loop()
        self._loop, self._stop, self._wall = loop, stop, WallClock(loop, self._clock)
        began_s, plan = loop.time(), self._plan
        with self._depot.uplink_lock(plan.satellite, plan.station), EncoderProcess() as executor:
            try:
                with Flights(self._depot, plan.satellite, plan.station, self._options, executor) as self._flights:
                    self._look(began_s)
                    self._check_work()
                    is_exhausted = await self._fly()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
        return self._book.summary(
            self._flights,
            duration_s=loop.time() - began_s,
            is_interrupted=stop.is_set(),
            is_exhausted=is_exhausted,
        )

    async def _fly(self) -> bool:
        async with LinkSocket(self._plan.endpoint, self._downlink.receive) as self._socket:
            self._transmitter = Transmitter(
                self._socket,
                self._downlink,
                self._book,
                self._search,
                self._flights,
                self._commands,
                Patience(is_wanted=self._plan.silence_s > 0),
            )
            self._ear = Ear(
                self._depot,
                self._plan.satellite,
                self._downlink,
                book=self._book,
                search=self._search,
                flights=self._flights,
                commands=self._commands,
                transmitter=self._transmitter,
            )
            is_exhausted = await self._fly_contacts()
        self._ear.keep()
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

    # Contacts

    async def _fly_contacts(self) -> bool:
        """Returns whether the plan ran out before all was decided."""
        contacts = self._plan.contacts.from_time(self._wall.unix_s())
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
        while (left_s := contact.start_s - self._wall.unix_s()) > 0:
            with contextlib.suppress(BusyError):  # then later
                now = self._loop.time()
                self._ear.hear(now)
                self._book.save_report()
                self._look(now)
                if not self._has_work():
                    return False
            if self._wall.unix_s() >= self._plan.until_s or self._stop.is_set():
                return False
            self._tick()
            await sleep_or(self._stop, min(left_s, TICK_S))
            self._wall.set()
        return not self._stop.is_set() and self._wall.unix_s() < self._plan.until_s and self._has_work()

    def _has_work(self) -> bool:
        return self._flights.has_work or self._commands.has_work(self._loop.time())

    def _is_over(self, contact: PlannedContact) -> bool:
        return self._wall.unix_s() >= contact.end_s - contact.guard_s

    async def _fly_contact(self, contact: PlannedContact, following: PlannedContact | None) -> None:
        while self._ear.has_waiting and not self._is_over(contact) and not self._stop.is_set():
            with contextlib.suppress(BusyError):  # of the last contact
                self._ear.keep()
            await asyncio.sleep(0)
        now = self._loop.time()
        if not await self._begin_number(contact):
            return
        self._begin_contact(contact, now)
        pacer = Pacer(self._plan.bytes_per_s(contact), self._search, now)
        try:
            while not (self._stop.is_set() or self._is_over(contact) or self._wall.unix_s() >= self._plan.until_s):
                try:
                    if not await self._turn(pacer):
                        break
                except BusyError:
                    # Somebody holds the database. Nothing is sent that is not written down, and nothing forgotten.
                    self._book.happened(DepotBusy())
                    self._tick()
                    await sleep_or(self._stop, TICK_S)
        finally:
            self._end_contact(following)

    async def _begin_number(self, contact: PlannedContact) -> bool:
        """Give the contact a number, and keys, before its first frame; False if it is over before that is kept."""
        while not self._is_over(contact) and not self._stop.is_set():
            try:
                self._contacts.begin(self._loop.time())
            except BusyError:
                self._book.happened(DepotBusy())
                await sleep_or(self._stop, TICK_S)
            else:
                return True
        return False

    def _begin_contact(self, contact: PlannedContact, now: float) -> None:
        self._downlink.begin_contact()
        self._book.begin_contact(contact, self._flights, now, self._wall.unix_s())
        self._search.begin_contact()
        self._transmitter.begin_contact(now)
        self._flights.core.begin_contact(now, self._end_s(contact))

    def _end_s(self, contact: PlannedContact) -> float:
        """When sending ends, by the loop's clock."""
        return min(contact.end_s - contact.guard_s, self._plan.until_s) - self._wall.offset_s

    def _end_contact(self, following: PlannedContact | None) -> None:
        now, unix_s = self._loop.time(), self._wall.unix_s()
        self._flights.core.end_contact()
        self._ear.keep_later(self._flights.save)
        self._ear.keep_later(self._flights.save_losses)
        self._ear.keep_later(partial(self._book.end_contact, self._flights, now, unix_s))
        self._book.is_up = False
        with contextlib.suppress(BusyError):  # then in the gap
            self._ear.keep()
        if following is not None and not self._stop.is_set() and self._has_work():
            self._book.contact = following
        self._tick(force=True)

    # One turn of the loop

    async def _turn(self, pacer: Pacer) -> bool:
        """Send, listen, save; False when nothing is left to do."""
        now = self._loop.time()
        self._ear.hear(now)
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
            await sleep_or(self._socket.heard, IDLE_S)
        else:
            await asyncio.sleep(0)
        return True

    def _look(self, now: float) -> None:
        """Heed what the depot says of updates and commands, if it is time."""
        self._flights.settle(now)
        if now - self._looked_s >= LOOK_PERIOD_S and self._book.is_up and self._contacts.look(now):
            self._transmitter.receiver_restarted()  # what is under way to it is void
            self._book.happened(ContactSkipped(number=self._contacts.number))
        is_due = self._close_settled() or now - self._looked_s >= LOOK_PERIOD_S
        while is_due:
            self._flights.look(datetime.fromtimestamp(self._wall.unix_s(), tz=UTC), now)
            self._commands.look(now)
            self._looked_s = now
            is_due = self._close_settled()  # another may have its turn

    def _close_settled(self) -> bool:
        settled = self._flights.take_settled()
        for flight in settled:
            self._book.close_flight(flight, p_complete=1.0)
        return bool(settled)

    def _tell_if_rate_is_unknown(self, pacer: Pacer, now: float) -> None:
        if self._said_rate_unknown or not pacer.is_open or self._search.was_heard or not self._flights.flying:
            return
        if pacer.needs_rate(self._flights.core.statistics(now)):
            self._said_rate_unknown = True
            self._book.happened(RateUnknown())

    def _tick(self, *, force: bool = False) -> None:
        self._book.tick(self._flights, self._loop.time(), self._wall.unix_s(), force=force)
