"""An update by files and frames at once: any order, duplicates, damage, power cuts: the same end, or waiting."""

import hashlib
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from onboard.receiver.events import FileVerdict, Verdict
from onboard.spool import Spool
from protocol.objects import ObjectKind, object_handle
from tests.fakes.receiving import DryReceiver, RememberingSink, Source, disk_with_inbox, make_object

RNG = random.Random(3)
METADATA = Source(make_object(RNG, 900, ObjectKind.METADATA))
BUNDLES = [Source(make_object(RNG, size)) for size in (600, 1500, 90)]
SOURCES = [METADATA, *BUNDLES]
SPOOL = Path("import")

numbers = st.integers(0, len(SOURCES) - 1)
steps = st.one_of(
    st.tuples(st.just("frames"), numbers, st.integers(0, 40), st.integers(1, 25)),
    st.tuples(st.just("file"), numbers),
    st.tuples(st.just("damaged file"), numbers),
    st.tuples(st.just("unasked file"), st.integers(0, 3)),
    st.tuples(st.just("work"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["sync", "take", "restart", "cut"])),
)


class UpdateSink(RememberingSink):
    """Uses bundles once the metadata is there, keeps them before."""

    @property
    def is_open(self):
        return METADATA.handle in self.consumed

    def judge(self, handle, kind, data):
        is_ours = handle in {source.handle for source in SOURCES}
        is_used = is_ours and (kind is ObjectKind.METADATA or self.is_open)
        self.verdict = Verdict.CONSUMED if is_used else Verdict.KEPT
        return super().judge(handle, kind, data)


class Life:
    """A satellite that is fed by both ways, and forgets what was not durable."""

    def __init__(self, seed):
        self.rng, self.sink, self.disk = random.Random(seed), UpdateSink(), disk_with_inbox()
        self.taken = set()
        self.boot()

    def boot(self):
        self.receiver = DryReceiver(self.disk, self.sink)
        self.spool = Spool(SPOOL, self.disk, bytes_max=1 << 20)
        self.spool.prepare()

    def do(self, step):
        match step:
            case ("frames", number, first, count):
                for frame in SOURCES[number].frames(0, first, count):
                    self.receiver.receive(frame)
            case ("file", number):
                self.put(SOURCES[number].data)
            case ("damaged file", number):
                data = SOURCES[number].data
                self.put(data[:-1] + bytes([data[-1] ^ 1]))
            case ("unasked file", seed):
                self.put(make_object(random.Random(seed), 400))
            case ("work", num_jobs):
                self.work(num_jobs)
            case ("sync",):
                self.receiver.sync()
            case ("take",):
                self.take()
            case ("restart",):
                self.receiver.sync()
                self.boot()
            case ("cut",):
                self.disk = self.rng.choice(list(self.disk.images(self.rng, at_most=6)))
                self.boot()
                assert self.taken <= self.sink.consumed.keys() | {file.handle for file in self.spool.files()}

    def put(self, data):
        kind = ObjectKind(data[:4])
        self.spool.put(kind, hashlib.sha256(data).digest(), len(data), [data])
        self.taken.add(object_handle(data))

    def take(self):
        for file in self.spool.files():
            assert self.spool.is_whole(file)
            verdict = self.receiver.take_file(file.path, file.handle, file.size_bytes)
            if verdict is FileVerdict.COMPLETE:
                self.spool.remove(file)

    def work(self, num_jobs=1000):
        was_open = self.sink.is_open
        self.receiver.work(num_jobs)
        if self.sink.is_open and not was_open:
            self.receiver.core.offer_again()
            self.receiver._dispatch()

    def check(self):
        known = {source.handle: source.data for source in SOURCES}
        assert self.sink.consumed.items() <= known.items()
        assert self.receiver.core.statistics().objects_poisoned == 0

    def finish(self, by_file):
        """The rest comes, by either way."""
        for source, is_file in zip(SOURCES, by_file, strict=True):
            if is_file:
                self.put(source.data)
            else:
                for frame in source.all_frames():
                    self.receiver.receive(frame)
        for _ in range(4):
            self.take()
            self.work()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    script=st.lists(steps, max_size=25),
    by_file=st.lists(st.booleans(), min_size=len(SOURCES), max_size=len(SOURCES)),
)
def test_files_and_frames_in_any_order_end_in_the_same_update(seed, script, by_file):
    life = Life(seed)
    for step in script:
        life.do(step)
        life.check()
    life.finish(by_file)
    life.check()
    assert life.sink.consumed == {source.handle: source.data for source in SOURCES}
    left = {file.handle for file in life.spool.files()}
    assert not left & life.sink.consumed.keys()
    core = life.receiver.core
    core.receive_symbol(METADATA.frames(0, 0, 1)[0], life.receiver.now)
    report = life.receiver.report()
    assert not {entry.handle for entry in report.open_blocks} & life.sink.consumed.keys()
    assert METADATA.handle in report.complete
