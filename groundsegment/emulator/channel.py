"""The link emulator's channel: frames in, the frames that survive out, later. Pure and seeded.

Driven by its caller, who brings the time in link seconds (never going back) and a source of randomness:

- a frame is sent                         send
- time                                    next_deadline, deliver
- somebody pulls the plug, or puts it in  cut, restore

A frame meets, in this order: the contact (none: lost), the modem's queue (full: dropped), the modem (one bit
after the other), burst loss, random loss, propagation and jitter, the end of the contact, and bit errors;
then perhaps once more from propagation on, if it is duplicated. A frame in flight when a contact ends is lost
if and only if it would arrive after it; the same holds for a cut.

It promises that the same seed and the same calls give the same result; that nothing is delivered that was not
sent, bits flipped by `bit_error_rate` aside; and that without `reorder` each direction keeps its order. At
every moment, in each direction,

    offered + duplicated = delivered + lost (all causes) + in flight.

It does not know what is in a frame, where it comes from, or what time it is. It is the same class in tests
and in the proxy, so that the two cannot disagree.
"""

import heapq
import math
from dataclasses import dataclass
from typing import Protocol

from groundsegment.emulator.conditions import Direction, DirectionProfile, LinkProfile

# A link without a rate but with a delay could hold any amount; a proxy must not grow without bound.
# 64 MiB are 50 s of a 10 Mbit/s link, far beyond any real propagation delay.
IN_FLIGHT_BYTES_MAX = 64 << 20


class RandomSource(Protocol):
    """What the channel needs of `random.Random`."""

    def random(self) -> float:
        """The next number, uniform in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionStatistics:
    """Counters of one direction since the channel was made.

    Attributes:
        offered: frames handed to `send`.
        offered_bytes: their size.
        delivered: frames that came out of `deliver`, duplicates among them.
        delivered_bytes: their size.
        lost_random: taken by independent loss, or by burst loss between bursts.
        lost_burst: taken in a burst.
        lost_gap: there was no contact, or it ended while they were in flight; cuts count here too.
        lost_queue: the modem's queue was full.
        corrupted: sent on with flipped bits (a cut may still have taken some of them).
        duplicated: second copies sent on.
        reordered: delivered after a frame that was sent later.
        in_flight: sent, not lost, not yet delivered.
    """

    offered: int
    offered_bytes: int
    delivered: int
    delivered_bytes: int
    lost_random: int
    lost_burst: int
    lost_gap: int
    lost_queue: int
    corrupted: int
    duplicated: int
    reordered: int
    in_flight: int

    @property
    def lost(self) -> int:
        """Frames lost, whatever the cause."""
        return self.lost_random + self.lost_burst + self.lost_gap + self.lost_queue


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """Counters of both directions."""

    up: DirectionStatistics
    down: DirectionStatistics


class _Lane:
    """One direction: its conditions, flattened for speed, its state, and its counters."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.is_cut = self.is_bad = False
        self.busy_until = -math.inf
        self.latest_due = -math.inf
        self.newest = -1
        self.offered = self.bytes_offered = self.delivered = self.bytes_delivered = self.in_flight = 0
        self.lost_random = self.lost_burst = self.lost_gap = self.lost_queue = 0
        self.corrupted = self.duplicated = self.reordered = 0

    def take_on(self, conditions: DirectionProfile | None, rng: RandomSource) -> None:
        """Live under these conditions from now on."""
        self.is_closed = conditions is None
        conditions = conditions or DirectionProfile()
        self.s_per_byte = 8 / conditions.rate_bps if conditions.rate_bps else 0.0
        self.queue_bytes_max = math.inf if conditions.queue_bytes_max is None else conditions.queue_bytes_max
        self.delay_s = conditions.delay_s
        self.jitter_s = conditions.jitter_s
        self.loss = conditions.loss
        self.burst = conditions.burst
        self.takes_frames = bool(conditions.loss or conditions.burst)
        self.bit_error_rate = conditions.bit_error_rate
        self.bits_to_error = _bits_to_error(conditions.bit_error_rate, rng)
        self.duplicate = conditions.duplicate
        self.reorder = conditions.reorder
        self.reorder_delay_s = conditions.reorder_delay_s

    def forget_queues(self, now: float) -> None:
        """Let the next frame find modem and network idle."""
        self.busy_until = min(self.busy_until, now)
        self.latest_due = min(self.latest_due, now)

    def statistics(self) -> DirectionStatistics:
        return DirectionStatistics(
            offered=self.offered,
            offered_bytes=self.bytes_offered,
            delivered=self.delivered,
            delivered_bytes=self.bytes_delivered,
            lost_random=self.lost_random,
            lost_burst=self.lost_burst,
            lost_gap=self.lost_gap,
            lost_queue=self.lost_queue,
            corrupted=self.corrupted,
            duplicated=self.duplicated,
            reordered=self.reordered,
            in_flight=self.in_flight,
        )


class Channel:
    """A link between the ground and one satellite."""

    def __init__(self, profile: LinkProfile, rng: RandomSource) -> None:
        """Make a link with empty counters.

        Args:
            profile: what it does to frames, and when there is a contact.
            rng: used by this channel alone, else the promise of repeatability is void.
        """
        self._rng = rng
        self._random = rng.random
        self._up = _Lane(Direction.UP)
        self._down = _Lane(Direction.DOWN)
        self._heap: list[tuple[float, int, _Lane, bytes]] = []
        self._num_pushed = 0
        self._bytes_in_flight = 0
        self._take_on(profile)

    @property
    def profile(self) -> LinkProfile:
        """The conditions in force."""
        return self._profile

    def send(self, direction: Direction, data: bytes, now: float) -> None:
        """Offer one frame to the link."""
        lane = self._up if direction is Direction.UP else self._down
        size = len(data)
        lane.offered += 1
        lane.bytes_offered += size
        if not self._since <= now < self._until:
            self._turn(now)
        if lane.is_cut or lane.is_closed or not self._is_contact:
            lane.lost_gap += 1
            return
        due = now
        if lane.s_per_byte:
            if lane.busy_until > now:  # an idle modem takes a frame of any size
                due = lane.busy_until
                if (due - now) / lane.s_per_byte + size > lane.queue_bytes_max:
                    lane.lost_queue += 1
                    return
            due += size * lane.s_per_byte
            lane.busy_until = due
        if lane.takes_frames and self._is_taken(lane):
            return
        self._send_on(lane, data, due)
        if lane.duplicate and self._random() < lane.duplicate:
            lane.duplicated += 1
            self._send_on(lane, data, due)

    def deliver(self, now: float) -> list[tuple[Direction, bytes]]:
        """Take out every frame that has arrived by now, both directions, in order of arrival."""
        heap = self._heap
        arrived = []
        while heap and heap[0][0] <= now:
            _, number, lane, data = heapq.heappop(heap)
            size = len(data)
            lane.delivered += 1
            lane.bytes_delivered += size
            lane.in_flight -= 1
            self._bytes_in_flight -= size
            if number < lane.newest:
                lane.reordered += 1
            else:
                lane.newest = number
            arrived.append((lane.direction, data))
        return arrived

    def next_deadline(self) -> float | None:
        """When the next frame arrives; None if none is in flight."""
        return self._heap[0][0] if self._heap else None

    def cut(self, now: float, direction: Direction | None = None) -> None:
        """Pull the plug, in one direction or both: what would arrive after now is lost."""
        for lane in self._lanes(direction):
            lane.is_cut = True
            lane.forget_queues(now)
        kept = []
        for entry in self._heap:
            due, _, lane, data = entry
            if lane.is_cut and due > now:
                lane.lost_gap += 1
                lane.in_flight -= 1
                self._bytes_in_flight -= len(data)
            else:
                kept.append(entry)
        heapq.heapify(kept)
        self._heap = kept

    def restore(self, now: float, direction: Direction | None = None) -> None:
        """Put the plug back in; contacts are as the profile says."""
        self._turn(now)
        for lane in self._lanes(direction):
            lane.is_cut = False

    def change_profile(self, profile: LinkProfile, now: float) -> None:
        """Go on under other conditions; counters, cuts, and what is queued or in flight stay."""
        self._take_on(profile)
        self._turn(now)

    def is_up(self, now: float, direction: Direction = Direction.UP) -> bool:
        """Whether a frame sent now in this direction would have a link."""
        (lane,) = self._lanes(direction)
        return not (lane.is_cut or lane.is_closed) and self._profile.contact_at(now)[0]

    def is_cut(self, direction: Direction) -> bool:
        """Whether this direction was cut by hand and not restored."""
        (lane,) = self._lanes(direction)
        return lane.is_cut

    def statistics(self) -> ChannelStatistics:
        """A snapshot of all counters."""
        return ChannelStatistics(up=self._up.statistics(), down=self._down.statistics())

    def _take_on(self, profile: LinkProfile) -> None:
        self._profile = profile
        self._since, self._until, self._is_contact = math.inf, -math.inf, False
        self._up.take_on(profile.up, self._rng)
        self._down.take_on(profile.down, self._rng)

    def _lanes(self, direction: Direction | None) -> tuple[_Lane, ...]:
        if direction is None:
            return (self._up, self._down)
        return (self._up if direction is Direction.UP else self._down,)

    def _turn(self, now: float) -> None:
        """Look up the contact, or the gap, that now lies in."""
        self._is_contact, self._until = self._profile.contact_at(now)
        self._since = now

    def _is_taken(self, lane: _Lane) -> bool:
        """Draw both kinds of loss."""
        burst = lane.burst
        if burst is not None:
            turns = burst.p_bad_to_good if lane.is_bad else burst.p_good_to_bad
            if self._random() < turns:
                lane.is_bad = not lane.is_bad
            if lane.is_bad:
                if self._random() < burst.loss_bad:
                    lane.lost_burst += 1
                    return True
            elif burst.loss_good and self._random() < burst.loss_good:
                lane.lost_random += 1
                return True
        if lane.loss and self._random() < lane.loss:
            lane.lost_random += 1
            return True
        return False

    def _send_on(self, lane: _Lane, data: bytes, due: float) -> None:
        """Put one copy in flight, unless it would arrive after the contact."""
        due += lane.delay_s
        if lane.jitter_s:
            # Queues in the network delay frames without swapping them; `reorder` is for those that do.
            due = max(due + self._random() * lane.jitter_s, lane.latest_due)
            lane.latest_due = due
        if lane.reorder and self._random() < lane.reorder:
            due += lane.reorder_delay_s
        size = len(data)
        if due >= self._until:
            lane.lost_gap += 1
            return
        if self._bytes_in_flight + size > IN_FLIGHT_BYTES_MAX:
            lane.lost_queue += 1
            return
        if lane.bit_error_rate:
            data = self._with_bit_errors(lane, data)
        heapq.heappush(self._heap, (due, self._num_pushed, lane, data))
        self._num_pushed += 1
        self._bytes_in_flight += size
        lane.in_flight += 1

    def _with_bit_errors(self, lane: _Lane, data: bytes) -> bytes:
        """Flip bits where the direction's stream of errors hits this frame."""
        num_bits = 8 * len(data)
        if lane.bits_to_error >= num_bits:
            lane.bits_to_error -= num_bits
            return data
        damaged = bytearray(data)
        position = lane.bits_to_error
        while position < num_bits:
            damaged[int(position) >> 3] ^= 0x80 >> (int(position) & 7)
            position += 1 + _bits_to_error(lane.bit_error_rate, self._rng)
        lane.bits_to_error = position - num_bits
        lane.corrupted += 1
        return bytes(damaged)


def _bits_to_error(bit_error_rate: float, rng: RandomSource) -> float:
    """How many good bits come before the next bad one: geometric, so each bit fails on its own.

    One draw per error instead of one per bit; frames without an error cost one subtraction.
    """
    if bit_error_rate <= 0:
        return math.inf
    if bit_error_rate >= 1:
        return 0
    return math.floor(math.log1p(-rng.random()) / math.log1p(-bit_error_rate))
