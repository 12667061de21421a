"""The real daemon when something around it is half dead: it notices, says so, and neither hangs nor goes on blindly."""

import json
import os
import re
import signal
import socket
import time

import pytest

from protocol.command import Operation
from protocol.message import MessageKind
from tests.e2e.test_daemon import NEW, OLD, Satellite
from tests.fakes.updates import digest_of, write_files

QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature_milli": 0, "seed": 0}


@pytest.fixture
def satellite(tmp_path):
    satellite = Satellite(tmp_path)
    yield satellite
    satellite.close()


def wait_for(condition, satellite, timeout_s=45):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, satellite.log()
        time.sleep(0.05)


def serving_pid(satellite):
    return int(re.search(r"event=serving_started .* pid=(\d+)", satellite.log()).group(1))


def test_a_trust_record_that_cannot_be_written_ends_the_daemon_whoever_met_it(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    for number in (1, 2):  # of three: one copy is not enough
        record = satellite.directory / f"kit/state/trust-{number}.record"
        record.rename(record.with_name(f"gone-{number}"))
        record.mkdir()
    satellite.uplink.send(
        satellite.ground.command(Operation.ASK, QUESTION), unless=lambda: satellite.process.poll() is not None
    )
    assert satellite.process.wait(45) == 4
    assert "event=daemon_failed" in satellite.log()


@pytest.mark.slow
def test_when_what_should_serve_does_not_load_the_golden_release_serves(satellite):
    small = write_files(satellite.directory / "small", NEW)
    assert satellite.skyloadd("provision", str(small), "--golden").returncode == 0
    satellite.provision(OLD)
    release = satellite.directory / "kit/state/releases" / digest_of(OLD).hex()[:16]
    (release / "fake-engine.json").write_text('{"load": "fail"}')
    satellite.start()
    satellite.wait_until_serving(NEW, timeout_s=60)
    assert satellite.chat()
    assert "event=returned" in satellite.log()


@pytest.mark.slow
def test_status_and_stop_do_not_wait_for_a_serving_process_that_hangs(satellite):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    os.kill(serving_pid(satellite), signal.SIGSTOP)
    status = json.loads(satellite.skyloadd("status", "--json").stdout)
    assert (status["serving"]["is_serving"], status["serving_process"]) == (False, None)
    assert satellite.stop() == 0


@pytest.mark.slow
def test_an_endpoint_whose_port_is_taken_is_told_to_the_ground_and_in_the_status(satellite):
    satellite.provision(OLD)
    with socket.socket() as other:
        other.bind(("127.0.0.1", satellite.endpoint))
        other.listen()
        satellite.start()
        wait_for(lambda: "event=serving_not_started" in satellite.log(), satellite)
        status = json.loads(satellite.skyloadd("status", "--json").stdout)
        assert "in use" in status["serving"]["trouble"]
        satellite.uplink.send(satellite.ground.command(Operation.ASK, QUESTION))
        satellite.uplink.until(lambda uplink: any(m.kind is MessageKind.EVENT for m in uplink.messages))
        told = next(m for m in satellite.uplink.messages if m.kind is MessageKind.EVENT)
        assert told.body["name"] == "serving_not_started"
    satellite.wait_until_serving(OLD, timeout_s=60)
    assert satellite.chat()
