"""The channel, one promise per test, with a scripted or seeded source of randomness."""

import itertools
import math
import random

import pytest

from groundsegment.emulator.channel import IN_FLIGHT_BYTES_MAX, Channel
from groundsegment.emulator.conditions import (
    BurstLoss,
    Contact,
    Direction,
    DirectionProfile,
    LinkProfile,
    PeriodicContacts,
)

UP, DOWN = Direction.UP, Direction.DOWN
FRAME = bytes(range(250)) * 5  # 1250 bytes: 10,000 bits


def channel_with(*, seed: int = 1, **profile: object) -> Channel:
    return Channel(LinkProfile(**profile), random.Random(seed))  # type: ignore[arg-type]


def link_up(**conditions: object) -> Channel:
    return channel_with(up=DirectionProfile(**conditions))  # type: ignore[arg-type]


def fly(channel: Channel, num_frames: int, *, spacing_s: float = 0.001, direction: Direction = UP) -> list[bytes]:
    """Send numbered frames at even spacing, wait long, return what arrived."""
    arrived = []
    for number in range(num_frames):
        channel.send(direction, number.to_bytes(4, "big") + FRAME, number * spacing_s)
        arrived += channel.deliver(number * spacing_s)
    arrived += channel.deliver(num_frames * spacing_s + 1e6)
    return [data for _, data in arrived]


def numbers(frames: list[bytes]) -> list[int]:
    return [int.from_bytes(frame[:4], "big") for frame in frames]


def within_binomial_bounds(count: int, of: int, probability: float) -> bool:
    """Five standard deviations: a right program fails once in two million seeds, and the seed is fixed."""
    return abs(count - of * probability) <= 5 * math.sqrt(of * probability * (1 - probability))


def test_a_clear_link_delivers_everything_at_once_in_both_directions() -> None:
    channel = channel_with()
    channel.send(UP, b"question", 1.0)
    channel.send(DOWN, b"answer", 1.0)
    assert channel.deliver(1.0) == [(UP, b"question"), (DOWN, b"answer")]
    assert channel.next_deadline() is None


def test_a_frame_arrives_after_its_delay_and_not_before() -> None:
    channel = link_up(delay_s=0.25)
    channel.send(UP, FRAME, 1.0)
    assert channel.next_deadline() == 1.25
    assert channel.deliver(1.2499) == []
    assert channel.deliver(1.25) == [(UP, FRAME)]


def test_directions_are_merged_in_order_of_arrival() -> None:
    channel = channel_with(up=DirectionProfile(delay_s=0.3), down=DirectionProfile(delay_s=0.1))
    channel.send(UP, b"first sent", 0.0)
    channel.send(DOWN, b"first there", 0.1)
    assert channel.deliver(1.0) == [(DOWN, b"first there"), (UP, b"first sent")]


def test_the_rate_is_respected() -> None:
    channel = link_up(rate_bps=1_000_000)
    for _ in range(100):
        channel.send(UP, FRAME, 0.0)
    assert len(channel.deliver(0.5 + 1e-9)) == 50
    assert len(channel.deliver(1.0 + 1e-9)) == 50


def test_an_idle_modem_does_not_save_up_capacity() -> None:
    channel = link_up(rate_bps=1_000_000)
    channel.send(UP, FRAME, 0.0)
    channel.send(UP, FRAME, 10.0)
    channel.send(UP, FRAME, 10.0)
    channel.deliver(9.0)
    assert len(channel.deliver(10.015)) == 1


def test_a_full_queue_drops_the_newest_frame() -> None:
    channel = link_up(rate_bps=1_000_000, queue_bytes_max=2 * len(FRAME))
    for number in range(5):
        channel.send(UP, bytes([number]) + FRAME[1:], 0.0)
    assert [data[0] for _, data in channel.deliver(9.0)] == [0, 1]
    assert channel.statistics().up.lost_queue == 3


def test_an_idle_modem_takes_a_frame_larger_than_its_queue() -> None:
    channel = link_up(rate_bps=1_000_000, queue_bytes_max=10)
    channel.send(UP, FRAME, 0.0)
    assert channel.deliver(1.0) == [(UP, FRAME)]


def test_what_is_in_flight_is_bounded_even_without_rate_and_queue() -> None:
    channel = link_up(delay_s=1e9)
    frame = bytes(1 << 20)
    for _ in range((IN_FLIGHT_BYTES_MAX >> 20) + 3):
        channel.send(UP, frame, 0.0)
    assert channel.statistics().up.in_flight == IN_FLIGHT_BYTES_MAX >> 20
    assert channel.statistics().up.lost_queue == 3


def test_what_arrived_or_was_cut_makes_room_for_more() -> None:
    channel = link_up(delay_s=1.0)
    frame = bytes(IN_FLIGHT_BYTES_MAX)
    for second in range(0, 12, 3):
        channel.send(UP, frame, second)
        if second % 2:
            channel.cut(second)
            channel.restore(second)
        channel.deliver(second + 2)
    assert (channel.statistics().up.delivered, channel.statistics().up.lost_queue) == (2, 0)


def test_independent_loss_takes_its_share() -> None:
    channel = link_up(loss=0.1)
    arrived = fly(channel, 20_000)
    assert within_binomial_bounds(20_000 - len(arrived), 20_000, 0.1)
    assert channel.statistics().up.lost_random == 20_000 - len(arrived)


def test_bursts_take_their_share_in_runs_of_their_length() -> None:
    burst = BurstLoss(p_good_to_bad=0.01, p_bad_to_good=0.1, loss_bad=1.0)
    channel = link_up(burst=burst)
    arrived = numbers(fly(channel, 50_000))
    lost = 50_000 - len(arrived)
    assert burst.mean_loss == pytest.approx(1 / 11)
    assert lost == pytest.approx(50_000 * burst.mean_loss, rel=0.1)
    runs = [after - before - 1 for before, after in itertools.pairwise(arrived) if after - before > 1]
    assert sum(runs) / len(runs) == pytest.approx(10, rel=0.1)
    assert channel.statistics().up.lost_burst == lost


def test_loss_between_bursts_counts_as_random_and_in_bursts_as_burst() -> None:
    burst = BurstLoss(p_good_to_bad=0.02, p_bad_to_good=0.1, loss_good=0.05, loss_bad=0.5)
    channel = link_up(burst=burst)
    fly(channel, 40_000)
    up = channel.statistics().up
    assert up.lost == pytest.approx(40_000 * burst.mean_loss, rel=0.1)
    assert up.lost_random == pytest.approx(40_000 * 0.05 * 5 / 6, rel=0.1)
    assert up.lost_burst == pytest.approx(40_000 * 0.5 / 6, rel=0.1)


def test_bits_fail_independently_at_their_rate() -> None:
    channel = link_up(bit_error_rate=1e-4)
    arrived = fly(channel, 5_000)
    sent = [number.to_bytes(4, "big") + FRAME for number in range(5_000)]
    wrong = [
        (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count() for a, b in zip(sent, arrived, strict=True)
    ]
    num_bits = 8 * sum(len(frame) for frame in sent)
    assert within_binomial_bounds(sum(wrong), num_bits, 1e-4)
    clean = (1 - 1e-4) ** (8 * len(sent[0]))
    assert within_binomial_bounds(wrong.count(0), 5_000, clean)
    assert channel.statistics().up.corrupted == 5_000 - wrong.count(0)


def test_a_bit_error_rate_of_one_flips_every_bit() -> None:
    channel = link_up(bit_error_rate=1.0)
    channel.send(UP, b"\x00\xff\x0f", 0.0)
    channel.send(UP, b"\xaa", 0.0)
    assert channel.deliver(0.0) == [(UP, b"\xff\x00\xf0"), (UP, b"\x55")]


def test_duplicates_are_second_copies_and_are_counted() -> None:
    channel = link_up(duplicate=0.2)
    arrived = numbers(fly(channel, 10_000))
    num_extra = len(arrived) - len(set(arrived))
    assert set(arrived) == set(range(10_000))
    assert within_binomial_bounds(num_extra, 10_000, 0.2)
    assert channel.statistics().up.duplicated == num_extra


def test_a_frame_held_back_is_overtaken_and_counted() -> None:
    channel = link_up(reorder=0.1, reorder_delay_s=0.0105)
    arrived = numbers(fly(channel, 10_000))
    newest, num_late = -1, 0
    for number in arrived:
        num_late += number < newest
        newest = max(newest, number)
    assert within_binomial_bounds(num_late, 10_000, 0.1)
    assert channel.statistics().up.reordered == num_late


def test_jitter_delays_but_never_swaps() -> None:
    channel = link_up(delay_s=0.1, jitter_s=0.05)
    dues = []
    for number in range(1000):
        channel.send(UP, number.to_bytes(4, "big"), number * 0.02)
    while (deadline := channel.next_deadline()) is not None:
        dues += [(deadline, int.from_bytes(data, "big")) for _, data in channel.deliver(deadline)]
    assert [number for _, number in dues] == list(range(1000))
    delays = [due - number * 0.02 for due, number in dues]
    assert 0.1 <= min(delays) < 0.11
    assert 0.14 < max(delays) <= 0.15 + 1e-9


def test_a_gap_loses_all_that_is_sent_in_it() -> None:
    channel = channel_with(contacts=(Contact(start_s=0, end_s=1), Contact(start_s=2, end_s=3)))
    for tenth in range(40):
        channel.send(UP, bytes([tenth]), tenth / 10)
    assert [data[0] for _, data in channel.deliver(9.0)] == [*range(10), *range(20, 30)]
    assert channel.statistics().up.lost_gap == 20


def test_frames_in_flight_at_the_end_of_a_contact_are_lost_iff_they_would_arrive_after_it() -> None:
    channel = channel_with(up=DirectionProfile(delay_s=0.25), contacts=(Contact(start_s=0, end_s=1),))
    channel.send(UP, b"in time", 0.7)
    channel.send(UP, b"too late", 0.75)
    channel.send(UP, b"far too late", 0.99)
    assert channel.deliver(5.0) == [(UP, b"in time")]
    assert channel.statistics().up.lost_gap == 2


def test_what_the_modem_still_holds_at_the_end_of_a_contact_is_lost() -> None:
    contacts = PeriodicContacts(period_s=10, duration_s=1)
    channel = channel_with(up=DirectionProfile(rate_bps=1_000_000), contacts=contacts)
    for _ in range(100):
        channel.send(UP, FRAME, 0.5)
    assert len(channel.deliver(20.0)) == 49  # the fiftieth would end exactly with the contact


def test_a_cut_takes_what_is_in_flight_and_all_that_follows_until_restored() -> None:
    channel = link_up(delay_s=1.0)
    channel.send(UP, b"arrived but not fetched", 0.0)
    channel.send(UP, b"in flight", 0.5)
    channel.cut(1.0)
    assert not channel.is_up(1.0)
    channel.send(UP, b"into the void", 1.1)
    channel.restore(2.0)
    channel.send(UP, b"after", 2.0)
    assert channel.is_up(2.0)
    assert [data for _, data in channel.deliver(9.0)] == [b"arrived but not fetched", b"after"]
    assert channel.statistics().up.lost_gap == 2


def test_one_direction_can_be_cut_alone() -> None:
    channel = channel_with()
    channel.cut(0.0, DOWN)
    channel.send(DOWN, b"answer", 0.0)
    channel.send(UP, b"question", 0.0)
    assert channel.deliver(0.0) == [(UP, b"question")]
    assert channel.is_up(0.0, UP)
    assert not channel.is_up(0.0, DOWN)


def test_restoring_does_not_open_a_gap() -> None:
    channel = channel_with(contacts=(Contact(start_s=10, end_s=20),))
    channel.cut(0.0)
    channel.restore(1.0)
    assert not channel.is_up(1.0)
    assert channel.is_up(10.0)


def test_a_restored_modem_has_forgotten_its_queue() -> None:
    channel = link_up(rate_bps=1_000_000)
    for _ in range(100):
        channel.send(UP, FRAME, 0.0)
    channel.cut(0.1)
    channel.deliver(0.1)
    channel.restore(0.2)
    channel.send(UP, b"after", 0.2)
    assert channel.deliver(0.21) == [(UP, b"after")]


def test_a_one_way_link_brings_nothing_down() -> None:
    channel = channel_with(down=None)
    channel.send(DOWN, b"answer", 0.0)
    channel.send(UP, b"question", 0.0)
    assert channel.deliver(9.0) == [(UP, b"question")]
    assert not channel.is_up(0.0, DOWN)


def test_a_change_of_profile_keeps_counters_and_frames_in_flight() -> None:
    channel = link_up(delay_s=1.0)
    channel.send(UP, b"before", 0.0)
    channel.change_profile(LinkProfile(up=DirectionProfile(loss=1.0)), 0.5)
    channel.send(UP, b"after", 0.5)
    assert channel.deliver(9.0) == [(UP, b"before")]
    assert (channel.statistics().up.offered, channel.statistics().up.lost_random) == (2, 1)
