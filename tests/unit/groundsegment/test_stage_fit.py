"""`skyload stage --fit`: a float model goes in, what fits into the passes is staged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from groundsegment.depot.depot import Depot
from groundsegment.errors import InputError
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import digest_files, release_digest, scan_release
from groundsegment.requantize import requantize as requantize_module
from groundsegment.requantize.options import Effort
from groundsegment.requantize.report import Point, Report
from tests.fakes.adapters import make_tiny_adapter
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


def noisy_fit(asked, *, spent):
    """What stands for the requantizer: says that it kept to its budget, and takes what `spent` makes of that."""
    point = Point(name="", delta_bytes=0, perplexity=9.0, divergence=0.1, changed=0.1)

    def stub(_model, base, out, budget_bytes, *, force, **_):
        assert force == bool(asked)
        asked.append(budget_bytes)
        shutil.copytree(base, out, dirs_exist_ok=True)
        config = json.loads((base / "config.json").read_text())
        config["noise"] = np.random.default_rng(1).bytes(spent(budget_bytes)).hex()
        (out / "config.json").write_text(json.dumps(config))
        names = ("nothing", "naive", "gptq", "fresh")
        facts = {"format": "int8", "group_columns": 0, "base": "", "new": "", "new_perplexity": 9.0}
        counts = {"num_calibration_tokens": 1, "num_held_out_tokens": 1, "curve": []}
        return Report(**facts, **counts, **dict.fromkeys(names, point), chosen=replace(point, delta_bytes=budget_bytes))

    return stub


def test_what_takes_more_than_was_estimated_is_made_again_until_it_fits(ground, monkeypatch):
    asked = []
    monkeypatch.setattr(requantize_module, "fit", noisy_fit(asked, spent=lambda budget: budget + 3000))

    exit_code, told, warned = run("v2", *FIT, "--fit", "30kB", "--json")

    assert exit_code == 0, warned
    assert json.loads(told)["payload_bytes"] <= 30_000 - 4096
    assert len(asked) == 2
    assert f"{30_000 - 4096} fit: once more, tighter" in " ".join(warned.split())


def test_a_dry_run_says_that_it_does_not_fit_and_does_not_try_again(ground, monkeypatch):
    asked = []
    monkeypatch.setattr(requantize_module, "fit", noisy_fit(asked, spent=lambda budget: budget + 3000))

    exit_code, _, warned = run("v2", *FIT, "--fit", "30kB", "--dry-run")

    assert exit_code == 0, warned
    assert "only 25.9 kB fit; without --dry-run it is made again, tighter" in " ".join(warned.split())
    assert len(asked) == 1


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_what_comes_out_as_its_base_has_no_room_for_a_change(ground, monkeypatch, words):
    whole = noisy_fit([], spent=lambda _: 0)

    def nothing_changed(model, base, out, budget_bytes, **options):
        report = whole(model, base, out, budget_bytes, **options)
        shutil.copytree(base, out, dirs_exist_ok=True)
        return report

    monkeypatch.setattr(requantize_module, "fit", nothing_changed)
    exit_code, _, told = run("v2", *FIT, "--fit", "5kB", *words)

    assert exit_code == 3
    assert "nothing fits into 5kB: without room for a single change it is the base itself" in " ".join(told.split())
    assert "give more passes" in told


@pytest.mark.parametrize(
    ("spent", "num_tries"),
    [(lambda _: 80_000, 1), pytest.param(lambda budget: 26_500 + budget // 10, 3, marks=pytest.mark.slow)],
    ids=["never", "slowly"],
)
def test_what_cannot_be_made_to_fit_is_not_signed(ground, monkeypatch, spent, num_tries):
    asked = []
    monkeypatch.setattr(requantize_module, "fit", noisy_fit(asked, spent=spent))

    exit_code, _, told = run("v2", *FIT, "--fit", "30kB")

    assert exit_code == 3
    assert "nothing fits into 30kB" in told
    assert "give more passes" in told
    assert len(asked) == num_tries
    with Depot.open(ground / "depot") as depot:
        assert not depot.updates("SAT-1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fit", "5MB", "--calibration", "text.txt"), "--fit needs the directory of the quantized release"),
        (("--fit", "5MB", "--base", "v1-int8"), "--fit needs text to choose codes on"),
        (("--fit", "1kB", *FIT), "nothing fits into 1kB"),
        (("--fit", "some", *FIT), "'some' is not a size"),
        (("--calibration", "text.txt"), "belong to --fit"),
        (("--fit", "5MB", *FIT, "--adapter", "merge"), "--fit and --adapter exclude each other"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_done(ground, words, said):
    exit_code, _, told = run("v2", *words)

    assert exit_code == 3
    assert said in told
    assert not (ground / "v2-on-v1-int8").exists()


@pytest.mark.parametrize(("what", "said"), [("adapter", "an adapter, and --fit chooses"), ("v3.gguf", "not a model's")])
def test_what_has_no_codes_to_choose_is_said(ground, what, said):
    make_tiny_adapter(ground / "adapter", ground / "v1", seed=1)
    (ground / "v3.gguf").write_bytes(b"GGUF")

    exit_code, _, told = run(what, *FIT, "--fit", "5MB")

    assert exit_code == 3
    assert said in " ".join(told.split())
