"""A link that goes away within a contact and comes back teaches nothing wrong: neither its loss nor its delay."""

import pytest

from tests.fakes.flight import Flight, lossy


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dark_s", [0.5, 1.5, 3.0, 15.0])
def test_a_link_that_was_dark_for_a_while_costs_nothing_of_what_arrives(seed, dark_s):
    flight = Flight([11_000, 11_000], lossy(0.1), seed=seed, rate_fps=2050, sync_interval_s=1.0)
    flight.run(until_s=6.0)
    flight.channel.cut(flight.now)
    flight.run(until_s=6.0 + dark_s)
    flight.channel.restore(flight.now)

    assert flight.run(until_s=60.0)
    assert flight.channel.statistics().up.delivered < 1.004 * flight.num_source
    assert flight.core.loss.mean == pytest.approx(0.1, abs=0.02)
