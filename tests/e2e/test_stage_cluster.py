"""Staging on a Dask cluster of real processes: the same bytes as here, and clear words when it cannot work."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fakes.models import make_synthetic_release, make_tiny_qwen2
from tests.fakes.rebuild import rebuild
from tests.fakes.staging import make_ground, open_as_satellite, read_release, run, run_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
PROGRAM = (
    "import typer; from groundsegment.console import stage\n"
    "app = typer.Typer(); app.command()(stage.stage); app(prog_name='skyload')"
)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler with two workers; all on loopback."""
    pytest.importorskip("distributed")
    directory = tmp_path_factory.mktemp("cluster")
    file = directory / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false"}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    started = [start([*command, "--no-dashboard", "--scheduler-file", str(file)], directory, environment)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    worker += ["--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(directory)]
    try:
        wait_until(file.exists, started)
        started += [start(worker, directory, environment) for _ in range(2)]
        address = json.loads(file.read_text())["address"]
        wait_until(lambda: num_workers(address) == 2, started)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)


def start(command, directory, environment):
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)


def num_workers(address):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        return len(client.nthreads())


def wait_until(condition, processes, seconds=40):
    pause = threading.Event()
    for _ in range(seconds * 20):
        if condition():
            return
        assert [process.poll() for process in processes] == [None] * len(processes)
        pause.wait(0.05)
    raise AssertionError("it never came to that")


@pytest.fixture
def ground(tmp_path, monkeypatch):
    return make_ground(tmp_path, monkeypatch)


def test_a_cluster_makes_the_very_bytes_that_one_process_makes(ground, scheduler):
    make_tiny_qwen2(ground / "v1", seed=1)
    make_tiny_qwen2(ground / "v2", seed=1, nudge=0.001)
    words = ("v2", "--base", "v1", "--no-canary", "--bundle-size", "64KiB")
    here = run_json(*words, "--dry-run")
    staged = run_json(*words, "--executor", scheduler.replace("tcp://", "dask://"))
    assert staged["payload_bytes"] == here["payload_bytes"]
    assert staged["by_transform"] == here["by_transform"]
    directory = Path(staged["directory"])
    manifest, key = open_as_satellite(directory)
    assert rebuild(
        directory,
        manifest.bundles,
        manifest.files,
        release_key=key,
        release_digest=manifest.release_digest,
        base=read_release(ground / "v1"),
    ) == read_release(ground / "v2")


def test_interrupted_on_a_cluster_the_next_run_goes_on_here(ground, scheduler):
    make_synthetic_release(ground / "big", 64 << 20, seed=3, shard_bytes=32 << 20)
    words = ["big", "--no-canary", "--bundle-size", "4MiB", "--for", "SAT-1"]
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words, "--executor", scheduler],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: len(list(Path("depot/staging").glob("*/*.skb"))) >= 3, [first])
    os.killpg(first.pid, signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert b"run the same command again" in err
    assert b"Traceback" not in err
    staged = run_json(*words[:-2], "--workers", "1")
    assert 2 <= staged["num_bundles_reused"] < staged["num_bundles"]


def test_files_that_the_workers_cannot_see_are_told(ground, scheduler, monkeypatch):
    from groundsegment.packer import cluster

    make_tiny_qwen2(ground / "v1", seed=1)
    monkeypatch.setattr(cluster, "_sizes", lambda files: {f"/elsewhere{path}": 1 for path in files})
    code, _, err = run("v1", "--no-canary", "--executor", scheduler)
    assert code == 3
    assert "/elsewhere" in err
    assert "cannot be read on" in err
    assert "same path on every machine" in err


def test_workers_of_another_version_are_told(ground, scheduler, monkeypatch):
    from groundsegment.packer import cluster

    make_tiny_qwen2(ground / "v1", seed=1)
    monkeypatch.setattr(cluster, "coder_versions", lambda: {"pcodec": "0.0.1"})
    code, _, err = run("v1", "--no-canary", "--executor", scheduler)
    assert code == 3
    assert "0.0.1 here" in err


def test_a_scheduler_that_is_not_there_is_told(ground):
    make_tiny_qwen2(ground / "v1", seed=1)
    code, _, err = run("v1", "--no-canary", "--executor", "tcp://127.0.0.1:1")
    assert code == 6
    assert "dask scheduler" in err
    code, _, err = run("v1", "--no-canary", "--executor", "somewhere")
    assert code == 3
    assert "tcp://host:8786" in err


def test_what_we_cancelled_ourselves_is_no_traceback_and_what_fails_is(scheduler, caplog):
    from distributed.client import FutureCancelledError

    from groundsegment.packer.cluster import cluster_workers

    loop_log = logging.getLogger("tornado.application")
    with cluster_workers(scheduler):
        for error in (FutureCancelledError("key", "by us"), ValueError("of another kind")):
            loop_log.error("Exception in callback", exc_info=error)
    assert [record.exc_info[0] for record in caplog.records if record.name == loop_log.name] == [ValueError]
