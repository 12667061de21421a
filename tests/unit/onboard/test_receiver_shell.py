"""The receiver on real sockets and real files: what the link and the disk may do to it."""

import asyncio
import contextlib
import dataclasses
import random
import socket
from pathlib import Path

import pytest

from onboard.errors import BusyError, ConfigError, StoreFailedError, StoreFullError
from onboard.receiver import link_socket
from onboard.receiver.events import Verdict
from onboard.receiver.shell import Receiver, ReceiverOptions
from onboard.receiver.solver import InlineSolver, ProcessSolver
from onboard.store.layout import StateLayout, make_state_directories
from protocol.exchange import Inbox as MessageInbox
from protocol.exchange import Outbox
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.objects import ObjectKind
from protocol.report import Reason, Report
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.receiving import KEY, RememberingSink, Source, make_object

UP, DOWN = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
QUICK = ReceiverOptions(report_interval_s=0.01, report_bytes_per_s=1e6, sync_interval_s=0.02, trouble_retry_s=0.02)
PATIENCE_S = 45.0  # of a thing that happens, on a machine that is busy


class Ground:
    """One end of the link: sends frames, keeps the reports and the messages that come."""

    def __init__(self, address, up=UP, down=DOWN):
        self._up, self._down = up, down
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._address = address
        self._messages = MessageInbox()
        self.reports, self.messages = [], []

    async def send(self, *frames):
        for number, frame in enumerate(frames):
            self.send_bytes(self._up.encode(frame))
            if number % 100 == 99:
                await asyncio.sleep(0)

    def send_bytes(self, data):
        self._socket.sendto(data, self._address)

    def listen(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self._down.decode(self._socket.recv(4096))
                if frame.kind is FrameKind.REPORT:
                    self.reports.append(Report.decode(frame.payload))
                elif (message := self._messages.receive(frame)) is not None:
                    self.messages.append(message)

    def close(self):
        self._socket.close()


class Station:
    """A receiver, its ground, and everything a test may turn."""

    def __init__(self, receiver, sink, outbox, disk, troubles, ground):
        self.receiver, self.sink, self.outbox, self.disk = receiver, sink, outbox, disk
        self.troubles, self.ground = troubles, ground

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.002)
                self.ground.listen()

    @property
    def last_report(self):
        return self.ground.reports[-1] if self.ground.reports else Report()


@contextlib.asynccontextmanager
async def station(path, *, sink=None, options=QUICK, solver=None, disk=None, codecs=(UP, DOWN), **more):
    layout = StateLayout(path / "state")
    disk = disk or FaultyDisk()
    make_state_directories(layout, disk)
    sink, outbox, troubles, stop = sink or RememberingSink(), Outbox(retry_s=0.05), [], asyncio.Event()
    receiver = Receiver(
        ("127.0.0.1", 0),
        layout,
        *codecs,
        sink,
        sink,
        outbox,
        b"sessn!",
        options,
        on_store_trouble=troubles.append,
        solver=solver or InlineSolver(disk),
        disk=disk,
        **more,
    )
    running = asyncio.create_task(receiver.run(stop))
    await receiver.started.wait()
    ground = Ground(receiver.address, *codecs)
    try:
        yield Station(receiver, sink, outbox, disk, troubles, ground)
    finally:
        stop.set()
        ground.close()
        await running


def source_of(size=2000, seed=1, **how):
    return Source(make_object(random.Random(seed), size, how.pop("object_kind", ObjectKind.BUNDLE)), **how)


def flies(test):
    """Run an async test, without a plugin."""

    def run(tmp_path):
        asyncio.run(test(tmp_path))

    run.__name__ = test.__name__
    return run


@flies
async def test_an_object_arrives_and_is_reported_complete(tmp_path):
    async with station(tmp_path) as flying:
        source = source_of()
        await flying.ground.send(*source.frames(first=5, count=source.num_symbols + 2))
        await flying.until(lambda: source.handle in flying.last_report.complete)

        assert flying.sink.consumed == {source.handle: source.data}
        await flying.until(lambda: list((tmp_path / "state/inbox").iterdir()) == [])
        assert flying.receiver.statistics().frames_sent >= 1


@flies
async def test_hostile_bytes_are_counted_by_cause_and_open_nothing(tmp_path):
    async with station(tmp_path) as flying:
        good = UP.encode(source_of().frames()[0])
        lopsided = Frame(kind=FrameKind.RAPTORQ, handle=bytes(6), num_symbols=1, payload=bytes(63))
        for data in (
            b"",
            b"x",
            bytes(9000),
            bytes([0x2F]) + good[1:],
            good[:-1] + bytes([good[-1] ^ 1]),
            DOWN.encode(source_of().frames()[0]),
            UP.encode(lopsided),
        ):
            flying.ground.send_bytes(data)
        await flying.until(lambda: sum(flying.receiver.statistics().frames_rejected.values()) == 7)
        statistics = flying.receiver.statistics()

        assert statistics.frames_rejected == {"truncated": 3, "version": 1, "checksum": 2, "malformed": 1}
        assert (statistics.frames_received, statistics.open_objects) == (0, 0)
        assert flying.ground.reports == []


@flies
async def test_what_was_reported_is_there_after_a_restart_and_the_rest_is_enough(tmp_path):
    source = source_of(5000)
    frames = source.frames()
    async with station(tmp_path) as flying:
        await flying.ground.send(*frames[:50])
        await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [50])
    async with station(tmp_path) as flying:
        await flying.ground.send(frames[50])
        await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [51])
        await flying.ground.send(*frames[51:])
        await flying.until(lambda: flying.sink.consumed)

        assert flying.sink.consumed == {source.handle: source.data}


@flies
async def test_a_full_disk_stops_storing_not_receiving_and_it_goes_on_when_there_is_room(tmp_path):
    source = source_of(900_000, symbol_size=1280)
    async with station(tmp_path) as flying:
        flying.disk.room_bytes = 20_000
        frames = source.frames()
        await flying.ground.send(*frames[:100])
        await flying.until(lambda: flying.troubles)
        await flying.ground.send(*frames[100:])
        await flying.until(lambda: flying.receiver.statistics().symbols_refused.get("store", 0) > 0)
        assert flying.receiver.statistics().store_trouble is Reason.DISK_FULL
        counted = max((entry.have for report in flying.ground.reports for entry in report.open_blocks), default=0)
        assert counted <= 100

        flying.disk.room_bytes = None
        await flying.until(lambda: flying.troubles == [Reason.DISK_FULL, Reason.NONE])
        await flying.ground.send(*frames)
        await flying.until(lambda: flying.sink.consumed)

        assert flying.sink.consumed == {source.handle: source.data}


@flies
async def test_a_nearly_full_disk_takes_commands_but_no_bundles(tmp_path):
    bundle, command = source_of(900_000, symbol_size=1280), source_of(300, object_kind=ObjectKind.COMMAND)
    async with station(tmp_path) as flying:
        flying.disk.room_bytes = 1_000_000
        await flying.ground.send(*bundle.frames()[:50])
        await flying.until(lambda: flying.troubles)
        await flying.ground.send(*bundle.frames()[50:60], *command.frames())
        await flying.until(lambda: flying.sink.consumed)

        assert flying.sink.consumed == {command.handle: command.data}
        assert flying.receiver.statistics().symbols_refused == {"store": 10}


@flies
async def test_a_burst_costs_one_sync(tmp_path):
    async with station(tmp_path, options=dataclasses.replace(QUICK, sync_interval_s=5.0)) as flying:
        await flying.ground.send(*source_of(5000).frames()[:50])
        await flying.until(lambda: flying.receiver.statistics().syncs)
        await asyncio.sleep(0.1)

        assert flying.receiver.statistics().syncs == 1


async def take_back_after(error, tmp_path):
    source = source_of(5000)
    async with station(tmp_path) as flying:
        frames = source.frames()
        await flying.ground.send(*frames[:10])
        await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [10])
        flying.disk.sync_fails, flying.disk.sync_error = True, error
        await flying.ground.send(*frames[10:20])
        await flying.until(lambda: flying.troubles == [Reason.DISK_FAILED])
        flying.disk.sync_fails = False
        await flying.until(lambda: flying.troubles == [Reason.DISK_FAILED, Reason.NONE])
        flying.ground.reports.clear()
        await flying.ground.send(frames[0])
        await flying.until(lambda: flying.ground.reports)
        assert [entry.have for entry in flying.last_report.open_blocks] == [10]

        await flying.ground.send(*frames)
        await flying.until(lambda: flying.sink.consumed)


@flies
async def test_a_failed_sync_takes_back_what_was_not_durable_and_nothing_else(tmp_path):
    await take_back_after(StoreFailedError, tmp_path)


@flies
async def test_a_sync_that_found_no_room_is_not_tried_again_as_if_nothing_were_lost(tmp_path):
    await take_back_after(StoreFullError, tmp_path)


@flies
async def test_an_object_dropped_and_taken_up_again_starts_anew(tmp_path):
    first, second = source_of(seed=1), source_of(seed=2)
    options = dataclasses.replace(QUICK, open_objects_max=1)
    async with station(tmp_path, options=options) as flying:
        accepted = 0
        for frames in (first.frames()[:1], second.frames()[:1], first.frames()[1:]):
            await flying.ground.send(*frames)
            accepted += len(frames)
            await flying.until(lambda: flying.receiver.statistics().symbols_accepted == accepted)  # noqa: B023
        await flying.ground.send(first.frames()[0])
        await flying.until(lambda: flying.sink.consumed)

        statistics = flying.receiver.statistics()
        assert (statistics.objects_dropped, statistics.solves_failed) == (2, 0)


@flies
async def test_a_log_damaged_at_rest_costs_the_damaged_group_only(tmp_path):
    source = source_of(5000)
    *frames, last = source.frames()
    async with station(tmp_path) as flying:
        for have in (10, len(frames)):
            await flying.ground.send(*frames[:10] if have == 10 else frames[10:])
            await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [have])  # noqa: B023
        (log,) = (tmp_path / "state/inbox").glob("*/000.log")
        data = bytearray(log.read_bytes())
        data[5] ^= 1
        log.write_bytes(data)
        flying.ground.reports.clear()
        await flying.ground.send(last)
        await flying.until(lambda: flying.receiver.statistics().solves_failed == 1)
        await flying.ground.send(*frames[:10])
        await flying.until(lambda: flying.sink.consumed)

        assert flying.sink.consumed == {source.handle: source.data}
        assert flying.receiver.statistics().symbols_duplicate == 0


class BadSectorDisk(FaultyDisk):
    """A file with a certain name cannot be read from an offset on, until it is cut or deleted."""

    def __init__(self):
        super().__init__()
        self.bad = None  # (name, offset)
        self.num_refused = 0

    def read(self, handle, size, offset):
        name = self._name_of(handle)
        if self.bad is not None and name == self.bad[0] and offset + size > self.bad[1]:
            if offset >= self.bad[1]:
                self.num_refused += 1
                raise StoreFailedError("read: Input/output error")
            size = self.bad[1] - offset
        return super().read(handle, size, offset)

    def truncate(self, handle, size):
        self._heal(self._name_of(handle))
        super().truncate(handle, size)

    def unlink(self, path):
        self._heal(path.name)
        super().unlink(path)

    def _heal(self, name):
        if self.bad is not None and name == self.bad[0]:
            self.bad = None

    def _name_of(self, handle):
        return Path(f"/proc/self/fd/{handle}").readlink().name


@flies
async def test_a_bad_sector_in_a_log_costs_what_lies_behind_it_and_is_no_trouble_of_the_disk(tmp_path):
    source, disk = source_of(5000), BadSectorDisk()
    *frames, last = source.frames()
    async with station(tmp_path, disk=disk) as flying:
        for have in (10, len(frames)):
            await flying.ground.send(*frames[:10] if have == 10 else frames[10:])
            await flying.until(lambda: [entry.have for entry in flying.last_report.open_blocks] == [have])  # noqa: B023
            size = next((tmp_path / "state/inbox").glob("*/000.log")).stat().st_size
            disk.bad = disk.bad or ("000.log", size)
        await flying.ground.send(last)
        await flying.until(lambda: flying.receiver.statistics().solves_failed == 1)
        await flying.ground.send(*frames, last)
        await flying.until(lambda: flying.sink.consumed)
    assert flying.sink.consumed == {source.handle: source.data}
    assert flying.troubles == []


@flies
async def test_an_object_with_a_bad_sector_is_thrown_away_and_comes_again(tmp_path):
    source, disk = source_of(5000), BadSectorDisk()
    disk.bad = "data", 1000
    async with station(tmp_path, disk=disk) as flying:
        await flying.ground.send(*source.frames())
        await flying.until(lambda: disk.num_refused and disk.bad is None)
        await flying.ground.send(*source.frames())
        await flying.until(lambda: flying.sink.consumed)
    assert flying.sink.consumed == {source.handle: source.data}
    assert flying.troubles == []


@flies
async def test_a_kept_object_is_offered_again_when_told(tmp_path):
    async with station(tmp_path, sink=RememberingSink(Verdict.KEPT)) as flying:
        source = source_of()
        await flying.ground.send(*source.frames())
        await flying.until(lambda: source.handle in flying.last_report.complete)

        flying.sink.verdict = Verdict.CONSUMED
        flying.receiver.offer_again()
        await flying.until(lambda: flying.sink.consumed)

        assert len(flying.sink.offered) == 2


@flies
async def test_a_sink_that_raises_keeps_the_object(tmp_path):
    class Raising(RememberingSink):
        async def object_ready(self, *args):
            self.offered.append(args)
            raise RuntimeError("a bug of the owner")

    async with station(tmp_path, sink=Raising()) as flying:
        source = source_of()
        await flying.ground.send(*source.frames())
        await flying.until(lambda: source.handle in flying.last_report.complete)

        assert len(flying.sink.offered) == 1


@flies
async def test_messages_go_down_until_the_ground_reports_them(tmp_path):
    async with station(tmp_path) as flying:
        message = make_object(random.Random(3), 3000, ObjectKind.MESSAGE)
        handle = flying.outbox.put(message, asyncio.get_running_loop().time())
        flying.receiver.report_soon()
        await flying.ground.send(source_of().frames()[0])  # before it was heard, nobody knows where the ground is
        await flying.until(lambda: flying.ground.messages)

        payload = Report(complete=(handle,)).encode()
        await flying.ground.send(Frame(kind=FrameKind.REPORT, handle=bytes(6), payload=payload))
        await flying.until(lambda: handle not in flying.outbox)

        assert flying.ground.messages == [message]


@flies
async def test_a_silent_receiver_sends_nothing(tmp_path):
    async with station(tmp_path, options=ReceiverOptions(is_silent=True)) as flying:
        source = source_of()
        flying.outbox.put(b"x" * 100, 0.0)
        await flying.ground.send(*source.frames())
        await flying.until(lambda: flying.sink.consumed)
        flying.ground.listen()

        assert flying.ground.reports == []
        assert flying.receiver.statistics().frames_sent == 0


@flies
async def test_an_address_in_use_or_not_ours_is_an_error_with_a_hint(tmp_path):
    async with station(tmp_path) as flying:
        host, port = flying.receiver.address
        with pytest.raises(BusyError) as caught:
            link_socket.bind((host, port))
        assert caught.value.hint
    with pytest.raises(ConfigError) as caught:
        link_socket.bind(("192.0.2.1", 7003))
    assert caught.value.key == "link.listen"


@flies
async def test_the_solvers_process_solves_and_a_killed_one_costs_a_try_not_the_object(tmp_path):
    solver = ProcessSolver()
    async with station(tmp_path, solver=solver) as flying:
        source, other = source_of(seed=1), source_of(seed=2)
        await flying.ground.send(*source.frames(first=3))
        await flying.until(lambda: source.handle in flying.sink.consumed)
        solver._process.kill()
        await solver._process.wait()
        await flying.ground.send(*other.frames(first=3))
        await flying.until(lambda: other.handle in flying.sink.consumed)

        assert flying.sink.consumed == {source.handle: source.data, other.handle: other.data}


@flies
async def test_messages_get_down_while_reports_could_use_up_the_whole_budget(tmp_path):
    thin = dataclasses.replace(QUICK, report_interval_s=0.001, report_bytes_per_s=1_000)
    async with station(tmp_path, options=thin) as flying:
        source = source_of(4_000_000)
        message = make_object(random.Random(3), 500, ObjectKind.MESSAGE)
        for number, frame in enumerate(source.frames()[:2500]):
            if number == 150:
                flying.outbox.put(message, asyncio.get_running_loop().time())
            flying.ground.send_bytes(UP.encode(frame))
            await asyncio.sleep(0.001)
            flying.ground.listen()
            if flying.ground.messages:
                break

        assert flying.ground.messages == [message]
