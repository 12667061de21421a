"""Hold, activate, revert, forget and receipts by real processes over a lossy link: what an operator types, no more."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from bench.kills import twin_with_fake_engine
from demo.rehearsal import SATELLITE
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release
from tests.fakes.rehearsals import RehearsalAtHand

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0


@pytest.fixture
def rehearsal(tmp_path):
    profile = {
        "description": "10 % loss both ways",
        "up": {"rate_bps": 2e6, "loss": 0.1, "delay_s": 0.02, "queue_bytes_max": 200_000},
        "down": {"loss": 0.1, "delay_s": 0.02},
    }
    with RehearsalAtHand(
        tmp_path / "run",
        engine_command=engine_command(),
        settings={"link.sync_interval_s": 0.2, "install.probation_s": 0.2},
    ) as rehearsal:
        rehearsal.init_keys()
        rehearsal.provision(make_synthetic_release(tmp_path / "launch", 100_000, 1), "launch")
        rehearsal.start_satellite(wait_for_model=True)
        path = rehearsal.directory / "profile.yaml"
        path.write_text(yaml.safe_dump(profile))
        rehearsal.start_link(str(path), seed=5)
        yield rehearsal


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def serving(rehearsal):
    return rehearsal.onboard_status()["serving"]["digest"]


@pytest.mark.timeout(900)
def test_an_update_is_held_activated_reverted_and_forgotten_and_each_step_is_receipted(rehearsal, tmp_path):
    way = ("--for", SATELLITE, "--link", rehearsal.link_address, "--yes", "--json")
    before = serving(rehearsal)
    staged = json.loads(
        rehearsal.skyload(
            *("stage", str(make_synthetic_release(tmp_path / "next", 100_000, 2)), "--for", SATELLITE, "--hold"),
            *("--base", "none", "--json", "--twin", twin_with_fake_engine()),
        )
    )
    update, release = staged["update"], staged["release_digest"]

    profile = str(rehearsal.directory / "profile.yaml")
    flown = subprocess.run(
        rehearsal.uplink_command("--profile", profile, "--json", "--quiet"),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert flown.returncode == 0, flown.stderr
    assert f"skyload activate {update}" in flown.stderr
    assert serving(rehearsal) == before

    done = json.loads(rehearsal.skyload("activate", update, *way))
    assert (done["ok"], done["fire"]) == (True, done["arm"] + 1)
    rehearsal.skyload("ask", "Hello", "--for", SATELLITE, "--link", rehearsal.link_address)
    wait_until(lambda: serving(rehearsal) == release)

    assert json.loads(rehearsal.skyload("revert", *way))["ok"]
    assert serving(rehearsal) == before

    metadata = (Path(staged["directory"]) / "metadata.skm").read_bytes()
    assert holds(rehearsal.directory, metadata)
    done = json.loads(rehearsal.skyload("forget", release[:12], *way))
    assert "copies of its key overwritten" in done["on_board"]["text"]
    assert done["ground"]["forgotten"]
    assert not holds(rehearsal.directory, metadata)
    assert release not in [entry["digest"] for entry in rehearsal.onboard_status()["releases"]]

    # A receipt may be lost on the way; it comes again in any later contact.
    way = ("--for", SATELLITE, "--link", rehearsal.link_address)
    wait_until(lambda: rehearsal.skyload("ask", "Hello", *way) and receipted(rehearsal, update, tmp_path) == RECEIPTED)


RECEIPTED = {"accepted", "confirmed"}


def receipted(rehearsal, update, tmp_path):
    """What good receipts say of an update."""
    out, key = tmp_path / f"out{time.monotonic_ns()}", tmp_path / f"key{time.monotonic_ns()}"
    rehearsal.skyload("receipt", "export", update, "--out", str(out), "--key-out", str(key))
    states = set()
    for path in out.iterdir():
        verified = json.loads(rehearsal.skyload("receipt", "verify", str(path), "--key", str(key), "--json"))
        states |= {entry["state"] for entry in verified["receipts"] if entry["verdict"] == "good"}
    return states


def holds(directory, data):
    """Whether a file below holds these bytes: the wrapped keys of the release among them."""
    return [path for path in directory.rglob("*") if path.is_file() and data in path.read_bytes()]
