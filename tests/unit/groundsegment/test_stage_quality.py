"""`skyload stage --held-out`: how good the rebuilt release is gets signed, shown, and held against a limit."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console import main, stage
from groundsegment.depot.depot import Depot
from groundsegment.errors import InputError
from tests.fakes import twin as fake
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.staging import TWIN, make_ground, open_as_satellite, run, run_json
from tests.fakes.texts import write_text

JUDGED = ("v1-int8", "--twin", TWIN, "--held-out", "held-out.txt", "--held-out-tokens", "512")
LOSS = fake.PERPLEXITY / fake.PERPLEXITY_THERE - 1


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_qwen2(tmp_path / "v1-int8", seed=1, nudge=0.001)
    write_text(tmp_path / "held-out.txt", num_words=200)
    return tmp_path


def test_what_the_twin_found_is_signed(ground):
    staged = run_json(*JUDGED, "--reference", "v1")
    quality = open_as_satellite(Path(staged["directory"]))[0].quality
    assert quality.text_sha256 == hashlib.sha256(Path("held-out.txt").read_bytes()).digest()
    assert quality.num_tokens == 512
    assert quality.perplexity_milli == round(1000 * fake.PERPLEXITY)
    assert quality.reference.divergence_micro == round(1e6 * fake.DIVERGENCE)
    assert staged["quality"]["loss"] == pytest.approx(LOSS, abs=1e-4)


def test_it_is_shown_when_it_is_staged_and_by_status(ground):
    code, out, _ = run(*JUDGED, "--reference", "v1", "--explain")
    assert code == 0
    assert "quality as rebuilt: perplexity 12.346 on 512 tokens, 2.88 % above the reference's 12.000" in out
    shown = CliRunner().invoke(main.app, ["status", "--json"])
    assert json.loads(shown.stdout)["satellites"][0]["updates"][0]["quality"]["perplexity"] == 12.346
    shown = CliRunner().invoke(main.app, ["status"])
    assert "perplexity 12.346 as rebuilt, 512 tokens, +2.88% against its reference" in shown.stdout


def test_without_a_text_nothing_is_said_of_quality(ground):
    staged = run_json("v1-int8", "--twin", TWIN)
    assert staged["quality"] is None
    assert open_as_satellite(Path(staged["directory"]))[0].quality is None
    status = json.loads(CliRunner().invoke(main.app, ["status", "--json"]).stdout)
    assert status["satellites"][0]["updates"][0]["quality"] is None


def test_figures_need_no_canary_and_take_less_than_a_hundred_bytes(ground):
    staged = run_json(*JUDGED, "--no-canary")
    manifest, _ = open_as_satellite(Path(staged["directory"]))
    assert manifest.canary.prompts == ()
    assert manifest.quality.reference is None
    plain = run_json("v1", "--no-canary")
    size, plain_size = ((Path(each["directory"]) / "metadata.skm").stat().st_size for each in (staged, plain))
    assert size - plain_size < 100


def test_too_much_lost_is_refused_and_nothing_is_signed(ground):
    told = (*JUDGED, "--reference", "v1", "--max-perplexity-loss")
    code, _, err = run(*told, "2%")
    assert code == 3
    assert "perplexity 12.346, 2.88 % above v1 (12.000); at most 2 % was asked for" in err
    assert "nothing was signed" in err
    with Depot.open(Path("depot")) as depot:
        assert depot.updates("SAT-1") == ()
    assert run_json(*told, "3%")["num_bundles_reused"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reference", "v1"), "need a text to judge by"),
        (("--max-perplexity-loss", "1%"), "need a text to judge by"),
        (("--held-out", "held-out.txt", "--max-perplexity-loss", "1%"), "needs a model to compare with"),
        (("--held-out", "nowhere.txt"), "nowhere.txt is not a file"),
        (("--held-out", "held-out.txt", "--reference", "nowhere"), "nowhere is no model directory"),
        (("--held-out", "held-out.txt", "--reference", "v1", "--max-perplexity-loss", "lots"), "lots"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_done(ground, words, said):
    code, _, err = run("v1-int8", "--twin", "no-such-twin", *words)
    assert code == 3
    assert said in err
    assert not any(Path("depot/staging").glob("*"))


def test_a_lossy_release_without_figures_is_warned_of(ground):
    (ground / "v1-int8/requantize.json").write_text("{}")
    assert any("no figures of its quality" in warning for warning in run_json("v1-int8", "--no-canary")["warnings"])


def test_a_lossy_release_with_figures_is_not(ground):
    (ground / "v1-int8/requantize.json").write_text("{}")
    assert not any("no figures" in warning for warning in run_json(*JUDGED)["warnings"])


def test_what_is_fitted_is_compared_with_the_model_that_it_is_made_of(ground, monkeypatch):
    seen = []

    def see(held_out, reference, **_):
        seen.append((held_out, reference))
        raise InputError("enough", hint="")

    monkeypatch.setattr(stage, "judging_of", see)
    run("v1", "--fit", "5MB", "--calibration", "held-out.txt", "--held-out", "held-out.txt", "--no-canary")
    run("v1", "--fit", "5MB", "--calibration", "held-out.txt", "--no-canary")
    assert seen == [(Path("held-out.txt"), Path("v1")), (None, None)]
