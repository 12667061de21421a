"""The bars of what trust costs: a thousand bytes an update, ten milliseconds to verify it."""

import pytest

from bench.durability.metadata import measure


@pytest.mark.slow
def test_the_metadata_of_an_update_is_under_a_thousand_bytes_and_verified_in_ten_milliseconds():
    table, figures = measure(10)
    assert figures["metadata_bytes"] <= 1000
    assert figures["verify_ms"] < 10
    assert table.count("hybrid") == 3
