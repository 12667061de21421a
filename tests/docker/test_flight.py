"""One update flown between containers, with the link cut and the satellite killed on the way.

Needs a Docker engine; skipped without. Images are built, containers and volumes carry a name of this run and are
removed at the end. What went wrong is in the logs that a failing test prints.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from groundsegment.models.release import digest_files, release_digest, scan_release
from tests.fakes.models import make_tiny_qwen2

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "docker" / "wheels"
COMMAND_S_MAX = 60.0
BUILD_S_MAX = 900.0
FLIGHT_S_MAX = 240.0
FRAMES_IN_MID_FLIGHT = 700  # of some 2,800
# Slow enough that there is time to do harm in mid-flight, fast enough that nobody waits: some 20 s for 3 MB.
SKY = {
    "up": {"rate_bps": 1_500_000, "delay_s": 0.01, "jitter_s": 0.001, "loss": 0.1, "queue_bytes_max": 100_000},
    "down": {"rate_bps": 1_000_000, "delay_s": 0.01, "loss": 0.05, "queue_bytes_max": 100_000},
    "contacts": {"first_s": 0, "period_s": 20, "duration_s": 17},
}
WHAT_IS_INSIDE = """
import importlib, json, os, pathlib, shutil, sys
found = {}
for name in ("protocol", "groundsegment", "onboard", "torch", "transformers", "sqlalchemy", "pip"):
    try:
        importlib.import_module(name)
        found[name] = True
    except ModuleNotFoundError:
        found[name] = False
found["commands"] = [name for name in ("skyload", "skyloadd") if shutil.which(name)]
found["user"], found["home"] = os.getuid(), sys.prefix
found["sources"] = sorted({path.name for path in pathlib.Path(sys.prefix).rglob("*") if path.is_dir()}
                          & {"protocol", "groundsegment", "onboard"})
print(json.dumps(found))
"""
HOW_IT_IS_HELD = """
import json, pathlib
lines = pathlib.Path("/proc/1/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
def refuses(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return error.strerror == "Read-only file system"
print(json.dumps({
    "uid": status["Uid"].split()[0],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"],
    "read_only": [refuses(path) for path in ("/mark", "/etc/mark", "/opt/mark", "/opt/skyload/mark")],
}))
"""
ASK = """
import json, urllib.request
body = {"model": "current", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0}
request = urllib.request.Request(
    "http://127.0.0.1:8080/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
CAN_RESOLVE = """
import socket, sys
try:
    socket.getaddrinfo(sys.argv[1], 7001)
    print("yes")
except OSError:
    print("no")
"""


def docker(*arguments, timeout_s=COMMAND_S_MAX, check=True, **options):
    """Run the docker client; returns its stdout."""
    command = ["docker", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, **options)
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done.stdout


def wait_until(what, is_so, *, timeout_s, every_s=0.5):
    """Look until something is so."""
    deadline = time.monotonic() + timeout_s
    while not (seen := is_so()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(every_s)
    return seen


@dataclass(frozen=True, slots=True)
class Mission:
    """The containers of one run."""

    project: str
    environment: dict

    def compose(self, *arguments, **options):
        """Run docker compose on the project's file."""
        file = ROOT / "docker" / "compose.yaml"
        return docker("compose", "-f", file, "-p", self.project, *arguments, env=self.environment, **options)

    def execute(self, service, *command):
        """Run a command in a running container."""
        return self.compose("exec", "-T", service, *command)

    def container(self, service):
        """The id of a service's container, running or not."""
        return self.compose("ps", "-aq", service).strip()

    def state(self, service):
        """What the engine says of a container's state."""
        return json.loads(docker("inspect", "-f", "{{json .State}}", self.container(service)))

    def link_statistics(self):
        """The emulator's counters; None before it has any."""
        text = self.compose("exec", "-T", "link", "cat", "/run/skyload/link.json", check=False)
        return json.loads(text) if text else None

    def onboard_status(self):
        """What `skyloadd status` says."""
        return json.loads(self.execute("satellite", "skyloadd", "status", "--config", "kit/satellite.toml", "--json"))


@pytest.fixture(scope="module")
def engine():
    """Skip where no engine answers."""
    if shutil.which("docker") is None:
        pytest.skip("no docker client here")
    for question in (["info"], ["compose", "version"]):
        if subprocess.run(["docker", *question], check=False, capture_output=True, timeout=COMMAND_S_MAX).returncode:
            pytest.skip(f"no Docker engine: `docker {' '.join(question)}` fails")


@pytest.fixture(scope="module")
def images(engine):
    """Build the three images, from a wheel of torch's CPU build where pip finds one."""
    if not list(WHEELS.glob("torch-*.whl")) and not os.environ.get("TORCH_INDEX"):
        wanted = ["torch==2.13.0", "--python-version", "3.11", "--only-binary", ":all:", "--dest", WHEELS]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wanted], check=False)
    began = time.monotonic()
    docker("compose", "-f", ROOT / "docker" / "compose.yaml", "build", timeout_s=BUILD_S_MAX)
    print(f"built in {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two releases and a sky, readable for the containers' user."""
    directory = tmp_path_factory.mktemp("mission")
    for number, name in enumerate(("first", "second"), start=1):
        make_tiny_qwen2(directory / "models" / name, seed=number, hidden=256, intermediate=1024, layers=2)
    (directory / "sky.yaml").write_text(yaml.safe_dump(SKY))
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


@pytest.fixture(scope="module")
def mission(images, models):
    """Start the mission; at the end nothing of it is left."""
    paths = {"MODELS": str(models / "models"), "SKY": str(models / "sky.yaml"), "SEED": "43"}
    mission = Mission(project=f"skyload-test-{uuid.uuid4().hex[:8]}", environment={**os.environ, **paths})
    try:
        mission.compose("up", "--detach", "--no-build", timeout_s=180)
        yield mission
    finally:
        print(mission.compose("ps", "-a", check=False))
        print(mission.compose("logs", "--no-color", "--tail", "200", check=False))
        mission.compose("down", "--volumes", "--timeout", "5", timeout_s=120, check=False)


@pytest.mark.parametrize(
    ("image", "inside"),
    [
        ("ground", {"protocol", "groundsegment", "sqlalchemy"}),
        ("link", {"protocol", "groundsegment", "sqlalchemy"}),
        ("satellite", {"protocol", "onboard", "torch", "transformers"}),
    ],
)
def test_an_image_has_its_own_side_in_it_and_nothing_of_the_other(images, image, inside):
    found = json.loads(docker("run", "--rm", "--network", "none", f"skyload-{image}", "python", "-c", WHAT_IS_INSIDE))

    side = "onboard" if image == "satellite" else "groundsegment"
    assert {name for name, is_there in found.items() if is_there is True} == inside
    assert found["sources"] == sorted(["protocol", side])
    assert found["commands"] == ["skyloadd" if side == "onboard" else "skyload"]
    assert found["user"] == 10001


def test_an_update_flies_though_the_link_is_cut_and_the_satellite_killed(mission, models):
    wait_until(
        "the flight is in progress",
        lambda: (mission.link_statistics() or {"up": {"delivered": 0}})["up"]["delivered"] >= FRAMES_IN_MID_FLIGHT,
        timeout_s=FLIGHT_S_MAX,
    )
    satellite, network = mission.container("satellite"), f"{mission.project}_spacenet"

    docker("network", "disconnect", network, satellite)
    assert mission.execute("satellite", "python", "-c", CAN_RESOLVE, "link").strip() == "no"
    time.sleep(2)
    before = mission.onboard_status()
    docker("kill", "--signal", "SIGKILL", satellite)
    wait_until("the satellite is dead", lambda: not mission.state("satellite")["Running"], timeout_s=20)
    assert mission.state("ground")["Running"], "the flight was over before the link was cut"
    docker("start", satellite)
    time.sleep(2)
    docker("network", "connect", "--alias", "satellite", network, satellite)

    exit_code = docker("wait", mission.container("ground"), timeout_s=FLIGHT_S_MAX).strip()
    log = mission.compose("logs", "--no-log-prefix", "ground")
    assert exit_code == "0", log
    assert log.rstrip().endswith("== CONFIRMED")
    old, new = (release_digest(digest_files(scan_release(models / "models" / name))) for name in ("first", "second"))
    check_outcome(mission, before, old, new)
    check_how_containers_are_held(mission)


def check_how_containers_are_held(mission):
    def ask(service, *question):
        # The ground has done its work and left; another one like it answers in its place.
        how = ["run", "--rm", "--no-deps", "-T"] if service == "ground" else ["exec", "-T"]
        return mission.compose(*how, service, "python", "-c", *question).strip()

    for service in ("ground", "link", "satellite", "twin"):
        assert json.loads(ask(service, HOW_IT_IS_HELD)) == {
            "uid": "10001",
            "capabilities": 0,
            "no_new_privileges": "1",
            "read_only": [True, True, True, True],
        }, service
    peers = [("ground", "link"), ("satellite", "link"), ("ground", "satellite"), ("satellite", "ground")]
    assert [ask(service, CAN_RESOLVE, peer) for service, peer in peers] == ["yes", "yes", "no", "no"]
    assert mission.execute("satellite", "ls", "-A", "/stick") == ""  # the kit's keys are on board only


def check_outcome(mission, before, old, new):
    assert (before["boot_count"], before["serving"]["digest"], before["update"]["state"]) == (1, old, "receiving")
    after = mission.onboard_status()
    assert (after["boot_count"], after["serving"]["digest"], after["update"]["state"]) == (2, new, "confirmed")
    assert after["serving"]["is_serving"]
    assert not mission.state("satellite")["OOMKilled"]
    answer = json.loads(mission.execute("satellite", "python", "-c", ASK))
    assert answer["usage"]["completion_tokens"] == 4
    assert mission.execute("satellite", "skyloadd", "verify", "all", "--config", "kit/satellite.toml")
