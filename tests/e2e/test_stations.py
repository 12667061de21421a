"""Three ground stations, each its own process and directory, feed one release at the same time.

Their contacts overlap, their losses differ, one is killed with -9 and started again, one is offline at first. Home and
the stations meet in the depot's directory alone. What each sends is noted on its cable.
"""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bench.kills import twin_with_fake_engine
from demo.rehearsal import SATELLITE, kill, stop
from groundsegment.depot.depot import Depot
from groundsegment.emulator.control import call_control
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release
from tests.fakes.rehearsals import RehearsalAtHand
from tests.fakes.tap import Tap

pytestmark = pytest.mark.slow

SKYLOAD = Path(sys.executable).parent / "skyload"
RELEASE_BYTES = 12_000_000
LOSSES = {"svalbard": 0.02, "inuvik": 0.10, "awarua": 0.25}
RATE_BPS = 5e6
# Seconds after link time 0; the last ones never end, so that a slow machine still completes.
CONTACTS = {
    "svalbard": [(10, 13), (15, None)],
    "inuvik": [(11, 14), (16, None)],
    "awarua": [(14, 17), (18, None)],
}
PATIENCE_S = 150.0


def profile():
    """Each station's own link; the home ground has none."""
    down = {"rate_bps": RATE_BPS, "loss": 0.05}
    return {
        "description": "Three stations whose contacts overlap.",
        "contacts": [{"start_s": 1e9, "end_s": 2e9, "station": "home"}],
        "stations": {
            name: {
                "up": {"rate_bps": RATE_BPS, "loss": loss, "delay_s": 0.01, "queue_bytes_max": 500_000},
                "down": down,
                "contacts": [{"start_s": start, "end_s": end} for start, end in CONTACTS[name]],
            }
            for name, loss in LOSSES.items()
        },
    }


class Network:
    """Home, a satellite, an emulator, and three stations with a tap each."""

    def __init__(self, path: Path):
        self.path, self.processes = path, {}
        self.home = RehearsalAtHand(
            path / "home", engine_command=engine_command(),
            settings={"link.sync_interval_s": 0.3, "install.probation_s": 0.3},
        )  # fmt: skip
        self.taps = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            stop(process)
        for tap in self.taps.values():
            tap.__exit__()
        self.home.close()

    def prepare(self):
        self.home.init_keys()
        for name in LOSSES:
            self.home.skyload("station", "add", name, "--for", SATELLITE)
        self.home.provision(make_synthetic_release(self.path / "launch", 100_000, 1), "launch")
        self.home.start_satellite(wait_for_model=True)

    def stage(self):
        release = make_synthetic_release(self.path / "release", RELEASE_BYTES, 2)
        words = ("stage", str(release), "--for", SATELLITE, "--name", "r2", "--base", "none", "--json")
        return json.loads(self.home.skyload(*words, "--twin", twin_with_fake_engine()))

    def start_link(self):
        """Start the emulator; link time 0 is now."""
        self.profile = self.path / "stations.yaml"
        self.profile.write_text(yaml.safe_dump(profile()))
        self.epoch_s = time.time()
        self.home.start_link(str(self.profile), seed=7, epoch=self.epoch_s)
        links = call_control(self.home.control, {"op": "statistics"})["links"]
        with Depot.open(self.home.depot) as depot:
            key = depot.link_key(SATELLITE)
        for name in LOSSES:
            host, _, port = links[name]["ground"].rpartition(":")
            self.taps[name] = Tap((host, int(port)), key).__enter__()

    def start_home(self):
        """Home's side of the exchange, again and again."""
        words = ["station", "sync", "--for", SATELLITE, "--every", "1s", "--depot", str(self.home.depot)]
        self._start("exchange", words)

    def start_station(self, name):
        words = ["station", "run", "--station-dir", str(self.directory(name)), "--depot", str(self.home.depot)]
        words += ["--link", self.taps[name].address, "--profile", str(self.profile), "--epoch", repr(self.epoch_s)]
        self._start(name, [*words, "--until-decided", "--sync-every", "1s", "--json"])

    def directory(self, name):
        return self.path / f"{name}-station"

    def kill_station(self, name):
        kill(self.processes.pop(name))

    def wait(self, name):
        """The exit code of a process, and what it says."""
        process = self.processes.pop(name)
        code = process.wait(PATIENCE_S)
        text = (self.path / f"{name}.out").read_text()
        return code, json.loads(text[text.rindex("\n{") + 1 if "\n{" in text else 0 :])

    def _start(self, name, words):
        with (self.path / f"{name}.out").open("ab") as output, (self.path / f"{name}.err").open("ab") as errors:
            self.processes[name] = subprocess.Popen([str(SKYLOAD), *words], stdout=output, stderr=errors)

    def wait_until(self, link_s):
        while time.time() - self.epoch_s < link_s:
            time.sleep(0.02)


@pytest.mark.timeout(900)
def test_three_stations_bring_one_release_without_a_symbol_sent_twice(tmp_path):
    with Network(tmp_path) as network:
        network.prepare()
        staged = network.stage()
        for name in LOSSES:
            network.home.skyload("station", "export", name, "--for", SATELLITE, str(network.directory(name)))
        network.start_link()
        network.start_home()
        for name in ("svalbard", "inuvik"):
            network.start_station(name)
        network.wait_until(12.5)
        network.kill_station("svalbard")  # in the middle of its first contact, while another one sends too
        network.wait_until(13.2)
        network.start_station("svalbard")
        network.wait_until(15.5)
        network.start_station("awarua")  # it slept through half of its first contact

        ended = {name: network.wait(name) for name in LOSSES}
        links = call_control(network.home.control, {"op": "statistics"})["links"]
        status = wait_for_confirmed(network)

    assert {name: code for name, (code, _) in ended.items()} == dict.fromkeys(LOSSES, 0), errors_of(tmp_path)
    assert status["updates"][0]["state"] == "confirmed"
    assert status["report"]["serving"] == staged["release_digest"]

    taps = network.taps
    assert {name: tap.stations for name, tap in taps.items()} == {"svalbard": {1}, "inuvik": {2}, "awarua": {3}}
    assert not any(tap.num_foreign for tap in taps.values())
    senders = Counter(symbol for tap in taps.values() for symbol in tap.symbols)
    assert [symbol for symbol, count in senders.items() if count > 1] == []
    repeated = {name: sum(tap.symbols.values()) - len(tap.symbols) for name, tap in taps.items()}
    assert repeated == dict.fromkeys(LOSSES, 0)  # not even by the one that was killed
    assert all(len(tap.symbols) > 100 for tap in taps.values())
    report(taps, links, staged)


def wait_for_confirmed(network):
    """Home learns of it by letter."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        (status,) = json.loads(network.home.skyload("status", "--json"))["satellites"]
        if status["updates"][0]["state"] == "confirmed":
            return status
        time.sleep(0.5)
    raise AssertionError(f"home never heard of it: {status['updates']}")


def errors_of(path):
    return "\n".join(f"{name}: {(path / f'{name}.err').read_text()[-2000:]}" for name in LOSSES)


def report(taps, links, staged):
    """What was sent, against what a perfect sender would have sent over the same losses."""
    payload = staged["payload_bytes"]
    arrived = 0.0
    for name, tap in taps.items():
        loss = links[name]["up"]["lost"] / max(1, links[name]["up"]["offered"])
        arrived += len(tap.symbols) * (1 - loss)
        print(f"{name}: {tap.num_frames} frames, {tap.num_bytes} bytes, {len(tap.symbols)} symbols, loss {loss:.3f}")
    needed = payload / 1280
    print(f"symbols that arrived: {arrived:.0f} of {needed:.0f} needed, {arrived / needed:.4f}")
    assert arrived / needed < 1.25  # real processes on a busy machine, seconds of delay; the bar is in bench/


def test_a_thief_of_a_station_directory_has_no_key_and_no_plaintext(tmp_path):
    with Network(tmp_path) as network:
        network.home.init_keys()
        network.home.skyload("station", "add", "svalbard", "--for", SATELLITE)
        network.stage()
        directory = network.directory("svalbard")
        network.home.skyload("station", "export", "svalbard", "--for", SATELLITE, str(directory))
        depot = network.home.depot
        subprocess.run(
            [str(SKYLOAD), "station", "sync", "--station-dir", str(directory), "--depot", str(depot)],
            check=True, capture_output=True,
        )  # fmt: skip
        stolen = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        assert sum(len(data) for data in stolen.values()) > 0.8 * RELEASE_BYTES  # it has all that it flies

        for secret in (*secrets_of(depot / "keys"), *secrets_of(network.home.kit)):
            assert [path for path, data in stolen.items() if secret in data] == []
        for file in (network.path / "release").rglob("*"):
            for piece in pieces_of(file):
                assert [path for path, data in stolen.items() if piece in data] == []
        names = sorted(str(path.relative_to(directory)) for path in stolen if path.suffix in {".key", ".pem"})
        assert names == [f"keys/stations/{SATELLITE}@1.key"]
        assert (directory / names[0]).stat().st_mode & 0o077 == 0
        shutil.rmtree(directory)


def secrets_of(path):
    """Every private or shared key below a directory, in each form in which it might lie about."""
    from cryptography.hazmat.primitives import serialization as s

    for file in path.rglob("*"):
        if file.suffix == ".pem":
            key = s.load_pem_private_key(file.read_bytes(), password=None)
            raw = key.private_bytes(s.Encoding.Raw, s.PrivateFormat.Raw, s.NoEncryption())
        elif file.suffix == ".key":
            raw = bytes.fromhex(file.read_text())
        else:
            continue
        yield raw
        yield raw.hex().encode()


def pieces_of(file):
    """Stretches of a model's file that no other file has by chance."""
    if file.suffix != ".safetensors":
        return
    data = file.read_bytes()
    for at in range(100_000, len(data) - 64, len(data) // 40):
        yield data[at : at + 48]
