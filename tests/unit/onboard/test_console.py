"""`skyloadd` as a newcomer meets it: every mistake has an exit code and a hint, and nothing is half done."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from onboard.console import run
from onboard.inference import rehearsal
from onboard.store.record import RELEASES_MAX
from protocol.bundle import BundleHeader
from tests.fakes.updates import FakeGround, digest_of, write_files

ENGINE = f"{sys.executable} -S -E {Path(__file__).parents[2] / 'fakes/engine.py'}"
HEADER = b'{"weight": {"dtype": "U8", "shape": [5120], "data_offsets": [0, 5120]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(range(256)) * 20
OLD = {"config.json": b"{}", "model.safetensors": WEIGHTS}
NEW = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS[:-256] + bytes(256)}


class Console:
    def __init__(self, directory, capsys):
        self.directory, self.capsys = directory, capsys
        self.ground = FakeGround()
        self.config = str(self.ground.write_kit(directory / "kit"))

    def __call__(self, *arguments):
        code = run([*map(str, arguments), *(() if arguments[0] == "rehearse" else ("--config", self.config))])
        self.out, self.err = self.capsys.readouterr()
        return code

    def json(self, *arguments):
        assert self(*arguments, "--json") == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def console(tmp_path, capsys):
    return Console(tmp_path, capsys)


def test_a_provisioned_release_is_listed_and_whole(console, tmp_path):
    source = write_files(tmp_path / "first", OLD)
    assert console.json("provision", source)["digest"] == digest_of(OLD).hex()
    (row,) = console.json("releases")
    assert (row["name"], row["sequence"], row["is_current"]) == ("first", 0, True)
    assert row["size_bytes"] == sum(map(len, OLD.values()))
    assert console("verify") == 0
    assert (tmp_path / "kit/state/current").resolve().name == digest_of(OLD).hex()[:16]


def test_provisioning_twice_changes_nothing_and_another_one_becomes_current(console, tmp_path):
    first, second = write_files(tmp_path / "first", OLD), write_files(tmp_path / "second", NEW)
    console("provision", first)
    assert console.json("provision", first)["is_new"] is False
    console("provision", second)
    assert [(row["name"], row["is_current"], row["is_previous"]) for row in console.json("releases")] == [
        ("second", True, False),
        ("first", False, True),
    ]


def test_a_golden_release_does_not_take_over_from_what_serves_and_serves_where_nothing_does(console, tmp_path):
    first, small = write_files(tmp_path / "first", OLD), write_files(tmp_path / "small", NEW)
    console("provision", small, "--golden")
    assert (tmp_path / "kit/state/current").resolve().name == digest_of(NEW).hex()[:16]
    console("provision", first)
    console("provision", small, "--golden")
    rows = [(row["name"], row["is_current"], row["is_golden"]) for row in console.json("releases")]
    assert sorted(rows) == [("first", True, False), ("small", False, True)]


def test_what_is_on_board_becomes_golden_under_the_name_it_has_and_that_is_said(console, tmp_path):
    first, small = write_files(tmp_path / "first", OLD), write_files(tmp_path / "small", NEW)
    console("provision", small, "--golden")
    console("provision", first)
    again = write_files(tmp_path / "m1", OLD)
    assert console("provision", again, "--golden") == 0
    assert "first" in console.out
    assert "was on board already: it serves and is golden" in console.out
    assert "it keeps its name, first" in console.err
    assert "small is golden no more" in console.err
    rows = [(row["name"], row["is_current"], row["is_golden"]) for row in console.json("releases")]
    assert sorted(rows) == [("first", True, True), ("small", False, False)]
    console("releases")
    assert "current,golden" in console.out
    assert console.json("provision", again, "--name", "m1", "--golden")["name"] == "first"
    assert not console.err.count("golden no more")


def test_damage_is_found_named_and_has_its_exit_code(console, tmp_path):
    console("provision", write_files(tmp_path / "first", OLD))
    path = tmp_path / "kit/state/releases" / digest_of(OLD).hex()[:16] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert console("verify") == 10
    assert "model.safetensors" in console.out
    assert "hint:" in console.err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["status"], 7, "no daemon"),
        (["revert"], 7, "no daemon"),
        (["releases"], 6, "no satellite was ever started"),
        (["verify"], 6, "no satellite was ever started"),
        (["provision", "/nowhere"], 3, "not a directory"),
        (["provision", "/nowhere", "--name", "../x"], 3, "--name"),
    ],
)
def test_mistakes_have_an_exit_code_and_a_hint(console, arguments, code, word):
    assert console(*arguments) == code
    assert word in console.err
    assert "hint:" in console.err


def test_a_release_that_is_not_there_is_named(console, tmp_path):
    console("provision", write_files(tmp_path / "first", OLD))
    assert console("verify", "ffff") == 6
    assert digest_of(OLD).hex()[:16] in console.err


@pytest.mark.parametrize("bad", [{".hidden": b""}, {"a b.json": b""}, {}])
def test_a_directory_that_is_no_release_leaves_nothing_behind(console, tmp_path, bad):
    assert console("provision", write_files(tmp_path / "bad", bad)) == 3
    assert not (tmp_path / "kit/state").exists()


def test_usage_is_exit_code_2(console):
    with pytest.raises(SystemExit) as caught:
        run(["fly"])
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["run", "status", "releases", "revert", "verify", "provision", "rehearse"])
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as caught:
        run([command, "--help"])
    assert caught.value.code == 0
    assert "Examples:" in capsys.readouterr().out


# -- the twin


class Twin:
    """What `stage` gives a twin."""

    def __init__(self, directory, base=None):
        ground = FakeGround()
        update = ground.make_update(NEW, base=base)
        self.update = update
        self.manifest = directory / "manifest.msgpack"
        self.manifest.write_bytes(update.manifest.encode())
        self.bundles = directory / "bundles"
        write_files(self.bundles, {f"bundle-{n:05}.skb": data for n, data in enumerate(update.bundles)})
        self.key = directory / "release.key"
        self.key.write_text(ground._secret("release key 1 1").hex())
        self.work = directory / "work"
        self.arguments = ["rehearse", "--manifest", self.manifest, "--bundles", self.bundles]
        self.arguments += ["--release-key-file", self.key, "--work-dir", self.work]


def test_the_twin_rebuilds_the_release_and_answers_as_the_engine_does(console, tmp_path):
    twin = Twin(tmp_path)
    (tmp_path / "prompts.json").write_text('["Hello", {"messages": [{"role": "user", "content": "Hello"}]}]')
    told = ["--prompts", tmp_path / "prompts.json", "--max-tokens", 4, "--engine-command", ENGINE]
    result = console.json(*twin.arguments, *told)
    assert result["digest"] == digest_of(NEW).hex()
    assert result["answers"][0] == result["answers"][1]
    assert len(result["answers"][0]["tokens"]) == 4
    assert (twin.work / "release/model.safetensors").read_bytes() == NEW["model.safetensors"]


def test_the_twin_builds_on_any_directory_with_the_base_s_files(console, tmp_path):
    twin = Twin(tmp_path, base=OLD)
    base = write_files(tmp_path / "base", OLD)
    assert console.json(*twin.arguments, "--base", base)["digest"] == digest_of(NEW).hex()
    write_files(base, {"config.json": b"changed"})
    assert console(*twin.arguments, "--base", base) == 3
    assert "--base" in console.err


def test_the_twin_says_what_is_missing(console, tmp_path):
    twin = Twin(tmp_path, base=OLD)
    assert console(*twin.arguments) == 3
    assert "--base" in console.err
    twin = Twin(tmp_path)
    next(twin.bundles.iterdir()).unlink()
    assert console(*twin.arguments) == 3
    assert "bundle" in console.err


def test_the_twin_refuses_the_wrong_key_and_an_engine_that_does_not_load(console, tmp_path):
    twin = Twin(tmp_path)
    (tmp_path / "prompts.json").write_text('["Hello"]')
    told = ["--prompts", tmp_path / "prompts.json", "--engine-command", "false"]
    assert console(*twin.arguments, *told) == 5
    twin.key.write_text("00" * 32)
    assert console(*twin.arguments) == 5
    assert BundleHeader.decode(twin.update.bundles[0]).number == 0


JUDGE = """
import hashlib, json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
weights = open(given["--release-dir"] + "/model.safetensors", "rb").read()
text = hashlib.sha256(open(given["--text"], "rb").read()).hexdigest()
figures = {"text": text, "num_tokens": int(given["--max-tokens"]), "perplexity": 1.0 + len(weights)}
print(json.dumps({**figures, "reference": given.get("--reference-dir"), "seen": given["--release-dir"]}))
"""


def judge_command(directory, program=JUDGE):
    (directory / "judge.py").write_text(program)
    return f"{sys.executable} {directory / 'judge.py'}"


def test_the_twin_judges_what_it_rebuilt_and_nothing_else(console, tmp_path):
    twin = Twin(tmp_path)
    (tmp_path / "text.txt").write_text("held out")
    told = ["--held-out", tmp_path / "text.txt", "--held-out-tokens", 512, "--reference", tmp_path]
    result = console.json(*twin.arguments, *told, "--judge-command", judge_command(tmp_path))
    quality = result["quality"]
    assert Path(quality["seen"]) == twin.work / "release"  # there is no other directory with these weights
    assert quality["perplexity"] == 1.0 + len(NEW["model.safetensors"])
    assert (quality["num_tokens"], quality["reference"]) == (512, str(tmp_path))
    assert quality["text"] == hashlib.sha256(b"held out").hexdigest()


def test_an_adapter_is_judged_with_its_base(console, tmp_path, monkeypatch):
    twin = Twin(tmp_path)
    (tmp_path / "text.txt").write_text("held out")
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(rehearsal, "base_directory_of", lambda _release: tmp_path / "base")
    program = JUDGE.replace('given.get("--reference-dir")', 'given["--base-dir"]')
    told = ["--held-out", tmp_path / "text.txt", "--judge-command", judge_command(tmp_path, program)]
    assert console.json(*twin.arguments, *told)["quality"]["reference"] == str(tmp_path / "base")


def test_a_judge_that_fails_is_told_with_its_last_words(console, tmp_path):
    twin = Twin(tmp_path)
    (tmp_path / "text.txt").write_text("held out")
    told = ["--held-out", tmp_path / "text.txt"]
    failing = judge_command(tmp_path, "raise SystemExit('JudgingError: 3 tokens of text are too few')")
    assert console(*twin.arguments, *told, "--judge-command", failing) == 5
    assert "3 tokens of text are too few" in console.err
    assert console(*twin.arguments, "--held-out", tmp_path / "nowhere.txt") == 3
    assert "nowhere.txt" in console.err


def test_a_model_too_many_does_not_fit_the_record_and_leaves_nothing(console, tmp_path):
    for number in range(RELEASES_MAX):
        assert console("provision", write_files(tmp_path / f"model-{number}", {**OLD, "a.json": b"%d" % number})) == 0
    assert console("provision", write_files(tmp_path / "model-too-many", OLD)) == 3
    assert "hint: start the daemon" in console.err
    assert len(console.json("releases")) == RELEASES_MAX
    assert len(list((tmp_path / "kit/state/releases").iterdir())) == RELEASES_MAX
