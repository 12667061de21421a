import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console import main
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, ReceivedReport
from groundsegment.packer.packing import pack
from protocol.manifest import Manifest, bundle_digest
from protocol.metadata import MetadataBundle
from protocol.objects import object_handle
from protocol.report import Report
from protocol.sealed_metadata import open_metadata
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2
from tests.fakes.rebuild import rebuild
from tests.fakes.staging import (
    APP,
    NOW,
    TWIN,
    make_ground,
    open_as_satellite,
    read_release,
    report_serving,
    run,
    run_json,
)


@pytest.fixture
def ground(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    make_tiny_qwen2(tmp_path / "v2", seed=1, nudge=0.001)
    return tmp_path


def test_a_staged_update_opens_on_board_to_the_same_bytes(ground):
    staged = run_json("v1", "--twin", TWIN, "--max-tokens", "5", "--priority", "3")
    directory = Path(staged["directory"])
    manifest, key = open_as_satellite(directory)
    assert rebuild(
        directory, manifest.bundles, manifest.files, release_key=key, release_digest=manifest.release_digest
    ) == read_release(ground / "v1")
    metadata = (directory / "metadata.skm").read_bytes()
    assert staged["update"] == object_handle(metadata).hex() == directory.name
    with Depot.open(Path("depot")) as depot:
        kept = depot.update(bytes.fromhex(staged["update"])).manifest_path
    assert Manifest.decode(kept.read_bytes()) == manifest
    assert not kept.is_relative_to(directory.parent)  # which stations mirror
    assert sorted(path.name for path in directory.iterdir()) == [
        *(f"bundle-{number:05d}.skb" for number in range(staged["num_bundles"])),
        "metadata.skm",
    ]
    with Depot.open(Path("depot")) as depot:
        update = depot.update(bytes.fromhex(staged["update"]))
        assert (update.state, update.sequence, update.priority) == (FlightState.STAGED, 1, 3)
        assert [bundle_digest(bundle.sha256) for bundle in depot.bundles(update.handle)] == [
            entry.digest for entry in manifest.bundles
        ]
        assert all(bundle.path.stat().st_size == bundle.size_bytes for bundle in depot.bundles(update.handle))
        assert depot.find_release(manifest.release_digest).path == ground / "v1"


def test_the_canary_is_what_the_twin_answered(ground):
    (ground / "questions.json").write_text('["Who?", "Where?"]')
    staged = run_json("v1", "--twin", TWIN, "--canary", "questions.json", "--max-tokens", "3")
    manifest, _ = open_as_satellite(Path(staged["directory"]))
    assert [(prompt.text, bytes(prompt.expected)) for prompt in manifest.canary.prompts] == [
        ("Who?", b"Who"),
        ("Where?", b"Whe"),
    ]
    assert manifest.canary.max_tokens == 3


def test_prompts_come_with_skyload(ground):
    staged = run_json("v1", "--twin", TWIN)
    assert len(staged["canary"]) == 4
    assert "Paris" not in staged["canary"][0]["prompt"]


def test_without_canary_no_twin_is_needed_and_it_says_what_that_means(ground):
    code, out, err = run("v1", "--no-canary", "--twin", "no-such-program")
    assert code == 0
    assert "no canary" in err
    assert "next: skyload plan" in err
    assert "airtime" in out


def test_no_secret_stays_behind(ground):
    staged = run_json("v1", "--twin", TWIN)
    _, key = open_as_satellite(Path(staged["directory"]))
    left = {path: path.read_bytes() for path in Path("depot").rglob("*") if path.is_file()}
    assert not [path for path, content in left.items() if key in content or key.hex().encode() in content]
    assert not list(Path("depot/staging").iterdir())


def test_the_base_is_what_the_satellite_reported_serving(ground):
    first = run_json("v1", "--no-canary")
    assert first["base_digest"] is None
    assert "no report" in first["base_reason"]
    report_serving(first["release_digest"], accepted=1)
    second = run_json("v2", "--twin", TWIN)
    assert second["base_digest"] == first["release_digest"]
    assert second["payload_bytes"] < first["payload_bytes"] * 0.8
    assert second["by_transform"]["floats_delta"]["num_pieces"] > 0
    assert second["by_transform"]["same"]["coded_bytes"] < second["by_transform"]["same"]["raw_bytes"] / 20
    manifest, key = open_as_satellite(Path(second["directory"]), accepted=1)
    assert rebuild(
        Path(second["directory"]),
        manifest.bundles,
        manifest.files,
        release_key=key,
        release_digest=manifest.release_digest,
        base=read_release(ground / "v1"),
    ) == read_release(ground / "v2")


def test_the_twin_is_given_the_files_of_the_base_and_nothing_else(ground):
    (ground / "v1" / "README.md").write_text("not part of the release")
    staged = run_json("v2", "--base", "v1", "--twin", TWIN)
    names = (Path(staged["directory"]) / "base-seen").read_text().split()
    assert "README.md" not in names
    assert "config.json" in names


def test_a_gguf_file_builds_on_the_one_before_whatever_it_is_called(ground):
    make_tiny_gguf(ground / "v1.gguf", seed=1)
    content = bytearray((ground / "v1.gguf").read_bytes())
    content[-100] ^= 1
    (ground / "v2.gguf").write_bytes(content)
    staged = run_json("v2.gguf", "--base", "v1.gguf", "--twin", TWIN)
    assert staged["payload_bytes"] < 1000
    assert (Path(staged["directory"]) / "base-seen").read_text() == "v1.gguf"
    manifest, key = open_as_satellite(Path(staged["directory"]))
    assert manifest.engine_format == "gguf"
    assert rebuild(
        Path(staged["directory"]),
        manifest.bundles,
        manifest.files,
        release_key=key,
        release_digest=manifest.release_digest,
        base={"v1.gguf": (ground / "v1.gguf").read_bytes()},
    ) == {"v2.gguf": content}


@pytest.mark.parametrize("trouble", ["unknown", "changed", "gone"])
def test_a_base_that_cannot_be_used_means_a_full_update_and_the_reason_is_told(ground, trouble):
    first = run_json("v1", "--no-canary")
    report_serving("77" * 32 if trouble == "unknown" else first["release_digest"])
    if trouble == "changed":
        with (ground / "v1" / "config.json").open("a") as file:
            file.write("\n")
    if trouble == "gone":
        (ground / "v1").rename(ground / "elsewhere")
    code, _, err = run("v2", "--base", "current", "--no-canary")
    assert code == 3
    assert "--base DIR" in err
    second = run_json("v2", "--no-canary")
    assert second["base_digest"] is None
    assert {"unknown": "not known here", "changed": "changed since", "gone": "gone"}[trouble] in second["base_reason"]
    assert "--base DIR" in second["base_reason"]


def test_a_base_by_directory_and_none(ground):
    assert run_json("v2", "--base", "v1", "--no-canary", "--dry-run")["base_digest"]
    assert run_json("v2", "--base", "none", "--no-canary", "--dry-run")["base_digest"] is None
    code, _, err = run("v1", "--base", "v1", "--no-canary")
    assert code == 3
    assert "nothing to do" in err
    code, _, _ = run("v1", "--base", "nowhere", "--no-canary")
    assert code == 3


def test_a_dry_run_writes_nothing(ground):
    before = {
        path: path.read_bytes() for path in Path("depot").rglob("*") if path.is_file() and "depot.db" not in path.name
    }
    guess = run_json("v1", "--dry-run", "--twin", "no-such-program")
    code, out, err = run("v1", "--dry-run")
    after = {
        path: path.read_bytes() for path in Path("depot").rglob("*") if path.is_file() and "depot.db" not in path.name
    }
    assert before == after
    assert code == 0
    assert "nothing was written" in err
    assert "to send" in out
    with Depot.open(Path("depot")) as depot:
        assert depot.updates() == ()
        assert depot.allocate_sequence() == 1
    staged = run_json("v1", "--no-canary")
    assert guess["num_sampled"] == guess["num_segments"] == staged["num_segments"]
    assert guess["payload_bytes"] == staged["payload_bytes"]


def test_nothing_to_do_is_told(ground):
    first = run_json("v1", "--no-canary")
    code, _, err = run("v1", "--no-canary")
    assert code == 3
    assert "staged already" in err
    assert f"skyload cancel {first['update']} --for SAT-1" in err
    assert "skyload uplink" in err
    report_serving(first["release_digest"])
    code, _, err = run("v1", "--no-canary")
    assert code == 3
    assert "serving this release already" in err


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("fail", "no such layer"),
        ("digest", "rebuilt release 0000"),
        ("garbage", "printed something else"),
        ("silent", "answered nothing"),
    ],
)
def test_a_failing_twin_signs_nothing_and_the_bundles_are_used_again(ground, monkeypatch, trouble, words):
    monkeypatch.setenv("FAKE_TWIN", trouble)
    code, _, err = run("v1", "--twin", TWIN, "--bundle-size", "64KiB")
    assert code == 9
    assert words in err
    assert "hint:" in err
    assert not list(Path("depot").rglob("*.skm"))
    assert not list(Path("depot/staging").rglob("release.key"))
    with Depot.open(Path("depot")) as depot:
        assert depot.updates() == ()
    monkeypatch.delenv("FAKE_TWIN")
    staged = run_json("v1", "--twin", TWIN, "--bundle-size", "64KiB")
    assert staged["num_bundles_reused"] == staged["num_bundles"] >= 1


def test_a_missing_twin_is_told_before_packing(ground, monkeypatch):
    code, _, err = run("v1", "--twin", "no-such-program")
    assert code == 9
    assert "skyload[onboard]" in err
    assert "--no-canary" in err
    assert not Path("depot/staging").exists()


def test_refusals_name_what_to_do(ground):
    result = CliRunner().invoke(APP, ["v1", "--for", "SAT-9"])
    assert result.exit_code == 5
    assert "SAT-1" in result.stderr
    cases = {
        ("nowhere",): 3,
        ("v1", "--name", "a/b"): 3,
        ("v1", "--bundle-size", "1GiB"): 3,
        ("v1", "--bundle-size", "lots"): 3,
        ("v1", "--canary", "v1/config.json"): 3,
        ("v1", "--canary", "nowhere.json"): 3,
        ("v1", "--canary", "q.json", "--no-canary"): 3,
        ("v1", "--depot", "nowhere"): 3,
        ("v1", "--no-canary", "--floor", "9"): 3,
    }
    for words, expected in cases.items():
        code, _, err = run(*words)
        assert (words, code) == (words, expected)
        assert "hint:" in err, words
    with Depot.open(Path("depot")) as depot, depot.lock("stage"):
        code, _, err = run("v1", "--no-canary")
    assert code == 7
    assert "held by process" in err


def test_a_file_touched_while_it_is_staged_is_told_and_nothing_is_registered(ground, monkeypatch):
    def pack_and_touch(*args, **options):
        packed = pack(*args, **options)
        with (ground / "v1" / "config.json").open("a") as file:
            file.write(" ")
        return packed

    monkeypatch.setattr("groundsegment.staging.staging.pack", pack_and_touch)
    code, _, err = run("v1", "--no-canary")
    assert code == 3
    assert "changed while it was staged" in err
    with Depot.open(Path("depot")) as depot:
        assert depot.updates() == ()


def test_a_missing_key_is_told_and_nothing_is_registered(ground):
    Path("depot/keys/targets.pem").unlink()
    code, _, err = run("v1", "--no-canary")
    assert code == 4
    assert "targets.pem" in err
    with Depot.open(Path("depot")) as depot:
        assert depot.updates() == ()


def test_too_little_room_is_told_before_packing(ground, monkeypatch):
    class Usage:
        free = 1 << 20

    monkeypatch.setattr("groundsegment.staging.checks.shutil.disk_usage", lambda path: Usage)
    code, _, err = run("v1", "--no-canary")
    assert code == 8
    assert "MiB needed" in err
    assert not Path("depot/staging").exists()


def test_sequences_rise_above_what_the_satellite_accepted_from_an_older_depot(ground):
    report_serving("77" * 32, accepted=41)
    assert run_json("v1", "--no-canary")["sequence"] == 42
    assert run_json("v2", "--no-canary")["sequence"] == 43


def test_warnings_say_what_the_last_report_makes_doubtful(ground):
    report_serving("77" * 32)
    with Depot.open(Path("depot")) as depot:
        last = depot.journal.last_report("SAT-1")
        depot.journal.record_report(
            ReceivedReport(
                satellite="SAT-1",
                session=last.session,
                sequence=2,
                received_utc=NOW,
                report=Report(serving=last.report.serving, free_mib=0),
            )
        )
    (ground / "v2" / "README.md").write_text("hello")
    (ground / "v2" / "requantize.json").write_text("{}")  # of our own making: nothing to warn of
    code, _, err = run("v2", "--base", "v1", "--dry-run")
    assert code == 0
    assert "0 MiB free" in err
    assert "is the base on board?" in err
    assert "README.md does not fly" in err
    assert "requantize.json" not in err


def test_an_update_that_overtakes_an_older_one_says_what_becomes_of_that(ground):
    first = run_json("v1", "--no-canary")
    assert not run_json("v2", "--no-canary", "--dry-run")["warnings"]
    (warning,) = run_json("v2", "--no-canary", "--priority", "1", "--dry-run")["warnings"]
    assert first["update"] in warning
    assert "ends it" in warning
    assert not run_json("v2", "--no-canary", "--priority", "1", "--beside", "--dry-run")["warnings"]


def test_bundles_of_a_finished_update_may_be_deleted(ground):
    first = run_json("v1", "--no-canary")
    with Depot.open(Path("depot")) as depot:
        depot.set_update_state(bytes.fromhex(first["update"]), FlightState.CONFIRMED)
    for path in Path(first["directory"]).glob("*.skb"):
        path.unlink()
    second = run_json("v2", "--no-canary", "--base", "v1")
    assert second["num_bundles"] >= 1
    shown = CliRunner().invoke(main.app, ["status", "--json"])
    assert shown.exit_code == 0, shown.output
    assert run_json("v1", "--no-canary", "--dry-run")["num_bundles"] >= 1  # and it can be staged again


def test_a_registration_that_was_interrupted_is_taken_back_with_its_bundles(ground, monkeypatch):
    def power_cut(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Depot, "add_update", power_cut)
    assert run("v1", "--no-canary")[0] == 130
    monkeypatch.undo()
    monkeypatch.chdir(ground)
    assert len(list(Path("depot/updates").iterdir())) == 1
    staged = run_json("v1", "--no-canary")
    assert staged["num_bundles_reused"] == staged["num_bundles"]
    assert [path.name for path in Path("depot/updates").iterdir()] == [staged["update"]]
    open_as_satellite(Path(staged["directory"]))


def test_a_key_without_its_bundles_is_never_used_again(ground, monkeypatch):
    monkeypatch.setenv("FAKE_TWIN", "fail")
    run("v1", "--twin", TWIN)
    (key_path,) = Path("depot/keys/release").iterdir()
    before = key_path.read_text()
    (workplace,) = Path("depot/staging").iterdir()
    for path in (workplace / "twin").iterdir():
        path.unlink()
    (workplace / "twin").rmdir()
    for path in workplace.iterdir():
        path.unlink()
    workplace.rmdir()
    run("v1", "--twin", TWIN)
    assert key_path.read_text() != before


def test_another_plan_has_another_key(ground, monkeypatch):
    monkeypatch.setenv("FAKE_TWIN", "fail")
    seen = set()
    for words in (("v1",), ("v2",), ("v2", "--base", "v1"), ("v2", "--level", "3"), ("v2", "--bundle-size", "1MiB")):
        run(*words, "--twin", TWIN)
        (key_path,) = Path("depot/keys/release").iterdir()
        seen.add((key_path.name, key_path.read_text()))
        assert [path.name for path in Path("depot/staging").iterdir()] == [key_path.stem]
    assert len({name for name, _ in seen}) == len({key for _, key in seen}) == 5


def test_the_manifest_says_what_the_engine_needs(ground):
    staged = run_json("v1", "--no-canary", "--name", "better")
    manifest = open_as_satellite(Path(staged["directory"]))[0]
    assert (manifest.release_name, manifest.engine_format) == ("better", "huggingface")
    assert manifest.memory_bytes == manifest.installed_bytes


def test_how_an_update_shares_the_link_is_frozen_when_it_is_staged(ground):
    with Depot.open(Path("depot")) as depot:
        depot.add_station("SAT-1", "inuvik", added_utc=NOW, station=2)
        depot.set_symbol_size("SAT-1", 1024)
    plain = run_json("v1", "--no-canary")
    options = ("--weight", "2.5", "--beside", "--hold", "--symbol-size", "2048", "--priority", "9")
    staged = run_json("v2", "--no-canary", *options)
    with Depot.open(Path("depot")) as depot:
        depot.add_station("SAT-1", "troll", added_utc=NOW)
        before, urgent = (depot.update(bytes.fromhex(entry["update"])) for entry in (plain, staged))

    assert (before.weight, before.beside, before.symbol_size, before.lanes) == (1.0, False, 1024, 3)
    assert (urgent.weight, urgent.beside, urgent.symbol_size, urgent.lanes) == (2.5, True, 2048, 3)
    manifest = open_as_satellite(Path(staged["directory"]))[0]
    assert manifest.beside
    assert manifest.hold
    private = bytes.fromhex(Path("kit/keys/release.key").read_text())
    metadata = open_metadata(urgent.metadata_path.read_bytes(), private, satellite="SAT-1")
    targets = json.loads(MetadataBundle.decode(metadata).targets)
    assert targets["signed"]["expires"] == urgent.expires_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("size", "words"), [("1281", "not a multiple of 8"), ("64", "symbols of 64 bytes")])
def test_a_symbol_size_that_no_frame_or_bundle_can_have_is_refused(ground, size, words):
    code, _, err = run("v1", "--no-canary", "--symbol-size", size, "--dry-run")

    assert code == 3
    assert words in err
    assert "hint: a multiple of 8" in err
