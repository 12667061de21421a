"""`skyload station` as a person meets it: numbers, letters in words and JSON, exit codes."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from groundsegment.stations.directory import StationDirectory
from tests.fakes.depots import make_depot, stage_bytes

PLAN = """
epoch: 2030-01-01T00:00:00Z
contacts:
  - {station: svalbard, start_s: 0, end_s: 100, rate: 2Mbit/s}
  - {station: inuvik, start_s: 50, end_s: 150}
"""


@pytest.fixture
def skyload(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_depot(tmp_path / "depot").close()
    (tmp_path / "plan.yaml").write_text(PLAN)

    def run(*words):
        result = CliRunner().invoke(app, ["station", *words])
        return result.exit_code, result.stdout, " ".join(result.stderr.split())

    return run


def added(skyload, *names):
    for name in names:
        assert skyload("add", name, "--for", "SAT-1")[0] == 0


def test_help_names_every_command_and_shows_examples(skyload):
    code, text, _ = skyload("--help")
    assert code == 0
    for command in ("add", "list", "show", "export", "remove", "sync", "run"):
        assert command in text
        assert f"skyload station {command}" in skyload(command, "--help")[1]


def test_a_number_is_never_given_twice_unless_one_asks_for_it(skyload):
    added(skyload, "svalbard", "inuvik")
    assert skyload("remove", "inuvik", "--for", "SAT-1", "--yes")[0] == 0
    added(skyload, "awarua")
    code, text, _ = skyload("list", "--json")
    assert [(row["station"], row["name"]) for row in json.loads(text)["stations"]] == [(1, "svalbard"), (3, "awarua")]
    assert skyload("add", "inuvik", "--for", "SAT-1", "--number", "2")[0] == 0
    code, _, words = skyload("add", "oslo", "--for", "SAT-1", "--number", "2")
    assert (code, "already a station" in words) == (3, True)


@pytest.mark.slow
def test_fifteen_stations_are_all_there_can_be(skyload):
    added(skyload, *(f"s{number}" for number in range(1, 16)))
    code, _, words = skyload("add", "s16", "--for", "SAT-1")
    assert (code, "all 15 numbers were given" in words) == (3, True)
    skyload("remove", "s7", "--for", "SAT-1", "--yes")
    assert skyload("add", "s16", "--for", "SAT-1")[0] == 3
    assert skyload("add", "s16", "--for", "SAT-1", "--number", "7")[0] == 0


def test_each_station_gets_its_own_contacts_of_a_plan(skyload):
    added(skyload, "svalbard", "inuvik", "awarua")
    code, text, words = skyload("sync", "--for", "SAT-1", "--contacts", "plan.yaml")
    assert code == 0
    assert "svalbard: nothing new, new orders" in text
    assert "awarua has no contact in this plan" in words
    starts = {}
    for name in ("svalbard", "inuvik", "awarua"):
        row = json.loads(skyload("show", name, "--for", "SAT-1", "--json")[1])
        starts[name] = [contact["start_utc"] for contact in row["contacts"]]
    assert starts == {"svalbard": ["2030-01-01T00:00:00Z"], "inuvik": ["2030-01-01T00:00:50Z"], "awarua": []}


def test_a_station_syncs_and_home_shows_what_it_brought(skyload, tmp_path):
    added(skyload, "svalbard")
    with Depot.open(tmp_path / "depot") as depot:
        staged = stage_bytes(depot, [2000])
        with depot._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE updates SET lanes = 2")
    assert skyload("export", "svalbard", "--for", "SAT-1", "station")[0] == 0
    code, text, _ = skyload("sync", "--station-dir", "station")
    assert (code, "1 update added" in text, "all that is ordered can fly" in text) == (0, True, True)
    with StationDirectory.open(tmp_path / "station") as directory:
        directory.depot.set_update_state(staged.update.handle, FlightState.FLYING)
    assert json.loads(skyload("sync", "--station-dir", "station", "--json")[1])["has_written"]

    result = CliRunner().invoke(app, ["status", "--json"])  # takes it in by the way
    assert json.loads(result.stdout)["satellites"][0]["updates"][0]["state"] == "flying"
    _, text, _ = skyload("show", "svalbard", "--for", "SAT-1")
    assert f"{staged.update.handle.hex()}: flying, as it says" in text
    assert "letter of" in skyload("list")[1]


def test_an_update_staged_before_a_station_was_added_is_named(skyload, tmp_path):
    with Depot.open(tmp_path / "depot") as depot:
        staged = stage_bytes(depot, [2000])
    _, _, words = skyload("add", "svalbard", "--for", "SAT-1")
    assert f"{staged.update.handle.hex()}) is staged already" in words
    assert "so it cannot fly it" in skyload("show", "svalbard", "--for", "SAT-1")[1]


def test_a_problem_is_told_and_the_exit_code_says_so(skyload, tmp_path):
    added(skyload, "svalbard")
    skyload("export", "svalbard", "--for", "SAT-1", "station")
    code, _, words = skyload("sync", "--station-dir", "station", "--depot", "nowhere")
    assert (code, "home cannot be reached" in words) == (6, True)
    (tmp_path / "depot" / "exchange" / "SAT-1" / "svalbard" / "logbook.letter").write_text("x")
    code, _, words = skyload("sync", "--for", "SAT-1")
    assert (code, "not a letter of this kind" in words) == (6, True)


def test_a_plan_counts_what_stations_carry_at_the_same_time(skyload, tmp_path):
    with Depot.open(tmp_path / "depot") as depot:
        stage_bytes(depot, [20_000_000])
    words = ["plan", "--for", "SAT-1", "--contacts", "plan.yaml", "--rate", "1Mbit/s", "--json"]
    apart = json.loads(CliRunner().invoke(app, words).stdout)["contacts"]
    added(skyload, "svalbard", "inuvik")
    result = CliRunner().invoke(app, words)
    together = json.loads(result.stdout)["contacts"]
    assert [(row["station"], row["duration_s"], row["overlaps"]) for row in apart] == [
        ("svalbard", 100.0, []), ("inuvik", 50.0, []),
    ]  # fmt: skip
    assert [(row["station"], row["duration_s"], row["overlaps"]) for row in together] == [
        ("svalbard", 100.0, []), ("inuvik", 100.0, [1]),
    ]  # fmt: skip
    assert together[1]["carried_bytes"] > 1.5 * apart[1]["carried_bytes"]
    assert "inuvik (while 1)" in CliRunner().invoke(app, words[:-1]).stdout
    only = json.loads(CliRunner().invoke(app, [*words, "--station", "inuvik"]).stdout)["contacts"]
    assert [row["station"] for row in only] == ["inuvik"]


def test_who_syncs_again_and_again_outlives_a_busy_moment(skyload, tmp_path):
    added(skyload, "svalbard")
    words = [sys.executable, "-c", "from groundsegment.console.main import main; main()"]
    words += ["station", "sync", "--for", "SAT-1", "--every", "0.2s"]
    with Depot.open(tmp_path / "depot") as depot:
        with depot.lock("exchange-SAT-1"):
            assert skyload("sync", "--for", "SAT-1")[0] == 7
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert "exchange-SAT-1 is held" in process.stderr.readline()
        try:
            assert process.stdout.readline() == "svalbard: nothing new, new orders\n"
        finally:
            process.terminate()
            process.communicate(timeout=45)


def test_nothing_is_removed_without_a_word(skyload):
    added(skyload, "svalbard")
    assert CliRunner().invoke(app, ["station", "remove", "svalbard", "--for", "SAT-1"], input="n\n").exit_code == 1
    assert "svalbard" in skyload("list")[1]
    assert skyload("remove", "svalbard", "--for", "SAT-1", "--yes", "--json")[0] == 0
    assert skyload("show", "svalbard", "--for", "SAT-1")[0] == 5


@pytest.mark.slow
def test_what_flies_at_a_station_has_no_code_that_signs_or_packs():
    code = (
        "import sys, groundsegment.stations.shell, groundsegment.console.station_run\n"
        "print([name for name in sys.modules if name.startswith(('groundsegment.signer', 'groundsegment.packer',"
        " 'groundsegment.models', 'groundsegment.staging'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
