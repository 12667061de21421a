"""`skyload stage --fit`: a float model goes in, what fits into the passes is staged."""

import json

import pytest

from groundsegment.errors import InputError
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import digest_files, release_digest, scan_release
from groundsegment.requantize import requantize as requantize_module
from groundsegment.requantize.options import Effort
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.staging import make_ground, run, run_json
from tests.fakes.texts import write_text

FIT = ("--no-canary", "--base", "v1-int8", "--calibration", "text.txt")


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_qwen2(tmp_path / "v2", seed=1, nudge=0.05)
    quantize(plan_quantize(scan_release(tmp_path / "v1"), format_name="int8"), tmp_path / "v1-int8")
    write_text(tmp_path / "text.txt")
    effort = Effort(num_calibration_tokens=768, length=32, num_steps=1, num_threads=1)
    monkeypatch.setattr(requantize_module, "Effort", lambda: effort)
    return tmp_path


@pytest.mark.slow
def test_what_is_staged_fits_and_its_release_is_kept(ground):
    staged = run_json("v2", *FIT, "--fit", "12kB")

    assert 4000 < staged["payload_bytes"] <= 12_000
    made = scan_release(ground / "v2-on-v1-int8")
    assert staged["release_digest"] == release_digest(digest_files(made))
    assert json.loads((ground / "v2-on-v1-int8/requantize.json").read_text())["format"] == "int8"


def test_passes_are_counted_in_bytes(ground, monkeypatch):
    asked = []

    def stub(_model, _base, _out, budget_bytes, **_):
        asked.append(budget_bytes)
        raise InputError("enough", hint="")

    monkeypatch.setattr(requantize_module, "fit", stub)
    for wanted in ("1-pass", "2-passes", "3 contacts"):
        run("v2", *FIT, "--fit", wanted, "--rate", "40kbit/s")

    whole = 435 * 40e3 / 8
    assert 0.5 * whole < asked[0] < whole
    assert asked[1] > 2 * asked[0]
    assert asked[2] - asked[1] == pytest.approx(asked[1] - asked[0], rel=0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fit", "5MB", "--calibration", "text.txt"), "--fit needs the directory of the quantized release"),
        (("--fit", "5MB", "--base", "v1-int8"), "--fit needs text to choose codes on"),
        (("--fit", "1kB", *FIT), "nothing fits into 1kB"),
        (("--fit", "some", *FIT), "'some' is not a size"),
        (("--calibration", "text.txt"), "belong to --fit"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(ground, words, said):
    exit_code, _, told = run("v2", *words)

    assert exit_code == 3
    assert said in told
    assert not (ground / "v2-on-v1-int8").exists()
