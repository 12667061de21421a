"""What fits into the next contacts is what the forecast says will be there at their end."""

from itertools import islice

import pytest

from groundsegment.planner.capacity import capacity_bytes
from groundsegment.planner.contact_plan import periodic
from groundsegment.planner.forecast import Load, Weather, forecast


def contacts(number, *, rate_bps=2e6, duration_s=400.0):
    plan = periodic(per_day=4.0, duration_s=duration_s, rate_bps=rate_bps, start_s=0.0)
    return tuple(islice(plan.from_time(0.0), number))


def p_done(size_bytes, chosen, weather):
    return forecast(Load(bundle_sizes=(size_bytes,)), chosen, weather, start_s=0.0).contacts[-1].p_done


@pytest.mark.parametrize("weather", [Weather(loss=0.0), Weather(loss=0.3, loss_deviation=0.02)])
def test_a_little_more_would_not_fit(weather):
    chosen = contacts(3)

    size = capacity_bytes(chosen, weather, start_s=0.0)

    assert p_done(size, chosen, weather) >= 0.9
    assert p_done(int(1.01 * size), chosen, weather) < 0.9


def test_it_is_the_rate_less_headers_and_losses():
    clear, lossy = (capacity_bytes(contacts(2), Weather(loss=loss), start_s=0.0) for loss in (0.0, 0.5))

    assert 0.9 < clear / (2 * 400 * 2e6 / 8) < 1.0
    assert lossy == pytest.approx(clear / 2, rel=0.02)


def test_a_contact_that_may_be_missed_is_not_counted_on():
    chosen = contacts(3)

    assert capacity_bytes(chosen, Weather(loss=0.0, p_missed=0.2), start_s=0.0) < 0.7 * capacity_bytes(
        chosen, Weather(loss=0.0), start_s=0.0
    )


def test_no_contact_carries_nothing():
    assert capacity_bytes((), Weather(), start_s=0.0) == 0
