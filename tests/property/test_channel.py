"""Properties of the channel over any profile and any order of calls."""

import itertools
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from groundsegment.emulator.channel import Channel, ChannelStatistics
from groundsegment.emulator.conditions import (
    BurstLoss,
    Contact,
    Direction,
    DirectionProfile,
    LinkProfile,
    PeriodicContacts,
)

CHANCES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
TIMES_S = st.sampled_from([0.0, 0.01, 0.3, 2.0])
BIT_ERROR_RATES = st.sampled_from([0.0, 0.01])
BURSTS = st.builds(BurstLoss, p_good_to_bad=CHANCES, p_bad_to_good=CHANCES, loss_good=CHANCES, loss_bad=CHANCES)


def directions(*, bit_error_rates: st.SearchStrategy[float], reorders: st.SearchStrategy[float]):
    return st.builds(
        DirectionProfile,
        rate_bps=st.sampled_from([None, 1000.0, 100_000.0]),
        delay_s=TIMES_S,
        jitter_s=TIMES_S,
        loss=CHANCES,
        burst=st.none() | BURSTS,
        bit_error_rate=bit_error_rates,
        duplicate=CHANCES,
        reorder=reorders,
        reorder_delay_s=TIMES_S,
        queue_bytes_max=st.sampled_from([None, 1, 100]),
    )


CONTACTS = (
    st.just(())
    | st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 5)).map(
            lambda pair: Contact(start_s=pair[0], end_s=pair[0] + pair[1])
        ),
        max_size=4,
    ).map(tuple)
    | st.builds(PeriodicContacts, period_s=st.just(3.0), duration_s=st.sampled_from([0.5, 2.9]), first_s=TIMES_S)
)


def profiles(
    bit_error_rates: st.SearchStrategy[float] = BIT_ERROR_RATES,
    reorders: st.SearchStrategy[float] = CHANCES,
):
    either = directions(bit_error_rates=bit_error_rates, reorders=reorders)
    return st.builds(LinkProfile, up=either, down=st.none() | either, contacts=CONTACTS)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["up", "up", "down", "deliver", "cut", "restore"]),
        st.sampled_from([0.0, 0.001, 0.1, 1.5]),
        st.integers(0, 40),
    ),
    max_size=60,
)


class Flight:
    """One run of a channel over a list of calls, with all that was seen."""

    def __init__(self, profile: LinkProfile, calls: list[tuple[str, float, int]], seed: int) -> None:
        self.channel = Channel(profile, random.Random(seed))
        self.sent: dict[Direction, list[bytes]] = {Direction.UP: [], Direction.DOWN: []}
        self.arrived: list[tuple[float, Direction, bytes]] = []
        self.now = 0.0
        for number, (call, wait_s, size) in enumerate(calls):
            self.now += wait_s
            if call in ("up", "down"):
                frame = number.to_bytes(2, "big") + bytes(size)
                self.sent[Direction(call)].append(frame)
                self.channel.send(Direction(call), frame, self.now)
            elif call == "deliver":
                self.deliver()
            elif call == "cut":
                self.channel.cut(self.now)
            else:
                self.channel.restore(self.now)
            check_conservation(self.channel.statistics())

    def deliver(self) -> None:
        self.arrived += [(self.now, direction, data) for direction, data in self.channel.deliver(self.now)]

    def finish(self) -> None:
        self.now += 1e6
        self.deliver()
        assert self.channel.next_deadline() is None

    def came(self, direction: Direction) -> list[bytes]:
        return [data for _, way, data in self.arrived if way is direction]


def check_conservation(statistics: ChannelStatistics) -> None:
    for counters in (statistics.up, statistics.down):
        assert counters.offered + counters.duplicated == counters.delivered + counters.lost + counters.in_flight


@settings(max_examples=150, deadline=None)
@given(profiles(), CALLS, st.integers(0, 9))
def test_every_frame_is_delivered_lost_or_in_flight(profile, calls, seed) -> None:
    flight = Flight(profile, calls, seed)
    flight.finish()
    check_conservation(flight.channel.statistics())
    assert flight.channel.statistics().up.in_flight == flight.channel.statistics().down.in_flight == 0


@settings(max_examples=150, deadline=None)
@given(profiles(bit_error_rates=st.just(0.0)), CALLS, st.integers(0, 9))
def test_nothing_is_delivered_that_was_not_sent(profile, calls, seed) -> None:
    flight = Flight(profile, calls, seed)
    flight.finish()
    for direction in Direction:
        conditions = profile.in_direction(direction)
        copies_max = 2 if conditions is not None and conditions.duplicate else 1
        came = Counter(flight.came(direction))
        assert came.keys() <= set(flight.sent[direction])
        assert not came or max(came.values()) <= copies_max


@settings(max_examples=100, deadline=None)
@given(profiles(), CALLS, st.integers(0, 9))
def test_bit_errors_never_change_a_frames_length(profile, calls, seed) -> None:
    flight = Flight(profile, calls, seed)
    flight.finish()
    for direction in Direction:
        sizes = Counter(len(frame) for frame in flight.sent[direction])
        came = Counter(len(frame) for frame in flight.came(direction))
        assert all(came[size] <= 2 * sizes[size] for size in came)


@settings(max_examples=150, deadline=None)
@given(profiles(bit_error_rates=st.just(0.0), reorders=st.just(0.0)), CALLS, st.integers(0, 9))
def test_without_reordering_each_direction_keeps_its_order(profile, calls, seed) -> None:
    flight = Flight(profile, calls, seed)
    flight.finish()
    for direction in Direction:
        numbers = [frame[:2] for frame in flight.came(direction)]
        assert numbers == sorted(numbers)
    assert flight.channel.statistics().up.reordered == flight.channel.statistics().down.reordered == 0


@settings(max_examples=100, deadline=None)
@given(profiles(), CALLS, st.integers(0, 9))
def test_the_same_seed_and_calls_give_the_same_result(profile, calls, seed) -> None:
    first, second = Flight(profile, calls, seed), Flight(profile, calls, seed)
    first.finish()
    second.finish()
    assert first.arrived == second.arrived
    assert first.channel.statistics() == second.channel.statistics()


@settings(max_examples=100, deadline=None)
@given(profiles(), CALLS, st.integers(0, 9))
def test_the_deadline_is_the_moment_the_next_frame_comes_out(profile, calls, seed) -> None:
    channel = Flight(profile, calls, seed).channel
    while (deadline := channel.next_deadline()) is not None:
        before = channel.statistics()
        channel.deliver(deadline - 1e-6)
        assert channel.statistics().up.offered == before.up.offered
        assert channel.deliver(deadline) or channel.next_deadline() != deadline


@settings(max_examples=150, deadline=None)
@given(profiles(), st.floats(0, 40, allow_nan=False), st.floats(0.1, 40))
def test_contact_windows_and_contact_at_tell_the_same_story(profile, link_s, until_s) -> None:
    windows = profile.contact_windows(until_s)
    assert all(0 <= start_s < end_s <= until_s for start_s, end_s in windows)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(windows))
    if link_s < until_s:
        is_contact, changes_s = profile.contact_at(link_s)
        assert is_contact == any(start_s <= link_s < end_s for start_s, end_s in windows)
        assert changes_s > link_s
        assert profile.contact_at(changes_s)[0] != is_contact or changes_s == float("inf")
        edges = [edge_s for window in windows for edge_s in window if link_s < edge_s < until_s]
        assert changes_s == min(edges) if edges else changes_s >= until_s
