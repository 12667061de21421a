"""What goes into a run of the uplink and what comes out of it: frozen records, for `shell`, `display` and console."""

from dataclasses import dataclass

from groundsegment.depot.records import HOME_STATION, FlightState, Update
from groundsegment.errors import DiskError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.uplink.flight.outcome import Receipt
from groundsegment.uplink.sender.core import UplinkStatistics
from groundsegment.uplink.sender.events import Event
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.report import Report

PACE_SHARE = 0.99  # of the contact's rate: a modem's queue must not grow over minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightPlan:
    """What to fly, when, and how.

    Attributes:
        satellite: which one.
        endpoint: where the link is.
        contacts: when there is one.
        rate_bps: bits per second, over what contacts say; None: as they say; 0: as fast as reports allow.
        once: one contact only.
        until_s: Unix seconds; infinity for no limit.
        silence_s: see `UplinkOptions`.
        station: whose lane and key.
    """

    satellite: str
    endpoint: Endpoint
    contacts: ContactPlan
    rate_bps: float | None = None
    once: bool = False
    until_s: float = float("inf")
    silence_s: float = 2.0
    station: int = HOME_STATION

    def is_rate_open(self, contact: PlannedContact) -> bool:
        """Whether nobody says how fast a contact is, so that it has to be found."""
        return self.rate_bps == 0 or (self.rate_bps is None and contact.rate_bps is None)

    def bytes_per_s(self, contact: PlannedContact) -> float | None:
        """How fast to send in a contact; None where nobody says."""
        if self.is_rate_open(contact):
            return None
        rate_bps = self.rate_bps or contact.rate_bps
        assert rate_bps is not None
        return rate_bps / 8 * PACE_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateView:
    """A snapshot of one update for a display.

    Attributes:
        update: which one.
        statistics: of the core, as of this update.
    """

    update: Update
    statistics: UplinkStatistics

    @property
    def share_on_board(self) -> float:
        """How much of it the satellite is known to have, 0..1."""
        needed = self.statistics.symbols_needed
        return self.statistics.symbols_there / needed if needed else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightView:
    """A snapshot for a display.

    Attributes:
        now_s: Unix seconds.
        updates: that fly, or flew until now, most urgent first; none before the first contact.
        link: of the core, as of all updates together; None before it is made.
        contact: the current one, or the next one.
        contact_number: counted from 1.
        is_up: whether the contact is on.
        rate_bps: sent lately, bits per second.
        bytes_sent, frames_sent: since the start.
        report: the newest one heard.
        events: since the last snapshot.
    """

    now_s: float
    updates: tuple[UpdateView, ...]
    link: UplinkStatistics | None
    contact: PlannedContact | None
    contact_number: int
    is_up: bool
    rate_bps: float
    bytes_sent: int
    frames_sent: int
    report: Report | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSummary:
    """How one update ended, or where it stands.

    Attributes:
        handle, release_name, release_digest, state, reason, payload_bytes: see `Update`.
        brought_bytes: of the payload, what reports say that this run has brought on board.
        receipt: what the satellite signed about it.
        p_complete: probability that all of it is on board, by what was sent and heard.
    """

    handle: bytes
    release_name: str
    release_digest: bytes
    state: FlightState
    reason: str
    payload_bytes: int
    brought_bytes: int
    receipt: Receipt | None
    p_complete: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightSummary:
    """What a run of the uplink did.

    Attributes:
        updates: those that were flown, in order.
        frames_sent, bytes_sent: up, of all kinds, frames whole.
        frames_lost: estimated from reports; None if none told.
        contacts: used.
        duration_s: of the whole run.
        transfer_s: of contact time, until all bundles of the last update were on board.
        loss: share of frames lost, as reports told; None if none did.
        report: the newest one heard.
        is_interrupted: somebody asked us to stop.
        is_exhausted: no contact is left.
        waiting: updates that are open and could not fly, and why.
        expired: updates whose metadata has expired before the satellite had it.
        damage: what is wrong with the files of updates that could not fly.
    """

    updates: tuple[UpdateSummary, ...]
    frames_sent: int
    bytes_sent: int
    frames_lost: int | None
    contacts: int
    duration_s: float
    transfer_s: float
    loss: float | None
    report: Report | None
    is_interrupted: bool
    is_exhausted: bool
    waiting: tuple[tuple[Update, str], ...] = ()
    expired: tuple[Update, ...] = ()
    damage: tuple[DiskError, ...] = ()
