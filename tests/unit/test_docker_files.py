"""What the container files promise, as far as it can be seen without an engine; tests/docker has the rest."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from groundsegment.emulator.conditions import PeriodicContacts
from groundsegment.emulator.profile import load_profile
from groundsegment.signer.kit import config_text
from onboard.config import parse_config

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS = sorted(DOCKER.glob("*.sh"))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def instructions(path):
    """The instructions of a Dockerfile, comments gone and lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_three_images_are_described():
    assert [path.name for path in DOCKERFILES] == ["ground.Dockerfile", "link.Dockerfile", "satellite.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_has_one_base_and_builds_anywhere(path):
    text = path.read_text(encoding="utf-8")
    bases = [line.split()[1] for line in instructions(path) if line.startswith("FROM ")]

    assert instructions(path)[0] == "ARG BASE_IMAGE=python:3.11-slim-bookworm"
    assert set(bases) == {"${BASE_IMAGE}"}
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE | re.IGNORECASE)
    assert [word for word in ("<<", "--link", "@sha256", "ADD ", "site-packages", "sudo") if word in text] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_as_nobody_in_particular(path):
    users = [line.split()[1] for line in instructions(path) if line.startswith("USER ")]

    assert users == ["10001:10001"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_takes_in_no_code_of_the_other_side(path):
    is_space = path.stem == "satellite"
    copied = {line.split()[1] for line in instructions(path) if re.match(r"COPY (?!-)\w+ \w+$", line)}

    assert copied == {"protocol", "onboard" if is_space else "groundsegment"}
    assert any("torch" in line for line in instructions(path)) == is_space


def test_ground_and_link_share_their_layers():
    ground, link = (
        (DOCKER / f"{name}.Dockerfile").read_text(encoding="utf-8").partition("\n")[2] for name in ("ground", "link")
    )

    assert ground.split("\nFROM ${BASE_IMAGE}\n")[0] == link.split("\nFROM ${BASE_IMAGE}\n")[0]


def test_the_build_context_is_a_list_of_what_goes_in():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        *("!pyproject.toml", "!constraints.txt", "!README.md", "!LICENSE"),
        *("!protocol", "!groundsegment", "!onboard", "!docker/*.sh", "!docker/wheels"),
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_than_it_needs(name):
    service = SERVICES[name]

    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["dns_opt"] == ["timeout:1", "attempts:1"]
    assert all(key in service for key in ("mem_limit", "pids_limit", "healthcheck", "tmpfs"))
    assert not {"privileged", "cap_add", "ports", "devices", "pid", "ipc"} & set(service)


def test_models_are_mounted_read_only_and_nothing_else_comes_from_the_host():
    binds = {
        volume
        for service in SERVICES.values()
        for volume in service["volumes"]
        if volume.partition(":")[0] not in COMPOSE["volumes"]
    }

    assert binds == {"${MODELS:-./models}:/models:ro", "${SKY:-./sky.yaml}:/sky.yaml:ro"}


def test_the_two_networks_meet_only_in_the_link():
    assert all(network["internal"] for network in COMPOSE["networks"].values())
    assert {name: service.get("networks") for name, service in SERVICES.items()} == {
        "ground": ["groundnet"],
        "link": ["groundnet", "spacenet"],
        "satellite": ["spacenet"],
        "twin": None,
    }
    assert SERVICES["twin"]["network_mode"] == "none"


def test_each_image_is_built_once():
    built = [service["image"] for service in SERVICES.values() if "build" in service]

    assert sorted(built) == sorted({service["image"] for service in SERVICES.values()})


def test_both_sides_of_the_sky_agree_on_its_contacts():
    contacts = load_profile(DOCKER / "sky.yaml").contacts

    assert isinstance(contacts, PeriodicContacts)
    assert 60 % contacts.period_s == 0  # link time starts at a full minute, on both sides
    for script in ("sky.sh", "fly.sh"):
        assert "$(($(date +%s) / 60 * 60))" in (DOCKER / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_executable_and_plain_shell(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")


# --- the scripts, with a stand-in for the program they call


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a `skyloadd` on the path that writes down how it was called, then does what the test says."""

    def make(body=""):
        program = tmp_path / "bin" / "skyloadd"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n{body}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return tmp_path / "calls"

    return make


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A satellite container's directories, and its script."""
    for name in ("SATELLITE_HOME", "STICK"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("FIRST", "/models/old one")
    return lambda: subprocess.run([DOCKER / "board.sh"], check=False, capture_output=True, text=True, timeout=45)


def make_kit(path):
    path.mkdir()
    (path / "satellite.toml").write_text(config_text("SAT-1"))


def test_the_satellite_takes_its_kit_off_the_stick_and_listens_to_the_outside(tmp_path, stand_in, board):
    stand_in()
    make_kit(tmp_path / "STICK" / "kit")

    assert board().returncode == 0

    config = tmp_path / "SATELLITE_HOME" / "kit" / "satellite.toml"
    assert not (tmp_path / "STICK" / "kit").exists()
    assert parse_config(config.read_text(), path=config).link.listen == ("0.0.0.0", 7003)


def test_the_satellite_is_provisioned_once(tmp_path, stand_in, board):
    calls = stand_in()
    make_kit(tmp_path / "STICK" / "kit")
    config = tmp_path / "SATELLITE_HOME" / "kit" / "satellite.toml"

    board()
    board()

    assert calls.read_text().splitlines() == [
        f"provision /models/old one --config {config} --name old one",
        f"run --config {config}",
        f"run --config {config}",
    ]


def test_a_kit_that_was_half_copied_is_taken_again(tmp_path, stand_in, board):
    stand_in()
    make_kit(tmp_path / "STICK" / "kit")
    (tmp_path / "SATELLITE_HOME" / "kit.part").mkdir()

    assert board().returncode == 0
    assert (tmp_path / "SATELLITE_HOME" / "kit" / "satellite.toml").exists()


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A volume between ground and twin."""
    directory = tmp_path / "jobs"
    directory.mkdir()
    monkeypatch.setenv("TWIN_JOBS", str(directory))
    monkeypatch.setenv("TWIN_POLL_S", "0.01")
    return directory


@pytest.fixture
def twin(jobs):
    """Start the twin's server; it is ended with the test."""
    servers = []

    def start():
        server = subprocess.Popen([DOCKER / "twin-server.sh"], stderr=subprocess.DEVNULL, start_new_session=True)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def stage_with_twin(tmp_path, *arguments):
    """Call the client as `groundsegment.twin` calls its twin."""
    place = tmp_path / "place"
    (place / "twin" / "work").mkdir(parents=True, exist_ok=True)
    (place / "bundle-00000.skb").write_bytes(b"bundle")
    (place / "secret").write_bytes(b"not for the twin")
    files = {"manifest.msgpack": "manifest", "prompts.json": "[]", "release.key": "00", "held-out.txt": "text"}
    for name, text in files.items():
        (place / "twin" / name).write_text(text)
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models/weights").write_text("weights of the base")
    (place / "twin" / "base").mkdir(exist_ok=True)
    (place / "twin" / "base" / "weights").unlink(missing_ok=True)
    (place / "twin" / "base" / "weights").symlink_to(tmp_path / "models/weights")
    named = ["--manifest", place / "twin" / "manifest.msgpack", "--bundles", place, "--json"]
    named += ["--release-key-file", place / "twin" / "release.key", "--work-dir", place / "twin" / "work"]
    named += ["--prompts", place / "twin" / "prompts.json", "--max-tokens", "4"]
    named += ["--held-out", place / "twin" / "held-out.txt", "--base", place / "twin" / "base"]
    command = [DOCKER / "twin-client.sh", *(arguments or ["rehearse"]), *named, "--reference", "/models/a model"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=45)


def test_a_rehearsal_crosses_the_volume_and_comes_back(tmp_path, stand_in, jobs, twin):
    calls = stand_in(
        'cat "$3"; ls "$5"; ls -A "$(dirname "$3")"; cat "$(dirname "$3")"/base/*; echo working >&2; exit 5'
    )
    twin()

    done = stage_with_twin(tmp_path)

    assert (done.returncode, done.stderr) == (5, "working\n")
    listed = done.stdout.split()
    assert listed[:2] == ["manifestbundle-00000.skb", "arguments"]
    assert "secret" not in done.stdout
    words = calls.read_text().split()
    assert words[0] == "rehearse"
    assert [word.rpartition(".job/")[2] for word in words if str(jobs) in word] == [
        *("manifest", "bundles", "release-key-file", "work", "prompts", "held-out", "base")
    ]
    assert done.stdout.endswith("weights of the base")
    assert calls.read_text().endswith("--reference /models/a model\n")


def test_nothing_of_a_rehearsal_stays_behind(tmp_path, stand_in, jobs, twin):
    stand_in()
    twin()
    stage_with_twin(tmp_path)

    assert [path.name for path in jobs.iterdir()] == [".alive"]


def test_the_twin_does_nothing_but_rehearse(tmp_path, stand_in, jobs, twin):
    calls = stand_in()
    twin()

    done = stage_with_twin(tmp_path, "run")

    assert (done.returncode, done.stderr) == (2, "the twin only rehearses\n")
    assert not calls.exists()


def test_without_a_twin_the_ground_says_so_and_cleans_up(tmp_path, jobs, monkeypatch):
    monkeypatch.setenv("TWIN_TAKEN_WITHIN_S", "0")

    done = stage_with_twin(tmp_path)

    assert done.returncode == 1
    assert "hint: is the twin's container up" in done.stderr
    assert list(jobs.iterdir()) == []


def test_a_rehearsal_that_was_cut_short_is_begun_again(tmp_path, stand_in, jobs, twin):
    job = jobs / "cut.job"
    (job / "work").mkdir(parents=True)
    (job / "work" / "half").touch()
    (job / "arguments").write_text("rehearse\n--json\n")
    (job / "taken").touch()
    stand_in(f'ls "{job}/work"; echo again')
    twin()

    subprocess.run(["sh", "-c", f'until [ -e "{job}/status" ]; do sleep 0.01; done'], check=True, timeout=45)

    assert (job / "stdout").read_text() == "again\n"
    assert sorted(path.name for path in job.iterdir()) == ["arguments", "status", "stderr", "stdout", "taken"]
