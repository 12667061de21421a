"""The bars of what trust costs: a thousand bytes for the smallest update, ten milliseconds to verify one."""

import pytest

from bench.durability.metadata import measure


@pytest.mark.slow
def test_the_smallest_metadata_is_under_a_thousand_bytes_a_language_models_is_not_and_is_verified_in_ten_milliseconds():
    table, figures = measure(10)
    assert figures["metadata_bytes"] <= 1000
    assert figures["verify_ms"] < 10
    assert table.count("hybrid") == 3
    (whole,) = [line.split("|") for line in table.splitlines() if "eight files" in line]
    assert 1000 < int(whole[2]) < 1700
    assert float(whole[3]) < 10
