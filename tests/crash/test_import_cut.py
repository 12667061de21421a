"""The power is cut before every operation of an import: what was said to be taken is never lost, and never half."""

import contextlib
import hashlib
import random
from pathlib import Path

import pytest

from onboard.receiver.events import FileVerdict
from onboard.spool import Spool
from protocol.objects import ObjectKind
from tests.fakes.receiving import Claims, DryReceiver, RememberingSink, Source, disk_with_inbox, make_object
from tests.fakes.sim_disk import NoDirectorySync, NoFileSync, PowerCut, SimDisk

SPOOL = Path("import")
SOURCES = [Source(make_object(random.Random(seed), 600)) for seed in (1, 2)]
BYTES_MAX = 1 << 20


def put(spool, source):
    data = source.data
    chunks = (data[at : at + 250] for at in range(0, len(data), 250))
    return spool.put(ObjectKind.BUNDLE, hashlib.sha256(data).digest(), len(data), chunks)


class Import:
    """Two files are taken: one of an object that frames have begun, one twice."""

    def __init__(self, disk):
        self._disk, self.sink, self.taken, self.claims = disk, RememberingSink(), set(), Claims()

    def run(self):
        receiver = DryReceiver(self._disk, self.sink)
        for frame in SOURCES[0].frames()[:6]:
            receiver.receive(frame)
        receiver.sync()
        spool = Spool(SPOOL, self._disk, bytes_max=BYTES_MAX)
        spool.prepare()
        for source in (SOURCES[0], SOURCES[1], SOURCES[1]):
            put(spool, source)
            self.taken.add(source.handle)
        settle(receiver, spool, self.claims)


def settle(receiver, spool, claims=None):
    """What the daemon does with a spool."""
    for file in spool.files():
        assert spool.is_whole(file), "half a file under a whole name"
        assert receiver.take_file(file.path, file.handle, file.size_bytes) in {None, FileVerdict.COMPLETE}
        if claims is not None:
            claims.note(receiver.report())
        receiver.work()
        spool.remove(file)


def sweep(kind):
    """Cut everywhere, look at everything that may be left; returns how many disks were looked at."""
    rehearsal = disk_with_inbox(kind, write_max=400)
    Import(rehearsal).run()
    num_images = 0
    for cut_at in range(rehearsal.num_operations + 1):
        disk = disk_with_inbox(kind, write_max=400)
        disk.cut_at = cut_at
        imported = Import(disk)
        with contextlib.suppress(PowerCut):
            imported.run()
        for image in disk.images(random.Random(cut_at), at_most=24):
            look_at(image, imported)
            num_images += 1
    return num_images


def look_at(disk, imported):
    sink = RememberingSink()
    sink.consumed = dict(imported.sink.consumed)
    receiver = DryReceiver(disk, sink)
    imported.claims.check(receiver.restored, sink)
    receiver.work()
    spool = Spool(SPOOL, disk, bytes_max=BYTES_MAX)
    settle(receiver, spool)
    assert imported.taken <= set(sink.consumed), "what was said to be taken is lost"
    assert receiver.core.statistics().objects_poisoned == 0
    spool.prepare()
    for source in SOURCES:  # whatever was found, doing it again completes it
        put(spool, source)
    settle(receiver, spool)
    assert sink.consumed == {source.handle: source.data for source in SOURCES}
    assert spool.files() == []
    assert all(name == "dropped-0" for name in disk.list_directory(Path("inbox")))


def test_no_cut_loses_what_was_said_to_be_taken():
    assert sweep(SimDisk) > 100


@pytest.mark.parametrize("mutant", [NoFileSync, NoDirectorySync])
def test_the_sweep_sees_a_missing_sync(mutant):
    with pytest.raises((AssertionError, KeyError)):
        sweep(mutant)
