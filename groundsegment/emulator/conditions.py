"""What a link does to frames, as plain values: loss, delay, damage, and when there is a contact at all.

Everything is in link time: seconds since the link's epoch. `LinkProfile.time_scale` says how many of them
pass in one second on the wall; only the proxy and the uplink need it. Pure: files are read in profile.py.

Promises: every value here has been checked, so the channel need not check again. It does not know about
sockets, satellites or what is in a frame.
"""

import bisect
import enum
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field


class Direction(enum.StrEnum):
    """Which way a frame travels: up to the satellite, or down to every listening station."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstLoss:
    """Loss that comes in bursts: the Gilbert-Elliott model, one step per frame.

    Attributes:
        p_good_to_bad: chance, per frame, that a burst begins.
        p_bad_to_good: chance, per frame, that a burst ends; its mean length is 1 / p_bad_to_good frames.
        loss_good: chance of losing a frame between bursts.
        loss_bad: chance of losing a frame in a burst.

    Source: Gilbert 1960, Elliott 1963.
    """

    p_good_to_bad: float
    p_bad_to_good: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        assert all(0 <= p <= 1 for p in (self.p_good_to_bad, self.p_bad_to_good, self.loss_good, self.loss_bad))

    @property
    def mean_loss(self) -> float:
        """The share of frames lost in the long run."""
        turns = self.p_good_to_bad + self.p_bad_to_good
        share_bad = self.p_good_to_bad / turns if turns else 0.0
        return share_bad * self.loss_bad + (1 - share_bad) * self.loss_good


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionProfile:
    """What happens to frames in one direction.

    Attributes:
        rate_bps: speed of the modem in bits per second of link time; None is unlimited.
        delay_s: propagation delay, one way.
        jitter_s: further delay, uniform from 0 to this, but never so that a frame overtakes another.
        loss: chance that a frame is lost, independent of all others.
        burst: loss in bursts, on top of `loss`.
        bit_error_rate: chance that a bit of a delivered frame is flipped.
        duplicate: chance that a frame is delivered twice.
        reorder: chance that a frame is held back.
        reorder_delay_s: for how long it is held back.
        queue_bytes_max: what the modem holds while it sends; frames beyond are dropped. None is unlimited.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    burst: BurstLoss | None = None
    bit_error_rate: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay_s: float = 0.0
    queue_bytes_max: int | None = None

    def __post_init__(self) -> None:
        assert self.rate_bps is None or self.rate_bps > 0
        assert all(0 <= p <= 1 for p in (self.loss, self.bit_error_rate, self.duplicate, self.reorder))
        assert min(self.delay_s, self.jitter_s, self.reorder_delay_s) >= 0

    @property
    def mean_loss(self) -> float:
        """The share of frames lost in the long run while there is a contact and the queue is not full."""
        return 1 - (1 - self.loss) * (1 - (self.burst.mean_loss if self.burst else 0.0))

    def frame_loss(self, size_bytes: int) -> float:
        """The share of frames of this size that are lost or arrive damaged, so are of no use."""
        return 1 - (1 - self.mean_loss) * (1 - self.bit_error_rate) ** (8 * size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A scheduled link: open from start_s up to, not including, end_s.

    Attributes:
        start_s: seconds after the link's epoch.
        end_s: seconds after the link's epoch; infinity for one that never ends.
        station: which ground station has it, "" where that does not matter.
    """

    start_s: float
    end_s: float
    station: str = ""

    def __post_init__(self) -> None:
        assert self.start_s < self.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicContacts:
    """Contacts of one length, one per period.

    Attributes:
        period_s: from one start to the next, longer than duration_s.
        duration_s: how long each lasts.
        first_s: when the first starts.
        count: how many there are; None is for ever.
    """

    period_s: float
    duration_s: float
    first_s: float = 0.0
    count: int | None = None

    def __post_init__(self) -> None:
        assert 0 < self.duration_s < self.period_s
        assert self.count is None or self.count > 0

    def starts_s(self) -> Iterator[float]:
        """The start of each contact, in order."""
        numbers = itertools.count() if self.count is None else range(self.count)
        return (self.first_s + number * self.period_s for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """A whole link: both directions, the contacts, and how fast time runs.

    Attributes:
        name: for people.
        description: one sentence, for people.
        up: from the ground to the satellite.
        down: from the satellite to the ground; None if there is no way back.
        contacts: when the link is there; an empty tuple means always.
        time_scale: seconds of link time per second on the wall.
        stations: the links of ground stations that have one of their own, named after them.
    """

    name: str = "unnamed"
    description: str = ""
    up: DirectionProfile = field(default_factory=DirectionProfile)
    down: DirectionProfile | None = field(default_factory=DirectionProfile)
    contacts: tuple[Contact, ...] | PeriodicContacts = ()
    time_scale: float = 1.0
    stations: tuple["LinkProfile", ...] = ()
    _windows: tuple[tuple[float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.time_scale > 0
        assert all(not link.stations and link.time_scale == self.time_scale for link in self.stations)
        listed = () if isinstance(self.contacts, PeriodicContacts) else self.contacts
        object.__setattr__(self, "_windows", _merged(listed))

    @property
    def is_one_way(self) -> bool:
        """Whether nothing ever comes down."""
        return self.down is None

    def in_direction(self, direction: Direction) -> DirectionProfile | None:
        """What happens in one direction; None if nothing gets through at all."""
        return self.up if direction is Direction.UP else self.down

    def contact_windows(self, until_s: float) -> list[tuple[float, float]]:
        """When the link is there, as (start, end) in link seconds, in order and never touching.

        Contacts of two stations that overlap are one window. What lies beyond until_s is cut off, so the
        list is finite and its lengths add up to the time that can be used before until_s.
        """
        if isinstance(self.contacts, PeriodicContacts):
            duration_s = self.contacts.duration_s
            starts = itertools.takewhile(lambda start_s: start_s < until_s, self.contacts.starts_s())
            windows = [(start_s, start_s + duration_s) for start_s in starts]
        elif self.contacts:
            windows = [window for window in self._windows if window[0] < until_s]
        else:
            windows = [(0.0, until_s)] if until_s > 0 else []
        return [(start_s, min(end_s, until_s)) for start_s, end_s in windows]

    def contact_at(self, link_s: float) -> tuple[bool, float]:
        """Whether there is a contact at this time, and until when that stays so (may be infinity)."""
        if isinstance(self.contacts, PeriodicContacts):
            return _periodic_at(self.contacts, link_s)
        if not self.contacts:
            return True, math.inf
        following = bisect.bisect_right(self._windows, link_s, key=lambda window: window[0])
        if following and link_s < self._windows[following - 1][1]:
            return True, self._windows[following - 1][1]
        return False, self._windows[following][0] if following < len(self._windows) else math.inf


def _merged(contacts: tuple[Contact, ...]) -> tuple[tuple[float, float], ...]:
    windows: list[tuple[float, float]] = []
    for contact in sorted(contacts, key=lambda contact: contact.start_s):
        if windows and contact.start_s <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(windows[-1][1], contact.end_s))
        else:
            windows.append((contact.start_s, contact.end_s))
    return tuple(windows)


def _periodic_at(contacts: PeriodicContacts, link_s: float) -> tuple[bool, float]:
    def start_s(number: int) -> float:
        return contacts.first_s + number * contacts.period_s

    number = max(0, math.floor((link_s - contacts.first_s) / contacts.period_s))
    if start_s(number + 1) <= link_s:  # the quotient was rounded down just below a whole number
        number += 1
    end_s = start_s(number) + contacts.duration_s
    if link_s >= end_s:
        number += 1
    if contacts.count is not None and number >= contacts.count:
        return False, math.inf
    if link_s < start_s(number):
        return False, start_s(number)
    return True, end_s
