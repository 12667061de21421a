"""The real daemon as a process, with the fake engine: frames in by UDP, answers out by HTTP, killed at will."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from demo.ports import free_port
from protocol.canary import Canary, CanaryPrompt
from protocol.command import Operation
from protocol.message import MessageKind
from protocol.report import Reason, UpdateState
from tests.fakes import engine
from tests.fakes.updates import FakeGround, digest_of, write_files
from tests.fakes.uplink import CrudeUplink

REPOSITORY = Path(__file__).parents[2]
ENGINE = [sys.executable, "-S", "-E", str(REPOSITORY / "tests/fakes/engine.py")]
OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 64}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256)) * 48 + bytes(4096)}
EXTRA = """
[install]
probation_s = 0.1
"""


class Satellite:
    """A kit in a directory, and the daemon that runs on it."""

    def __init__(self, directory: Path):
        self.ground = FakeGround()
        self.link, self.endpoint = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.config = self.ground.write_kit(
            directory / "kit",
            link=f"127.0.0.1:{self.link}",
            endpoint=f"127.0.0.1:{self.endpoint}",
            command=ENGINE,
            extra=EXTRA,
        )
        self.directory = directory
        self.process = None
        self.uplink = CrudeUplink(("127.0.0.1", self.link), self.ground.link_key, self.ground.identity_public_key)

    def skyloadd(self, *arguments: str, input_text: str | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "onboard.console", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=REPOSITORY,
        )

    def provision(self, files, name="first"):
        done = self.skyloadd("provision", str(write_files(self.directory / name, files)), "--name", name)
        assert done.returncode == 0, done.stderr

    def use_engine(self, command):
        """Another engine, which may read its mode."""
        new = f"command = {json.dumps(command)}\nreadable = {json.dumps([str(self.directory)])}"
        self.config.write_text(self.config.read_text().replace(f"command = {json.dumps(ENGINE)}", new))

    def start(self, crash_at: str | None = None):
        program = ["-m", "onboard.console", "run", "--config", str(self.config)]
        if crash_at:
            program = ["-c", _CRASHING, str(self.config), crash_at]
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *program], stderr=log, stdout=log, cwd=REPOSITORY)

    def wait_until_serving(self, files=None, timeout_s=50.0):
        deadline = time.monotonic() + timeout_s
        while True:
            assert time.monotonic() < deadline, self.log()
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                served = self.models()
                if files is None or served == digest_of(files).hex():
                    return
            time.sleep(0.05)

    def status(self):
        """What `skyloadd status` says."""
        done = self.skyloadd("status", "--json")
        if done.returncode:
            raise OSError(done.stderr)
        return json.loads(done.stdout)

    def models(self) -> str | None:
        """The digest of the release that the endpoint says it serves."""
        return self.status()["serving"]["digest"]

    def chat(self, text="Hello"):
        body = {"model": "current", "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.endpoint}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=50) as reply:
            return json.load(reply)["choices"][0]["message"]["content"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(50)

    def log(self):
        return (self.directory / "daemon.log").read_text()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self.uplink.close()


_CRASHING = """
import os, signal, sys
from pathlib import Path
from onboard.config import load_config
from onboard.daemon import log_to_stderr, run_daemon
log_to_stderr()
run_daemon(load_config(Path(sys.argv[1])),
           crash_point=lambda name: name == sys.argv[2] and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture
def satellite(tmp_path):
    satellite = Satellite(tmp_path)
    yield satellite
    satellite.close()


def state_of(uplink, update):
    entry = uplink.report.status_of(update.handle) if uplink.report else None
    return entry and entry.state


def is_confirmed(update):
    return lambda uplink: (
        uplink.report is not None
        and uplink.report.update == update.handle
        and uplink.report.state is UpdateState.CONFIRMED
    )


def test_an_update_flies_in_and_the_endpoint_answers_with_it(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    before = satellite.chat()
    update = satellite.ground.make_update(NEW, base=OLD)
    satellite.uplink.send(update.metadata, *update.bundles)
    satellite.uplink.until(is_confirmed(update))
    assert satellite.models() == update.digest.hex()
    assert satellite.chat() != before
    satellite.uplink.until(
        lambda uplink: any(m.kind is MessageKind.RECEIPT and m.body["state"] == "confirmed" for m in uplink.messages)
    )
    (receipt,) = [
        message
        for message in satellite.uplink.messages
        if message.kind is MessageKind.RECEIPT and message.body["state"] != "accepted"
    ]
    assert (receipt.body["state"], receipt.body["release"]) == ("confirmed", update.digest)
    assert satellite.stop() == 0


@pytest.mark.slow
def test_an_urgent_update_overtakes_a_big_one_which_goes_on_over_kills(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    big_files = {**NEW, "big.bin": random.Random(1).randbytes(60_000)}
    big = satellite.ground.make_update(big_files, base=OLD, bundle_size=8192)
    urgent = satellite.ground.make_update(NEW, base=OLD, canary=canary(), beside=True)
    satellite.uplink.send(big.metadata, *big.bundles[:3])
    satellite.kill()
    satellite.start()
    satellite.uplink.send(urgent.metadata, *urgent.bundles)
    satellite.uplink.until(lambda uplink: state_of(uplink, urgent) is UpdateState.CONFIRMED)
    entry = satellite.uplink.report.status_of(big.handle)
    assert (entry.state, entry.bundle_ranges[0]) == (UpdateState.RECEIVING, (0, 2))
    assert satellite.models() == urgent.digest.hex()
    satellite.kill()
    satellite.start()
    satellite.uplink.send(*big.bundles[3:])
    satellite.uplink.until(lambda uplink: state_of(uplink, big) is UpdateState.CONFIRMED)
    assert satellite.models() == big.digest.hex()
    assert [update["state"] for update in satellite.status()["updates"]] == ["confirmed", "confirmed"]
    assert satellite.skyloadd("verify").returncode == 0


@pytest.mark.slow
def test_a_question_goes_up_and_its_answer_comes_down(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature_milli": 0, "seed": 0}
    satellite.uplink.send(satellite.ground.command(Operation.ASK, question))
    satellite.uplink.until(lambda uplink: uplink.messages)
    body = satellite.uplink.messages[0].body
    assert (body["text"], body["release"]) == (satellite.chat(), digest_of(OLD))


def results(uplink):
    """What commands came to, each once."""
    return [m.body for m in {m.counter: m for m in uplink.messages if m.kind is MessageKind.RESULT}.values()]


@pytest.mark.slow
def test_revert_by_command_and_by_hand(satellite):
    satellite.provision(OLD)
    satellite.provision(NEW, "second")
    satellite.start()
    satellite.wait_until_serving(NEW)
    satellite.uplink.send(satellite.ground.arm(Operation.REVERT, {"digest": None}))
    satellite.uplink.until(results)
    assert satellite.models() == digest_of(NEW).hex()  # arming does nothing
    (armed,) = results(satellite.uplink)
    fire = {"arm": armed["armed"], "nonce": armed["nonce"]}
    satellite.uplink.send(satellite.ground.command(Operation.REVERT, {"digest": None}, **fire))
    satellite.uplink.until(lambda uplink: len(results(uplink)) == 2)
    assert results(satellite.uplink)[1]["ok"]
    assert satellite.models() == digest_of(OLD).hex()
    done = satellite.skyloadd("revert", digest_of(NEW).hex()[:8], "--json")
    assert json.loads(done.stdout)["digest"] == digest_of(NEW).hex() == satellite.models()


@pytest.mark.slow
def test_a_second_daemon_says_who_runs_and_ends(satellite):
    satellite.start()
    deadline = time.monotonic() + 60
    while satellite.skyloadd("status").returncode and time.monotonic() < deadline:
        time.sleep(0.05)
    done = satellite.skyloadd("run")
    assert done.returncode == 7
    assert str(satellite.process.pid) in done.stderr
    assert "hint:" in done.stderr


def test_the_daemon_imports_no_torch_and_no_web_server():
    heavy = ("torch", "transformers", "fastapi", "uvicorn")
    code = f"import sys, onboard.daemon; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def canary() -> Canary:
    expected = expected_answer(NEW, "Hello", 4)
    return Canary(prompts=(CanaryPrompt(text="Hello", expected=expected),), max_tokens=4, timeout_s=20)


def expected_answer(files, prompt, max_tokens):
    """What the fake engine answers with a release of these files."""
    with tempfile.TemporaryDirectory() as directory:
        digest = engine.release_digest(write_files(Path(directory) / "release", files))
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    return tuple(engine.answer_tokens(digest, request))


def rejected_for(update, reason):
    return lambda uplink: (
        uplink.report is not None
        and (
            uplink.report.update,
            uplink.report.state,
            uplink.report.reason,
        )
        == (update.handle, UpdateState.REJECTED, reason)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ({}, None),
        ({"wrong_answers": True}, Reason.CANARY_FAILED),
        ({"load": "crash"}, Reason.LOAD_FAILED),
        ({"load": "fail"}, Reason.LOAD_FAILED),
        ({"crash_after": 0}, Reason.CANARY_FAILED),
        ({"crash_mid_answer": True}, Reason.CANARY_FAILED),
    ],
)
def test_an_engine_that_misbehaves_rejects_the_update_and_the_old_release_answers(satellite, mode, reason):
    satellite.provision(OLD)
    mode_file = satellite.directory / "mode.json"
    satellite.use_engine([*ENGINE, "--mode", json.dumps({"mode_file": str(mode_file)})])
    satellite.start()
    satellite.wait_until_serving(OLD)
    before = satellite.chat()
    mode_file.write_text(json.dumps(mode))
    update = satellite.ground.make_update(NEW, base=OLD, canary=canary())
    satellite.uplink.send(update.metadata, *update.bundles)
    if reason is None:
        satellite.uplink.until(is_confirmed(update))
        return
    satellite.uplink.until(rejected_for(update, reason))
    mode_file.write_text("{}")
    assert satellite.models() == digest_of(OLD).hex()
    assert satellite.chat() == before
    satellite.uplink.until(lambda uplink: any(m.kind is MessageKind.RECEIPT for m in uplink.messages))


@pytest.mark.slow
def test_a_serving_process_that_dies_is_started_again_with_the_same_release(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    pid = int(re.search(r"event=serving_started .* pid=(\d+)", satellite.log()).group(1))
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while satellite.log().count("event=release_loaded") < 2:
        assert time.monotonic() < deadline, satellite.log()
        time.sleep(0.05)
    assert satellite.chat()


@pytest.mark.slow
def test_a_full_disk_blocks_the_update_and_it_goes_on_when_there_is_space(satellite, small_disk):
    text = satellite.config.read_text()
    satellite.config.write_text(text.replace('state_dir = "state"', f'state_dir = "{small_disk}/state"'))
    ballast = small_disk / "ballast"
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    big = {**NEW, "model.bin": bytes(8 << 20)}
    update = satellite.ground.make_update(big, segment_size=1 << 20)
    ballast.write_bytes(bytes(9 << 20))
    satellite.uplink.send(update.metadata)
    satellite.uplink.until(lambda uplink: uplink.report is not None and uplink.report.reason is Reason.DISK_FULL)
    assert satellite.uplink.report.state is UpdateState.BLOCKED
    assert satellite.chat()
    ballast.unlink()
    satellite.uplink.send(*update.bundles, timeout_s=50)
    satellite.uplink.until(is_confirmed(update), timeout_s=50)


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "metadata-kept",
        "accepted",
        "bundle-installed",
        "sealed",
        "verified",
        "trial-counted",
        "flipped",
        "linked",
        "confirmed",
    ],
)
def test_a_kill_at_any_transition_ends_confirmed_after_a_restart(satellite, point):
    satellite.provision(OLD)
    satellite.start(crash_at=point)
    satellite.wait_until_serving(OLD)
    update = satellite.ground.make_update(NEW, base=OLD, canary=canary())
    satellite.uplink.send(update.metadata, *update.bundles, unless=lambda: satellite.process.poll() is not None)
    assert satellite.process.wait(50) == -signal.SIGKILL
    satellite.start()
    satellite.wait_until_serving()
    satellite.uplink.complete.clear()
    satellite.uplink.send(update.metadata, *update.bundles)
    satellite.uplink.until(is_confirmed(update))
    assert satellite.skyloadd("verify", "all").returncode == 0
    satellite.wait_until_serving(NEW)  # the record may have said CONFIRMED before the new life had loaded it
    assert satellite.models() == update.digest.hex()
