"""Whole flights of real processes: killed at random moments thirty times, and in bounded memory."""

import pytest

from bench.kills import fly_and_kill
from bench.memory import stage_and_fly
from tests.fakes.rehearsals import RehearsalAtHand

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2026, 2027, 2028])
def test_ten_flights_with_a_kill_each_all_end_confirmed_with_the_right_bytes(seed):
    # Half the bench's payload: kills, drawn from 2.5 s, meet the installation and the trial as well as the transfer.
    outcomes = fly_and_kill(10, seed=seed, release_bytes=3_000_000, rehearsal_type=RehearsalAtHand)
    assert [outcome for outcome in outcomes if not outcome.is_right or outcome.state != "confirmed"] == []
    assert {outcome.victim for outcome in outcomes} == {"daemon", "uplink"}


@pytest.mark.timeout(900)
def test_memory_is_bounded_by_less_than_the_release():
    figures = stage_and_fly(600_000_000)
    # The bar is 1000, for any size: `make bench NAME=memory` flies 4 GB. Two workers hold 100 MB each.
    assert figures["packer_rss_mb"] < 600
    assert figures["daemon_rss_mb"] < 256
    assert figures["payload_mb"] > 500
