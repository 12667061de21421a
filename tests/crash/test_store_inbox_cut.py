"""The power is cut before every operation of a reception: whatever is found honours every report sent before."""

import contextlib
import random

import pytest

from onboard.receiver.events import Verdict
from tests.fakes.receiving import Claims, DryReceiver, RememberingSink, Source, disk_with_inbox, make_object
from tests.fakes.sim_disk import NoDirectorySync, NoFileSync, PowerCut, SimDisk

SOURCE = Source(make_object(random.Random(1), 600))


class Reception:
    """One object of ten symbols arrives, is solved, and is kept; reports are taken down as they go."""

    def __init__(self, disk, *, syncs_first, syncs_later=True):
        self.claims, self.sink = Claims(), RememberingSink(Verdict.KEPT)
        self._syncs_first, self._syncs_later = syncs_first, syncs_later
        self._disk = disk

    def run(self):
        self._receiver = receiver = DryReceiver(self._disk, self.sink)
        if self._syncs_later:
            receiver.during_solve, receiver.before_mark = self._receive_extra, self._sync_and_report
        frames = SOURCE.frames()
        if self._syncs_first:
            for frame in frames[:4]:
                receiver.receive(frame)
            self._sync_and_report()
        for frame in frames:
            receiver.receive(frame)
        receiver.work()
        self._report()

    def _receive_extra(self):
        for frame in SOURCE.frames(first=SOURCE.num_symbols, count=3):
            self._receiver.receive(frame)

    def _sync_and_report(self):
        self._receiver.sync()
        self._report()

    def _report(self):
        report = self._receiver.report()
        assert report is not None
        self.claims.note(report)


def sweep(kind, **how):
    """Cut everywhere, look at everything that may be left; returns how many disks were looked at."""
    rehearsal = disk_with_inbox(kind)
    Reception(rehearsal, **how).run()
    num_images = 0
    for cut_at in range(rehearsal.num_operations + 1):
        disk = disk_with_inbox(kind)
        disk.cut_at = cut_at
        reception = Reception(disk, **how)
        with contextlib.suppress(PowerCut):
            reception.run()
        for image in disk.images(random.Random(cut_at), at_most=40):
            again = DryReceiver(image, reception.sink)
            reception.claims.check(again.restored, reception.sink)
            again.work()
            assert again.core.statistics().objects_poisoned == 0, "marked as solved, but not there"
            finish(again)
            num_images += 1
    return num_images


def finish(receiver):
    """Whatever was found, the rest of the symbols completes it."""
    for frame in SOURCE.frames():
        receiver.receive(frame)
    receiver.work()
    assert receiver.sink.offered[-1][2] == SOURCE.data


@pytest.mark.parametrize("how", [(True, True), (False, True), (False, False)], ids=["synced", "new", "never synced"])
def test_no_cut_takes_back_what_was_reported(how):
    syncs_first, syncs_later = how
    assert sweep(SimDisk, syncs_first=syncs_first, syncs_later=syncs_later) > 50


@pytest.mark.parametrize("mutant", [NoFileSync, NoDirectorySync])
def test_the_sweep_sees_a_missing_sync(mutant):
    with pytest.raises((AssertionError, KeyError)):
        sweep(mutant, syncs_first=True)
