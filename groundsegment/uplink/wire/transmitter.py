"""What goes up: symbols as the core wants them, at the pacer's rate, commands, and the ground's own voice. A shell.

`shell` says when. No frame leaves before what covers its ESI is written down, and no object before its bytes were
compared with what was staged.
"""

import asyncio

from groundsegment.downlink import Downlink
from groundsegment.errors import DiskError
from groundsegment.uplink.flight.command_flight import CommandFlight
from groundsegment.uplink.flight.flight_book import FlightBook
from groundsegment.uplink.flight.flights import Flights
from groundsegment.uplink.rate.pace import Pacer
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.events import HeldBack
from groundsegment.uplink.sender.headers import Headers
from groundsegment.uplink.sender.patience import Patience
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.link_socket import LinkSocket
from protocol.fec import best_kind
from protocol.frame import Frame

FRAMES_PER_TURN = 256  # then the event loop has its turn, and reports are read
TRAINS_BYTES_PER_S = 25e6  # from here on a system call for each frame takes a tenth of a core
HELLO_PERIOD_S = 1.0  # keeps reports coming to us while there is nothing to send
HELLO_PERIOD_S_UNHEARD = 0.25
RESOLVE_SILENCE_S = 10.0
FAREWELLS = 3  # one may be lost


class Transmitter:
    """One link of one run."""

    def __init__(
        self,
        link: LinkSocket,
        downlink: Downlink,
        book: FlightBook,
        search: RateSearch,
        flights: Flights,
        commands: CommandFlight,
        patience: Patience,
    ) -> None:
        self._socket, self._downlink, self._book, self._search = link, downlink, book, search
        self._flights, self._commands = flights, commands
        self._loop = asyncio.get_running_loop()
        self._patience, self._headers = patience, Headers()
        self._hello_due_s = self._heard_s = 0.0
        self._is_holding = False

    def begin_contact(self, now: float) -> None:
        """The satellite does not know yet where we are."""
        self._hello_due_s = self._heard_s = now
        self._patience.begin_contact()
        self._headers.start_over()
        self._commands.begin_contact(now)

    def heard(self, now: float) -> None:
        """A report came."""
        self._heard_s = now
        self._patience.heard(now)
        self._headers.heard(now)

    def receiver_restarted(self) -> None:
        """It may know no object any more."""
        self._headers.start_over()

    async def send_voice(self, now: float) -> None:
        """Acknowledgements, commands, and a word now and then so that the satellite knows where to answer."""
        for data in self._downlink.frames_to_send(now):
            await self._send(data)
        for frame in self._commands.frames_to_send(now):
            await self._send(self._downlink.encode(frame))
        if now >= self._hello_due_s:
            is_waited_for = self._is_holding or not self._book.was_heard
            self._hello_due_s = now + (HELLO_PERIOD_S_UNHEARD if is_waited_for else HELLO_PERIOD_S)
            await self._send(self._downlink.hello(now))
        if now - self._heard_s > RESOLVE_SILENCE_S:
            self._heard_s = now
            await self._socket.resolve_again()

    async def say_farewell(self, now: float) -> None:
        """Acknowledge the last messages, so that the satellite stops sending them: nobody listens any more."""
        for _ in range(FAREWELLS):
            await self._send(self._downlink.hello(now))

    async def send_symbols(self, pacer: Pacer, now: float) -> int:
        """What may leave now; returns how many."""
        flights = self._flights
        if not flights.flying or self._holds_back(now):
            return 0
        frame_size = flights.symbol_size_max + self._downlink.overhead
        link = flights.core.statistics(now) if pacer.is_open else None
        budget = min(FRAMES_PER_TURN, pacer.budget(frame_size, link, now))
        if budget <= 0:
            return 0
        if flights.has_unsaved_progress:
            flights.save()  # it could not be written the last time
        runs = flights.core.frames_to_send(now, budget)
        if flights.has_unsaved_progress:
            flights.save()
        if runs:
            flights.mark_flying(runs)
        num_sent = 0
        for run in runs:
            num_sent += await self._send_run(run, pacer)
        return num_sent

    def _holds_back(self, now: float) -> bool:
        held, self._is_holding = self._is_holding, self._patience.holds(now)
        if self._is_holding and not held:
            self._hello_due_s = now
            self._book.happened(HeldBack())
        return self._is_holding

    async def _send_run(self, run: SymbolRun, pacer: Pacer) -> int:
        flight = self._flights.flight_of(run.handle)
        if flight is None:
            return 0  # it was found to be damaged this very turn
        try:
            if not flight.is_checked(run.handle):
                await asyncio.to_thread(flight.check, run.handle)
            symbols = await self._flights.source.symbols(run)
        except DiskError as error:
            self._flights.damaged(flight, error, self._loop.time())
            return 0
        item = self._flights.item(run.handle)
        first = Frame(
            kind=best_kind(),
            handle=run.handle,
            num_symbols=item.num_symbols,
            block=run.block,
            esi=run.first_esi,
            payload=b"",
        )
        is_short = self._headers.take(run.handle, run.count, self._loop.time())
        frames = self._downlink.encode_run(first, symbols, is_short)
        await self._socket.send_all(frames, in_trains=pacer.rate_bytes_per_s >= TRAINS_BYTES_PER_S)
        size = sum(map(len, frames))
        self._count(len(frames), size)
        pacer.spend(size)
        return run.count

    async def _send(self, data: bytes) -> None:
        await self._socket.send(data)
        self._count(1, len(data))
        self._flights.core.other_frames_sent(1, self._loop.time())

    def _count(self, frames: int, size_bytes: int) -> None:
        self._book.sent(frames, size_bytes)
        self._search.sent(frames, size_bytes, self._loop.time())
