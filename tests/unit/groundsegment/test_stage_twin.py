import sys
from pathlib import Path

import pytest

from groundsegment import twin as twin_module
from groundsegment.errors import TwinError
from groundsegment.twin import Rehearsal, find_twin, rehearse
from protocol.manifest import FileEntry, Manifest, release_digest
from tests.fakes import twin as fake


@pytest.fixture
def rehearsal(tmp_path):
    files = (FileEntry(name="config.json", size_bytes=3, sha256=b"x" * 32),)
    manifest = Manifest(
        sequence=1,
        satellites=("SAT-1",),
        release_name="tiny",
        release_digest=release_digest(files),
        files=files,
        base=None,
        bundles=(),
        keys={},
    )
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "bundle-00000.skb").touch()
    return Rehearsal(
        manifest=manifest.encode(),
        release_digest=manifest.release_digest,
        bundles=tmp_path / "bundles",
        release_key=b"k" * 32,
        base_files={},
        prompts=("Who?",),
        max_tokens=2,
    )


def test_the_verb_is_added_unless_the_command_has_it():
    python = sys.executable
    assert find_twin(python) == [python, "rehearse"]
    assert find_twin(f"{python} rehearse --engine-command 'a b'") == [python, "rehearse", "--engine-command", "a b"]


def test_the_twin_beside_this_python_comes_first(tmp_path, monkeypatch):
    beside = tmp_path / "skyloadd"
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o755)
    monkeypatch.setattr(twin_module.sys, "executable", str(tmp_path / "python"))
    assert find_twin(None) == [str(beside), "rehearse"]
    beside.unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(TwinError, match="skyloadd is not found"):
        find_twin(None)


@pytest.mark.parametrize("command", ["", "   ", "no-such-program --fast"])
def test_no_program_is_told(command, monkeypatch, tmp_path):
    monkeypatch.setattr(twin_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(TwinError) as caught:
        find_twin(command)
    assert "--no-canary" in caught.value.hint


def test_answers_come_back_and_nothing_is_left(rehearsal, tmp_path):
    answers = rehearse(rehearsal, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin")
    assert [(bytes(answer.tokens), answer.text) for answer in answers] == [(b"Wh", "WHO?")]
    assert not (tmp_path / "twin").exists()


def test_a_failed_rehearsal_keeps_its_log_and_no_key(rehearsal, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TWIN", "fail")
    with pytest.raises(TwinError, match="ended with 3"):
        rehearse(rehearsal, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin")
    assert "no such layer" in (tmp_path / "twin" / "twin.log").read_text()
    assert not (tmp_path / "twin" / "release.key").exists()
    monkeypatch.delenv("FAKE_TWIN")
    assert rehearse(rehearsal, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin")


@pytest.mark.parametrize(
    "printed",
    [
        "[]",
        '{"digest": "zz", "answers": []}',
        '{"digest": "DIGEST", "answers": [{"tokens": ["a"], "text": ""}]}',
        '{"digest": "DIGEST", "answers": [{"tokens": [-1], "text": ""}]}',
        '{"digest": "DIGEST", "answers": [{"tokens": [true], "text": ""}]}',
        '{"digest": "DIGEST", "answers": [{"text": ""}]}',
        '{"digest": "DIGEST", "answers": []}',
        '{"digest": "DIGEST"}',
    ],
)
def test_nonsense_from_the_twin_is_refused(rehearsal, tmp_path, printed):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho '{printed.replace('DIGEST', rehearsal.release_digest.hex())}'\n")
    program.chmod(0o755)
    with pytest.raises(TwinError):
        rehearse(rehearsal, [str(program)], Path(tmp_path / "twin"))
