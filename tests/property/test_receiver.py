"""Over any link, through any power cut: what was reported is there, echo and counts agree, the bytes come out."""

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from onboard.store.shape import SymbolSet
from tests.fakes.receiving import Claims, DryReceiver, RememberingSink, Source, disk_with_inbox, make_object
from tests.fakes.sim_disk import PowerCut


class Life:
    """One life of the receiver, with a log of what arrived in it."""

    def __init__(self, disk, sink):
        self.receiver = DryReceiver(disk, sink)
        self.restored = self.receiver.restored
        self.baseline = {
            (entry.shape.handle, block): len(symbols)
            for entry in self.restored
            for block, symbols in entry.symbols.items()
        }
        self.arrived, self.accepted = [], []

    def receive(self, *frames, is_short=False):
        """Frames come in one batch. Short headers are used once the whole ones are known."""
        known = {key[1][0] for key in self.arrived}
        is_short = is_short and all(frame.handle in known for frame in frames)
        taken = self.receiver.receive_all(frames, is_short=is_short)
        for frame in frames:
            key = frame.handle, frame.block, frame.esi
            if key in taken:
                taken.remove(key)
                self.accepted.append((len(self.arrived), frame.station, key[:2]))
            self.arrived.append((frame.station, key))

    def check_echo(self, station, report, sink):
        """All that was accepted from the station up to its echo is counted."""
        echo = report.echo_handle, report.echo_block, report.echo_esi
        if (station, echo) not in self.arrived:
            assert not any(report.echo_handle)
            return
        at = self.arrived.index((station, echo))
        counted = {(entry.handle, entry.block): entry.have for entry in report.open_blocks}
        due = Counter(self.baseline)
        due.update(key for index, sender, key in self.accepted if index <= at and sender == station)
        for key, num in due.items():
            assert key[0] in sink.consumed or counted.get(key, 0) >= num


def weather(rng, sources):
    """Frames of all objects as a bad link brings them, for as long as anybody asks."""
    loss, duplicate, swap = rng.uniform(0, 0.6), rng.uniform(0, 0.3), rng.uniform(0, 0.5)
    first = dict.fromkeys(((source, block) for source in sources for block in range(source.layout.num_blocks)), 0)
    held = None
    while True:
        source, block = rng.choice(list(first))
        count = rng.randint(1, 12)
        frames = source.frames(block, first[source, block], count, rng.choice([0, 0, 3]))
        first[source, block] += count
        for frame in frames:
            if rng.random() < loss:
                continue
            if held is None and rng.random() < swap:
                held = frame
                continue
            yield from [frame] * (1 + (rng.random() < duplicate))
            if held is not None and rng.random() < 0.3:
                yield held
                held = None


def fly(seed, num_steps, may_cut):
    rng = random.Random(seed)
    sources = [
        Source(make_object(rng, rng.randint(9, 2500)), symbol_size=rng.choice([8, 64, 320]))
        for _ in range(rng.randint(1, 3))
    ]
    sink, claims = RememberingSink(), Claims()
    life = Life(disk_with_inbox(), sink)
    frames = weather(rng, sources)
    for _ in range(num_steps):
        disk = life.receiver.disk
        try:
            step(rng, life, frames, sink, claims)
        except PowerCut:
            life = Life(rng.choice(list(disk.images(rng, at_most=8))), sink)
            claims.check(life.restored, sink)
        if may_cut and rng.random() < 0.02:
            disk.cut_at = disk.num_operations + rng.randint(0, 6)
    life.receiver.disk.cut_at = None
    for frame in frames:
        life.receive(frame)
        life.receiver.work()
        if len(sink.consumed) == len(sources):
            break
    assert sink.consumed == {source.handle: source.data for source in sources}
    return life.receiver


def step(rng, life, frames, sink, claims):
    receiver = life.receiver
    match rng.choices(["frame", "begin", "finish", "work", "report"], [20, 2, 2, 1, 3])[0]:
        case "frame":
            life.receive(*(next(frames) for _ in range(rng.choice([1, 1, 4]))), is_short=rng.random() < 0.5)
        case "begin":
            receiver.begin_sync()
        case "finish":
            receiver.finish_sync()
        case "work":
            receiver.during_solve = lambda: [life.receive(next(frames)) for _ in range(rng.randint(0, 3))]
            receiver.before_mark = lambda: while_marking(rng, life, sink, claims)
            receiver.work(rng.randint(1, 3))
        case "report":
            take_report(life, sink, claims)


def while_marking(rng, life, sink, claims):
    """The loop goes on while the disk thread marks a block as solved."""
    if rng.random() < 0.5:
        life.receiver.sync()
        take_report(life, sink, claims)


def take_report(life, sink, claims):
    for station, report in life.receiver.reports().items():
        claims.note(report)
        life.check_echo(station, report, sink)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num_steps=st.integers(0, 300))
def test_reports_count_what_is_durable_and_objects_come_out_whole(seed, num_steps):
    receiver = fly(seed, num_steps, may_cut=False)
    statistics = receiver.core.statistics()

    assert statistics.objects_poisoned == statistics.objects_dropped == 0
    assert statistics.open_objects == statistics.open_bytes == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_steps=st.integers(50, 400))
def test_no_power_cut_takes_back_what_was_reported(seed, num_steps):
    fly(seed, num_steps, may_cut=True)


@given(keys=st.lists(st.integers(0, 2**24 - 1) | st.integers(0, 600), max_size=60))
def test_a_symbol_set_is_a_set(keys):
    symbols, plain = SymbolSet(), set()
    for key in keys:
        assert symbols.add(key) == (key not in plain)
        plain.add(key)

    assert len(symbols) == len(plain)
    assert all((key in symbols) == (key in plain) for key in [*keys, 0, 1, 255, 256])
