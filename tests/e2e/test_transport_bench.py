"""The transport bench in its quick form: two namespaces, real loss, real peers, real processes."""

import shutil

import pytest

from bench.transport.flight import Row, fly
from bench.transport.link import Loss, why_impossible
from bench.transport.measure import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _skip_if_impossible():
    reason = why_impossible() or ("" if shutil.which("uftp") else "uftp is not installed")
    if reason:
        pytest.skip(f"no link between namespaces here: {reason}")


def test_over_ten_percent_loss_it_arrives_right_and_near_the_limit():
    _skip_if_impossible()
    table, figures = measure(["--quick", "--rows", "0.1", "--no-speeds", "--megabytes", "8"])
    assert "| 10 %" in table
    # The payload is small, so that fixed costs weigh more than in the measurement itself.
    assert 1.0 < figures["total_ratio"]["0.1"] < 1.06
    assert figures["symbol_ratio"]["0.1"] < 1.03
    assert figures["uftp_ratio"]["0.1"] is None or figures["uftp_ratio"]["0.1"] > 1.0


def test_a_killed_receiver_and_a_cut_link_are_lived_through():
    _skip_if_impossible()
    table, _ = measure(["--quick", "--rows", "cut", "kill", "--only", "Skyload", "--no-speeds", "--megabytes", "4"])
    lines = [line for line in table.splitlines() if "| Skyload" in line]
    assert len(lines) == 2
    assert all(line.count("1 of 1") == 2 for line in lines)


def test_a_sender_that_gives_up_for_good_ends_the_flight():
    _skip_if_impossible()

    class Hopeless:
        name, payload_bytes, is_ours = "hopeless", 1000, False

        def begin(self, link, directory):
            self.num_resumed = 0

        def poll(self):
            return 1

        def resume(self):
            self.num_resumed += 1
            return self.num_resumed < 3

        def is_right(self):
            return False

        def figures(self):
            return {"resumed": self.num_resumed}

    outcome = fly(Hopeless(), Row(key="x", title="x", loss=Loss()), time_limit_s=30)
    assert not outcome.finished
    assert outcome.figures["resumed"] == 3
