"""Objects that come to the receiver whole, as files: before, after and while their frames come."""

import asyncio
import random

import pytest

from onboard.errors import StoreFailedError
from onboard.receiver.core import CoreOptions, ObjectSolved, ReceiverCore
from onboard.receiver.events import FileVerdict, ReportStatus, Verdict
from onboard.receiver.shell import ReceiverOptions
from onboard.store.shape import shape_of_file
from protocol.limits import MIB
from protocol.report import SOLVED, Report
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.receiving import RememberingSink, Source, make_object
from tests.unit.onboard.test_receiver_shell import flies, source_of, station


def write(path, source):
    """What the spool holds."""
    file = path / source.handle.hex()
    file.write_bytes(source.data)
    return file, source.handle, len(source.data)


@flies
async def test_a_file_is_used_and_reported_complete(path):
    source = source_of(200_000)
    async with station(path) as there:
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.USED
        assert there.sink.consumed == {source.handle: source.data}
        await there.ground.send(source.frames(0, 0, 1)[0])
        await there.until(lambda: source.handle in there.last_report.complete)
        assert there.receiver.statistics().files_taken == 1
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.COMPLETE


@flies
async def test_a_file_completes_what_frames_have_begun(path):
    source = source_of(40_000)
    async with station(path) as there:
        await there.ground.send(*source.frames()[:300])
        await there.until(lambda: any(entry.have == 300 for entry in there.last_report.open_blocks))
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.USED
        await there.ground.send(*source.frames()[300:])
        await there.until(lambda: source.handle in there.last_report.complete and not there.last_report.open_blocks)
        assert len(there.sink.offered) == 1
        assert there.receiver.statistics().open_objects == 0


@flies
async def test_a_file_completes_an_object_of_which_frames_have_brought_whole_blocks(path):
    source = source_of(520_000)
    assert source.layout.num_blocks == 2
    async with station(path) as there:
        await there.ground.send(*source.frames(0))
        await there.until(lambda: SOLVED in {entry.have for entry in there.last_report.open_blocks})
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.USED
        assert there.sink.consumed == {source.handle: source.data}


@flies
async def test_a_file_that_comes_while_its_last_frames_do_is_used_once(path):
    source = source_of(40_000)
    async with station(path) as there:
        frames = source.frames()
        await there.ground.send(*frames[:-1])
        sending = asyncio.create_task(there.ground.send(frames[-1], *frames))
        taken = await asyncio.gather(*(there.receiver.take_file(*write(path, source)) for _ in range(4)))
        await sending
        await there.until(lambda: source.handle in there.last_report.complete)
        assert set(taken) <= {FileVerdict.USED, FileVerdict.COMPLETE}
        assert [data for _, _, data in there.sink.offered] == [source.data]


@flies
async def test_a_file_nobody_has_use_for_is_kept_and_survives_a_restart(path):
    source, sink = source_of(5000), RememberingSink(Verdict.KEPT)
    async with station(path, sink=sink) as there:
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.KEPT
        assert await there.receiver.take_file(*write(path, source)) is FileVerdict.KEPT
        assert len(sink.offered) == 1
        await there.ground.send(*source.frames()[:2])  # of another shape than the file's
        await there.until(lambda: source.handle in there.last_report.complete)
    sink.verdict = Verdict.CONSUMED
    async with station(path, sink=sink) as there:
        await there.until(lambda: source.handle in sink.consumed)


@flies
async def test_a_file_that_is_not_what_its_handle_says_is_thrown_away_and_frames_go_on(path):
    source, other = source_of(5000), source_of(5000, seed=2)
    file, _, size = write(path, other)
    async with station(path) as there:
        assert await there.receiver.take_file(file, source.handle, size) is FileVerdict.DAMAGED
        await there.ground.send(*source.frames())
        await there.until(lambda: source.handle in there.sink.consumed)


@flies
async def test_a_file_the_owner_refuses_is_gone(path):
    sink = RememberingSink(Verdict.REFUSED)
    async with station(path, sink=sink) as there:
        assert await there.receiver.take_file(*write(path, source_of())) is FileVerdict.REFUSED
        await there.until(lambda: not list((path / "state/inbox").iterdir()))


@flies
async def test_a_file_that_cannot_be_placed_harms_nothing_that_frames_brought(path):
    source = source_of(5000)
    async with station(path) as there:
        await there.ground.send(*source.frames()[:-1])
        await there.until(lambda: there.last_report.open_blocks)
        assert await there.receiver.take_file(path / "nowhere", source.handle, 5000) is FileVerdict.NOT_STORED
        assert await there.receiver.take_file(path / "nowhere", bytes(6), 5000) is FileVerdict.NOT_STORED
        await there.ground.send(source.frames()[-1])
        await there.until(lambda: source.handle in there.sink.consumed)


class StumblingDisk(FaultyDisk):
    """Fails the next sync of a directory in the inbox."""

    stumbles = False

    def sync_directory(self, path):
        if self.stumbles and path.parent.name == "inbox":
            self.stumbles = False
            raise StoreFailedError("sync: refused (a test says so)")
        super().sync_directory(path)


@flies
async def test_a_file_that_was_placed_in_vain_once_is_placed_the_next_time(path):
    source, disk = source_of(5000), StumblingDisk()
    async with station(path, disk=disk) as there:
        await there.ground.send(*source.frames()[:-1])
        await there.until(lambda: there.last_report.open_blocks)
        for verdict in (FileVerdict.NOT_STORED, FileVerdict.USED):
            disk.stumbles = verdict is FileVerdict.NOT_STORED
            assert await there.receiver.take_file(*write(path, source)) is verdict
        assert there.sink.consumed == {source.handle: source.data}


@flies
async def test_files_that_nobody_waits_for_push_nothing_out(path):
    options = ReceiverOptions(inbox_bytes_max=8 * MIB)
    async with station(path, sink=RememberingSink(Verdict.KEPT), options=options) as there:
        big = [Source(make_object(random.Random(seed), 2 * MIB), symbol_size=1280) for seed in range(3)]
        verdicts = [await there.receiver.take_file(*write(path, source)) for source in big]
        assert verdicts == [FileVerdict.KEPT, FileVerdict.NO_ROOM, FileVerdict.NO_ROOM]
        small = source_of(3000)
        assert await there.receiver.take_file(*write(path, small)) is FileVerdict.KEPT
        assert there.receiver.statistics().objects_dropped == 0


@flies
async def test_stopping_while_a_file_waits_for_its_verdict_ends_in_peace(path):
    class Slow(RememberingSink):
        async def object_ready(self, *args):
            await asyncio.sleep(60)

    async with station(path, sink=Slow()) as there:
        taking = asyncio.create_task(there.receiver.take_file(*write(path, source_of())))
        await there.until(lambda: there.receiver.statistics().files_taken)
    with pytest.raises(asyncio.CancelledError):
        await taking


def test_a_file_of_an_object_being_solved_waits():
    source = source_of(600)
    core = ReceiverCore(session=b"sessn!", options=CoreOptions(), is_complete=lambda _: False)
    frames = source.frames()
    for frame in frames:
        core.receive_symbol(frame, 0.0)
    shape = shape_of_file(source.handle, 600)
    assert core.begin_file(shape) is FileVerdict.BUSY
    block = core.next_event()
    core.block_short(block.shape, 0)
    begun = core.begin_file(shape)
    assert begun == block.shape, "it keeps the shape of its frames"
    core.receive_symbol(source.frames(first=source.num_symbols, count=1)[0], 0.0)
    assert core.next_event() is None, "nobody else works on it now"
    core.file_placed(begun)
    assert core.next_event() == ObjectSolved(shape=begun)
    assert not core.is_dirty
    assert core.receive_symbol(source.frames(first=source.num_symbols + 1, count=1)[0], 0.0) is None
    assert [entry.have for entry in Report.decode(core.report_frame(ReportStatus()).payload).open_blocks] == [SOLVED]


def test_a_failed_placing_asks_for_the_block_that_became_ready_meanwhile():
    source = source_of(600)
    core = ReceiverCore(session=b"sessn!", options=CoreOptions(), is_complete=lambda _: False)
    first, *rest = source.frames()
    core.receive_symbol(first, 0.0)
    begun = core.begin_file(shape_of_file(source.handle, 600))
    for frame in rest:
        core.receive_symbol(frame, 0.0)
    assert core.next_event() is None
    core.file_failed(begun)
    assert core.next_event().num_symbols == source.num_symbols
    assert core.statistics().open_objects == 1
    told = Report.decode(core.report_frame(ReportStatus()).payload)
    assert SOLVED not in {entry.have for entry in told.open_blocks}
