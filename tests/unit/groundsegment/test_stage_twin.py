import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from groundsegment import twin as twin_module
from groundsegment.errors import TwinError
from groundsegment.twin import Judging, Rehearsal, find_twin, rehearse
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
    found = rehearse(rehearsal, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin")
    assert [(bytes(answer.tokens), answer.text) for answer in found.answers] == [(b"Wh", "WHO?")]
    assert found.quality is None
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


@pytest.fixture
def judging(tmp_path):
    (tmp_path / "held-out.txt").write_text("nothing was made on this")
    (tmp_path / "v2").mkdir()
    return Judging(held_out=tmp_path / "held-out.txt", max_tokens=512, reference=tmp_path / "v2")


def test_figures_come_back_as_a_manifest_holds_them(rehearsal, judging, tmp_path):
    judged = replace(rehearsal, judging=judging, prompts=())
    quality = rehearse(judged, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin").quality
    assert quality.text_sha256 == hashlib.sha256(judging.held_out.read_bytes()).digest()
    assert (quality.num_tokens, quality.perplexity_milli) == (512, round(1000 * fake.PERPLEXITY))
    assert quality.reference.perplexity_milli == round(1000 * fake.PERPLEXITY_THERE)
    assert quality.reference.divergence_micro == round(1e6 * fake.DIVERGENCE)
    alone = replace(judged, judging=replace(judging, reference=None))
    found = rehearse(alone, find_twin(f"{sys.executable} {fake.__file__}"), tmp_path / "twin")
    assert found.quality == replace(quality, reference=None)


FIGURES = {
    "text": "00" * 32,
    "num_tokens": 512,
    "perplexity": 12.5,
    "reference": {"perplexity": 12.0, "divergence": 0.1},
}


@pytest.mark.parametrize(
    "quality",
    [
        None,
        {**FIGURES, "perplexity": "12.5"},
        {**FIGURES, "perplexity": 0.9},
        {**FIGURES, "perplexity": math.inf},
        {**FIGURES, "perplexity": math.nan},
        {**FIGURES, "num_tokens": 12.5},
        {**FIGURES, "text": "00"},
        {**FIGURES, "reference": None},
        {**FIGURES, "reference": {"perplexity": 12.0}},
        {**FIGURES, "reference": {"perplexity": 12.0, "divergence": -0.1}},
        [],
    ],
)
def test_nonsense_for_figures_is_refused(rehearsal, judging, tmp_path, quality):
    printed = {"digest": rehearsal.release_digest.hex(), "answers": [], "load_s": 0.1, "quality": quality}
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(printed)}'\n")
    program.chmod(0o755)
    with pytest.raises(TwinError, match="something else than its result"):
        rehearse(replace(rehearsal, judging=judging, prompts=()), [str(program)], Path(tmp_path / "twin"))
