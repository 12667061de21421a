"""The transport bench reads its counters right, and its table and figures hide nothing."""

from xml.etree import ElementTree

import numpy as np
import pytest

from bench.transport.counters import Count, direction_counts, parse_counts
from bench.transport.flight import Outcome, Row
from bench.transport.link import Loss, firewall_rules
from bench.transport.measure import LOSS_ROWS, figures_of
from bench.transport.one_way import _Arrivals, one_flight, worst_of_99_percent
from bench.transport.plot import ratio_plot
from bench.transport.table import Cell, ratios_of, results_table, symbols_table

GROUND = """
*filter
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [7:77]
[1000:1496000] -A OUTPUT -o sky0 -m comment --comment sent
[10:15040] -A OUTPUT -o sky0 -m length --length 1501:65535 -m comment --comment "in-two"
COMMIT
"""
SPACE = """
[1000:1496000] -A INPUT -i sky0 -m comment --comment arriving
[200:299200] -A INPUT -i sky0 -j DARK
[800:1196800] -A INPUT -i sky0 -m comment --comment lit
[780:1190000] -A INPUT -i sky0 -m length --length 1000:65535 -m comment --comment lit-large
[80:119680] -A INPUT -i sky0 -m statistic --mode random --probability 0.1 -j DROP
[600:900000] -A INPUT -i sky0 -m length --length 1000:65535 -m comment --comment passed-large
[102:153000] -A CALM -m length --length 1000:65535 -m comment --comment passed-large
"""


def counts():
    return direction_counts(parse_counts(GROUND), parse_counts(SPACE))


def test_counters_are_read_by_the_comments_of_their_rules_and_added_up():
    assert parse_counts(SPACE)["passed-large"] == Count(packets=702, size_bytes=1_053_000)
    assert "statistic" not in parse_counts(SPACE)


def test_what_met_a_dark_link_does_not_count_as_used_and_does_not_count_as_loss():
    up = counts()
    assert up.dark == Count(packets=200, size_bytes=299_200)
    assert up.used == up.sent - up.dark
    assert up.loss == pytest.approx(0.1)


def test_a_packet_that_the_kernel_cuts_in_two_costs_one_more_header():
    assert counts().sent == Count(packets=1010, size_bytes=1_496_000 + 10 * 20)


def outcome(*, finished=True, right=True, seconds=10.0, surplus=0):
    nothing = direction_counts(
        {"sent": Count(packets=10, size_bytes=1000), "in-two": Count()},
        {name: Count(packets=10, size_bytes=1000) for name in ("arriving", "lit", "lit-large", "passed-large")},
    )
    return Outcome(
        payload_bytes=1_000_000,
        up=counts(),
        down=nothing,
        nominal_loss=0.1,
        seconds=seconds,
        finished=finished,
        right=right,
        socket_drops=0,
        figures={"num_symbols": 700, "surplus": surplus},
    )


def cell(name, *outcomes, row=LOSS_ROWS[2]):
    return Cell(row=row, name=name, outcomes=outcomes)


def test_the_ratio_counts_every_byte_both_ways_against_the_loss_that_really_was():
    flown = outcome()
    used = 1_496_200 - 299_200 + 1000
    assert flown.ratio == pytest.approx(used * (1 - flown.loss) / 1_000_000)
    assert flown.symbol_ratio == pytest.approx(702 / 700)


def test_a_transport_that_mostly_does_not_finish_has_no_ratio_and_its_line_says_so():
    broken = cell("cfdp-py", outcome(finished=False), outcome(right=False), outcome())
    assert broken.ratio is None
    line = results_table([broken]).splitlines()[-1]
    assert "1 of 3" in line
    assert "2 of 3" in line  # bytes right
    assert f"({outcome().ratio:.4f})" in line
    assert "into the dark" in line


def test_what_finishes_with_wrong_bytes_has_not_finished():
    assert not cell("UFTP", outcome(right=False)).finishes


def test_ratios_have_every_key_of_the_bench_and_null_where_nothing_finished():
    cells = [cell("UFTP", outcome()), cell("cfdp-py", outcome(finished=False))]
    assert set(ratios_of(cells, "UFTP", LOSS_ROWS)) == {"0", "0.05", "0.1", "0.2", "0.3", "bursts"}
    assert ratios_of(cells, "UFTP", LOSS_ROWS)["0.1"] == round(outcome().ratio, 4)
    assert ratios_of(cells, "cfdp-py", LOSS_ROWS)["0.1"] is None


def test_the_figures_are_those_that_the_bench_promises():
    speeds = {"receiver_mb_s": 70.0, "receiver_rss_mb": 60.0, "sender_mb_s": 80.0}
    figures = figures_of([cell("Skyload", outcome())], {"0.1": 1.01}, speeds)
    ratios = ["total_ratio", "symbol_ratio", "one_way_ratio", "uftp_ratio", "cfdp_ratio"]
    assert list(figures) == [*ratios, "receiver_mb_s", "receiver_rss_mb", "sender_mb_s"]
    assert figures["symbol_ratio"]["0.1"] == round(702 / 700, 4)
    assert all(set(figures[name]) == {row.key for row in LOSS_ROWS} for name in ratios)


def test_the_table_of_symbols_shows_only_ours():
    text = symbols_table([cell("Skyload", outcome(surplus=3)), cell("UFTP", outcome())], "Skyload", {"0.1": 1.0123})
    assert len(text.splitlines()) == 3
    assert "1.0123" in text


def test_the_plot_is_well_formed_and_has_a_gap_where_a_transport_did_not_finish():
    keys = ["a", "b", "c", "bursts"]
    series = {"one": {"a": 1.01, "b": 1.02, "c": 1.03, "bursts": 1.0}, "two": {"a": 1.01, "b": None, "c": 1.02}}
    root = ElementTree.fromstring(ratio_plot(series, keys, keys, 1.035))
    thick = [line for line in root.iter("{http://www.w3.org/2000/svg}line") if line.get("stroke-width") == "2"]
    assert len(thick) == 2  # of "one"; "two" has none, for its middle is missing


def test_bursts_have_the_share_and_the_length_that_were_asked_for():
    (begins,) = [rule for rule in firewall_rules(Loss(share=0.1, burst_packets=5)) if "--set" in rule]
    chance = float(begins[begins.index("--probability") + 1])
    assert chance / (chance + 1 / 5) == pytest.approx(0.1)
    taken = ~_Arrivals(Loss(share=0.1, burst_packets=5), np.random.default_rng(1)).take(200_000)
    num_bursts = np.count_nonzero(np.diff(taken.astype(int)) == 1)
    assert taken.mean() == pytest.approx(0.1, abs=0.01)
    assert taken.sum() / num_bursts == pytest.approx(5, rel=0.05)


def test_a_link_without_loss_has_no_drop_rule_but_that_of_the_dark():
    assert not [rule for rule in firewall_rules(Loss()) if "DROP" in rule]


def test_without_loss_and_return_path_it_takes_the_source_symbols_and_the_metadata():
    ratio = one_flight([400_000], 1448, Loss(), seed=1)
    assert 1.0 <= ratio <= 1.03


def test_with_loss_and_no_return_path_a_flight_ends():
    row = Row(key="x", title="x", loss=Loss(share=0.3))
    assert 0.8 < one_flight([400_000, 400_000], 1448, row.loss, seed=2) < 1.4


def test_99_percent_leave_out_the_worst_of_a_hundred():
    assert worst_of_99_percent([float(n) for n in range(100)]) == 98.0
    assert worst_of_99_percent([1.0, 2.0]) == 2.0
