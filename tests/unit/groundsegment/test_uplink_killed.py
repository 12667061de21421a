"""Uplink processes killed with -9 again and again, two stations at a time: no symbol of a lane flies twice."""

import random
import subprocess
import sys
import time

import pytest

from tests.fakes.busy_satellite import BusyOnUdp, BusySatellite
from tests.fakes.depots import IDENTITY, LINK_KEY, NOW, make_depot, stage_bytes

pytestmark = pytest.mark.slow

SIGNER = (IDENTITY.public_key().public_bytes_raw(), IDENTITY.sign)
PROGRAM = (
    "import sys; from groundsegment.console.main import main; sys.argv[0] = 'skyload'; main()"  # as the command itself
)


def start(depot, address, station):
    options = ["--for", "SAT-1", "--link", address, "--rate", "2Mbit/s", "--depot", str(depot.path), "--quiet"]
    if station:
        options += ["--station", station]
    command = [sys.executable, "-c", PROGRAM, "uplink", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_updates_from_two_stations_survive_a_kill_of_each_process_every_moment(tmp_path):
    rng = random.Random(7)
    with make_depot(tmp_path / "depot") as depot:
        depot.add_station("SAT-1", "svalbard", added_utc=NOW)
        big = stage_bytes(depot, [900_000, 900_000], lanes=2)
        small = stage_bytes(depot, [400_000], seed=2, lanes=2, priority=1, beside=True)
        satellite = BusySatellite(LINK_KEY, identity=SIGNER, sync_interval_s=0.1, report_interval_s=0.05,
                                  install_s=0.05, keep_symbols=True).expect(big, small)  # fmt: skip
        kills = 0
        with BusyOnUdp(satellite, loss=0.1) as sky:
            processes = {name: start(depot, sky.address, name) for name in ("", "svalbard")}
            try:
                while kills < 6 and len(satellite.confirmed) < 2:
                    name = rng.choice(["", "svalbard"])
                    before = len(satellite.seen)
                    wait_until(lambda mark=before: len(satellite.seen) > mark + 30 or len(satellite.confirmed) == 2)
                    time.sleep(rng.uniform(0.0, 0.5))
                    processes[name].kill()
                    processes[name].wait()
                    kills += 1
                    processes[name] = start(depot, sky.address, name)
                for process in processes.values():
                    assert process.wait(120) == 0
            finally:
                for process in processes.values():
                    process.kill()
                    process.wait()

    assert kills >= 4
    for staged in (big, small):
        for handle, data in zip(staged.bundle_handles, staged.bundles, strict=True):
            assert satellite.object_bytes(handle, len(data)) == data
    metadata = sum(handle in (big.update.handle, small.update.handle) for _, handle, _, _ in satellite.seen)
    assert satellite.num_repeated == 0
    assert metadata < 400
    # What two stations had under way when a block was solved, and what was not yet reported when one was killed.
    assert satellite.num_symbols_surplus < 0.15 * 2_200_000 / 1280
