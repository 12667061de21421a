"""The real daemon on a real read-only mount: it serves, says so everywhere, and takes nothing."""

import os
import subprocess
import sys

import pytest

from protocol.report import NO_HANDLE, Reason, UpdateState
from tests.e2e.test_daemon import NEW, OLD, REPOSITORY, Satellite

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounts in a namespace of its own: needs root",
)
MOUNT = """cp -a "$0" "$0.copy"
mount -t tmpfs tmpfs "$0"
cp -a "$0.copy/." "$0"
mount -o remount,ro "$0"
exec "$@"
"""


@pytest.fixture
def satellite(tmp_path):
    made = Satellite(tmp_path)
    yield made
    made.close()


def start_read_only(satellite):
    command = [sys.executable, "-m", "onboard.console", "run", "--config", str(satellite.config)]
    with (satellite.directory / "daemon.log").open("ab") as log:
        satellite.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", MOUNT, str(satellite.config.parent / "state"), *command],
            stderr=log,
            stdout=log,
            cwd=REPOSITORY,
        )


@pytest.mark.slow
def test_a_medium_remounted_read_only_serves_and_reports_and_takes_nothing_until_a_start_finds_it_writable(satellite):
    satellite.provision(OLD)
    start_read_only(satellite)
    satellite.wait_until_serving(OLD)
    assert satellite.chat()
    status = satellite.status()
    assert status["read_only"]
    assert status["events"]["medium_read_only"] == 1
    assert "READ-ONLY" in satellite.skyloadd("status").stdout
    refused = satellite.skyloadd("revert")
    assert refused.returncode == 4, refused.stderr
    assert "read-only" in refused.stderr
    assert satellite.skyloadd("releases").returncode == 0

    update = satellite.ground.make_update(NEW, sequence=2)
    for frame in satellite.uplink.frames(update.metadata):
        satellite.uplink._send(frame)
    satellite.uplink.until(lambda uplink: uplink.report is not None and uplink.report.frames_received > 1)
    report = satellite.uplink.report
    assert [(each.handle, each.state, each.reason) for each in report.updates] == [
        (NO_HANDLE, UpdateState.BLOCKED, Reason.DISK_FAILED)
    ]
    assert report.complete == report.open_blocks == ()
    assert satellite.stop() == 0

    satellite.start()
    satellite.wait_until_serving(OLD)
    assert not satellite.status()["read_only"]
