"""The figures in a manifest are those of what will be on board: with the real twin, engine and judge.

Not of the model before it was quantized, and not of the files that were staged: of what the bundles rebuild to.
"""

import json
from pathlib import Path

import pytest

from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import scan_release
from groundsegment.requantize import requantize as requantize_module
from groundsegment.requantize.options import Effort
from tests.fakes.adapters import make_tiny_adapter
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.staging import make_ground, open_as_satellite, run, run_json
from tests.fakes.texts import write_text

pytestmark = pytest.mark.slow

JUDGED = ("--no-canary", "--held-out", "held-out.txt", "--held-out-tokens", "512")


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    for number in (1, 2):
        make_tiny_qwen2(tmp_path / f"v{number}", seed=1, nudge=0.3 * (number - 1))
        plan = plan_quantize(scan_release(tmp_path / f"v{number}"), format_name="int8")
        quantize(plan, tmp_path / f"v{number}-int8")
    write_text(tmp_path / "held-out.txt", num_words=1200)
    return tmp_path


def judged(directory, reference=None):
    """What the judge says of a directory, asked directly."""
    from onboard.inference.engines.judging import judge
    from onboard.inference.engines.transformers import TransformersEngine

    engines = []
    for each in filter(None, (directory, reference)):
        engines.append(TransformersEngine(num_threads=1, dtype="auto", device="cpu", max_context_tokens=512))
        engines[-1].load(Path(each))
    return judge(engines[0], engines[1] if reference else None, Path("held-out.txt").read_bytes(), max_tokens=512)


def test_they_are_of_the_quantized_release_rebuilt_from_a_delta(ground):
    run_json("v1-int8", "--no-canary")
    staged = run_json("v2-int8", *JUDGED, "--base", "v1-int8", "--reference", "v2")
    quality = open_as_satellite(Path(staged["directory"]))[0].quality
    right = judged("v2-int8", "v2")
    assert staged["base_digest"] is not None
    assert quality.perplexity_milli == round(1000 * right["perplexity"])
    assert quality.reference.perplexity_milli == round(1000 * right["reference"]["perplexity"])
    assert quality.reference.divergence_micro == round(1e6 * right["reference"]["divergence"]) > 0
    # Neither of the float model, nor of the base: the figures tell all three apart.
    assert quality.perplexity_milli != quality.reference.perplexity_milli
    assert quality.perplexity_milli != round(1000 * judged("v1-int8")["perplexity"])


def test_the_files_that_were_staged_are_not_looked_at(ground, monkeypatch):
    """What lies there after packing is another model: the figures are still those of the bundles."""
    from groundsegment.staging import staging

    right = judged("v1-int8")["perplexity"]
    rehearse = staging.rehearse

    def swap_and_rehearse(*given):
        (ground / "v1-int8/model.safetensors").write_bytes((ground / "v2-int8/model.safetensors").read_bytes())
        return rehearse(*given)

    monkeypatch.setattr(staging, "rehearse", swap_and_rehearse)
    staged = run_json("v1-int8", *JUDGED)
    assert staged["quality"]["perplexity"] == round(right, 3) != round(judged("v1-int8")["perplexity"], 3)


def test_an_adapter_is_judged_beside_its_base_against_the_base_alone(ground):
    make_tiny_adapter(ground / "lora", ground / "v1", seed=3)
    run_json("v1", "--no-canary")
    staged = run_json("lora", *JUDGED, "--base", "v1", "--reference", "v1")
    quality = open_as_satellite(Path(staged["directory"]))[0].quality
    assert quality.reference.perplexity_milli == round(1000 * judged("v1")["perplexity"])
    assert quality.perplexity_milli != quality.reference.perplexity_milli


def test_a_reference_of_other_tokens_is_told(ground):
    tokenizer = json.loads(Path("v2/tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    Path("v2/tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, err = run("v1-int8", *JUDGED, "--reference", "v2")
    assert code == 9
    assert "another tokenizer" in err


def test_what_was_fitted_is_judged_as_rebuilt_against_the_model_it_is_made_of(ground, monkeypatch):
    effort = Effort(num_calibration_tokens=768, length=32, num_steps=0, num_threads=1)
    monkeypatch.setattr(requantize_module, "Effort", lambda: effort)
    write_text(Path("manuals.txt"), seed=7)
    staged = run_json("v2", *JUDGED, "--base", "v1-int8", "--fit", "15kB", "--calibration", "manuals.txt")
    right = judged("v2-on-v1-int8", "v2")
    assert staged["quality"]["perplexity"] == round(right["perplexity"], 3)
    assert staged["quality"]["reference"]["perplexity"] == round(right["reference"]["perplexity"], 3)
    assert staged["payload_bytes"] <= 15_000
    assert not any("no figures" in warning for warning in staged["warnings"])
