"""The contact plan: when there is a link, through which station, at which rate. Read from a file, or from a profile.

    epoch: 2026-11-22T06:00:00Z        # or "now"; what start_s and end_s count from
    rate: 2Mbit/s                      # of all contacts that do not say
    loss: 10%                          # what to expect; optional
    stations:                          # rate and loss of a station's contacts that do not say; optional
      inuvik: {rate: 1Mbit/s, loss: 4%}
    contacts:
      - {station: svalbard, start_s: 0, end_s: 435}
      - {station: inuvik, start: 2026-11-22T07:40:00Z, end: 2026-11-22T07:46:30Z, loss: 20%}

Times come out as Unix seconds. A link profile of the emulator is a contact plan too: its link time is turned into
time on the wall, its rate with it.

Contacts of different stations may overlap. For one process that flies them all they never do: where two stations see
the satellite, the earlier keeps it. `for_station` has what one station flies alone, `whole` all as they are.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from groundsegment import plain_yaml
from groundsegment.emulator.conditions import Contact, LinkProfile, PeriodicContacts
from groundsegment.errors import InputError
from groundsegment.planner.contact_series import (
    GUARD_S,
    Changed,
    ContactSeries,
    LinkTime,
    Listed,
    Periodic,
    PlannedContact,
)
from groundsegment.planner.plan_fields import HINT, Fields, number, unix_s

__all__ = [
    "GUARD_S",
    "ContactPlan",
    "PlannedContact",
    "always",
    "from_profile",
    "load_contact_plan",
    "parse_contact_plan",
    "periodic",
]

PLAN_BYTES_MAX = 1 << 20


class ContactPlan:
    """Contacts in time order; there may be infinitely many.

    Attributes:
        name: for people.
        loss: expected share of frames lost, where the plan says.
        is_one_way: nothing ever comes down.
    """

    def __init__(
        self,
        contacts: Iterable[PlannedContact] = (),
        *,
        name: str = "",
        loss: float | None = None,
        is_one_way: bool = False,
        series: Iterable[ContactSeries] = (),
        is_whole: bool = False,
    ) -> None:
        """Make a plan of listed contacts, of series, or of both.

        Args:
            contacts: in any order.
            name: for people.
            loss: expected, where the contacts do not say.
            is_one_way: nothing ever comes down.
            series: more contacts.
            is_whole: contacts that overlap stay as they are.
        """
        self.name, self.loss, self.is_one_way, self._is_whole = name, loss, is_one_way, is_whole
        self._series: tuple[ContactSeries, ...] = (Listed(contacts), *series)

    @property
    def stations(self) -> tuple[str, ...]:
        """The names of the stations that have contacts, sorted; contacts without a name have none."""
        return tuple(sorted({name for series in self._series for name in series.stations() if name}))

    def for_station(self, name: str) -> "ContactPlan":
        """What one station flies; that others see the satellite at the same time is no matter."""
        plan = self._like((series.of_station(name) for series in self._series), is_whole=False)
        first = next(plan.from_time(-math.inf), None)
        plan.loss = self.loss if first is None or first.loss is None else first.loss
        return plan

    def whole(self) -> "ContactPlan":
        """All contacts as they are: each station flies its own."""
        return self._like(self._series, is_whole=True)

    def at_rate(self, rate_bps: float) -> "ContactPlan":
        """The same contacts at another rate."""
        return self._changed(lambda contact: replace(contact, rate_bps=rate_bps))

    def at_loss(self, loss: float) -> "ContactPlan":
        """The same contacts, all of them with another loss."""
        plan = self._changed(lambda contact: replace(contact, loss=None))
        plan.loss = loss
        return plan

    def with_losses(self, losses: Mapping[str, float]) -> "ContactPlan":
        """The same contacts; where the plan says nothing of the loss, they have that of their station."""
        if self.loss is not None:
            return self
        return self._changed(
            lambda contact: replace(contact, loss=losses.get(contact.station) if contact.loss is None else contact.loss)
        )

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Contacts that are not over, in time order."""
        merged = heapq.merge(*(series.from_time(now_s) for series in self._series), key=lambda contact: contact.start_s)
        return merged if self._is_whole else _apart(merged)

    def _changed(self, change: Callable[[PlannedContact], PlannedContact]) -> "ContactPlan":
        return self._like((Changed(series, change) for series in self._series), is_whole=self._is_whole)

    def _like(self, series: Iterable[ContactSeries], *, is_whole: bool) -> "ContactPlan":
        return ContactPlan(name=self.name, loss=self.loss, is_one_way=self.is_one_way, series=series, is_whole=is_whole)


def always(rate_bps: float | None = None) -> ContactPlan:
    """A link that is always there."""
    return ContactPlan(
        (PlannedContact(station="", start_s=-math.inf, end_s=math.inf, rate_bps=rate_bps),), name="always"
    )


def periodic(*, per_day: float, duration_s: float, rate_bps: float, start_s: float) -> ContactPlan:
    """Evenly spaced contacts, for ever."""
    period_s = 86400 / per_day
    if duration_s >= period_s:
        raise InputError(
            f"{per_day:g} contacts a day of {duration_s:g} s overlap", hint="lower --per-day or --duration"
        )
    contacts = PeriodicContacts(period_s=period_s, duration_s=duration_s)
    link = LinkTime(profile=LinkProfile(), epoch_s=start_s, rate_bps=rate_bps)
    return ContactPlan(name="periodic", series=(Periodic(contacts, link, ""),))


def from_profile(profile: LinkProfile, *, epoch_s: float, frame_size: int = 1312) -> ContactPlan:
    """The contacts of an emulator's profile, in time on the wall; those of its stations, where it has some."""
    links = profile.stations or (profile,)
    return ContactPlan(
        name=profile.name,
        loss=profile.up.frame_loss(frame_size),
        is_one_way=all(link.is_one_way for link in links),
        series=[_series_of(link, "" if link is profile else link.name, epoch_s, frame_size) for link in links],
    )


def _series_of(link: LinkProfile, station: str, epoch_s: float, frame_size: int) -> ContactSeries:
    on_the_wall = LinkTime(profile=link, epoch_s=epoch_s, loss=link.up.frame_loss(frame_size) if station else None)
    if isinstance(link.contacts, PeriodicContacts):
        return Periodic(link.contacts, on_the_wall, station)
    listed = link.contacts or (Contact(start_s=0.0, end_s=math.inf),)
    named = (replace(contact, station=station or contact.station) for contact in listed)
    return Listed(on_the_wall.planned(contact) for contact in named)


def load_contact_plan(path: Path, *, now_s: float) -> ContactPlan:
    """Read a contact plan.

    Raises:
        InputError: no such file, or not a contact plan; names the contact and the key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such contact plan", hint=HINT)
    if path.stat().st_size > PLAN_BYTES_MAX:
        raise InputError(f"{path}: larger than {PLAN_BYTES_MAX} bytes", hint="is this a contact plan?")
    try:
        content = plain_yaml.load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not YAML: {error.problem}", hint=HINT) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {error}", hint=HINT) from error
    return parse_contact_plan(content, name=path.stem, source=str(path), now_s=now_s)


def parse_contact_plan(content: object, *, name: str, source: str, now_s: float) -> ContactPlan:
    """Check the content of a contact plan.

    Raises:
        InputError: not a contact plan; names the contact and the key.
    """
    fields = Fields(content, source, ("epoch", "rate", "loss", "stations", "contacts", "guard_s"))
    epoch_s = unix_s(fields.get("epoch", "now"), f"{source}: epoch", now_s)
    guard_s = number(fields.get("guard_s", GUARD_S), f"{source}: guard_s")
    usual = {"": (fields.rate_bps(None), None), **_usual_of_stations(fields)}
    listed = fields.get("contacts")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{source}: contacts must be a list with at least one contact", hint=HINT)
    contacts = [
        _contact(item, f"{source}: contact {index}", usual, epoch_s, guard_s, now_s)
        for index, item in enumerate(listed, start=1)
    ]
    return ContactPlan(contacts, name=name, loss=fields.loss(None))


_Usual = tuple[float | None, float | None]  # rate and loss


def _usual_of_stations(fields: Fields) -> dict[str, _Usual]:
    stations = fields.get("stations", {})
    if not isinstance(stations, dict):
        raise InputError(f"{fields.place}: stations must be a mapping of names to rate and loss", hint=HINT)
    rate_bps = fields.rate_bps(None)
    result: dict[str, _Usual] = {}
    for name, value in stations.items():
        station = Fields(value, f"{fields.place}: stations: {name}", ("rate", "loss"))
        result[str(name)] = station.rate_bps(rate_bps), station.loss(None)
    return result


def _contact(
    item: object, place: str, usual: dict[str, _Usual], epoch_s: float, guard_s: float, now_s: float
) -> PlannedContact:
    fields = Fields(item, place, ("station", "start_s", "end_s", "start", "end", "rate", "loss"))
    start_s, end_s = fields.moment("start", epoch_s, now_s), fields.moment("end", epoch_s, now_s)
    if end_s <= start_s:
        raise InputError(f"{place}: ends before it starts", hint="times count from the epoch, in seconds")
    station = str(fields.get("station", ""))
    rate_bps, loss = usual.get(station, usual[""])
    return PlannedContact(
        station=station,
        start_s=start_s,
        end_s=end_s,
        rate_bps=fields.rate_bps(rate_bps),
        guard_s=guard_s,
        loss=fields.loss(loss),
    )


def _apart(contacts: Iterable[PlannedContact]) -> Iterator[PlannedContact]:
    """Contacts in time order, made not to overlap: the earlier keeps its time."""
    end_s = -math.inf
    for contact in contacts:
        start_s = max(contact.start_s, end_s)
        if start_s < contact.end_s:
            yield replace(contact, start_s=start_s)
            end_s = contact.end_s
