"""One signed command up, its answer down: a small exchange beside whatever else flies. A shell.

It has a socket of its own and needs no uplink to run; if one does, that may hear reports and answer first and keep them
in the depot, so both are watched. It keeps trying through gaps and losses until the answer comes or the time is up.

It takes no turns with a running uplink: a command is a frame or two, and an uplink leaves a hundredth of the rate
unused (`flight_records.PACE_SHARE`), so the modem's queue takes them at once.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION, CommandState, QueuedCommand, ReceivedMessage
from groundsegment.downlink import Downlink, MessageReceived, ReportReceived
from groundsegment.errors import BusyError, LinkError
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import sign_command
from groundsegment.uplink.flight.outcome import record_message, record_report
from groundsegment.uplink.wire.link_contacts import LinkContacts
from groundsegment.uplink.wire.link_socket import Endpoint, LinkSocket
from groundsegment.uplink.wire.numbers import NumbersBehindError, commands_seen, is_behind
from protocol.command import Command, Operation
from protocol.exchange import Outbox
from protocol.frame import HANDLE_SIZE
from protocol.objects import object_handle
from protocol.report import Report

RETRY_S = 1.0
REPEAT_S = 4.0  # a gap may end at any time; a command is a frame or two
HELLO_PERIOD_S = 1.0
LOOK_PERIOD_S = 0.25  # into the depot, for an answer that a running uplink heard
IDLE_S = 0.05
FAREWELL_PAUSE_S = 0.05
FAREWELLS = 3  # acknowledgements of the answer: one may be lost, and we are gone then


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        message: as kept in the depot.
        seconds: from sending to hearing.
        is_on_board_s: after how many seconds a report said that the command had arrived; None if none did.
    """

    message: ReceivedMessage
    seconds: float
    is_on_board_s: float | None


class NoAnswerError(LinkError):
    """No answer in time.

    Attributes:
        has_arrived: whether a report said that the command had.
    """

    def __init__(self, message: str, *, hint: str, has_arrived: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.has_arrived = has_arrived


def send_command(
    depot: Depot,
    satellite: str,
    endpoint: Endpoint,
    operation: Operation,
    args: Mapping[str, Any],
    *,
    timeout_s: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Sign a command, send it, and wait for its answer.

    Raises:
        UnknownError, KeyStoreError: the depot lacks satellite or keys.
        LinkError: no answer in time; the command is dropped.
    """
    command = keep_command(depot, satellite, operation, args, state=CommandState.IN_HAND)
    state = CommandState.DROPPED
    try:
        answer = asyncio.run(_Exchange(depot, command, endpoint, tell).run(timeout_s))
        state = CommandState.DONE
        return answer
    finally:
        depot.journal.set_command_state(command.handle, state)


def send_kept(
    depot: Depot,
    command: QueuedCommand,
    endpoint: Endpoint,
    *,
    timeout_s: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Send a command that is kept, and wait for its answer.

    Raises:
        LinkError: no answer in time; the command stays queued, for the next uplink.
    """
    answer = asyncio.run(_Exchange(depot, command, endpoint, tell).run(timeout_s))
    depot.journal.set_command_state(command.handle, CommandState.DONE)
    return answer


def keep_command(
    depot: Depot,
    satellite: str,
    operation: Operation,
    args: Mapping[str, Any],
    *,
    state: CommandState,
    arm: int = 0,
    nonce: bytes = b"",
    above: int = 0,
) -> QueuedCommand:
    """Sign a command and keep it in the depot. QUEUED, the next uplink sends it.

    Args:
        depot: with the keys.
        satellite: whom it is for.
        operation: what to do.
        args: see `protocol.command`.
        state: who is to send it.
        arm: counter of the arm that it fires; 0 for none.
        nonce: that the satellite answered to that.
        above: its counter is to be above this one.

    Raises:
        UnknownError, KeyStoreError: the depot lacks satellite or keys, or somebody has used numbers up.
    """
    depot.satellite(satellite)
    counter = depot.journal.allocate_command_counter(satellite, above=max(above, commands_seen(depot, satellite)))
    command = Command(satellite=satellite, counter=counter, operation=operation, args=args, arm=arm, nonce=nonce)
    data = sign_command(KeyStore(depot.keys_path), command)
    kept = QueuedCommand(
        handle=object_handle(data),
        satellite=satellite,
        counter=counter,
        operation=str(operation),
        data=data,
        state=state,
        created_utc=datetime.now(tz=UTC),  # noqa: TID251 - a shell
    )
    depot.journal.add_command(kept)
    return kept


class _Exchange:
    def __init__(self, depot: Depot, command: QueuedCommand, endpoint: Endpoint, tell: Callable[[str], None]) -> None:
        satellite = depot.satellite(command.satellite)
        self._depot, self._command, self._endpoint, self._tell = depot, command, endpoint, tell
        self._downlink = Downlink(
            satellite=satellite.name,
            identity_public=satellite.identity_public,
            session=secrets.token_bytes(HANDLE_SIZE),
            known_sessions=depot.journal.report_sessions(satellite.name),
        )
        self._contacts = LinkContacts(depot, satellite.name, HOME_STATION, self._downlink, is_answered=True)
        self._outbox = Outbox(retry_s=RETRY_S)
        self._report: ReportReceived | None = None
        self._arrived_s: float | None = None

    async def run(self, timeout_s: float) -> Answer:
        began_s = asyncio.get_running_loop().time()
        async with LinkSocket(self._endpoint, self._downlink.receive) as link:
            self._contacts.begin(began_s, is_shared=self._is_uplink_running())
            try:
                message = await self._converse(link, began_s, timeout_s)
            finally:
                if self._report is not None:
                    record_report(self._depot, self._command.satellite, self._report, station="")
        seconds = asyncio.get_running_loop().time() - began_s
        return Answer(message=message, seconds=seconds, is_on_board_s=self._arrived_s)

    async def _converse(self, link: LinkSocket, began_s: float, timeout_s: float) -> ReceivedMessage:
        loop = asyncio.get_running_loop()
        hello_s = look_s = repeat_s = began_s
        while (now := loop.time()) < began_s + timeout_s:
            self._hear(now - began_s)
            if now >= look_s:
                look_s = now + LOOK_PERIOD_S
                if self._contacts.look(now) and self._arrived_s is None:
                    repeat_s = now
                self._look_for_arrival(now - began_s)
                found = self._depot.journal.messages(self._command.satellite, re=self._command.handle)
                if found:
                    await self._say_farewell(link, now - began_s)
                    return found[-1]
            if self._arrived_s is None and now >= repeat_s:
                repeat_s = now + REPEAT_S
                self._outbox.put(self._command.data, now)
            for frame in self._outbox.frames_to_send(now):
                await link.send(self._downlink.encode(frame))
            for data in self._downlink.frames_to_send(now):
                await link.send(data)
            if now >= hello_s:
                hello_s = now + HELLO_PERIOD_S
                await link.send(self._downlink.hello(now))
            link.heard.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.heard.wait(), IDLE_S)
        raise self._no_answer(timeout_s)

    def _is_uplink_running(self) -> bool:
        """Then its contact is ours: it may not be made void."""
        try:
            with self._depot.uplink_lock(self._command.satellite, HOME_STATION):
                return False
        except BusyError:
            return True

    def _hear(self, elapsed_s: float) -> None:
        while (event := self._downlink.next_event()) is not None:
            if isinstance(event, MessageReceived):
                record_message(self._depot, self._command.satellite, event)
                self._downlink.message_kept(event.handle)
                continue
            self._report = event
            self._heed(event.report, elapsed_s)

    def _look_for_arrival(self, elapsed_s: float) -> None:
        """A running uplink hears most reports. What a station brought home is no reason to stop sending: it may lie."""
        if self._arrived_s is None:
            kept = self._depot.journal.last_report(self._command.satellite)
            if kept is not None and kept.station_id == HOME_STATION:
                self._heed(kept.report, elapsed_s)

    def _heed(self, report: Report, elapsed_s: float) -> None:
        if is_behind(self._depot, self._command.satellite, report):
            self._depot.journal.set_command_state(self._command.handle, CommandState.DROPPED)
            raise NumbersBehindError(self._depot, self._command.satellite, report)
        if self._arrived_s is None and self._command.handle in report.complete:
            self._arrived_s = elapsed_s
            self._outbox.acknowledge(self._command.handle)
            self._tell(f"{self._command.satellite} has it; waiting for its answer")

    async def _say_farewell(self, link: LinkSocket, elapsed_s: float) -> None:
        """Acknowledge the answer, so that the satellite stops sending it, and hear how it stands now."""
        for _ in range(FAREWELLS):
            await link.send(self._downlink.hello(asyncio.get_running_loop().time()))
            await asyncio.sleep(FAREWELL_PAUSE_S)
            self._hear(elapsed_s)

    def _no_answer(self, timeout_s: float) -> NoAnswerError:
        name = self._command.satellite
        if self._arrived_s is not None:
            return NoAnswerError(
                f"{name} has the command, but did not answer within {timeout_s:g} s",
                hint="give it longer with --timeout; `skyload status` shows the answer if it comes later. "
                "A satellite answers to the depot whose root it was given only: is --depot right?",
                has_arrived=True,
            )
        if self._report is not None:
            return NoAnswerError(
                f"{name} is heard, but did not take the command within {timeout_s:g} s",
                hint="the way up may be cut or very lossy; try again with a longer --timeout",
            )
        return NoAnswerError(
            f"no word from {name} within {timeout_s:g} s",
            hint="is there a contact now, is --link right, does the satellite have this depot's link key? "
            "A depot restored from an old backup finds its contact again with a longer --timeout",
        )


def seconds_since(utc: datetime) -> float:
    """How long ago that was, by our clock."""
    return max(0.0, time.time() - utc.timestamp())  # noqa: TID251 - a shell
