"""The book of one run: what was sent, heard and used, written into the depot every second, and shown. A shell.

`shell` tells it what happens on the link. Killed at any moment, no more than the last second of it is missing; what
must not be forgotten at all is not here but in `flights`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ContactLog
from groundsegment.downlink import Downlink, DownlinkStatistics, ReportReceived
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.uplink.flight.flight_records import FlightSummary, FlightView, UpdateSummary, UpdateView
from groundsegment.uplink.flight.flights import Flights
from groundsegment.uplink.flight.outcome import record_report
from groundsegment.uplink.flight.update_flight import UpdateFlight
from groundsegment.uplink.sender.events import Event
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
    """

    def __init__(
        self,
        depot: Depot,
        satellite: str,
        station: int,
        downlink: Downlink,
        *,
        on_tick: Callable[[FlightView], None],
    ) -> None:
        self._depot, self._satellite, self._station, self._on_tick = depot, satellite, station, on_tick
        self._downlink = downlink
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
        self._closed: list[
            UpdateFlight
        ] = []  # since the last tick: what their last reports brought is still to be shown
        self._saved_s = self._ticked_s = self._begun_s = self._contact_s = self._start_unix_s = 0.0
        self._rate_mark = (0.0, 0, 0.0)
        self._totals_before, self._down_before = (0, 0), downlink.statistics()
        self._miscounted_before = 0.0

    # What happens on the link

    def begin_contact(self, contact: PlannedContact, flights: Flights, now: float, unix_s: float) -> None:
        """A contact begins."""
        self.contact, self.num_contacts = contact, self.num_contacts + 1
        self.is_up, self.was_heard, self._begun_s = True, False, now
        self._mark = (self.frames_sent, self.bytes_sent)
        self._totals_before, self._down_before = flights.core.frame_totals(), self._downlink.statistics()
        self._miscounted_before = flights.core.num_frames_miscounted
        self._start_unix_s = max(contact.start_s, unix_s)
        self._log = None  # made when it is first saved

    def end_contact(self, flights: Flights, now: float, unix_s: float) -> None:
        """The contact is over; may be called again if it could not be written."""
        self.is_up = False
        self._save_contact(flights, end_unix_s=unix_s)
        self._contact_s += now - self._begun_s

    def sent(self, frames: int, size_bytes: int) -> None:
        """Frames went up."""
        self.frames_sent += frames
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

    def close_flight(self, flight: UpdateFlight, *, p_complete: float) -> None:
        """No more is sent of an update."""
        update = flight.update
        self._closed.append(flight)
        before = next((entry.brought_bytes for entry in self.flown if entry.handle == update.handle), 0)
        self.flown = [entry for entry in self.flown if entry.handle != update.handle]  # it gave way before
        self.flown.append(
            UpdateSummary(
                handle=update.handle,
                release_name=update.release_name,
                release_digest=update.release_digest,
                state=update.state,
                reason=update.reason,
                payload_bytes=update.payload_bytes,
                brought_bytes=before + round(update.payload_bytes * flight.share_brought),
                receipt=flight.receipt,
                p_complete=p_complete,
            )
        )

    def summary(
        self, flights: Flights, *, duration_s: float, is_interrupted: bool, is_exhausted: bool
    ) -> FlightSummary:
        """What the run did."""
        told, received = flights.core.frame_totals()
        share_lost = 1 - received / told if told else None
        return FlightSummary(
            updates=tuple(self.flown),
            frames_sent=self.frames_sent,
            bytes_sent=self.bytes_sent,
            frames_lost=None if share_lost is None else round(self.frames_sent * share_lost),
            contacts=self.num_contacts,
            duration_s=duration_s,
            transfer_s=self.transfer_s,
            loss=share_lost,
            report=self.report,
            is_interrupted=is_interrupted,
            is_exhausted=is_exhausted,
            waiting=tuple((update, str(why)) for update, why in flights.lineup.waiting),
            expired=tuple(flights.expired),
            damage=tuple(flights.damage.values()),
        )

    # Saving

    def save(self, flights: Flights, now: float) -> None:
        """Write it all down, if it is time."""
        if now - self._saved_s < SAVE_PERIOD_S:
            return
        flights.save()
        flights.save_losses()
        self._save_contact(flights)
        self._saved_s = now

    def save_report(self) -> None:
        """Write the newest report down."""
        if self._unrecorded is not None:
            record_report(
                self._depot, self._satellite, self._unrecorded, station=self._station_name, station_id=self._station
            )
            self._unrecorded = None

    @property
    def _station_name(self) -> str:
        return self.contact.station if self.contact else ""

    def _save_contact(self, flights: Flights, *, end_unix_s: float | None = None) -> None:
        """Write the contact as it was on average; what is believed of the link at its end is `flights.save_losses`."""
        self.save_report()
        if self._log is None:
            start = datetime.fromtimestamp(self._start_unix_s, tz=UTC)
            self._log = self._depot.journal.begin_contact(
                self._satellite, self._station_name, start, station_id=self._station
            )
        told, received = (
            now - before for now, before in zip(flights.core.frame_totals(), self._totals_before, strict=True)
        )
        miscounted = math.sqrt(max(0.0, flights.core.num_frames_miscounted**2 - self._miscounted_before**2))
        loss, deviation = share_lost_up(told, received, miscounted=miscounted)
        down = self._downlink.statistics()
        self._log = replace(
            self._log,
            end_utc=None if end_unix_s is None else datetime.fromtimestamp(end_unix_s, tz=UTC),
            frames_sent=self.frames_sent - self._mark[0],
            bytes_sent=self.bytes_sent - self._mark[1],
            frames_received=received,
            loss=loss,
            loss_deviation=deviation,
            frames_heard=down.frames_received - self._down_before.frames_received,
            loss_down=_share_lost(down, self._down_before),
        )
        self._depot.journal.save_contact(self._log)

    # Showing

    def tick(self, flights: Flights, now: float, unix_s: float, *, force: bool = False) -> None:
        """Show how it stands, if it is time."""
        if now - self._ticked_s < TICK_S and not force:
            return
        self._ticked_s = now
        events: Sequence[Event] = tuple(self._events)
        self._events.clear()
        closed = [flight for flight in self._closed if flight not in flights.shown]
        self._closed.clear()
        shown = ((flight.update, flight.statistics(now)) for flight in (*closed, *flights.shown))
        self._on_tick(
            FlightView(
                now_s=unix_s,
                updates=tuple(UpdateView(update=update, statistics=known) for update, known in shown if known),
                link=flights.core.statistics(now),
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


def share_lost_up(told: int, received: int, *, miscounted: float) -> tuple[float | None, float | None]:
    """What share of the frames that reports told of was lost, and how sure that is.

    Args:
        told: frames sent.
        received: of them.
        miscounted: so many of those sent may be too many or too few, as a standard deviation.

    Returns:
        The share and its standard deviation; None twice if nothing was told.
    """
    if told <= 0:
        return None, None
    loss = min(1.0, max(0.0, 1 - received / told))
    spread = (told - min(received, told) + 2) / (told + 4)  # Agresti and Coull: that none was lost of a few says little
    deviation = math.sqrt(spread * (1 - spread) / (told + 4) + (received * miscounted / told**2) ** 2)
    return loss, min(1.0, deviation)


def _share_lost(now: DownlinkStatistics, before: DownlinkStatistics) -> float | None:
    """Of the reports that were sent to us since then; None if two did not come."""
    expected = now.reports_expected - before.reports_expected
    return 1 - (now.reports_heard - before.reports_heard) / expected if expected > 0 else None
