"""What goes into a run of a station's agent and what comes out of it: frozen records, for `shell` and console."""

from dataclasses import dataclass, replace
from pathlib import Path

from groundsegment.planner.contact_plan import ContactPlan
from groundsegment.uplink.flight.flight_records import FlightSummary, UpdateSummary
from groundsegment.uplink.wire.link_socket import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """How a station flies.

    Attributes:
        root: where home can be reached; None for nowhere.
        endpoint: where the link is; as home says if None.
        contacts: when there is one; as home says if None.
        rate_bps, silence_s: see `FlightPlan`.
        once: one contact only.
        until_decided: until every update that it was ordered to fly is decided, and home was told.
        until_s: Unix seconds; infinity for no limit.
        sync_period_s: between two looks at home.
    """

    root: Path | None
    endpoint: Endpoint | None = None
    contacts: ContactPlan | None = None
    rate_bps: float | None = None
    silence_s: float = 2.0
    once: bool = False
    until_decided: bool = False
    until_s: float = float("inf")
    sync_period_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSummary:
    """What a run of the agent did.

    Attributes:
        updates: those that were flown, as they stand.
        contacts, frames_sent, bytes_sent, frames_lost: see `FlightSummary`, over all flights; lost of those that know.
        syncs: with home.
        is_decided: nothing is left to fly.
        is_interrupted: somebody asked us to stop.
        is_exhausted: no contact is left.
    """

    updates: tuple[UpdateSummary, ...] = ()
    contacts: int = 0
    frames_sent: int = 0
    bytes_sent: int = 0
    frames_lost: int | None = None
    syncs: int = 0
    is_decided: bool = False
    is_interrupted: bool = False
    is_exhausted: bool = False

    def with_flight(self, flight: FlightSummary) -> "AgentSummary":
        """Return the sum with one more flight."""
        known = [lost for lost in (self.frames_lost, flight.frames_lost) if lost is not None]
        flown = {entry.handle: entry for entry in (*self.updates, *flight.updates)}
        return replace(
            self,
            updates=tuple(flown.values()),
            contacts=self.contacts + flight.contacts,
            frames_sent=self.frames_sent + flight.frames_sent,
            bytes_sent=self.bytes_sent + flight.bytes_sent,
            frames_lost=sum(known) if known else None,
        )
