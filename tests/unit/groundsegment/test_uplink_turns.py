"""Who flies, when to hold back, how probable it is that all is there: pure parts of the uplink's shell."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundsegment.depot.records import FlightState, Update
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.uplink.flight.flight_records import FlightPlan
from groundsegment.uplink.flight.link_prior import begin_options
from groundsegment.uplink.sender.completion import SentBlock, probability_complete
from groundsegment.uplink.sender.lineup import Waiting, line_up
from groundsegment.uplink.sender.loss import LossEstimate
from groundsegment.uplink.sender.patience import HOLD_S_MAX, Patience
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.link_keys import Direction
from tests.fakes.depots import make_depot

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


def an_update(sequence, **changes):
    digest = sequence.to_bytes(32, "big")
    values = {"satellite": "SAT-1", "release_name": "tiny", "release_digest": digest, "base_digest": None}
    values |= {"state": FlightState.STAGED, "payload_bytes": 1, "directory": Path("x"), "created_utc": NOW}
    return Update(handle=sequence.to_bytes(6, "big"), sequence=sequence, **{**values, **changes})


def sequences(updates, **options):
    lineup = line_up(updates, **{"station": 0, "utc": NOW, **options})
    assert len(lineup.flying) + len(lineup.waiting) == len(updates)
    return [update.sequence for update in lineup.flying], {update.sequence: why for update, why in lineup.waiting}


def test_updates_that_would_end_each_other_fly_one_after_the_other():
    assert sequences([an_update(1), an_update(2)]) == ([1], {2: Waiting.OLDER_FIRST})
    assert sequences([an_update(1), an_update(2, priority=1)]) == ([2], {1: Waiting.OVERTAKEN})
    assert sequences([an_update(1, priority=1), an_update(2)]) == ([1], {2: Waiting.OLDER_FIRST})


def test_an_update_beside_others_flies_with_them_the_most_urgent_first():
    assert sequences([an_update(1), an_update(2, beside=True, priority=5)]) == ([2, 1], {})
    assert sequences([an_update(1), an_update(2, beside=True), an_update(3)]) == ([1, 2], {3: Waiting.OLDER_FIRST})


def test_an_update_that_stands_still_gives_way_to_its_cure():
    stuck = an_update(1)
    assert sequences([stuck, an_update(2)], stuck=[stuck.handle]) == ([1, 2], {})


def test_an_update_signed_again_flies_in_the_place_of_the_old_one():
    digest = b"d" * 32
    old, new = an_update(1, release_digest=digest, priority=3), an_update(2, release_digest=digest)
    assert sequences([old, new]) == ([2], {1: Waiting.SIGNED_AGAIN})
    assert sequences([old, replace(new, beside=True)]) == ([2], {1: Waiting.SIGNED_AGAIN})
    assert sequences([old, replace(new, lanes=1)], station=0, on_board=[old.handle])[0] == [2]
    assert sequences([replace(old, lanes=2), new], station=1)[0] == [1]


def test_no_more_fly_than_a_satellite_keeps():
    flying, waiting = sequences([an_update(number, beside=True) for number in range(1, 7)])
    assert flying == [1, 2, 3, 4]
    assert set(waiting.values()) == {Waiting.NO_ROOM}


def test_expired_and_laneless_updates_hold_nobody_up():
    expired = an_update(1, expires_utc=NOW)
    laneless = an_update(2)
    flying, waiting = sequences([expired, laneless, an_update(3, lanes=2)], station=1)
    assert flying == [3]
    assert waiting == {1: Waiting.EXPIRED, 2: Waiting.NO_LANE}
    assert sequences([expired], on_board=[expired.handle]) == ([1], {})
    assert sequences([an_update(1, expires_utc=NOW + timedelta(seconds=1))]) == ([1], {})


@given(
    st.lists(
        st.builds(
            lambda priority, beside, lanes: {"priority": priority, "beside": beside, "lanes": lanes},
            st.integers(-2, 2),
            st.booleans(),
            st.integers(1, 3),
        ),
        max_size=7,
    ),
    st.integers(0, 2),
)
def test_somebody_always_flies_who_may_and_no_two_end_each_other(shapes, station):
    updates = [an_update(number, **shape) for number, shape in enumerate(shapes, start=1)]
    flying = line_up(updates, station=station, utc=NOW).flying
    assert bool(flying) == any(station < update.lanes for update in updates)
    for update in flying:
        assert station < update.lanes
        assert all(update.beside for other in flying if other.sequence < update.sequence)


def p_complete(*blocks, loss):
    return probability_complete([SentBlock(num_source=k, have=have, sent=sent) for k, have, sent in blocks], loss)


def test_the_probability_of_completion_is_that_of_the_dice():
    rng, loss, blocks = random.Random(4), 0.1, ((100, 0, 118), (200, 50, 172))
    runs = 4000
    wins = sum(
        all(sum(rng.random() >= loss for _ in range(sent)) >= k - have for k, have, sent in blocks) for _ in range(runs)
    )
    known = LossEstimate(lost=1e6 * loss, arrived=1e6 * (1 - loss), scatter=1e6, samples=1e6)  # independent losses
    assert p_complete(*blocks, loss=known) == pytest.approx(wins / runs, abs=0.03)


def test_what_is_not_known_of_the_loss_makes_completion_less_sure():
    sure, guess = LossEstimate(lost=1e5, arrived=9e5), LossEstimate(lost=1.0, arrived=9.0)
    assert p_complete((1000, 0, 1150), loss=sure) > 0.99
    assert 0.4 < p_complete((1000, 0, 1150), loss=guess) < 0.9
    assert p_complete((1000, 1000, 0), loss=guess) == 1.0
    assert p_complete((1000, 0, 999), loss=sure) == 0.0


def a_patience(interval_s, count=40, **options):
    patience = Patience(**options)
    patience.begin_contact()
    for number in range(count):
        patience.heard(number * interval_s)
    return patience, (count - 1) * interval_s


def test_regular_reports_that_stop_are_noticed_sooner_than_rare_ones():
    for interval_s, patient_s, holding_s in ((0.1, 0.5, 0.7), (0.02, 0.3, 0.45), (1.0, 5.0, 6.5)):
        patience, last_s = a_patience(interval_s)
        assert not patience.holds(last_s + patient_s)
        assert patience.holds(last_s + holding_s)


def test_a_report_ends_the_hold():
    patience, last_s = a_patience(0.1)
    assert patience.holds(last_s + 1)
    patience.heard(last_s + 2)
    assert not patience.holds(last_s + 2.1)


def test_a_way_down_that_dies_costs_a_contact_ten_seconds_at_most():
    patience, last_s = a_patience(0.1)
    held_s = sum(0.01 for step in range(6000) if patience.holds(last_s + 0.01 * step))
    assert held_s == pytest.approx(HOLD_S_MAX, abs=0.1)


def test_what_was_held_is_slowly_granted_again_while_reports_come():
    patience, last_s = a_patience(0.1)
    assert patience.holds(last_s + 1)
    patience.heard(last_s + 10)  # nine seconds of ten are used up
    for number in range(100):  # ten seconds with reports grant a fifth of one
        patience.heard(last_s + 10 + 0.1 * number)
    now = last_s + 20
    held_s = sum(0.01 for step in range(2000) if patience.holds(now + 0.01 * step))
    assert 1.0 < held_s < 1.5


def test_where_reports_never_came_nothing_is_held_back():
    for count in (0, 1, 7):
        patience, last_s = a_patience(0.1, count)
        assert not any(patience.holds(last_s + seconds) for seconds in range(100))
    patience, last_s = a_patience(0.1)
    patience.begin_contact()
    assert not patience.holds(last_s + 5)
    patience, last_s = a_patience(0.1, is_wanted=False)
    assert not patience.holds(last_s + 5)


def test_a_run_begins_with_what_earlier_ones_learned_of_this_station_s_link_and_else_with_the_plan_s_word(tmp_path):
    plan = FlightPlan(
        satellite="SAT-1", endpoint=Endpoint(host="x", port=1), contacts=ContactPlan((), loss=0.3), rate_bps=1e6
    )
    with make_depot(tmp_path / "depot") as depot:
        assert begin_options(depot, plan, 0.0).loss.mean == pytest.approx(0.3)
        learned = LossEstimate(lost=200.0, arrived=800.0)
        depot.journal.save_loss("SAT-1", 0, Direction.UP, learned.to_dict(), utc=NOW)
        depot.journal.save_loss("SAT-1", 0, Direction.DOWN, learned.to_dict(), utc=NOW)
        again = begin_options(depot, plan, 0.0)
        assert again.loss.mean == again.loss_down.mean == pytest.approx(0.2)
        assert again.loss.deviation > learned.deviation  # a link changes between contacts
        assert begin_options(depot, replace(plan, station=1), 0.0).loss.mean == pytest.approx(0.3)


def test_a_one_way_link_is_silent_from_the_start_and_an_open_rate_waits_longer(tmp_path):
    contact = PlannedContact(station="", start_s=0.0, end_s=10.0, rate_bps=1e6)
    plan = FlightPlan(satellite="SAT-1", endpoint=Endpoint(host="x", port=1), contacts=ContactPlan([contact]))
    with make_depot(tmp_path / "depot") as depot:
        assert begin_options(depot, plan, 0.0).silence_s == 2.0
        assert begin_options(depot, replace(plan, rate_bps=0.0), 0.0).silence_s == 8.0
        one_way = replace(plan, contacts=ContactPlan([contact], is_one_way=True))
        assert begin_options(depot, one_way, 0.0).silence_s == 0.0
