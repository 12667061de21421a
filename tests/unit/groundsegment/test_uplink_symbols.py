import asyncio
import dataclasses
import os
import random
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from groundsegment.errors import DiskError, GroundError
from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.encoder import EncoderProcess, InlineExecutor
from groundsegment.uplink.wire.symbols import ObjectFile, SymbolSource
from protocol.blocks import symbols_needed
from protocol.fec import BlockEncoder
from protocol.frame import FrameKind

SIZE = 64
HANDLE = b"handle"


class CountingExecutor(InlineExecutor):
    def __init__(self):
        self.calls = []

    def submit(self, fn, /, *args, **kwargs):
        self.calls.append(args[-2:])
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """An object of 8100 symbols in two blocks, the last symbol padded, and its expected symbols."""
    monkeypatch.setattr("groundsegment.uplink.wire.symbols.INLINE_BYTES_MAX", 0)
    data = random.Random(1).randbytes(8100 * SIZE - 5)
    path = tmp_path / "object"
    path.write_bytes(data)
    item = OutgoingObject(handle=HANDLE, num_symbols=symbols_needed(len(data), SIZE), symbol_size=SIZE, bundle=0)
    padded = data.ljust(8100 * SIZE, b"\0")
    layout = item.layout
    blocks = [
        padded[layout.offset_of(block) : layout.offset_of(block) + layout.size_of(block)]
        for block in range(layout.num_blocks)
    ]
    return {HANDLE: ObjectFile(item=item, path=path)}, blocks


def take(source, block, first, count):
    return asyncio.run(source.symbols(SymbolRun(handle=HANDLE, block=block, first_esi=first, count=count)))


@pytest.mark.parametrize(
    ("block", "first", "count"),
    [(0, 0, 300), (1, 4040, 10), (1, 4049, 1), (0, 4045, 20), (1, 4050, 700), (0, 9000, 40)],
)
def test_symbols_are_those_of_the_codec(made, block, first, count):
    files, blocks = made
    with SymbolSource(files, FrameKind.RAPTORQ, InlineExecutor()) as source:
        assert take(source, block, first, count) == BlockEncoder(FrameKind.RAPTORQ, blocks[block], SIZE).symbols(
            first, count
        )


@pytest.mark.parametrize("count", [2, 5])
def test_a_batch_holds_symbols_of_one_lane_alone(made, count):
    files, blocks = made
    lane, executor = Lane(index=1, count=count), CountingExecutor()
    files = {HANDLE: dataclasses.replace(files[HANDLE], lane=lane)}
    codec = BlockEncoder(FrameKind.RAPTORQ, blocks[1], SIZE).symbols(0, 6500)
    esi = 3900
    with SymbolSource(files, FrameKind.RAPTORQ, executor) as source:
        while esi < 5900:
            first, length = lane.run(esi, 50)
            assert take(source, 1, first, length) == codec[first : first + length]
            esi = first + length

    # A batch of 506 symbols of the lane reaches over as many of each other lane.
    assert len(executor.calls) <= 2 + 1850 // (count * 506)


def test_repair_symbols_are_asked_for_before_they_are_due(made):
    files, _ = made
    executor = CountingExecutor()
    with SymbolSource(files, FrameKind.RAPTORQ, executor) as source:
        take(source, 0, 0, 3000)
        assert executor.calls == []
        take(source, 0, 3000, 900)
        assert [first for first, _ in executor.calls] == [4050]
        take(source, 0, 4050, 100)
        assert len(executor.calls) == 1


def test_a_batch_serves_many_runs_and_the_next_is_made_ahead(made):
    files, blocks = made
    executor = CountingExecutor()
    with SymbolSource(files, FrameKind.RAPTORQ, executor) as source:
        got = [symbol for first in range(4050, 6050, 20) for symbol in take(source, 0, first, 20)]

    assert got == BlockEncoder(FrameKind.RAPTORQ, blocks[0], SIZE).symbols(4050, 2000)
    assert len(executor.calls) <= 6


def test_the_cache_is_bounded(made, monkeypatch):
    monkeypatch.setattr("groundsegment.uplink.wire.symbols.CACHE_BYTES_MAX", 40_000)
    files, blocks = made
    with SymbolSource(files, FrameKind.RAPTORQ, InlineExecutor()) as source:
        for _ in range(2):
            for block in range(2):
                expected = BlockEncoder(FrameKind.RAPTORQ, blocks[block], SIZE).symbols(4100, 10)
                assert take(source, block, 4100, 10) == expected
        assert source._cached_bytes <= 40_000 + 2 * 506 * SIZE


def test_a_missing_file_is_an_error_with_a_hint(tmp_path):
    item = OutgoingObject(handle=HANDLE, num_symbols=10, symbol_size=SIZE, bundle=0)
    files = {HANDLE: ObjectFile(item=item, path=tmp_path / "gone")}
    with SymbolSource(files, FrameKind.RAPTORQ, InlineExecutor()) as source, pytest.raises(DiskError) as caught:
        take(source, 0, 0, 1)

    assert "gone" in str(caught.value)
    assert caught.value.hint


@pytest.mark.slow
def test_the_process_makes_the_same_symbols(made):
    files, blocks = made
    with EncoderProcess() as executor, SymbolSource(files, FrameKind.RAPTORQ, executor) as source:
        assert take(source, 0, 4100, 50) == BlockEncoder(FrameKind.RAPTORQ, blocks[0], SIZE).symbols(4100, 50)


class MortalExecutor(InlineExecutor):
    """The process that makes symbols is killed so many times, each time with all that was asked of it."""

    def __init__(self, num_deaths):
        self.num_left = num_deaths

    def submit(self, fn, /, *args, **kwargs):
        if not self.num_left:
            return super().submit(fn, *args, **kwargs)
        self.num_left -= 1
        future = Future()
        future.set_exception(BrokenProcessPool())
        return future


def test_a_killed_encoder_is_replaced_and_makes_the_same_symbols(made):
    files, blocks = made
    expected = BlockEncoder(FrameKind.RAPTORQ, blocks[0], SIZE).symbols(4050, 700)
    with SymbolSource(files, FrameKind.RAPTORQ, MortalExecutor(2)) as source:
        assert take(source, 0, 4050, 700) == expected
    dying = SymbolSource(files, FrameKind.RAPTORQ, MortalExecutor(3))
    with dying as source, pytest.raises(GroundError, match="killed"):
        take(source, 0, 4050, 700)


def test_a_process_that_was_killed_is_started_again():
    with EncoderProcess() as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(os._exit, 9).result(timeout=45)
        assert executor.submit(abs, -3).result(timeout=45) == 3
