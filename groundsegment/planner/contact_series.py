"""Contacts as they come: one by one from a list, or at even intervals without end. Pure.

A series may be of several stations and its contacts may overlap; `contact_plan` makes plans of them.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from groundsegment.emulator.conditions import Contact, LinkProfile, PeriodicContacts

GUARD_S = 0.2  # frames sent later than this before the end of a contact may not make it


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedContact:
    """One contact.

    Attributes:
        station: which ground station has it; may be empty.
        start_s: Unix seconds.
        end_s: Unix seconds; infinity for one that never ends.
        rate_bps: bits per second of frames; None where nobody says.
        guard_s: of its end, not used for sending.
        loss: expected share of frames lost; None where nobody says.
    """

    station: str
    start_s: float
    end_s: float
    rate_bps: float | None = None
    guard_s: float = GUARD_S
    loss: float | None = None

    @property
    def duration_s(self) -> float:
        """How long frames can be sent."""
        return max(0.0, self.end_s - self.guard_s - self.start_s)

    def is_over(self, now_s: float) -> bool:
        """Whether nothing more can be sent in it."""
        return self.end_s - self.guard_s <= now_s


class ContactSeries(Protocol):
    """Contacts of one or more stations, in time order; perhaps infinitely many."""

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Those that are not over."""
        ...

    def of_station(self, name: str) -> "ContactSeries":
        """Those of one station."""
        ...

    def stations(self) -> Iterable[str]:
        """Whose they are."""
        ...


class Listed:
    """Contacts one by one."""

    def __init__(self, contacts: Iterable[PlannedContact]) -> None:
        self._contacts = tuple(sorted(contacts, key=lambda contact: contact.start_s))

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Those that are not over."""
        return (contact for contact in self._contacts if not contact.is_over(now_s))

    def of_station(self, name: str) -> ContactSeries:
        """Those of one station."""
        return Listed(contact for contact in self._contacts if contact.station == name)

    def stations(self) -> Iterable[str]:
        """Whose they are."""
        return (contact.station for contact in self._contacts)


class Periodic:
    """Contacts at even intervals, of one station."""

    def __init__(self, periodic: PeriodicContacts, link: "LinkTime", station: str) -> None:
        self._periodic, self._link, self._station = periodic, link, station

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Those that are not over."""
        periodic, link = self._periodic, self._link
        since_s = -math.inf if now_s == -math.inf else (now_s - link.epoch_s) * link.profile.time_scale
        first = 0 if since_s == -math.inf else max(0, math.floor((since_s - periodic.first_s) / periodic.period_s))
        for index in itertools.count(first):
            if periodic.count is not None and index >= periodic.count:
                return
            start_s = periodic.first_s + index * periodic.period_s
            planned = link.planned(Contact(start_s=start_s, end_s=start_s + periodic.duration_s, station=self._station))
            if not planned.is_over(now_s):
                yield planned

    def of_station(self, name: str) -> ContactSeries:
        """Those of one station."""
        return self if name == self._station else Listed(())

    def stations(self) -> Iterable[str]:
        """Whose they are."""
        return (self._station,)


class Changed:
    """A series of which each contact is changed as it comes; whose it is must stay."""

    def __init__(self, series: ContactSeries, change: Callable[[PlannedContact], PlannedContact]) -> None:
        self._series, self._change = series, change

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Those that are not over."""
        return map(self._change, self._series.from_time(now_s))

    def of_station(self, name: str) -> ContactSeries:
        """Those of one station."""
        return Changed(self._series.of_station(name), self._change)

    def stations(self) -> Iterable[str]:
        """Whose they are."""
        return self._series.stations()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTime:
    """How a profile's contacts look on the wall."""

    profile: LinkProfile
    epoch_s: float
    loss: float | None = None
    rate_bps: float | None = None

    def planned(self, contact: Contact) -> PlannedContact:
        """A contact of the profile, as it is flown."""
        scale, up = self.profile.time_scale, self.profile.up
        rate_bps = None if up.rate_bps is None else up.rate_bps * scale
        return PlannedContact(
            station=contact.station,
            start_s=self.epoch_s + contact.start_s / scale,
            end_s=self.epoch_s + contact.end_s / scale,
            rate_bps=rate_bps if self.rate_bps is None else self.rate_bps,
            guard_s=(up.delay_s + up.jitter_s) / scale + GUARD_S,
            loss=self.loss,
        )
