"""The receiver without a socket, a thread or a second process: the real core, inbox and solver, one step at a time.

Also what it is fed with: the frames of an object, and a sink that remembers.
"""

from pathlib import Path

from onboard.receiver.core import ReceiverCore
from onboard.receiver.events import FileVerdict, ReportStatus, Verdict
from onboard.receiver.intake import Intake
from onboard.receiver.orders import BlockReady, CoreOptions, ObjectDropped, ObjectReady, ObjectSolved
from onboard.receiver.rebuild import Outcome, check_object, solve_block
from onboard.receiver.reporting import ReportOptions
from onboard.store.inbox import OBJECT_NAME, Inbox
from onboard.store.shape import shape_of_file
from protocol.blocks import block_layout, symbols_needed
from protocol.fec import BlockEncoder
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.objects import ObjectKind, object_handle, object_prefix
from protocol.report import SOLVED, Report
from tests.fakes.sim_disk import SimDisk

KEY = bytes(range(32))
UP = FrameCodec(Direction.UP, KEY)
SESSION = b"sessn!"
INBOX = Path("inbox")


def make_object(rng, size, kind=ObjectKind.BUNDLE):
    """An object of random content."""
    return object_prefix(kind, size) + rng.randbytes(size - 8)


def disk_with_inbox(kind=SimDisk, **options):
    """A simulated disk with an empty, durable inbox."""
    disk = kind(**options)
    disk.put(INBOX / "dropped-0", b"")
    return disk


class Source:
    """Makes the frames of one object."""

    def __init__(self, data, symbol_size=64, kind=FrameKind.RAPTORQ, handle=None):
        self.data, self.symbol_size, self.kind = data, symbol_size, kind
        self.handle = object_handle(data) if handle is None else handle
        self.num_symbols = symbols_needed(len(data), symbol_size)
        self.layout = block_layout(self.num_symbols, symbol_size)
        self._padded = data.ljust(self.layout.padded_size, b"\0")

    def frames(self, block=0, first=0, count=None, station=0):
        """Frames of a block from an ESI on; of all source symbols if no count is given."""
        offset, size = self.layout.offset_of(block), self.layout.size_of(block)
        encoder = BlockEncoder(self.kind, self._padded[offset : offset + size], self.symbol_size)
        count = self.layout.symbols_of(block) if count is None else count
        return [
            Frame(
                kind=self.kind,
                handle=self.handle,
                num_symbols=self.num_symbols,
                block=block,
                esi=first + index,
                payload=symbol,
                station=station,
            )
            for index, symbol in enumerate(encoder.symbols(first, count))
        ]

    def all_frames(self):
        """The source symbols of every block."""
        return [frame for block in range(self.layout.num_blocks) for frame in self.frames(block)]


class RememberingSink:
    """Takes objects, reads them, and answers as told; what it consumed survives a power cut."""

    def __init__(self, verdict=Verdict.CONSUMED):
        self.verdict = verdict
        self.consumed = {}
        self.offered = []

    def is_complete(self, handle):
        return handle in self.consumed

    def judge(self, handle, kind, data):
        self.offered.append((handle, kind, data))
        if self.verdict is Verdict.CONSUMED:
            self.consumed[handle] = data
        return self.verdict

    async def object_ready(self, handle, kind, path, size, sha256):
        data = path.read_bytes()
        assert len(data) == size
        return self.judge(handle, kind, data)

    def report_status(self):
        return ReportStatus()


class Claims:
    """What reports have said, and what had to be true for it."""

    def __init__(self):
        self.counts = {}
        self.complete = set()

    def note(self, report):
        self.complete |= set(report.complete)
        for entry in report.open_blocks:
            key = entry.handle, entry.block
            assert entry.have >= self.counts.get(key, 0), "a report said less than one before"
            self.counts[key] = entry.have

    def check(self, restored, sink):
        """Whether what a new life found on the disk honours them."""
        found = {entry.shape.handle: entry for entry in restored}
        assert all(handle in sink.consumed or found[handle].is_whole for handle in self.complete)
        for (handle, block), have in self.counts.items():
            if handle in sink.consumed or found[handle].is_whole or block in found[handle].solved:
                continue
            assert have != SOLVED
            assert len(found[handle].symbols[block]) >= have


class DryReceiver:
    """See the module.

    Args:
        disk: where its inbox lies.
        sink: a RememberingSink.
        options: of the core.
        root: of the inbox.
    """

    def __init__(self, disk, sink, options=None, *, root=INBOX):
        self.disk, self.sink = disk, sink
        report = ReportOptions(interval_s=0.1, bytes_per_s=1e9)
        self.core = ReceiverCore(
            session=SESSION, options=options or CoreOptions(report=report), is_complete=sink.is_complete
        )
        self.intake = Intake(UP)
        self.inbox = Inbox(root, disk)
        self.restored = self.inbox.load()
        for found in self.restored:
            self.core.restore(found.shape, found.symbols, found.solved, is_whole=found.is_whole)
        self.now = 0.0
        self._jobs, self._offers, self._batch, self._whole = [], [], None, {}
        self.during_solve = lambda: None  # called when the solver has read the log
        self.before_mark = lambda: None  # called when a block is in the data file but not yet marked
        self._dispatch()

    def receive(self, frame):
        """Take a frame; whether its symbol was new."""
        self.now += 0.001
        shape = self.core.receive_symbol(frame, self.now)
        self._dispatch()
        if shape is not None:
            self.inbox.append(shape, frame.block, frame.esi, frame.payload)
        return shape is not None

    def take_file(self, path, handle, size):
        """Take a file that holds a whole object; its verdict if there is one at once."""
        begun = self.core.begin_file(shape_of_file(handle, size))
        self._dispatch()
        if isinstance(begun, FileVerdict):
            return begun
        self.inbox.place(begun, path)
        for block in range(begun.layout.num_blocks):
            self.inbox.close_log(begun, block)
        self.core.file_placed(begun)
        self._dispatch()
        return None

    def receive_all(self, frames, *, is_short=False):
        """Take frames as one batch of datagrams; the symbols that were new."""
        self.now += 0.001
        batch = self.intake.sort((UP.encode(frame, is_short=is_short), "address") for frame in frames)
        assert not batch.rejected
        for station, (echo, _, num) in batch.heard.items():
            self.core.station_heard(station, num, echo, self.now)
        taken = set()
        for run in batch.runs:
            accepted = self.core.receive_symbols(run)
            self._dispatch()
            if accepted is not None:
                self.inbox.append_all(accepted.shape, run.block, accepted.esis, accepted.symbols)
                taken |= {(run.handle, run.block, esi) for esi in accepted.esis}
        return taken

    def begin_sync(self):
        if self._batch is None:
            self._batch = self.inbox.begin_sync()
            self.core.begin_sync()

    def finish_sync(self):
        if self._batch is not None:
            self._batch.run()
            self.inbox.finish_sync(self._batch)
            self.core.symbols_stored()
            self._batch = None

    def sync(self):
        self.finish_sync()
        self.begin_sync()
        self.finish_sync()

    def work(self, num_jobs=1000):
        """Do what is waiting for the solver and the sink."""
        for _ in range(num_jobs):
            if self._jobs:
                self._do(self._jobs.pop(0))
            elif self._offers:
                self._offer(self._offers.pop(0))
            else:
                return
            self._dispatch()

    def report(self):
        """The next report, as soon as one is due; None if none ever is. For one station."""
        reports = self.reports()
        assert len(reports) <= 1
        return next(iter(reports.values()), None)

    def reports(self):
        """The reports that are due next, by station."""
        due = self.core.next_deadline()
        if due is None:
            return {}
        self.now, reports = max(self.now, due), {}
        while frames := self.core.frames_to_send(ReportStatus(), self.now):
            reports |= {frame.station: Report.decode(frame.payload) for frame in frames}
            self.now += 1e-4  # the budget pays for one after the other
        return reports

    def _do(self, event):
        shape = event.shape
        directory = self.inbox.directory(shape)
        if isinstance(event, ObjectSolved):
            result = check_object(self.disk, directory, shape)
            if result.outcome is Outcome.WHOLE:
                self.inbox.seal(shape)
                self._whole[shape.handle] = result
                self.core.object_checked(shape, result.size)
            else:
                assert result.outcome is Outcome.POISONED
                self.core.object_poisoned(shape)
            return
        self.inbox.flush(shape, event.block)
        self.during_solve()
        result = solve_block(self.disk, directory, shape, event.block)
        if result.outcome is Outcome.SOLVED:
            self.core.block_rebuilt(shape, event.block)
            self.inbox.close_log(shape, event.block)
            self.before_mark()
            self.inbox.mark_solved(shape, event.block)
            self.core.block_solved(shape, event.block)
        else:
            assert result.outcome is Outcome.SHORT
            assert result.num_symbols >= event.num_symbols
            self.core.block_short(shape, event.block)

    def _offer(self, shape):
        whole = self._whole[shape.handle]
        handle = self.disk.open(self.inbox.directory(shape) / OBJECT_NAME)
        data = self.disk.read(handle, self.disk.size(handle), 0)
        self.disk.close(handle)
        assert len(data) == whole.size
        self.core.object_judged(shape, self.sink.judge(shape.handle, whole.kind, data), whole.kind)

    def _dispatch(self):
        while (event := self.core.next_event()) is not None:
            match event:
                case BlockReady() | ObjectSolved():
                    self._jobs.append(event)
                case ObjectReady():
                    self._offers.append(event.shape)
                case ObjectDropped():
                    aside = self.inbox.drop(event.shape)
                    if aside is not None:
                        self.inbox.remove(aside)
