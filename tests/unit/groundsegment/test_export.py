"""`skyload export`: whole files under their own names, or nothing; an interrupted one goes on."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from groundsegment.console import export as console
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, CommandState, FlightState, QueuedCommand, ReceivedReport
from groundsegment.errors import BusyError, DiskError
from groundsegment.file_export import _locked, export, items_of
from protocol.file_names import claimed_handle
from protocol.objects import ObjectKind, object_handle
from protocol.report import SOLVED, Report, UpdateState, UpdateStatus
from tests.fakes.depots import NOW, make_depot, stage_bytes
from tests.fakes.receiving import make_object

APP = typer.Typer()
APP.command()(console.export)
SIZES = (3000, 2_500_000, 700)


@pytest.fixture
def staged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKYLOAD_DEPOT", raising=False)
    with make_depot(tmp_path / "depot") as depot:
        return stage_bytes(depot, SIZES)


def run(*words, code=0):
    result = CliRunner().invoke(APP, [str(word) for word in words])
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def run_json(*words):
    return json.loads(run(*words, "--json")[0])


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def objects(directory):
    return {path.read_bytes() for path in directory.iterdir() if claimed_handle(path.name)}


def test_all_objects_of_an_update_come_out_under_names_that_say_what_they_are(staged, tmp_path):
    out, err = run("newest", tmp_path / "stick", "--for", "SAT-1")
    handle = staged.update.handle.hex()
    names = sorted(contents(tmp_path / "stick"))
    bundles = [f"u0001-{handle}-b{n:04d}-{h.hex()}.skb" for n, h in enumerate(staged.bundle_handles)]
    assert names == sorted([f"u0001-{handle}.skm", f"u0001-{handle}.sha256", f"u0001-{handle}.txt", *bundles])
    assert objects(tmp_path / "stick") == {staged.metadata, *staged.bundles}
    assert all(claimed_handle(path.name) == object_handle(path.read_bytes()) for path in tmp_path.glob("stick/*.sk?"))
    assert all(name in out for name in bundles)
    assert "skyloadd import" in err
    words = (tmp_path / f"stick/u0001-{handle}.txt").read_text()
    assert "SAT-1" in words
    assert "2500000" in words


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_sha256sum_checks_an_export(staged, tmp_path):
    run(staged.update.handle.hex()[:6], "stick", "--only", "0,2")
    (sums,) = (tmp_path / "stick").glob("*.sha256")
    check = ["sha256sum", "--check", "--strict", "--warn", sums.name]
    assert subprocess.run(check, cwd=tmp_path / "stick").returncode == 0
    next((tmp_path / "stick").glob("*-b0002-*")).write_bytes(b"damaged")
    assert subprocess.run(check, cwd=tmp_path / "stick").returncode == 1


def test_a_second_export_adds_what_is_not_there_and_lists_all(staged, tmp_path):
    assert run_json("newest", "stick", "--for", "SAT-1", "--only", "1-2")["bytes_written"] == sum(SIZES[1:])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stick").iterdir()}
    facts = run_json("newest", "stick", "--for", "SAT-1")
    assert facts["bytes_written"] == len(staged.metadata) + SIZES[0]
    assert [file["outcome"] for file in facts["files"]] == ["written", "written", "already there", "already there"]
    for path in (tmp_path / "stick").glob("*.skb"):
        assert before.get(path.name) in {None, path.stat().st_mtime_ns}
    (sums,) = (tmp_path / "stick").glob("*.sha256")
    assert len(sums.read_text().splitlines()) == 4


def test_an_interrupted_export_leaves_whole_files_and_goes_on(staged, tmp_path):
    def interrupt(num_bytes):
        nonlocal left
        left -= num_bytes
        if left < 0:
            raise KeyboardInterrupt

    left = 2_000_000
    with Depot.open(tmp_path / "depot") as depot:
        items = items_of(depot, depot.update(staged.update.handle))
        with pytest.raises(KeyboardInterrupt):
            export(staged.update, items, items, tmp_path / "stick", on_bytes=interrupt)
    assert objects(tmp_path / "stick") == {staged.metadata, staged.bundles[0]}
    assert len(contents(tmp_path / "stick")) == 2
    assert run_json("newest", "stick", "--for", "SAT-1")["bytes_written"] == sum(SIZES[1:])
    assert objects(tmp_path / "stick") == {staged.metadata, *staged.bundles}


@pytest.mark.parametrize("state", [FlightState.CANCELLED, FlightState.REJECTED, FlightState.EXPIRED])
def test_newest_is_not_one_that_the_satellite_will_never_take(staged, tmp_path, state):
    with Depot.open(tmp_path / "depot") as depot:
        dead = stage_bytes(depot, [4000], seed=2)
        depot.set_update_state(dead.update.handle, state)
    facts = run_json("newest", "stick", "--for", "SAT-1")
    assert facts["update"] == staged.update.handle.hex()

    with Depot.open(tmp_path / "depot") as depot:
        depot.set_update_state(staged.update.handle, state)
    _, err = run("newest", "stick", "--for", "SAT-1", code=5)
    assert "no update that it could still take" in err
    run(dead.update.handle.hex(), "stick2")  # by name it is still to be had


@pytest.mark.parametrize("what", ["bytes", "link", "directory", "list"])
def test_a_foreign_file_is_not_touched_and_nothing_is_written(staged, tmp_path, what):
    run("newest", "stick", "--for", "SAT-1")
    name = next((tmp_path / "stick").glob("*.txt" if what == "list" else "*-b0001-*")).name
    shutil.rmtree(tmp_path / "stick")
    (tmp_path / "stick").mkdir()
    path = tmp_path / "stick" / name
    if what == "link":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"mine\n")
    _, err = run("newest", "stick", "--for", "SAT-1", code=3)
    assert name in err.replace("\n", "")
    assert [entry.name for entry in (tmp_path / "stick").iterdir()] == [name]


def report(staged, **facts):
    with Depot.open(Path("depot")) as depot:
        entry = ReceivedReport(
            satellite="SAT-1", session=b"s" * 6, sequence=1, received_utc=NOW, report=Report(**facts)
        )
        depot.journal.record_report(entry)


def numbers(facts):
    return [file["number"] for file in facts["files"]]


def test_missing_means_what_was_not_reported_complete(staged):
    words = ("newest", "stick", "--for", "SAT-1", "--missing", "--dry-run")
    assert numbers(run_json(*words)) == [None, 0, 1, 2]
    report(staged, complete=(staged.update.handle, staged.bundle_handles[2], b"others"))
    assert numbers(run_json(*words)) == [0, 1]
    status = UpdateStatus(handle=staged.update.handle, state=UpdateState.RECEIVING, bundle_ranges=((0, 0),))
    report(staged, updates=(status,))
    facts = run_json(*words)
    assert (numbers(facts), facts["num_complete_on_board"]) == ([1, 2], 2)
    with Depot.open(Path("depot")) as depot:
        solved = BlockProgress(handle=staged.bundle_handles[2], block=0, next_esi=1, have=SOLVED)
        half = BlockProgress(handle=staged.bundle_handles[1], block=0, next_esi=1, have=17)
        depot.journal.save_progress("SAT-1", [solved, half])
    assert numbers(run_json(*words)) == [1]
    assert not Path("stick").exists()


@pytest.mark.parametrize("state", [UpdateState.VERIFIED, UpdateState.TRIAL, UpdateState.CONFIRMED])
def test_nothing_is_missing_of_an_update_that_is_whole_on_board(staged, state):
    report(staged, updates=(UpdateStatus(handle=staged.update.handle, state=state),))
    out, err = run("newest", "stick", "--for", "SAT-1", "--missing")
    assert (out, "all of it complete" in err, Path("stick").exists()) == ("", True, False)


def test_a_confirmed_update_misses_nothing_without_any_report(staged):
    with Depot.open(Path("depot")) as depot:
        depot.set_update_state(staged.update.handle, FlightState.CONFIRMED)
    assert numbers(run_json("newest", "stick", "--for", "SAT-1", "--missing")) == []


def test_a_damaged_depot_exports_nothing_under_a_good_name(staged, tmp_path):
    with Depot.open(tmp_path / "depot") as depot:
        path = depot.bundles(staged.update.handle)[1].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    _, err = run("newest", "stick", "--for", "SAT-1", code=8)
    assert "stage the same release again" in " ".join(err.split())
    assert objects(tmp_path / "stick") == {staged.metadata, staged.bundles[0]}
    assert not list((tmp_path / "stick").glob(".*"))


def test_two_exports_at_once_are_refused(staged, tmp_path):
    (tmp_path / "stick").mkdir()
    with _locked(tmp_path / "stick"), Depot.open(tmp_path / "depot") as depot:
        items = items_of(depot, staged.update)
        with pytest.raises(BusyError):
            export(staged.update, items, items, tmp_path / "stick", on_bytes=lambda _: None)


def test_no_room_is_told_before_anything_is_written(staged, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10, 9, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with Depot.open(tmp_path / "depot") as depot:
        items = items_of(depot, staged.update)
        with pytest.raises(DiskError, match="1 MiB free, 3 MiB needed"):
            export(staged.update, items, items, tmp_path / "stick", on_bytes=lambda _: None)
    assert not list((tmp_path / "stick").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("newest", "x"), 3, "newest of which satellite"),
        (("newest", "x", "--for", "SAT-9"), 5, "known satellites"),
        (("zz", "x"), 5, "no such update"),
        (("newest", "x", "--for", "SAT-1", "--only", "0-3"), 3, "bundles are 0 to 2"),
        (("newest", "x", "--for", "SAT-1", "--only", "2-1"), 3, "no bundle 2-1"),
        (("newest", "x", "--for", "SAT-1", "--only", "all"), 3, "0-3,7"),
        (("newest", "x", "--for", "SAT-1", "--only", "٣"), 3, "0-3,7"),
        (("newest", "depot/depot.db", "--for", "SAT-1"), 3, "depot.db"),
    ],
)
def test_mistakes_are_told(staged, words, code, said):
    _, err = run(*words, code=code)
    assert said in " ".join(err.split())
    assert not Path("x").exists()


def test_commands_that_wait_come_out_once(staged):
    words = ("commands", "stick", "--for", "SAT-1")
    assert "no command" in run(*words)[1]
    with Depot.open(Path("depot")) as depot:
        for number, state in enumerate((CommandState.QUEUED, CommandState.DONE, CommandState.IN_HAND)):
            data = make_object(random.Random(number), 300, ObjectKind.COMMAND)
            command = QueuedCommand(
                handle=object_handle(data), satellite="SAT-1", counter=number, operation="revert", data=data,
                state=state, created_utc=NOW,
            )  # fmt: skip
            depot.journal.add_command(command)
    assert len(run_json(*words, "--dry-run")["commands"]) == 1
    assert not Path("stick").exists()
    assert run_json(*words)["commands"][0]["operation"] == "revert"
    (path,) = Path("stick").iterdir()
    assert claimed_handle(path.name) == object_handle(path.read_bytes())
    assert "was there" in run(*words)[0]
    path.write_bytes(b"mine")
    assert "not what it should be" in run(*words, code=3)[1]
    assert "which satellite" in run("commands", "stick", code=3)[1]
