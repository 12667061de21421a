"""An urgent update, a question and a cancellation in the middle of a big flight: real processes, a paced lossy link."""

import contextlib
import json
import subprocess
import time

import pytest
import yaml

from bench.kills import twin_with_fake_engine
from demo.rehearsal import SATELLITE, kill, stop
from groundsegment.emulator.control import call_control
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release
from tests.fakes.rehearsals import RehearsalAtHand

pytestmark = pytest.mark.slow

BIG_BYTES, SMALL_BYTES = 4_000_000, 100_000  # more than two minutes and three seconds on the link while it is slow
SLOW_BPS, FAST_BPS = 0.25e6, 16e6
PATIENCE_S = 240.0


@pytest.fixture
def rehearsal(tmp_path):
    with RehearsalAtHand(
        tmp_path / "run",
        engine_command=engine_command(),
        settings={"link.sync_interval_s": 0.3, "install.probation_s": 0.3},
    ) as rehearsal:
        rehearsal.init_keys()
        rehearsal.provision(make_synthetic_release(tmp_path / "launch", 100_000, 1), "launch")
        rehearsal.start_satellite(wait_for_model=True)
        for name, rate_bps in (("profile", SLOW_BPS), ("fast", FAST_BPS)):
            profile = {
                "description": "10 % loss both ways",
                "up": {"rate_bps": rate_bps, "loss": 0.1, "delay_s": 0.02, "queue_bytes_max": 200_000},
                "down": {"loss": 0.1, "delay_s": 0.02},
            }
            (rehearsal.directory / f"{name}.yaml").write_text(yaml.safe_dump(profile))
        rehearsal.start_link(str(rehearsal.directory / "profile.yaml"), seed=5)
        yield rehearsal


def stage(rehearsal, path, name, *options):
    return json.loads(
        rehearsal.skyload(
            *("stage", str(path), "--for", SATELLITE, "--name", name, "--base", "none", "--json"),
            *("--twin", twin_with_fake_engine(), *options),
        )
    )


def status(rehearsal):
    return json.loads(rehearsal.skyload("status", "--for", SATELLITE, "--json"))["satellites"][0]


def update_of(rehearsal, staged):
    return next(entry for entry in status(rehearsal)["updates"] if entry["update"] == staged["update"])


def wait_for(condition, what, uplink):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert uplink.poll() is None, f"{what}: the uplink has ended: {uplink.communicate()}"
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@contextlib.contextmanager
def an_uplink(rehearsal, name="profile"):
    profile = str(rehearsal.directory / f"{name}.yaml")
    command = rehearsal.uplink_command("--profile", profile, "--json", "--quiet")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            stop(process)


@pytest.mark.timeout(900)
def test_an_urgent_update_and_a_question_overtake_a_big_flight_that_then_goes_on(rehearsal, tmp_path):
    big = stage(rehearsal, make_synthetic_release(tmp_path / "big", BIG_BYTES, 2), "big")
    urgent_release = make_synthetic_release(tmp_path / "urgent", SMALL_BYTES, 3)
    with an_uplink(rehearsal) as uplink:
        wait_for(lambda: update_of(rehearsal, big)["share_on_board"] > 0.05, "the big update does not fly", uplink)
        urgent = stage(rehearsal, urgent_release, "urgent", "--priority", "10", "--beside")
        wait_for(
            lambda: update_of(rehearsal, urgent)["state"] == "confirmed", "the urgent update is not confirmed", uplink
        )
        standing = update_of(rehearsal, big)
        answer = json.loads(
            rehearsal.skyload(
                "ask", "Who are you?", "--for", SATELLITE, "--link", rehearsal.link_address, "--timeout", "60", "--json"
            )
        )
        still_flying = update_of(rehearsal, big)["state"] == "flying"
        kill(uplink)  # the big one goes on after that, too
    call_control(rehearsal.control, {"op": "profile", "name": str(rehearsal.directory / "fast.yaml")})
    with an_uplink(rehearsal, "fast") as uplink:
        output, errors = uplink.communicate(timeout=PATIENCE_S)

    assert uplink.returncode == 0, errors
    assert standing["state"] == "flying"
    assert 0.05 < standing["share_on_board"] < 1.0
    assert answer["release"] == urgent["release_digest"]
    assert still_flying, "the question was not asked in mid-flight"
    assert [entry["state"] for entry in json.loads(output)["updates"]] == ["confirmed"]
    receipts = [
        entry["re"]
        for entry in status(rehearsal)["messages"]
        if entry["kind"] == "receipt" and entry["body"]["state"] == "confirmed"
    ]
    assert [handle for handle in receipts if handle in (big["update"], urgent["update"])] == [
        urgent["update"],
        big["update"],
    ]
    assert rehearsal.onboard_status()["serving"]["digest"] == big["release_digest"]
    rehearsal.skyloadd("verify", "all", "--config", str(rehearsal.config))


@pytest.mark.timeout(900)
def test_an_update_cancelled_in_mid_flight_is_dropped_on_board_and_the_other_one_is_confirmed(rehearsal, tmp_path):
    doomed = stage(rehearsal, make_synthetic_release(tmp_path / "doomed", BIG_BYTES, 4), "doomed")
    other = stage(rehearsal, make_synthetic_release(tmp_path / "other", SMALL_BYTES, 5), "other", "--beside")
    with an_uplink(rehearsal) as uplink:
        wait_for(lambda: update_of(rehearsal, doomed)["share_on_board"] > 0.05, "the update does not fly", uplink)
        cancelled = json.loads(
            rehearsal.skyload(
                *("cancel", doomed["update"][:8], "--for", SATELLITE, "--link", rehearsal.link_address),
                *("--timeout", "60", "--yes", "--json"),
            )
        )
        output, errors = uplink.communicate(timeout=PATIENCE_S)

    assert cancelled["on_board"] == "cancelled"
    states = {entry["update"]: entry["state"] for entry in json.loads(output)["updates"]}
    assert states == {doomed["update"]: "cancelled", other["update"]: "confirmed"}, errors
    assert json.loads(output)["bytes_sent"] < BIG_BYTES
    assert rehearsal.onboard_status()["serving"]["digest"] == other["release_digest"]
