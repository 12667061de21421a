"""Keys are revoked and replaced while a satellite is up there: real processes, a lossy link, root keys on a stick."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bench.kills import twin_with_fake_engine
from demo.rehearsal import SATELLITE
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release
from tests.fakes.rehearsals import RehearsalAtHand

pytestmark = pytest.mark.slow

PATIENCE_S = 240.0
SKYLOAD = Path(sys.executable).parent / "skyload"


@pytest.fixture
def rehearsal(tmp_path):
    profile = {"description": "10 % loss both ways", "up": {"loss": 0.1}, "down": {"loss": 0.1}}
    with RehearsalAtHand(
        tmp_path / "run",
        engine_command=engine_command(),
        settings={"trust.freshness": "required", "install.probation_s": 0.3},
    ) as rehearsal:
        rehearsal.init_keys()
        rehearsal.provision(make_synthetic_release(tmp_path / "launch", 100_000, 1), "launch")
        rehearsal.start_satellite(wait_for_model=True)
        path = rehearsal.directory / "profile.yaml"
        path.write_text(yaml.safe_dump(profile))
        rehearsal.start_link(str(path), seed=5)
        yield rehearsal


def skyload(rehearsal, *words):
    return json.loads(rehearsal.skyload(*words, "--json"))


def stage(rehearsal, tmp_path, number):
    path = tmp_path / f"model-{number}"
    path = path if path.exists() else make_synthetic_release(path, 100_000, number)
    words = ("stage", str(path), "--for", SATELLITE, "--name", f"r{number}", "--base", "none")
    return skyload(rehearsal, *words, "--twin", twin_with_fake_engine())


def fly(rehearsal):
    """One uplink to its end; returns the states of all updates, oldest first, with their reasons."""
    profile = str(rehearsal.directory / "profile.yaml")
    command = rehearsal.uplink_command("--profile", profile, "--json", "--quiet")
    subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    found = skyload(rehearsal, "status", "--for", SATELLITE)["satellites"][0]["updates"]
    return [(entry["state"], entry["reason"]) for entry in sorted(found, key=lambda entry: entry["sequence"])]


@pytest.mark.timeout(900)
def test_revoked_keys_are_replaced_over_the_link_and_updates_must_be_fresh(rehearsal, tmp_path):
    stage(rehearsal, tmp_path, 2)  # nothing was heard of the satellite yet: it echoes nothing
    assert fly(rehearsal) == [("rejected", "NOT_FRESH")]

    for name in ("timestamp", "snapshot"):
        skyload(rehearsal, "keys", "rotate", name)
    assert skyload(rehearsal, "keys", "revoke", "targets", "--yes")["begins_epoch"]
    fly(rehearsal)  # roots only, until something tells that they are there
    assert skyload(rehearsal, "status", "--for", SATELLITE)["satellites"][0]["commands_waiting"] == 0
    stage(rehearsal, tmp_path, 3)
    assert fly(rehearsal)[-1] == ("confirmed", "")
    (satellite,) = skyload(rehearsal, "keys", "list")["satellites"]
    assert satellite["on_board"] == satellite["at_home"] == {"root_version": 4, "epoch": 1}

    away = tmp_path / "vault"
    away.mkdir()
    for number in (1, 2, 3):
        private = rehearsal.directory / "depot" / "keys" / f"root-{number}.pem"
        private.rename(away / private.name)
    assert skyload(rehearsal, "keys", "rotate", "command", "targets")["missing"]
    skyload(rehearsal, "keys", "root", "prepare", str(tmp_path / "stick"))
    for number in (1, 3):
        words = ["keys", "sign", "--offline", str(tmp_path / "stick"), "--key", str(away / f"root-{number}.pem")]
        subprocess.run([str(SKYLOAD), *words, "--yes"], check=True, capture_output=True)  # no depot is near
    assert skyload(rehearsal, "keys", "root", "combine", str(tmp_path / "stick"))["in_force"]
    stage(rehearsal, tmp_path, 4)  # it brings the root itself
    assert fly(rehearsal)[-1] == ("confirmed", "")
    (satellite,) = skyload(rehearsal, "keys", "list")["satellites"]
    assert satellite["on_board"]["root_version"] == satellite["at_home"]["root_version"] == 5
