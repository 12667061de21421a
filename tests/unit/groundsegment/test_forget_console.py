"""`skyload forget`: no key of the release is left in the depot, nothing else is touched, and what stays is said."""

import json

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot.records import CommandState, FlightState, ReceivedMessage, ReceivedReport
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import create_trust
from groundsegment.staging import forgetting
from groundsegment.staging.workplace import open_workplace
from groundsegment.uplink.flight.outcome import Receipt, settle
from protocol.report import Report
from tests.fakes.depots import NOW, make_depot, stage_bytes


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        create_trust(KeyStore(depot.keys_path), utc=NOW)
        yield depot


def run(depot, *arguments, text=None):
    return CliRunner().invoke(app, ["forget", *arguments, "--depot", str(depot.path)], input=text)


def staged(depot, state=FlightState.CONFIRMED, number=0):
    update = stage_bytes(depot, [20_000 + number]).update
    return depot.set_update_state(update.handle, state)


def everything(depot):
    return b"".join(path.read_bytes() for path in sorted(depot.path.rglob("*")) if path.is_file())


def reason(depot, update):
    return depot.update(update.handle).reason


def test_no_file_of_the_update_is_left_and_its_history_is(depot):
    update = staged(depot)
    metadata = update.metadata_path.read_bytes()
    result = run(depot, update.release_digest.hex()[:8], "--yes", "--json")

    values = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert values["ground"]["forgotten"]
    assert values["ground"]["keys"] >= 1
    assert not update.directory.exists()
    assert metadata not in everything(depot)
    assert depot.update(update.handle).state is FlightState.CONFIRMED


def test_home_goes_on_knowing_that_it_was_forgotten(depot, monkeypatch):
    from groundsegment.console import forget

    update = staged(depot)
    done = {"ok": True, "text": "release is forgotten", "refusal": ""}
    monkeypatch.setattr(forget, "command_dangerously", lambda *_, **__: dict(done))
    way = ("--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")
    assert run(depot, update.release_name, *way, "--keep-ground").exit_code == 0
    assert reason(depot, update) == "forgotten on board"
    assert run(depot, update.release_name, *way).exit_code == 0
    assert reason(depot, update) == "forgotten on board; forgotten here"
    settle(depot, Receipt(update=update.handle, state="confirmed", reason="none", body={}))  # imported once more
    assert reason(depot, update) == "forgotten on board; forgotten here"
    shown = CliRunner().invoke(app, ["status", "--depot", str(depot.path), "--json"])
    (entry,) = json.loads(shown.stdout)["satellites"][0]["updates"]
    assert (entry["reason"], entry["share_on_board"]) == (reason(depot, update), 0)
    assert "forgotten" in CliRunner().invoke(app, ["status", "--depot", str(depot.path)]).stdout


def test_an_export_of_what_was_forgotten_says_so(depot, tmp_path):
    update = staged(depot)
    run(depot, update.release_digest.hex(), "--yes")
    words = ["export", update.handle.hex()[:5], str(tmp_path / "stick"), "--depot", str(depot.path)]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 3
    assert "was forgotten" in result.stderr
    assert CliRunner().invoke(app, [*words[:1], "newest", *words[2:], "--for", "SAT-1"]).exit_code == 5


def reported_serving(depot, update):
    report = Report(serving=update.release_digest[:6])
    depot.journal.record_report(
        ReceivedReport(satellite="SAT-1", session=b"s" * 6, sequence=1, received_utc=NOW, report=report)
    )


def receipted(depot, counter, serving):
    about = {"satellite": "SAT-1", "kind": "receipt", "re": bytes(6), "received_utc": NOW}
    depot.journal.add_message(ReceivedMessage(**about, counter=counter, body={"serving": serving.hex()}))


def test_a_report_that_is_older_than_a_receipt_does_not_refuse(depot, monkeypatch):
    from groundsegment.console import forget

    update = staged(depot)
    reported_serving(depot, update)
    receipted(depot, 1, update.release_digest)
    way = (update.release_name, "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")
    assert run(depot, *way).exit_code == 3
    receipted(depot, 2, bytes(31) + b"x")  # it was reverted since
    monkeypatch.setattr(forget, "command_dangerously", lambda *_, **__: {"ok": True, "text": "forgotten"})
    assert run(depot, *way).exit_code == 0


def test_what_serves_is_refused_at_home(depot):
    update = staged(depot)
    reported_serving(depot, update)
    result = run(depot, update.release_name, "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")

    assert result.exit_code == 3
    assert "what serves is not forgotten" in result.stderr
    assert "skyload revert" in result.stderr
    assert "stays:" not in result.stderr
    assert depot.journal.commands("SAT-1") == ()
    assert run(depot, update.release_name, "--yes").exit_code == 0  # of the ground alone it may be


def test_keys_are_overwritten_before_they_are_deleted(depot):
    update = staged(depot)
    size = update.metadata_path.stat().st_size
    with update.metadata_path.open("rb") as file:
        forgetting.forget(depot, update.release_digest)
        assert file.read() == bytes(size)


def test_what_stays_is_said(depot):
    update = staged(depot)
    depot.add_station("SAT-1", "inuvik", added_utc=NOW)
    result = run(depot, update.release_digest.hex(), "--yes")

    for words in ("stations (inuvik)", "recordings of the link", "flash"):
        assert words in result.stderr
    assert " kB of bundles deleted, of 1 update to " in result.stdout


def test_the_key_of_an_unfinished_staging_goes_too(depot):
    update = staged(depot)
    workplace = open_workplace(depot, "ab" * 32)
    (workplace.path / "bundle").write_bytes(b"x")
    run(depot, update.release_digest.hex(), "--yes")

    assert not workplace.key_path.exists()
    assert not workplace.path.exists()


def test_an_update_under_way_is_cancelled_first(depot):
    update = staged(depot, FlightState.FLYING)
    result = run(depot, update.release_digest.hex(), "--yes")

    assert result.exit_code == 3
    assert "skyload cancel" in result.stderr
    assert update.metadata_path.exists()


def test_a_satellite_judges_what_came_of_an_update_that_it_has_in_full(depot, monkeypatch):
    from groundsegment.console import forget

    update = staged(depot, FlightState.COMPLETE)  # confirmed on board since; its receipt is on the way
    said = {"ok": False, "text": "an update to it is under way"}
    monkeypatch.setattr(forget, "command_dangerously", lambda *_, **__: said)
    way = (update.release_name, "--for", "SAT-1", "--yes")
    assert run(depot, *way, "--blind").exit_code == 3  # nobody could say
    assert run(depot, update.release_name, "--yes").exit_code == 3
    assert run(depot, *way, "--link", "127.0.0.1:9").exit_code == 1
    assert update.metadata_path.exists()
    said = {"ok": True, "text": "forgotten"}
    assert run(depot, *way, "--link", "127.0.0.1:9").exit_code == 0
    assert not update.metadata_path.exists()
    assert not depot.update(update.handle).state.is_open


@pytest.mark.parametrize(("options", "text"), [(("--dry-run",), None), ((), "n\n")])
def test_nothing_is_done_without_a_yes(depot, options, text):
    update = staged(depot)
    run(depot, update.release_digest.hex(), *options, text=text)

    assert update.metadata_path.exists()


def test_an_interruption_is_gone_on_with(depot, monkeypatch):
    update = staged(depot)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting.shutil, "rmtree", stop)
    assert run(depot, update.release_digest.hex(), "--yes").exit_code == 130
    assert not update.metadata_path.exists()  # keys first
    monkeypatch.undo()
    assert run(depot, update.release_digest.hex(), "--yes").exit_code == 0
    assert not update.directory.exists()


def test_a_satellite_that_refuses_keeps_the_ground_from_forgetting(depot, monkeypatch):
    update = staged(depot)
    from groundsegment.console import forget

    refused = {"ok": False, "text": "release serves: revert to another one first", "refusal": ""}
    monkeypatch.setattr(forget, "command_dangerously", lambda *_, **__: dict(refused))
    result = run(depot, update.release_digest.hex(), "--for", "SAT-1", "--link", "127.0.0.1:9", "--yes")

    assert result.exit_code == 1
    assert "did not forget it: release serves" in result.stderr
    assert "stays:" not in result.stderr  # as if something had been wiped
    assert reason(depot, update) == ""
    assert update.metadata_path.exists()


def test_blind_the_satellite_is_told_by_the_uplink(depot):
    update = staged(depot)
    result = run(depot, update.release_digest.hex(), "--for", "SAT-1", "--blind", "--yes", "--keep-ground", "--json")

    assert json.loads(result.stdout)["on_board"]["blind"] is True
    assert [entry.operation for entry in depot.journal.commands("SAT-1", CommandState.QUEUED)] == ["arm", "forget"]
    assert update.metadata_path.exists()


def test_other_releases_are_left_alone(depot):
    update, other = staged(depot), stage_bytes(depot, [30_000], seed=2).update
    run(depot, update.release_digest.hex(), "--yes")

    assert not update.directory.exists()
    assert other.metadata_path.exists()


def test_a_release_that_is_none_is_said_so(depot):
    result = run(depot, "abcd", "--yes")

    assert result.exit_code == 5
    assert "no such release" in result.stderr


def test_a_key_is_overwritten_on_the_disk_before_its_name_goes(tmp_path, monkeypatch):
    """Of a file without a name the kernel writes nothing any more: the key would stay where it was."""
    path, seen = tmp_path / "key", []
    path.write_bytes(b"secret" * 20_000)
    monkeypatch.setattr(forgetting.os, "fsync", lambda _: seen.append(path.exists() and set(path.read_bytes())))
    assert forgetting.wipe(path)
    assert seen[0] == {0}
    assert not path.exists()
