"""On a link without a key a wrong symbol can carry a right sum: found after the solve, its object fetched once more."""

import random

import pytest

from onboard.receiver.core import CoreOptions
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.solver import InlineSolver
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.report import SOLVED
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.receiving import DryReceiver, RememberingSink, Source, disk_with_inbox, make_object
from tests.unit.onboard.test_receiver_shell import flies, station

NO_KEY = FrameCodec(Direction.UP, None)


def poisoned(frame):
    """The same frame with other bytes; encoding it makes its sum right."""
    return Frame(
        kind=frame.kind,
        handle=frame.handle,
        num_symbols=frame.num_symbols,
        payload=bytes(byte ^ 0xA5 for byte in frame.payload),
        block=frame.block,
        esi=frame.esi,
    )


class Ground:
    """Sends ever new symbols of what no report has called complete, as the uplink does."""

    def __init__(self, source):
        self._source = source
        self._next = dict.fromkeys(range(source.layout.num_blocks), 0)
        self.num_sent = 0

    def frames(self, report):
        have = {entry.block: entry.have for entry in report.open_blocks} if report else {}
        for block, first in self._next.items():
            needed = self._source.layout.symbols_of(block)
            missing = needed - have.get(block, 0)
            if have.get(block) == SOLVED or missing <= 0:
                missing = 0 if have.get(block) == SOLVED else 2
            self._next[block] = first + missing
            self.num_sent += missing
            yield from self._source.frames(block, first, missing)


def fly(source, poison_at):
    """Fly until consumed; at these places in what is sent the bytes are wrong. Returns receiver and ground."""
    receiver = DryReceiver(
        disk_with_inbox(), RememberingSink(), CoreOptions(report=ReportOptions(interval_s=0.1, bytes_per_s=1e9))
    )
    ground, report, place = Ground(source), None, 0
    for _ in range(30):
        for frame in ground.frames(report):
            receiver.receive(poisoned(frame) if place in poison_at else frame)
            place += 1
        receiver.sync()
        receiver.work()
        report = receiver.report() or report
        if source.handle in report.complete:
            return receiver, ground
    raise AssertionError("it goes round in circles")


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("at", [0, 17])
def test_one_wrong_symbol_costs_its_object_once(num_blocks, at):
    size, symbol_size = (6400, 64) if num_blocks == 1 else (64_800, 8)
    source = Source(make_object(random.Random(1), size), symbol_size=symbol_size)
    assert source.layout.num_blocks == num_blocks
    receiver, ground = fly(source, {at})
    statistics = receiver.core.statistics()

    assert receiver.sink.consumed == {source.handle: source.data}
    assert statistics.objects_poisoned == 1
    assert ground.num_sent <= 2 * source.num_symbols + 20


def test_a_second_wrong_symbol_costs_it_once_more_and_no_longer():
    source = Source(make_object(random.Random(1), 6400))
    receiver, _ = fly(source, {3, source.num_symbols + 5})

    assert receiver.core.statistics().objects_poisoned == 2
    assert receiver.sink.consumed == {source.handle: source.data}


def test_one_sent_again_and_again_by_others_is_a_duplicate_or_poison_but_never_taken():
    source = Source(make_object(random.Random(1), 6400))
    liar = Source(make_object(random.Random(2), 6400), handle=source.handle)
    receiver = DryReceiver(disk_with_inbox(), RememberingSink())
    for _ in range(3):
        for frame in liar.frames():
            receiver.receive(frame)
        receiver.work()
    assert receiver.core.statistics().objects_poisoned == 3
    assert receiver.sink.consumed == {}

    for frame in source.frames():
        receiver.receive(frame)
    receiver.work()
    assert receiver.sink.consumed == {source.handle: source.data}


@flies
async def test_on_real_sockets_it_is_told_to_the_owner_and_the_ground(tmp_path):
    disk, told = FaultyDisk(), []
    source = Source(make_object(random.Random(1), 3000), kind=FrameKind.RAPTORQ)
    async with station(
        tmp_path,
        disk=disk,
        solver=InlineSolver(disk),
        codecs=(NO_KEY, FrameCodec(Direction.DOWN, None)),
        on_poisoned=told.append,
    ) as flying:
        first, *rest = source.frames()
        await flying.ground.send(poisoned(first), *rest)
        await flying.until(lambda: told)
        await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [0])
        await flying.ground.send(*source.frames(first=source.num_symbols))
        await flying.until(lambda: flying.sink.consumed)

        assert told == [source.handle]
        assert flying.sink.consumed == {source.handle: source.data}
        assert flying.receiver.statistics().objects_poisoned == 1
