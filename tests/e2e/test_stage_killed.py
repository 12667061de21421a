"""Staging in real processes that are killed, interrupted, and started again."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from groundsegment.console import keys
from groundsegment.depot.depot import Depot
from groundsegment.signer.kit import read_kit
from protocol.link_keys import unwrap_release_key
from protocol.sealed_metadata import open_metadata
from protocol.trust import TrustState, accept_update
from tests.fakes import twin
from tests.fakes.models import make_synthetic_release, make_tiny_qwen2
from tests.fakes.rebuild import rebuild

REPOSITORY = Path(__file__).parents[2]
PROGRAM = (
    "import typer; from groundsegment.console import stage\n"
    "app = typer.Typer(); app.command()(stage.stage); app(prog_name='skyload')"
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def ground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(keys.app, ["init", "--satellite", "SAT-1", "--kit", "kit"]).exit_code == 0
    return tmp_path


def start_stage(*words, **environment):
    command = [sys.executable, "-c", PROGRAM, *words, "--for", "SAT-1", "--json"]
    paths = {"PYTHONPATH": str(REPOSITORY), "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    return subprocess.Popen(
        command,
        env={**os.environ, **paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_until(condition, process, seconds=120):
    pause = threading.Event()
    for _ in range(seconds * 100):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        pause.wait(0.01)
    raise AssertionError("it never came to that")


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def opens_on_board(staged, release):
    directory = Path(staged["directory"])
    state = TrustState(root=read_kit(Path("kit")).root, accepted=0)
    private = bytes.fromhex(Path("kit/keys/release.key").read_text())
    metadata = open_metadata((directory / "metadata.skm").read_bytes(), private, satellite="SAT-1")
    manifest = accept_update(metadata, state, satellite="SAT-1", utc=NOW).manifest
    key = unwrap_release_key(manifest.keys["SAT-1"], private, satellite="SAT-1", release_digest=manifest.release_digest)
    files = rebuild(
        directory, manifest.bundles, manifest.files, release_key=key, release_digest=manifest.release_digest
    )
    return files == {path.name: path.read_bytes() for path in release.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_packing_nothing_is_registered_and_the_next_run_goes_on(ground, number):
    release = make_synthetic_release(ground / "big", 96 << 20, seed=3, shard_bytes=32 << 20)
    words = ("big", "--no-canary", "--bundle-size", "4MiB", "--workers", "2")
    first = start_stage(*words)
    wait_until(lambda: len(list(Path("depot/staging").glob("*/*.skb"))) >= 5, first)
    workers = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, number) if number == signal.SIGINT else first.kill()
    _, err = first.communicate(timeout=120)
    if number == signal.SIGINT:
        assert first.returncode == 130
        assert b"run the same command again" in err
        assert b"Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=60)[1], "workers outlived their parent"
    with Depot.open(Path("depot")) as depot:
        assert depot.updates() == ()
    staged = finish(start_stage(*words))
    # A bundle counts once its line is in the index, a moment after its file is there.
    assert 4 <= staged["num_bundles_reused"] < staged["num_bundles"]
    assert opens_on_board(staged, release)


@pytest.mark.slow
def test_killed_while_rehearsing_nothing_is_registered_and_the_next_run_goes_on(ground):
    release = make_tiny_qwen2(ground / "tiny", seed=1)
    words = ("tiny", "--twin", f"{sys.executable} {twin.__file__}")
    first = start_stage(*words, FAKE_TWIN="wait")
    wait_until(lambda: list(Path("depot/staging").glob("*/waiting")), first)
    second = start_stage(*words)
    _, err = second.communicate(timeout=120)
    assert second.returncode == 7
    assert f"held by process {first.pid}".encode() in err
    twins = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.communicate()
    assert not psutil.wait_procs(twins, timeout=60)[1], "the twin outlived its parent"
    staged = finish(start_stage(*words))
    assert staged["num_bundles_reused"] == staged["num_bundles"]
    assert opens_on_board(staged, release)
    assert not list(Path("depot").rglob("release.key"))
