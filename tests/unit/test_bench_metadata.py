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
    sizes = {name.split(",")[0]: int(cells[2]) for name, cells in rows.items() if "canary" in name}
    whole, changed, large = (
        sizes["SmolLM2-135M whole: 8 files"],
        sizes["Qwen3-0.6B"],
        sizes["Qwen3-0.6B whole: 8 files"],
    )
    assert max(whole, changed) == figures["metadata_bytes"]
    assert large < 1000 + 10 * 25, "what is above the bar is bundles: some 25 bytes each"
