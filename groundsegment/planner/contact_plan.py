"""The contact plan: when there is a link, through which station, at which rate. Read from a file, or from a profile.

    epoch: 2026-11-22T06:00:00Z        # or "now"; what start_s and end_s count from
    rate: 2Mbit/s                      # of all contacts that do not say
    loss: 10%                          # what to expect; optional
    contacts:
      - {station: svalbard, start_s: 0, end_s: 435}
      - {station: inuvik, start: 2026-11-22T07:40:00Z, end: 2026-11-22T07:46:30Z, rate: 1Mbit/s}

Times come out as Unix seconds. A link profile of the emulator is a contact plan too: its link time is turned into
time on the wall, its rate with it. Contacts never overlap: where two stations see the satellite, the earlier keeps it.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from groundsegment.emulator.conditions import Contact, LinkProfile, PeriodicContacts
from groundsegment.errors import InputError
from groundsegment.planner.quantities import parse_rate, parse_share, parse_utc

PLAN_BYTES_MAX = 1 << 20
GUARD_S = 0.2  # frames sent later than this before the end of a contact may not make it
_HINT = "see `skyload plan --help` for an example of a contact plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedContact:
    """One contact.

    Attributes:
        station: which ground station has it; may be empty.
        start_s: Unix seconds.
        end_s: Unix seconds; infinity for one that never ends.
        rate_bps: bits per second of frames; None where nobody says.
        guard_s: of its end, not used for sending.
    """

    station: str
    start_s: float
    end_s: float
    rate_bps: float | None = None
    guard_s: float = GUARD_S

    @property
    def duration_s(self) -> float:
        """How long frames can be sent."""
        return max(0.0, self.end_s - self.guard_s - self.start_s)


class ContactPlan:
    """Contacts in time order; there may be infinitely many.

    Attributes:
        name: for people.
        loss: expected share of frames lost, where the plan says.
        is_one_way: nothing ever comes down.
    """

    def __init__(
        self,
        contacts: Iterable[PlannedContact],
        *,
        name: str = "",
        loss: float | None = None,
        is_one_way: bool = False,
        key: tuple[PeriodicContacts, "LinkProfile", float] | None = None,
    ) -> None:
        self.name, self.loss, self.is_one_way = name, loss, is_one_way
        self._contacts = tuple(_apart(contacts))
        self._periodic = key

    def at_rate(self, rate_bps: float) -> "ContactPlan":
        """The same contacts at another rate."""
        plan = ContactPlan((), name=self.name, loss=self.loss, is_one_way=self.is_one_way)
        plan._contacts = tuple(replace(contact, rate_bps=rate_bps) for contact in self._contacts)
        if self._periodic is not None:
            periodic, profile, epoch_s = self._periodic
            up = replace(profile.up, rate_bps=rate_bps / profile.time_scale)
            plan._periodic = periodic, replace(profile, up=up), epoch_s
        return plan

    def from_time(self, now_s: float) -> Iterator[PlannedContact]:
        """Contacts that are not over, in time order."""
        if self._periodic is None:
            yield from (contact for contact in self._contacts if contact.end_s - contact.guard_s > now_s)
            return
        periodic, profile, epoch_s = self._periodic
        first = max(0, math.floor(((now_s - epoch_s) * profile.time_scale - periodic.first_s) / periodic.period_s))
        for number in itertools.count(first):
            if periodic.count is not None and number >= periodic.count:
                return
            start_s = periodic.first_s + number * periodic.period_s
            contact = Contact(start_s=start_s, end_s=start_s + periodic.duration_s)
            planned = _from_link_time(contact, profile, epoch_s)
            if planned.end_s - planned.guard_s > now_s:
                yield planned


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
    up = replace(LinkProfile().up, rate_bps=rate_bps)
    profile = LinkProfile(name="periodic", up=up, contacts=contacts)
    return ContactPlan((), name="periodic", key=(contacts, profile, start_s))


def from_profile(profile: LinkProfile, *, epoch_s: float, frame_size: int = 1312) -> ContactPlan:
    """The contacts of an emulator's profile, in time on the wall."""
    loss = profile.up.frame_loss(frame_size)
    options: Mapping[str, Any] = {"name": profile.name, "loss": loss, "is_one_way": profile.is_one_way}
    if isinstance(profile.contacts, PeriodicContacts):
        return ContactPlan((), key=(profile.contacts, profile, epoch_s), **options)
    listed = profile.contacts or (Contact(start_s=0.0, end_s=math.inf),)
    return ContactPlan((_from_link_time(contact, profile, epoch_s) for contact in listed), **options)


def load_contact_plan(path: Path, *, now_s: float) -> ContactPlan:
    """Read a contact plan.

    Raises:
        InputError: no such file, or not a contact plan; names the contact and the key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such contact plan", hint=_HINT)
    if path.stat().st_size > PLAN_BYTES_MAX:
        raise InputError(f"{path}: larger than {PLAN_BYTES_MAX} bytes", hint="is this a contact plan?")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}: not YAML: {error.problem}", hint=_HINT) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {error}", hint=_HINT) from error
    return parse_contact_plan(content, name=path.stem, source=str(path), now_s=now_s)


def parse_contact_plan(content: object, *, name: str, source: str, now_s: float) -> ContactPlan:
    """Check the content of a contact plan.

    Raises:
        InputError: not a contact plan; names the contact and the key.
    """
    fields = _Fields(content, source, ("epoch", "rate", "loss", "contacts", "guard_s"))
    epoch_s = _time(fields.get("epoch", "now"), f"{source}: epoch", now_s)
    rate = fields.get("rate", None)
    rate_bps = None if rate is None else parse_rate(str(rate), option=f"{source}: rate")
    loss = fields.get("loss", None)
    guard_s = _number(fields.get("guard_s", GUARD_S), f"{source}: guard_s")
    listed = fields.get("contacts", None)
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{source}: contacts must be a list with at least one contact", hint=_HINT)
    contacts = [
        _contact(item, f"{source}: contact {number}", epoch_s, rate_bps, guard_s, now_s)
        for number, item in enumerate(listed, start=1)
    ]
    share = None if loss is None else parse_share(str(loss), option=f"{source}: loss")
    return ContactPlan(contacts, name=name, loss=share)


def _contact(
    item: object, place: str, epoch_s: float, rate_bps: float | None, guard_s: float, now_s: float
) -> PlannedContact:
    fields = _Fields(item, place, ("station", "start_s", "end_s", "start", "end", "rate"))
    start_s = _moment(fields, "start", place, epoch_s, now_s)
    end_s = _moment(fields, "end", place, epoch_s, now_s)
    if end_s <= start_s:
        raise InputError(f"{place}: ends before it starts", hint="times count from the epoch, in seconds")
    rate = fields.get("rate", None)
    return PlannedContact(
        station=str(fields.get("station", "")),
        start_s=start_s,
        end_s=end_s,
        rate_bps=rate_bps if rate is None else parse_rate(str(rate), option=f"{place}: rate"),
        guard_s=guard_s,
    )


def _moment(fields: "_Fields", name: str, place: str, epoch_s: float, now_s: float) -> float:
    seconds, text = fields.get(f"{name}_s", None), fields.get(name, None)
    if (seconds is None) == (text is None):
        if name == "end" and seconds is None and fields.has("end_s"):
            return math.inf  # end_s: null, it never ends
        raise InputError(f"{place}: needs either {name}_s or {name}", hint=_HINT)
    if seconds is not None:
        return epoch_s + _number(seconds, f"{place}: {name}_s")
    return _time(text, f"{place}: {name}", now_s)


def _number(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{place}: must be a number of seconds, got {value!r}", hint=_HINT)
    return float(value)


def _time(value: object, place: str, now_s: float) -> float:
    if value == "now":
        return now_s
    if isinstance(value, datetime):  # YAML reads ISO times itself
        value = value.isoformat()
    if not isinstance(value, str):
        raise InputError(f"{place}: must be a time, got {value!r}", hint="write it as 2026-11-22T06:00:00Z")
    return parse_utc(value, option=place).timestamp()


class _Fields:
    """A YAML mapping of which every key must be known."""

    def __init__(self, value: object, place: str, known: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{place}: must be a mapping of keys to values", hint=_HINT)
        unknown = [str(key) for key in value if key not in known]
        if unknown:
            raise InputError(f"{place}: unknown key {unknown[0]!r}", hint=f"keys here are {', '.join(known)}")
        self._value = value

    def get(self, name: str, default: object) -> object:
        return self._value.get(name, default)

    def has(self, name: str) -> bool:
        return name in self._value


def _from_link_time(contact: Contact, profile: LinkProfile, epoch_s: float) -> PlannedContact:
    scale, up = profile.time_scale, profile.up
    return PlannedContact(
        station=contact.station,
        start_s=epoch_s + contact.start_s / scale,
        end_s=epoch_s + contact.end_s / scale,
        rate_bps=None if up.rate_bps is None else up.rate_bps * scale,
        guard_s=(up.delay_s + up.jitter_s) / scale + GUARD_S,
    )


def _apart(contacts: Iterable[PlannedContact]) -> Iterator[PlannedContact]:
    end_s = -math.inf
    for contact in sorted(contacts, key=lambda contact: contact.start_s):
        start_s = max(contact.start_s, end_s)
        if start_s < contact.end_s:
            yield replace(contact, start_s=start_s)
            end_s = contact.end_s
