"""The virtual clock keeps order whatever is asked of it; the same seed flies the same mission; schemes never overtake
the limit."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundsegment.simulation.clock import VirtualClock
from groundsegment.simulation.mission import Mission
from groundsegment.simulation.passes import Passes, pass_contacts
from groundsegment.simulation.payload import PayloadStore
from groundsegment.simulation.random_plan import SYMBOL_SIZE, random_mission
from groundsegment.simulation.schemes import fly_all
from groundsegment.simulation.seeds import source
from groundsegment.simulation.weather import ContactWeather
from groundsegment.uplink.sender.schedule import SymbolRun
from protocol.fec import solve
from protocol.frame import FrameKind
from tests.fakes.simulating import SatelliteHere

TIMES = st.floats(0, 1000, allow_nan=False)


@given(asked=st.lists(TIMES, max_size=40), until_s=TIMES)
def test_calls_come_in_order_and_none_before_its_time(asked, until_s):
    clock, seen = VirtualClock(), []
    for number, time_s in enumerate(asked):
        clock.at(time_s, lambda number=number: seen.append((clock.now, number)))
    clock.run(until_s)

    assert seen == sorted((time_s, number) for number, time_s in enumerate(asked) if time_s < until_s)
    assert clock.now == until_s


@given(data=st.data(), first=st.lists(TIMES, min_size=1, max_size=8))
def test_what_is_asked_within_a_call_comes_later_never_back_in_time(data, first):
    clock, seen = VirtualClock(), []
    left = [30]

    def call():
        seen.append(clock.now)
        if left[0]:
            left[0] -= 1
            clock.at(data.draw(TIMES), call)

    for time_s in first:
        clock.at(time_s, call)
    clock.run(2000.0)

    assert seen == sorted(seen)
    assert len(seen) == len(first) + 30


@given(first=st.lists(TIMES, max_size=20), stop_at=st.integers(0, 25))
def test_a_clock_stops_when_it_is_over_and_can_go_on(first, stop_at):
    clock, seen = VirtualClock(), []
    for time_s in first:
        clock.at(time_s, lambda: seen.append(clock.now))
    clock.run(2000.0, lambda: len(seen) >= stop_at)
    assert len(seen) == min(stop_at, len(first))
    clock.run(2000.0)

    assert len(seen) == len(first)


@given(per_day=st.floats(0.5, 10), mean_s=st.floats(60, 600), days=st.floats(2, 40), seed=st.integers(0, 2**31))
def test_passes_are_apart_as_many_as_wished_and_as_long_on_average(per_day, mean_s, days, seed):
    contacts = pass_contacts(Passes(per_day=per_day, mean_s=mean_s), until_s=days * 86_400, rng=source(seed))

    assert len(contacts) == pytest.approx(per_day * days, abs=per_day + 2)
    assert all(a.end_s < b.start_s for a, b in pairwise(contacts))
    if contacts:
        mean = sum(contact.end_s - contact.start_s for contact in contacts) / len(contacts)
        assert mean == pytest.approx(mean_s)


@given(
    seed=st.integers(0, 2**31),
    loss=st.floats(0, 0.5),
    slots=st.integers(100, 900),
    num_source=st.integers(1, 3000),
    scale=st.sampled_from([1.0, 16.0]),
)
@settings(max_examples=25, deadline=None)
def test_no_scheme_needs_less_than_the_limit_or_loses_what_it_had(seed, loss, slots, num_source, scale):
    rng = np.random.default_rng(seed)
    weather = [
        ContactWeather(start_s=number * 1000.0, duration_s=60.0, arrives=rng.random(slots) >= loss)
        for number in range(40)
    ]
    for result in fly_all(weather, num_source, scale=scale):
        assert list(result.shares) == sorted(result.shares)
        assert result.shares[-1] <= 1
        if result.num_contacts is not None:
            assert result.shares[-1] == 1
            assert result.limit_ratio >= 1
            assert result.frames_sent >= num_source


@given(seed=st.integers(0, 2**31), size=st.integers(1, 60_000), first=st.integers(0, 400), extra=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_symbols_of_a_payload_are_those_of_its_bytes(seed, size, first, extra):
    with PayloadStore(SYMBOL_SIZE) as store:
        item = store.add_random("any", size, bundle_bytes=20_000, seed=seed).objects[-1]
        num_source = item.layout.symbols_of(0)
        run = SymbolRun(handle=item.handle, block=0, first_esi=first, count=num_source + extra + 3)
        symbols = dict(zip(range(first, first + run.count), store.symbols(run), strict=True))
        whole = store.symbols(SymbolRun(handle=item.handle, block=0, first_esi=0, count=num_source))

    assert solve(FrameKind.RAPTORQ, num_source, SYMBOL_SIZE, symbols) == b"".join(whole)


@pytest.mark.slow
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(1, 10_000))
def test_the_same_seed_flies_the_same_mission(seed):
    chosen = random_mission(seed)

    def fly():
        with PayloadStore(SYMBOL_SIZE) as store, SatelliteHere() as satellite:
            update = store.add_random("one", 100_000, bundle_bytes=60_000, seed=seed)
            return Mission(chosen.plan, [update], store, satellite).fly()

    once, again = fly(), fly()

    assert once.contacts == again.contacts
    assert once.totals == again.totals
    assert random_mission(seed) == chosen
