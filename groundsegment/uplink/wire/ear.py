"""What comes down, taken in: by the core, the search for a rate, the book, and the depot, in this order. A shell.

What must be written down is kept in the order it came. Where the depot is busy it waits here, first in line, and
nothing of it is acknowledged before it is safe.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from groundsegment.depot.depot import Depot
from groundsegment.downlink import Downlink, MessageReceived, ReportReceived
from groundsegment.uplink.flight.command_flight import CommandFlight
from groundsegment.uplink.flight.flight_book import FlightBook
from groundsegment.uplink.flight.flights import Flights
from groundsegment.uplink.flight.outcome import receipt_of, record_message
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.events import AllBundlesComplete, ReceiverRestarted
from groundsegment.uplink.wire.transmitter import Transmitter


class Ear:
    """One link of one run."""

    def __init__(
        self,
        depot: Depot,
        satellite: str,
        downlink: Downlink,
        *,
        book: FlightBook,
        search: RateSearch,
        flights: Flights,
        commands: CommandFlight,
        transmitter: Transmitter,
    ) -> None:
        self._depot, self._satellite, self._downlink = depot, satellite, downlink
        self._book, self._search, self._flights = book, search, flights
        self._commands, self._transmitter = commands, transmitter
        self._waiting: deque[Callable[[], object]] = deque()  # for the depot, in order

    @property
    def has_waiting(self) -> bool:
        """Whether something is not written down yet."""
        return bool(self._waiting)

    def keep_later(self, write: Callable[[], object]) -> None:
        """Write something down once all before it is."""
        self._waiting.append(write)

    def hear(self, now: float) -> None:
        """Take in what has come down since the last time."""
        while (event := self._downlink.next_event()) is not None:
            if isinstance(event, ReportReceived):
                self._hear_report(event, now)
            else:
                self.keep_later(partial(self._keep_message, event))
            self.keep()
            self._learn(now)

    def _hear_report(self, event: ReportReceived, now: float) -> None:
        report = event.report
        self._book.heard(event)
        self._transmitter.heard(now)
        self._search.heard(report.frames_received, session=event.session, now=now)
        self._flights.core.receive_report(report, session=event.session, sequence=event.sequence, now=now)
        self.keep_later(partial(self._flights.heard, event))
        self.keep_later(partial(self._commands.heard, report, now))

    def _learn(self, now: float) -> None:
        """Take in what the core makes of it."""
        while (happened := self._flights.core.next_event()) is not None:
            if isinstance(happened, AllBundlesComplete):
                self._book.all_on_board(now)
            elif isinstance(happened, ReceiverRestarted):
                self._transmitter.receiver_restarted()
            self._book.happened(happened)
            self.keep_later(partial(self._flights.record, happened))
        self.keep()

    def keep(self) -> None:
        """Write down what has happened; what cannot be written now is first next time."""
        while self._waiting:
            self._waiting[0]()
            self._waiting.popleft()

    def _keep_message(self, event: MessageReceived) -> None:
        record_message(self._depot, self._satellite, event)
        self._downlink.message_kept(event.handle)
        self._commands.answered(event.message.re)
        receipt = receipt_of(event)
        if receipt is not None:
            self._flights.take_receipt(receipt)
