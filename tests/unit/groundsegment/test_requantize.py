"""A new model on the grid of the one on board: what moves, what stays, what it says about it. Tiny random models."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.errors import InputError
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import digest_files, release_digest, scan_release
from groundsegment.requantize import job as job_module
from groundsegment.requantize import walking as walking_module
from groundsegment.requantize.afresh import FloatModel
from groundsegment.requantize.grid import plan_on_grid, read_grid
from groundsegment.requantize.language_model import LanguageModel
from groundsegment.requantize.options import Effort, Goal, Options
from groundsegment.requantize.report import Report
from groundsegment.requantize.requantize import fit, requantize
from groundsegment.requantize.workpiece import Workpiece
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.texts import write_text

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHAPE = {"seed": 1, "hidden": 32, "intermediate": 64, "layers": 2}
PRICES = {"int4": 1e-5, "int8": 1e-7}  # a step of int8 is a sixteenth: the gain of a move is smaller
EFFORT = Effort(num_calibration_tokens=768, num_held_out_tokens=256, length=32, num_steps=2, num_threads=1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an old and a new model, the old one quantized, and a text."""
    shelf = tmp_path_factory.mktemp("shelf")
    make_tiny_qwen2(shelf / "old", **SHAPE)
    make_tiny_qwen2(shelf / "new", nudge=0.03, **SHAPE)
    for name in ("int4", "int8"):
        quantize(plan_quantize(scan_release(shelf / "old"), format_name=name), shelf / name)
    write_text(shelf / "text.txt")
    return shelf


def run(shelf: Path, out: Path, goal: Goal, *, base: str = "int4", force: bool = False) -> Report:
    options = Options(goal=goal, calibration=shelf / "text.txt", effort=EFFORT, force=force)
    return requantize(shelf / "new", shelf / base, out, options)


def codes_and_grid(shelf: Path, directory: Path):
    base = scan_release(directory)
    return read_grid(plan_on_grid(scan_release(shelf / "new"), base), base)


def num_changed(shelf: Path, out: Path, base: str) -> int:
    new, old = codes_and_grid(shelf, out)[1], codes_and_grid(shelf, shelf / base)[1]
    return sum(int((new[name] != old[name]).sum()) for name in old)


@pytest.mark.parametrize("base", ["int4", "int8"])
def test_scales_stay_and_a_few_codes_move(shelf, tmp_path, base):
    report = run(shelf, tmp_path / "out", Goal(price=PRICES[base]), base=base)

    grid, codes = codes_and_grid(shelf, tmp_path / "out")
    old_grid, old_codes = codes_and_grid(shelf, shelf / base)
    assert all(np.array_equal(grid.scales[name], old_grid.scales[name]) for name in old_grid.scales)
    changed = num_changed(shelf, tmp_path / "out", base)
    assert 0 < changed < 0.2 * sum(value.size for value in old_codes.values())
    assert report.chosen.changed == pytest.approx(changed / sum(value.size for value in codes.values()))
    assert report.chosen.divergence < report.nothing.divergence


def test_the_release_has_the_layout_of_the_base(shelf, tmp_path):
    run(shelf, tmp_path / "out", Goal(price=1e-5))

    of_base, of_out = scan_release(shelf / "int4"), scan_release(tmp_path / "out")
    assert [file.name for file in of_out.files] == [file.name for file in of_base.files]
    assert list(of_out.tensors()) == list(of_base.tensors())
    assert (tmp_path / "out/config.json").read_bytes() == (shelf / "int4/config.json").read_bytes()


def test_a_higher_price_never_changes_more_codes(shelf, tmp_path):
    changed = []
    for number, price in enumerate((1e-7, 1e-6, 1e-5, 1e-4, 1.0)):
        effort = Effort(num_calibration_tokens=768, num_held_out_tokens=256, length=32, num_steps=0, num_threads=1)
        options = Options(goal=Goal(price=price), calibration=shelf / "text.txt", effort=effort)
        requantize(shelf / "new", shelf / "int4", tmp_path / str(number), options)
        changed.append(num_changed(shelf, tmp_path / str(number), "int4"))

    assert changed == sorted(changed, reverse=True)
    assert changed[0] > 0
    assert changed[-1] == 0


@pytest.mark.parametrize("base", ["int4", "int8"])
@pytest.mark.parametrize("budget_bytes", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_budget_is_met(shelf, tmp_path, base, budget_bytes):
    report = run(shelf, tmp_path / "out", Goal(budget_bytes=budget_bytes), base=base)

    assert 0 < report.chosen.delta_bytes <= budget_bytes


@pytest.mark.slow
def test_knowing_the_old_model_takes_descent_farther_for_the_same_bytes(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(walking_module, "_THINNED_MAX", {8: 0.0, 4: 0.0})  # thinned moves are true without it
    gone = []
    for number, old in enumerate((None, shelf / "old")):
        options = Options(
            goal=Goal(budget_bytes=2500),
            calibration=shelf / "text.txt",
            old=old,
            effort=replace(EFFORT, num_steps=0),
        )
        report = requantize(shelf / "new", shelf / "int8", tmp_path / str(number), options)
        assert report.chosen.delta_bytes <= 2500
        gone.append(way_gone(shelf, tmp_path / str(number)))

    assert gone[1] > 1.1 * gone[0]
    assert gone[1] < 1.3


def way_gone(shelf: Path, out: Path) -> float:
    """Return how much of the way from old to new weights a release has gone, each weight alike."""
    gone, whole = 0.0, 0.0
    (grid, new_codes), (_, old_codes) = codes_and_grid(shelf, out), codes_and_grid(shelf, shelf / "int8")
    models = [
        FloatModel(plan_on_grid(scan_release(shelf / name), scan_release(shelf / "int8"))) for name in ("old", "new")
    ]
    for name, codes in new_codes.items():
        drift = models[1].weight(name) - models[0].weight(name)
        moved = (codes.astype(np.float32) - old_codes[name]) * grid.steps(name, codes.shape[1])
        gone, whole = gone + float((moved * drift).sum()), whole + float(np.square(drift).sum())
    return gone / whole


def test_a_budget_of_nothing_sends_nothing(shelf, tmp_path):
    report = run(shelf, tmp_path / "out", Goal(budget_bytes=0))

    assert report.chosen.delta_bytes == 0
    assert num_changed(shelf, tmp_path / "out", "int4") == 0


def test_the_report_is_true_of_what_was_written(shelf, tmp_path):
    report = run(shelf, tmp_path / "out", Goal(price=1e-5))

    saved = json.loads((tmp_path / "out/requantize.json").read_text())
    assert saved["chosen"]["delta_bytes"] == report.chosen.delta_bytes
    assert saved["loss"] == report.loss
    # The figures once more, from the files alone.
    written = scan_release(tmp_path / "out")
    plan = plan_on_grid(scan_release(shelf / "new"), written)
    work = Workpiece(plan, written, read_grid(plan, written))
    text = held_out_text(shelf, work, tmp_path)
    perplexity, divergence = work.show(work.base).evaluate(*text)
    assert perplexity == pytest.approx(report.chosen.perplexity, rel=1e-4)
    assert divergence == pytest.approx(report.chosen.divergence, rel=1e-3)


def held_out_text(shelf: Path, work: Workpiece, scratch: Path):
    from groundsegment.requantize.requantize import _read_texts

    options = Options(goal=Goal(price=1.0), calibration=shelf / "text.txt", effort=EFFORT)
    _, held_out = _read_texts(shelf / "new", options)
    return held_out, work.show_new().log_probabilities(held_out, scratch / "teacher")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(shelf, tmp_path, monkeypatch):
    run(shelf, tmp_path / "whole", Goal(price=1e-5))
    original = job_module.Job._kept_step

    def failing(self, walk, number, make, curve):
        if number == 1:
            raise KeyboardInterrupt
        return original(self, walk, number, make, curve)

    monkeypatch.setattr(job_module.Job, "_kept_step", failing)
    with pytest.raises(KeyboardInterrupt):
        run(shelf, tmp_path / "cut", Goal(price=1e-5))
    assert not (tmp_path / "cut").exists()
    monkeypatch.setattr(job_module.Job, "_kept_step", original)
    monkeypatch.setattr(LanguageModel, "statistics", lambda self, *_, **__: pytest.fail("they were kept"))
    run(shelf, tmp_path / "cut", Goal(price=1e-5))

    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def digest(directory: Path) -> str:
    return release_digest(digest_files(scan_release(directory)))


@pytest.mark.slow
def test_fit_is_what_staging_calls_and_calls_again(shelf, tmp_path, monkeypatch):
    def fitted(budget_bytes):
        return fit(
            shelf / "new",
            shelf / "int8",
            tmp_path / "out",
            budget_bytes,
            calibration=shelf / "text.txt",
            effort=EFFORT,
        )

    report = fitted(600)
    assert report.chosen.delta_bytes <= 600
    before = digest(tmp_path / "out")

    monkeypatch.setattr(job_module.Job, "run", lambda self, **_: pytest.fail("it was there"))
    assert fitted(600) == report
    assert digest(tmp_path / "out") == before
    with pytest.raises(InputError, match="exists already"):
        fitted(700)


@pytest.mark.slow
def test_a_loss_that_cannot_be_had_is_said_with_figures(shelf, tmp_path, monkeypatch):
    measure = Workpiece.measure

    def spoiled(self, name, candidate, text, price=0.0):
        point = measure(self, name, candidate, text, price)
        return replace(point, perplexity=2 * point.perplexity) if name == "aware" else point

    monkeypatch.setattr(Workpiece, "measure", spoiled)
    with pytest.raises(InputError, match=r"nothing within 1 % was found; the best is .* % worse .* MB"):
        run(shelf, tmp_path / "out", Goal(max_loss=0.01))
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_together_is_refused(shelf, tmp_path):
    other = make_tiny_qwen2(tmp_path / "other", seed=1, hidden=64, intermediate=64)
    options = Options(goal=Goal(price=1.0), calibration=shelf / "text.txt", effort=EFFORT)
    with pytest.raises(InputError, match="needed"):
        requantize(other, shelf / "int8", tmp_path / "out", options)
    with pytest.raises(InputError, match="not a release in the compressed-tensors layout"):
        requantize(shelf / "new", shelf / "old", tmp_path / "out", options)
    with pytest.raises(InputError, match="quantized already"):
        requantize(shelf / "int4", shelf / "int4", tmp_path / "out", options)
    short = tmp_path / "short.txt"
    short.write_text("hello world")
    with pytest.raises(InputError, match="too few"):
        requantize(shelf / "new", shelf / "int4", tmp_path / "out", Options(goal=Goal(price=1.0), calibration=short))
    with pytest.raises(InputError, match="one of budget, loss and lambda"):
        Goal(price=1.0, budget_bytes=5)


def invoke(shelf: Path, *words: str):
    line = ["model", "requantize", str(shelf / "new"), "--base", str(shelf / "int4")]
    line += [
        "--calibration",
        str(shelf / "text.txt"),
        "--calibration-tokens",
        "768",
        "--length",
        "32",
        "--threads",
        "1",
    ]
    return CliRunner().invoke(app, [*line, "--steps", "1", *words])


def test_the_command_says_what_was_given_up_for_how_much(shelf, tmp_path):
    result = invoke(shelf, "--out", str(tmp_path / "out"), "--budget", "1.2kB")

    assert result.exit_code == 0, result.output
    for words in ("nothing sent", "rounded to nearest", "calibrated afresh", "this release", "new, not quantized"):
        assert words in result.output
    assert "lossy by choice" in result.output
    assert (tmp_path / "out/model.safetensors").is_file()


def test_the_command_prints_json_and_draws(shelf, tmp_path):
    picture = tmp_path / "curve.svg"
    result = invoke(shelf, "--out", str(tmp_path / "out"), "--lambda", "1e-5", "--json", "--curve", str(picture))

    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["chosen"]["delta_bytes"] == facts["curve"][-1]["delta_bytes"]
    assert facts["share"] == facts["chosen"]["delta_bytes"] / facts["reference"]["delta_bytes"]
    assert picture.read_text().count("update-aware") > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", "much"), "'much' is not a size"),
        (("--max-loss", "little"), "'little' is not a share"),
        (("--max-loss", "1%", "--budget", "1MB"), "give one of budget, loss and lambda"),
        (("--lambda", "0"), "0 is no goal"),
    ],
)
def test_a_goal_that_is_none_is_refused_before_anything_is_read(shelf, tmp_path, words, said):
    result = invoke(shelf, "--out", str(tmp_path / "out"), *words)

    assert result.exit_code == 3
    assert said in result.output
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_command_says_what_to_install(shelf, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)

    result = invoke(shelf, "--out", str(tmp_path / "out"))

    assert result.exit_code == 3
    assert "torch is not installed" in result.output
    assert "pip install 'skyload[requantize]'" in result.output


def test_a_calibrated_release_errs_less_on_text_like_its_calibration(shelf, tmp_path):
    words = ["model", "quantize", str(shelf / "new"), "--out", str(tmp_path / "out"), "--format", "int4"]
    result = CliRunner().invoke(app, [*words, "--calibration", str(shelf / "text.txt"), "--calibration-tokens", "2048"])

    assert result.exit_code == 0, result.output
    quantize(plan_quantize(scan_release(shelf / "new"), format_name="int4"), tmp_path / "rounded")
    assert divergence_of(shelf, tmp_path / "out", tmp_path) < 0.8 * divergence_of(shelf, tmp_path / "rounded", tmp_path)
    assert list(scan_release(tmp_path / "out").tensors()) == list(scan_release(tmp_path / "rounded").tensors())


def divergence_of(shelf: Path, release: Path, scratch: Path) -> float:
    source = scan_release(release)
    plan = plan_on_grid(scan_release(shelf / "new"), source)
    work = Workpiece(plan, source, read_grid(plan, source))
    return work.show(work.base).evaluate(*held_out_text(shelf, work, scratch))[1]
