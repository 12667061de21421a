"""Sender, emulated channel and model satellite in one process: whatever the link does, everything arrives, and cheaply.

The limit is K / (1 - loss) symbols, with the loss that really happened. What a satellite had not synced when the power
went is lost by agreement, and counted as such.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundsegment.emulator.conditions import BurstLoss, Contact, DirectionProfile, LinkProfile
from groundsegment.uplink.sender.core import UplinkOptions
from protocol.blocks import block_layout
from protocol.fec import BlockEncoder
from protocol.frame import FrameKind
from protocol.report import UpdateState
from tests.fakes.flight import Flight, lossy

PACE_FPS = 1000
SETTINGS = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def links(draw):
    """Loss of both kinds, delay, jitter, duplicates, reordering, gaps."""
    burst = draw(st.none() | st.just(BurstLoss(p_good_to_bad=0.01, p_bad_to_good=0.2, loss_bad=0.9)))
    up = DirectionProfile(
        loss=draw(st.sampled_from([0.0, 0.02, 0.1, 0.3])),
        burst=burst,
        delay_s=draw(st.sampled_from([0.0, 0.02, 0.3])),
        jitter_s=draw(st.sampled_from([0.0, 0.01])),
        reorder=draw(st.sampled_from([0.0, 0.02])),
        reorder_delay_s=0.03,
        duplicate=draw(st.sampled_from([0.0, 0.02])),
    )
    down = DirectionProfile(loss=draw(st.sampled_from([0.0, 0.3, 0.8])), delay_s=up.delay_s)
    gaps = draw(st.lists(st.tuples(st.floats(0.8, 4), st.floats(0.5, 3)), max_size=4))
    contacts, at = [], 0.0
    for length_s, gap_s in gaps:
        contacts.append(Contact(start_s=at, end_s=at + length_s))
        at += length_s + gap_s
    contacts.append(Contact(start_s=at, end_s=1e9))
    return LinkProfile(up=up, down=down, contacts=tuple(contacts))


@SETTINGS
@given(profile=links(), seed=st.integers(0, 2**31), sync_interval_s=st.sampled_from([0.1, 1.0]))
def test_any_link_with_a_way_back_carries_everything_near_the_limit(profile, seed, sync_interval_s):
    flight = Flight([1500, 700], profile, seed=seed, rate_fps=PACE_FPS, sync_interval_s=sync_interval_s)

    assert flight.run(until_s=300)

    assert flight.core.state(flight.objects[0].handle) is UpdateState.CONFIRMED
    assert flight.num_repeated == 0
    # Small blocks: a loss that is not yet known, and chance, are some percent of them; the size that flies is below.
    # Where most reports are lost there are silences, and in silence frames go out on suspicion.
    assert flight.symbol_ratio <= 1.07 or profile.down.loss > 0.5


@SETTINGS
@given(data=st.data(), seed=st.integers(0, 2**31), loss=st.sampled_from([0.0, 0.1, 0.3]))
def test_either_end_may_be_killed_at_any_moment(data, seed, loss):
    flight = Flight([1500, 700], lossy(loss), seed=seed, rate_fps=PACE_FPS, sync_interval_s=0.3)
    kills = data.draw(st.lists(st.tuples(st.floats(0.05, 3), st.booleans()), max_size=5))
    for time_s, is_ground in sorted(kills):
        if flight.run(until_s=time_s):
            break
        if is_ground:
            flight.kill_ground()
        else:
            flight.satellite.kill()

    assert flight.run(until_s=120)

    assert flight.num_repeated == 0
    wasted = flight.satellite.num_symbols_cut + 60 * len(kills)
    assert flight.symbols_sent * (1 - loss) <= 1.08 * (flight.num_source + wasted)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_blocks_of_the_size_that_flies_cost_one_percent(loss):
    contacts = tuple(Contact(start_s=s, end_s=e) for s, e in ((0, 7), (10, 16), (19, 27), (30, 1e9)))
    flight = Flight([6500] * 4, lossy(loss, contacts=contacts), rate_fps=PACE_FPS, sync_interval_s=1.0)

    assert flight.run(until_s=200)

    assert flight.symbol_ratio <= 1.01


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_kills_of_the_ground_cost_three_percent(loss):
    flight = Flight([6500] * 4, lossy(loss), rate_fps=PACE_FPS, sync_interval_s=1.0, seed=3)
    rng = random.Random(3)
    at = 0.0
    for _ in range(8):
        at += rng.uniform(1, 5)
        assert not flight.run(until_s=at)
        flight.kill_ground()

    assert flight.run(until_s=200)

    assert flight.num_repeated == 0
    assert flight.symbol_ratio <= 1.03


@pytest.mark.slow
@pytest.mark.parametrize("queue_bytes", [262_144, 2_000_000])
@pytest.mark.parametrize(("rate_bps", "num_symbols"), [(2e6, 2000), (24e6, 4274)])
@pytest.mark.parametrize("loss", [0.005, 0.1])
def test_a_rate_that_nobody_says_is_found_without_a_flood(rate_bps, num_symbols, queue_bytes, loss):
    up = DirectionProfile(rate_bps=rate_bps, loss=loss, delay_s=0.02, queue_bytes_max=queue_bytes)
    profile = LinkProfile(up=up, down=DirectionProfile(loss=0.05, delay_s=0.02))
    flight = Flight([num_symbols], profile, symbol_size=1280, rate_fps=None, sync_interval_s=1.0)

    assert flight.run(until_s=60, step_s=0.01)

    # Frame headers are 2.5 % of it.
    assert flight.bytes_sent * (1 - loss) <= 1.15 * num_symbols * 1280
    assert flight.now < 2 + 1.5 * num_symbols * 1280 * 8 / rate_bps / (1 - loss)


@SETTINGS
@given(seed=st.integers(0, 2**31), loss=st.sampled_from([0.0, 0.1, 0.3]), kills=st.lists(st.floats(0.1, 4), max_size=2))
def test_a_one_way_link_delivers_everything_too(seed, loss, kills):
    options = UplinkOptions(silence_s=0.0)
    profile = lossy(loss, one_way=True)
    flight = Flight([900, 400, 400], profile, seed=seed, rate_fps=PACE_FPS, options=options, sync_interval_s=0.1)
    for time_s in sorted(kills):
        flight.run(until_s=time_s)
        flight.kill_ground()

    while flight.satellite.all_there_since is None and flight.now < 20:
        flight.step(0.02)

    assert flight.satellite.all_there_since is not None
    assert flight.num_repeated == 0


def test_what_arrives_is_what_was_sent():
    """Real symbols, really solved, over loss and a power cut."""
    layout, size = block_layout(150, 8), 8
    rng = random.Random(5)
    blobs = {}

    def make_symbol(handle, block, esi):
        data = blobs.setdefault(handle, rng.randbytes(150 * size))
        return BlockEncoder(FrameKind.RAPTORQ, data, size).symbols(esi, 1)[0]

    flight = Flight([150], lossy(0.2), seed=5, rate_fps=400, make_symbol=None, keep_symbols=True, sync_interval_s=0.1)
    bundle = flight.objects[1]
    flight.make_symbol = lambda handle, block, esi: (
        make_symbol(handle, block, esi) if handle == bundle.handle else bytes(size)
    )
    flight.run(until_s=0.3)
    flight.satellite.kill()

    assert flight.run(until_s=30)
    assert flight.satellite.object_bytes(bundle.handle, layout.padded_size) == blobs[bundle.handle]
