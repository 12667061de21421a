"""Thirty flights, each with a kill -9 of daemon or uplink at a random moment: all must end CONFIRMED, bytes right.

The engine is the one without a model, so that a flight takes seconds; everything else is what flies. The release is
a few MB of incompressible bytes over 10 % loss.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.results import markdown_table
from demo.rehearsal import SATELLITE, Rehearsal, kill
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release

RELEASE_BYTES = 6_000_000
PROFILE: dict[str, Any] = {
    "description": "10 % loss both ways, 24 Mbit/s",
    "up": {"rate_bps": 24e6, "loss": 0.1, "queue_bytes_max": 2_000_000},
    "down": {"loss": 0.1},
}
FLIGHT_S = 2.5  # about what such a flight takes: a kill is drawn from it
FLIGHT_S_MAX = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one flight ended.

    Attributes:
        victim: who was killed.
        at_s: when, seconds after take-off.
        state: what the ground believes.
        is_right: whether the new release serves and every file verifies.
        seconds: from take-off to the end.
    """

    victim: str
    at_s: float
    state: str
    is_right: bool
    seconds: float


def measure(options: list[str]) -> tuple[str, dict[str, float]]:
    """Fly; returns a table and the counts."""
    parser = argparse.ArgumentParser(prog="make bench NAME=kills")
    parser.add_argument("--flights", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(options)
    outcomes = fly_and_kill(arguments.flights, arguments.seed)
    rows = []
    for victim in ("daemon", "uplink"):
        chosen = [outcome for outcome in outcomes if outcome.victim == victim]
        right = sum(outcome.is_right for outcome in chosen)
        longest = max((outcome.seconds for outcome in chosen), default=0.0)
        rows.append([victim, len(chosen), right, f"{longest:.1f}"])
    table = markdown_table(["killed", "flights", "confirmed, bytes right", "longest, s"], rows)
    return table, {
        "flights": len(outcomes),
        "confirmed": sum(outcome.state == "confirmed" for outcome in outcomes),
        "right": sum(outcome.is_right for outcome in outcomes),
    }


def fly_and_kill(
    num_flights: int,
    seed: int,
    *,
    release_bytes: int = RELEASE_BYTES,
    rehearsal_type: type[Rehearsal] = Rehearsal,
) -> list[Outcome]:
    """One satellite, so many updates of that size, a kill in each."""
    rng = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="skyload-kills-"))
    outcomes = []
    try:
        rehearsal = rehearsal_type(
            directory / "run",
            engine_command=engine_command(),
            settings={"link.sync_interval_s": 0.3, "install.probation_s": 0.3},
        )
        with rehearsal:
            rehearsal.init_keys()
            rehearsal.provision(make_synthetic_release(directory / "launch", 100_000, seed), "launch")
            rehearsal.start_satellite(wait_for_model=True)
            profile = rehearsal.directory / "profile.yaml"
            profile.write_text(yaml.safe_dump(PROFILE))
            rehearsal.start_link(str(profile), seed=seed)
            for number in range(num_flights):
                release = make_synthetic_release(directory / "release", release_bytes, rng.randrange(2**31))
                victim = rng.choice(["daemon", "uplink"])
                outcomes.append(_fly(rehearsal, release, number, victim, rng.uniform(0.0, FLIGHT_S)))
                shutil.rmtree(release)
        shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        print(f"hint: logs are in {directory}", flush=True)
        raise
    return outcomes


def _fly(rehearsal: Rehearsal, release: Path, number: int, victim: str, at_s: float) -> Outcome:
    staged = json.loads(
        rehearsal.skyload(
            *("stage", str(release), "--for", SATELLITE, "--name", f"kill-{number}", "--base", "none", "--json"),
            *("--twin", twin_with_fake_engine()),
        )
    )
    command = rehearsal.uplink_command("--profile", str(rehearsal.directory / "profile.yaml"), "--json")
    began = time.monotonic()
    uplink = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        uplink.wait(at_s)
    except subprocess.TimeoutExpired:
        if victim == "daemon":
            kill(rehearsal.satellite)
            rehearsal.start_satellite()
        else:
            kill(uplink)
            uplink.communicate()
            uplink = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output, _ = uplink.communicate(timeout=FLIGHT_S_MAX)
    state = json.loads(output)["state"] if output else f"exit code {uplink.returncode}"
    outcome = Outcome(
        victim=victim,
        at_s=round(at_s, 2),
        state=state,
        is_right=_is_right(rehearsal, staged["release_digest"]),
        seconds=time.monotonic() - began,
    )
    print(f"  flight {number}: {victim} killed at {outcome.at_s} s, {state}, right: {outcome.is_right}", flush=True)
    return outcome


def twin_with_fake_engine() -> str:
    """The twin's command, with the engine that the satellite has."""
    import shlex
    import sys

    skyloadd = Path(sys.executable).parent / "skyloadd"
    return f"{skyloadd} rehearse --engine-command {shlex.quote(shlex.join(engine_command()))}"


def _is_right(rehearsal: Rehearsal, digest: str) -> bool:
    deadline = time.monotonic() + FLIGHT_S_MAX
    while (serving := rehearsal.onboard_status()["serving"]["digest"]) is None and time.monotonic() < deadline:
        time.sleep(0.1)  # the daemon that was killed once it had confirmed is still loading it
    rehearsal.skyloadd("verify", "all", "--config", str(rehearsal.config))
    return bool(serving == digest)
