"""The bars of what trust costs: a thousand bytes for the update of a language model, ten milliseconds to verify one."""

import pytest

from bench.durability.metadata import measure


@pytest.mark.slow
def test_the_metadata_of_a_language_model_is_under_a_thousand_bytes_and_is_verified_in_ten_milliseconds():
    table, figures = measure(10)
    assert figures["metadata_bytes"] <= 1000
    assert figures["verify_ms"] < 10
    assert table.count("hybrid") == 3
    rows = {cells[1].strip(): cells for line in table.splitlines() if len(cells := line.split("|")) > 3}
    (difference,) = [cells for name, cells in rows.items() if "3 bundles" in name]
    assert figures["metadata_bytes"] < int(difference[2]) <= 1000
    assert float(difference[3]) < 10
