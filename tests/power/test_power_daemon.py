"""The real daemon and its processes on a disk whose power is cut: it serves within 10 s, and the update goes on.

The sweep cuts before every step, in one process; here nobody knows which step it is.
"""

import contextlib
import random
import threading
import time

import psutil
import pytest

from protocol.report import UpdateState
from tests.e2e.test_daemon import OLD, Satellite, is_confirmed
from tests.fakes.updates import digest_of
from tests.power.images import EXT4, XFS, Cut, Lab, cut_power, missing

pytestmark = pytest.mark.power
NEW = {"config.json": b'{"new": 2}', "model.bin": random.Random(3).randbytes(200_000)}
SERVES_WITHIN_S = 10.0  # or as long as three starts in peace, on a machine that is busy
PATIENCE_S = 120.0
NUM_CUTS = 2


class Mission:
    """A satellite that gets an update, over several lives on ever new disks."""

    def __init__(self, lab):
        self.lab = lab
        self.image = lab.make(lambda directory: None)
        with lab.mounted(self.image) as directory:
            self.satellite = Satellite(directory)
            self.satellite.provision(OLD)
        self.update = self.satellite.ground.make_update(NEW, base=OLD, bundle_size=32_768)
        self.is_confirmed = False
        self.accepted = 0
        self.in_peace_s = None  # what the first start takes, before any cut

    def live(self, cut_after_s=None):
        """One life: until the update is confirmed, or until the power goes some time after it serves."""
        satellite, uplink = self.satellite, self.satellite.uplink
        self.image = self.lab.copy(self.image)
        with self.lab.mounted(self.image) as directory:
            began = time.monotonic()
            satellite.start()
            processes = psutil.Process(satellite.process.pid)
            try:
                status = self._when_serving(began + PATIENCE_S)
                took_s = time.monotonic() - began
                self.in_peace_s = self.in_peace_s or took_s
                assert took_s < max(SERVES_WITHIN_S, 3 * self.in_peace_s)
                assert status["accepted"] >= self.accepted
                assert not self.is_confirmed or status["serving"]["digest"] == self.update.digest.hex()
                if cut_after_s is not None:
                    cut = threading.Timer(cut_after_s, self._cut, (directory, processes))
                    cut.start()
                with contextlib.suppress(AssertionError) if cut_after_s is not None else contextlib.nullcontext():
                    uplink.send(self.update.metadata, *self.update.bundles, unless=self._is_dark)
                    uplink.until(lambda up: self._is_dark() or is_confirmed(self.update)(up))
                if cut_after_s is not None:
                    cut.join()
                elif (damage := satellite.skyloadd("verify")).returncode:
                    raise AssertionError(damage.stdout)
            finally:
                _kill(_family(processes))
                satellite.process.wait()
        report = uplink.report
        self.accepted = max(self.accepted, report.accepted if report else 0)
        entry = report.status_of(self.update.handle) if report else None
        self.is_confirmed |= bool(entry and entry.state is UpdateState.CONFIRMED)

    def _when_serving(self, deadline):
        whole = {digest_of(OLD).hex(), self.update.digest.hex()}
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                status = self.satellite.status()
                if status["serving"]["digest"] in whole and status["serving"]["is_serving"]:
                    return status
            time.sleep(0.05)
        raise AssertionError(self.satellite.log())

    def _cut(self, directory, processes):
        victims = _family(processes)  # before: one that dies of the cut itself leaves its children to nobody
        cut_power(directory, Cut.LOST)
        _kill(victims)

    def _is_dark(self):
        return self.satellite.process.poll() is not None


def _family(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _kill(victims):
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=60)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [EXT4, XFS], ids=lambda kind: kind.name)
def test_the_daemon_serves_within_ten_seconds_after_every_cut_and_the_update_is_confirmed(tmp_path, kind):
    if reason := missing(kind):
        pytest.skip(reason)
    rng = random.Random(f"cuts {kind.name}")
    mission = Mission(Lab(kind=kind, directory=tmp_path / "images", mount_point=tmp_path / "mount"))
    with contextlib.closing(mission.satellite.uplink):
        for _ in range(NUM_CUTS):
            mission.live(cut_after_s=rng.uniform(0.05, 1.2))
        mission.live()
    assert mission.is_confirmed
