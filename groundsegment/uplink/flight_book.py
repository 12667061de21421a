"""The book of one run: what was sent, heard and used, written into the depot every second, and shown. A shell.

`shell` tells it what happens on the link. Killed at any moment, no more than the last second of it is missing; what
must not be forgotten at all is not here but in `update_flight`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ContactLog
from groundsegment.downlink import ReportReceived
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.events import Event
from groundsegment.uplink.flight_records import FlightView, UpdateSummary
from groundsegment.uplink.loss import LossEstimate
from groundsegment.uplink.update_flight import UpdateFlight, record_report
from protocol.report import Report

SAVE_PERIOD_S = 1.0
TICK_S = 0.25
_RATE_PERIOD_S = 1.0


class FlightBook:
    """One run.

    Attributes:
        contact: the current one, or the next one.
        is_up: whether the contact is on.
        was_heard: whether a report was heard in this contact.
        num_contacts: used so far, with this one.
        frames_sent: since the start, of all kinds.
        bytes_sent: since the start, frames whole.
        report: the newest one heard.
        flown: the updates that were flown.
        transfer_s: of contact time, until all bundles of the last update were on board.
        loss: what was learned of the link, for the next update.
    """

    def __init__(
        self, depot: Depot, satellite: str, loss: LossEstimate, *, on_tick: Callable[[FlightView], None]
    ) -> None:
        self._depot, self._satellite, self._on_tick, self.loss = depot, satellite, on_tick, loss
        self.contact: PlannedContact | None = None
        self.is_up = self.was_heard = False
        self.num_contacts = self.frames_sent = self.bytes_sent = 0
        self.report: Report | None = None
        self.flown: list[UpdateSummary] = []
        self.transfer_s = 0.0
        self._unrecorded: ReportReceived | None = None
        self._log: ContactLog | None = None
        self._mark = (0, 0)
        self._events: list[Event] = []
        self._saved_s = self._ticked_s = self._begun_s = self._contact_s = self._start_unix_s = 0.0
        self._rate_mark = (0.0, 0, 0.0)
        self._settled = self._lost = 0

    # What happens on the link

    def begin_contact(self, contact: PlannedContact, now: float, unix_s: float) -> None:
        """A contact begins."""
        self.contact, self.num_contacts = contact, self.num_contacts + 1
        self.is_up, self.was_heard, self._begun_s = True, False, now
        self._mark = (self.frames_sent, self.bytes_sent)
        self._start_unix_s = max(contact.start_s, unix_s)
        self._log = None  # made when it is first saved

    def end_contact(self, flight: UpdateFlight | None, now: float, unix_s: float) -> None:
        """The contact is over; may be called again if it could not be written."""
        self.is_up = False
        self._save_contact(flight, now, end_unix_s=unix_s)
        self._contact_s += now - self._begun_s

    def sent(self, size_bytes: int) -> None:
        """A frame went up."""
        self.frames_sent += 1
        self.bytes_sent += size_bytes

    def heard(self, event: ReportReceived) -> None:
        """A report came down."""
        self.report, self._unrecorded, self.was_heard = event.report, event, True

    def happened(self, event: Event) -> None:
        """Something to tell."""
        self._events.append(event)

    def all_on_board(self, now: float) -> None:
        """All bundles of an update are on board."""
        self.transfer_s = self._contact_s + now - self._begun_s

    def close_flight(self, flight: UpdateFlight) -> None:
        """No more is sent of an update."""
        self.loss = flight.core.loss.as_prior()
        told, received = flight.core.frame_totals()
        self._settled, self._lost = self._settled + told, self._lost + told - received
        update = flight.update
        self.flown = [entry for entry in self.flown if entry.handle != update.handle]  # it gave way before
        self.flown.append(
            UpdateSummary(
                handle=update.handle,
                release_name=update.release_name,
                release_digest=update.release_digest,
                state=update.state,
                reason=update.reason,
                payload_bytes=update.payload_bytes,
                brought_bytes=round(update.payload_bytes * flight.share_brought),
                receipt=flight.receipt,
            )
        )

    @property
    def share_lost(self) -> float | None:
        """Share of frames lost, as reports told; None if none did."""
        return self._lost / self._settled if self._settled else None

    # Saving

    def save(self, flight: UpdateFlight | None, now: float) -> None:
        """Write it all down, if it is time."""
        if now - self._saved_s < SAVE_PERIOD_S:
            return
        if flight is not None:
            flight.save()
        self._save_contact(flight, now)
        self._saved_s = now

    def save_report(self) -> None:
        """Write the newest report down."""
        if self._unrecorded is not None:
            record_report(self._depot, self._satellite, self._unrecorded, station=self._station)
            self._unrecorded = None

    @property
    def _station(self) -> str:
        return self.contact.station if self.contact else ""

    def _save_contact(self, flight: UpdateFlight | None, now: float, *, end_unix_s: float | None = None) -> None:
        self.save_report()
        if self._log is None:
            start = datetime.fromtimestamp(self._start_unix_s, tz=UTC)
            self._log = self._depot.journal.begin_contact(self._satellite, self._station, start)
        frames, size = self.frames_sent - self._mark[0], self.bytes_sent - self._mark[1]
        loss = None
        if self.was_heard:
            loss = (self.loss if flight is None else flight.core.statistics(now).loss).mean
        self._log = replace(
            self._log,
            end_utc=None if end_unix_s is None else datetime.fromtimestamp(end_unix_s, tz=UTC),
            frames_sent=frames,
            bytes_sent=size,
            frames_received=round(frames * (1 - loss)) if loss is not None else 0,
            loss=self._log.loss if loss is None else loss,
        )
        self._depot.journal.save_contact(self._log)

    # Showing

    def tick(self, flight: UpdateFlight | None, now: float, unix_s: float, *, force: bool = False) -> None:
        """Show how it stands, if it is time."""
        if now - self._ticked_s < TICK_S and not force:
            return
        self._ticked_s = now
        events: Sequence[Event] = tuple(self._events)
        self._events.clear()
        self._on_tick(
            FlightView(
                now_s=unix_s,
                update=flight.update if flight else None,
                statistics=flight.core.statistics(now) if flight else None,
                contact=self.contact,
                contact_number=self.num_contacts + (not self.is_up),
                is_up=self.is_up,
                rate_bps=self._rate_bps(now) if self.is_up else 0.0,
                bytes_sent=self.bytes_sent,
                frames_sent=self.frames_sent,
                report=self.report,
                events=tuple(events),
            )
        )

    def _rate_bps(self, now: float) -> float:
        mark_s, mark_bytes, rate_bps = self._rate_mark
        if now - mark_s >= _RATE_PERIOD_S:
            rate_bps = 8 * (self.bytes_sent - mark_bytes) / (now - mark_s) if mark_s else 0.0
            self._rate_mark = (now, self.bytes_sent, rate_bps)
        return rate_bps
