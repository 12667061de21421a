"""`skyload simulate` as a person runs it: two processes, a table or JSON, pictures, meaningful exit codes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from groundsegment.simulation.random_missions import SYMBOL_RATIO_MAX
from tests.fakes.depots import make_depot, stage_bytes

SKYLOAD = Path(sys.executable).with_name("skyload")
SCENARIO = """
description: for tests
days: 2
symbol_size: 256
updates:
  - {name: one, size: 300kB}
link:
  up: {rate_bps: 400_000, delay_s: 0.02, loss: 0.1}
  down: {rate_bps: 400_000, delay_s: 0.02, loss: 0.1}
passes:
  oslo: {per_day: 12, mean_s: 5}
compare: true
"""


def simulate(*words, cwd):
    return subprocess.run([SKYLOAD, "simulate", *words], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.slow
def test_a_scenario_of_ones_own_is_flown_compared_and_drawn(scenario, tmp_path):
    done = simulate(scenario, "--json", "--plot", "pictures", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    assert result["mission"]["wrong_bytes"] == 0
    assert result["mission"]["updates"][0]["is_known"]
    assert result["mission"]["symbol_ratio"] < 1.1
    names = [scheme["name"] for scheme in result["schemes"]]
    assert names[:2] == ["skyload", "skyload, one-way"]
    assert len(names) == 7
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == [
        f"mine-{name}.{suffix}" for name in ("contacts", "loss", "schemes") for suffix in ("png", "svg")
    ]
    for path in pictures:
        if path.suffix == ".svg":
            ET.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_picture_of_contacts_says_when_each_of_several_updates_is_on_board(scenario, tmp_path):
    urgent = "  - {name: adapter, size: 20kB, priority: 5}\n"
    scenario.write_text(SCENARIO.replace("link:", f"{urgent}link:").replace("compare: true", ""))
    assert simulate(scenario, "--plot", "pictures", cwd=tmp_path).returncode == 0

    drawn = (tmp_path / "pictures/mine-contacts.svg").read_text()
    assert 'id="on-board-one"' in drawn
    assert 'id="on-board-adapter"' in drawn


@pytest.mark.slow
def test_the_same_seed_prints_the_same_table(scenario, tmp_path):
    first, again = (simulate(scenario, "--no-compare", "--quiet", "--json", cwd=tmp_path) for _ in range(2))
    first, again = (json.loads(done.stdout)["mission"] for done in (first, again))
    del first["wall_s"], again["wall_s"]

    assert first == again


@pytest.mark.slow
def test_people_get_a_table_and_a_summary(scenario, tmp_path):
    done = simulate(scenario, "--no-compare", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "believed" in done.stdout
    assert "wrong bytes: 0" in done.stdout
    assert "oslo" in done.stdout


@pytest.mark.slow
def test_a_plan_that_is_too_short_fails(scenario, tmp_path):
    scenario.write_text(SCENARIO.replace("days: 2", "days: 0.02"))
    done = simulate(scenario, "--no-compare", "--quiet", cwd=tmp_path)

    assert done.returncode == 1
    assert "error: the plan ended before all was on board" in done.stderr


@pytest.mark.slow
def test_a_staged_update_is_flown_with_its_own_bytes(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        staged = stage_bytes(depot, [200_000, 150_000])
    options = ["--profile", "clear", "--for", "SAT-1", "--rate", "4Mbit/s", "--loss", "5%", "--json"]
    done = simulate(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    assert json.loads(done.stdout)["mission"]["payload_bytes"] == sum(map(len, staged.bundles))
    words = simulate(*options[:-1], cwd=tmp_path)
    assert "clear: 350.0 kB in 1 update" in words.stderr
    assert f"{staged.update.release_name}: 350.0 kB, on board" in words.stdout


@pytest.mark.slow
def test_contacts_of_a_plan_are_flown(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "epoch: now\nrate: 1Mbit/s\ncontacts:\n"
        "  - {station: a, start_s: 0, end_s: 6}\n  - {station: b, start_s: 3, end_s: 9, rate: 500kbit/s}\n"
        "  - {station: a, start_s: 900, end_s: 940}\n"
    )
    done = simulate("--plan", "plan.yaml", "--size", "1MB", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    rows = json.loads(done.stdout)["mission"]["contacts"]
    assert {row["station"] for row in rows} == {"a", "b"}


def test_random_missions_do_not_pass_over_what_else_was_asked_for(tmp_path):
    done = simulate("one-way", "--missions", "3", "--plot", "pictures", cwd=tmp_path)
    assert done.returncode == 3
    assert "--missions has no use for scenario, --plot" in done.stderr


def test_shipped_scenarios_are_listed(tmp_path):
    done = simulate("--list", cwd=tmp_path)

    assert done.returncode == 0
    assert "adaspace" in done.stdout


@contextlib.contextmanager
def begun(*words, cwd):
    """A simulation in a terminal of its own, where ctrl-C reaches all processes; its traces are in cwd/tmp."""
    (cwd / "tmp").mkdir()
    process = subprocess.Popen(
        [SKYLOAD, "simulate", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd / "tmp")}, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition):
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def ctrl_c(process):
    """What it says, and whether it ends in time for a person."""
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)  # a second or two; what it does would take minutes
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return errors


def is_flying(cwd, num):
    return len([path for path in (cwd / "tmp").glob("skyload-simulated-*") if path.is_dir()]) >= num


@pytest.mark.slow
def test_ctrl_c_ends_a_scenario_and_the_one_beside_it(scenario, tmp_path):
    scenario.write_text(SCENARIO.replace("300kB", "30MB"))  # minutes, if nobody stopped it
    with begun(scenario, cwd=tmp_path) as process:
        wait_for(lambda: is_flying(tmp_path, 2))
        errors = ctrl_c(process)

    assert "nothing of a simulation is kept" in errors
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "flying"])
def test_ctrl_c_ends_random_missions(tmp_path, moment):
    with begun("--missions", "40", "--jobs", "2", cwd=tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if moment == "starting" and children.exists():
            wait_for(lambda: len(children.read_text().split()) >= 2)
        else:
            wait_for(lambda: is_flying(tmp_path, 2))
        errors = ctrl_c(process)

    assert "of 40 missions were flown, 0 failed" in errors
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a minute on two idle cores
def test_fifty_random_missions_complete_at_the_limit_without_a_wrong_byte(tmp_path):
    done = simulate("--missions", "50", "--seed", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)

    assert summary["missions"] == 50
    assert summary["failed"] == 0
    assert summary["symbol_ratio_max"] <= SYMBOL_RATIO_MAX


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [148, 183, 629])
def test_stations_that_begin_at_once_far_from_their_reports_do_not_all_send_the_same(tmp_path, seed):
    done = simulate("--missions", "1", "--seed", str(seed), "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr  # without watching before helping: 1.04 to 1.06 of the limit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_station_that_nobody_answers_for_contacts_sends_no_symbol_twice_before_its_lane_ends(tmp_path):
    done = simulate("--missions", "1", "--seed", "124", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_mission_that_fails_says_how_to_repeat_it(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit(3)")
    done = simulate(
        "--missions",
        "2",
        "--seed",
        "40",
        "--jobs",
        "2",
        "--satellite-command",
        f"{sys.executable} {broken}",
        cwd=tmp_path,
    )

    assert done.returncode == 1
    assert "skyload simulate --missions 1 --seed 41" in done.stderr
