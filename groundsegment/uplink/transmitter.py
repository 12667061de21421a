"""What goes up: symbols as the core wants them, at the pacer's rate, and the ground's own voice. A shell.

`shell` says when. No frame leaves before what covers its ESI is written down.
"""

import asyncio

from groundsegment.downlink import Downlink
from groundsegment.uplink.flight_book import FlightBook
from groundsegment.uplink.link_socket import LinkSocket
from groundsegment.uplink.pace import Pacer
from groundsegment.uplink.rate_search import RateSearch
from groundsegment.uplink.schedule import SymbolRun
from groundsegment.uplink.update_flight import UpdateFlight
from protocol.fec import best_kind
from protocol.frame import Frame

FRAMES_PER_TURN = 256  # then the event loop has its turn, and reports are read
HELLO_PERIOD_S = 1.0  # keeps reports coming to us while there is nothing to send
HELLO_PERIOD_S_UNHEARD = 0.25
RESOLVE_SILENCE_S = 10.0


class Transmitter:
    """One link of one run."""

    def __init__(self, link: LinkSocket, downlink: Downlink, book: FlightBook, search: RateSearch) -> None:
        self._socket, self._downlink, self._book, self._search = link, downlink, book, search
        self._loop = asyncio.get_running_loop()
        self._hello_due_s = self._heard_s = 0.0

    def begin_contact(self, now: float) -> None:
        """The satellite does not know yet where we are."""
        self._hello_due_s = self._heard_s = now

    def heard(self, now: float) -> None:
        """A report came."""
        self._heard_s = now

    def say_hello(self, now: float) -> None:
        """Do so at the next turn."""
        self._hello_due_s = now

    async def send_voice(self, flight: UpdateFlight | None, now: float) -> None:
        """Acknowledgements, and a word now and then so that the satellite knows where to answer."""
        for data in self._downlink.frames_to_send(now):
            await self._send(flight, data)
        if now >= self._hello_due_s:
            self._hello_due_s = now + (HELLO_PERIOD_S if self._book.was_heard else HELLO_PERIOD_S_UNHEARD)
            await self._send(flight, self._downlink.hello(now))
        if now - self._heard_s > RESOLVE_SILENCE_S:
            self._heard_s = now
            await self._socket.resolve_again()

    async def send_symbols(self, flight: UpdateFlight, pacer: Pacer, now: float) -> int:
        """What may leave now; returns how many."""
        frame_size = flight.item(flight.update.handle).symbol_size + self._downlink.overhead
        budget = min(FRAMES_PER_TURN, pacer.budget(frame_size, flight.core.statistics(now), now))
        if budget <= 0:
            return 0
        if flight.has_unsaved_progress:
            flight.save()  # it could not be written the last time
        runs = flight.core.frames_to_send(now, budget)
        if flight.has_unsaved_progress:
            flight.save()
        if runs:
            flight.mark_flying(runs)
        for run in runs:
            await self._send_run(flight, run)
        num_sent = sum(run.count for run in runs)
        pacer.spend(num_sent * frame_size)
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
            self._count(data)

    async def _send(self, flight: UpdateFlight | None, data: bytes) -> None:
        await self._socket.send(data)
        self._count(data)
        if flight is not None:
            flight.core.other_frames_sent(1, self._loop.time())

    def _count(self, data: bytes) -> None:
        self._book.sent(len(data))
        self._search.sent(1, len(data), self._loop.time())
