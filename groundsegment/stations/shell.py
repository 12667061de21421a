"""The station agent: waits for its contacts, exchanges letters with home between them, flies each one. A shell.

Everything it knows is in its directory, so it may be killed at any moment and started again. In a contact it talks to
nobody but the satellite; only one that lasts longer than any pass is interrupted by nothing, so letters go beside it.
Home out of reach, a modem that is off, a damaged file: told, and tried again; the station flies on with what it has.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from groundsegment.depot.records import CommandState, FlightState
from groundsegment.errors import BusyError, DiskError, GroundError, InputError, LinkError, UnknownError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.stations.agent_records import AgentPlan, AgentSummary
from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.home_line import HomeLine
from groundsegment.stations.notes import plan_of
from groundsegment.stations.station_sync import SyncOutcome
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.screen.display import FlightDisplay
from groundsegment.uplink.shell import UplinkShell
from groundsegment.uplink.wire.link_socket import Endpoint

LEAD_S = 3.0  # before a contact: all is ready when it begins
LONG_CONTACT_S = 1800.0  # longer than any pass of a low orbit
RETRY_S = 5.0
TICK_S = 0.25


class StationAgent:
    """One run of one station.

    Args:
        directory: the station's.
        plan: how to fly.
        display: makes a display for one flight.
        tell: says a line.
        clock: Unix seconds.
    """

    def __init__(
        self,
        directory: StationDirectory,
        plan: AgentPlan,
        *,
        display: Callable[[], AbstractContextManager[FlightDisplay]],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._depot, self._plan = directory, directory.depot, plan
        self._identity = directory.identity
        self._display, self._tell, self._clock = display, tell, clock
        self._summary = AgentSummary()
        self._told: tuple[str, ...] = ()
        self._synced_s = float("-inf")
        self._home = None if plan.root is None else HomeLine(directory, plan.root, clock=clock)
        self._is_home_told = self._home is None

    async def run(self, stop: asyncio.Event) -> AgentSummary:
        """Fly until told to stop, or as the plan says.

        Raises:
            InputError: this directory must not fly any more, or nobody says where the link is, or when.
            BusyError: another process flies this station.
        """
        self._stop = stop
        self._directory.orders()  # of another instance: not one frame
        await self._sync(self._first_deadline_s())
        while not stop.is_set() and self._clock() < self._plan.until_s:
            if self._plan.until_decided and self._is_decided() and self._is_home_told:
                break
            contact = next(self._contacts().from_time(self._clock()), None)
            if contact is None and self._plan.contacts is not None:
                return self._ended(is_exhausted=True)
            if contact is None or not self._has_work() or contact.start_s - self._clock() > LEAD_S:
                await self._idle(contact)
                continue
            await self._fly(contact)
            if self._plan.once:
                break
        return self._ended()

    def _ended(self, *, is_exhausted: bool = False) -> AgentSummary:
        return replace(
            self._summary,
            is_decided=self._is_decided(),
            is_interrupted=self._stop.is_set(),
            is_exhausted=is_exhausted,
        )

    # Work

    def _has_work(self) -> bool:
        flown = [
            entry for entry in self._depot.open_updates(self._identity.satellite) if entry.lanes > self._identity.id
        ]
        return bool(flown or self._depot.journal.commands(self._identity.satellite, CommandState.QUEUED))

    def _is_decided(self) -> bool:
        """Whether all that was ordered is here and decided."""
        orders = self._directory.orders()
        ordered = () if orders is None else orders.updates
        known = {entry.handle: entry.state for entry in self._depot.updates(self._identity.satellite)}
        states = [known.get(entry.update.handle, FlightState.STAGED) for entry in ordered]
        return bool(known) and not any(state.is_open for state in states) and not self._has_work()

    def _contacts(self) -> ContactPlan:
        if self._plan.contacts is not None:
            return self._plan.contacts
        orders = self._directory.orders()
        if orders is None or orders.contacts is None:
            raise InputError(
                f"{self._identity.name}: home has given no contact plan",
                hint="at home: skyload station sync --for SATELLITE --contacts FILE; or give --contacts here",
            )
        return plan_of(orders.contacts, self._identity.name)

    def _endpoint(self) -> Endpoint:
        orders = self._directory.orders()
        if self._plan.endpoint is not None:
            return self._plan.endpoint
        if orders is None or not orders.endpoint:
            raise InputError(
                f"{self._identity.name}: nobody says where the link is",
                hint="--link HOST:PORT says so, or at home `skyload station add --endpoint`",
            )
        return Endpoint.parse(orders.endpoint, option="the endpoint that home gave")

    # Flying

    async def _fly(self, contact: PlannedContact) -> None:
        plan = FlightPlan(
            satellite=self._identity.satellite,
            station=self._identity.id,
            endpoint=self._endpoint(),
            contacts=self._contacts(),
            rate_bps=self._plan.rate_bps,
            silence_s=self._plan.silence_s,
            once=True,
            until_s=self._plan.until_s,
        )
        beside = asyncio.create_task(self._sync_beside(contact))
        try:
            with self._display() as display:
                flight = await UplinkShell(self._depot, plan, on_tick=display.show, clock=self._clock).run(self._stop)
            self._summary = self._summary.with_flight(flight)
            if not flight.contacts:
                await self._pause(RETRY_S)  # all that is open waits for something: no contact was used
        except UnknownError:
            await self._pause(TICK_S)  # it was cancelled a moment ago
        except (LinkError, DiskError) as error:
            self._tell(str(error))
            await self._pause(RETRY_S)
        finally:
            beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside
        await self._sync(self._next_start_s() - LEAD_S)

    async def _sync_beside(self, contact: PlannedContact) -> None:
        """Look at home while a contact lasts that never ends."""
        while contact.end_s - max(contact.start_s, self._clock()) > LONG_CONTACT_S:
            await asyncio.sleep(self._plan.sync_period_s)
            with contextlib.suppress(GroundError):  # told when the flight is over
                await self._sync(float("inf"))

    async def _idle(self, contact: PlannedContact | None) -> None:
        """Wait for a contact, work, or the next look at home."""
        start_s = float("inf") if contact is None or not self._has_work() else contact.start_s - LEAD_S
        if self._clock() - self._synced_s >= self._plan.sync_period_s and self._clock() < start_s:
            await self._sync(start_s)
            return
        due_s = min(start_s, self._synced_s + self._plan.sync_period_s, self._plan.until_s)
        await self._pause(min(max(due_s - self._clock(), 0.0), TICK_S))

    def _next_start_s(self) -> float:
        now_s = self._clock()
        following = next(self._contacts().from_time(now_s), None)
        # One that is on: what home says now is worth a moment of it.
        return float("inf") if following is None else max(following.start_s, now_s + LEAD_S + RETRY_S)

    def _first_deadline_s(self) -> float:
        with contextlib.suppress(InputError):
            return self._next_start_s()
        return float("inf")

    # Home

    async def _sync(self, deadline_s: float) -> None:
        """Exchange letters, until a time at most."""
        self._synced_s = self._clock()
        if self._home is None:
            return
        try:
            outcome = await self._home.sync(self._stop, deadline_s=deadline_s)
        except BusyError as error:
            self._is_home_told = False
            self._tell_problems((str(error),))
            return
        if outcome is None:
            self._is_home_told = False
            self._tell_problems((f"{self._plan.root}: does not answer; contacts come first",))
        else:
            self._heed(outcome)

    def _heed(self, outcome: SyncOutcome) -> None:
        self._summary = replace(self._summary, syncs=self._summary.syncs + 1)
        self._is_home_told = not outcome.problems
        for count, what in ((outcome.updates_added, "to fly"), (outcome.updates_ended, "not to fly any more")):
            if count:
                self._tell(f"from home: {count} update{'s' if count > 1 else ''} {what}")
        self._tell_problems(outcome.problems)

    def _tell_problems(self, problems: tuple[str, ...]) -> None:
        if problems != self._told:
            for problem in problems:
                self._tell(problem)
        self._told = problems

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
