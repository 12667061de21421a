"""A satellite in virtual time: the real receiver core, inbox and codec, with everything that waits done by a clock.

Driven by `receive` (datagrams arrive), `advance` (time passes) and `kill` (the power goes). It syncs as the real
shell does, after an interval or in silence, and what a sync covered counts once the medium's delay is over; blocks are
solved one at a time, really, and take a time that grows with them. What goes down is collected with its time.

It promises that a kill loses all that was not durable at that moment, and nothing else. It draws no randomness.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onboard.receiver.core import BlockReady, CoreOptions, ObjectDropped, ObjectReady, ObjectSolved, ReceiverCore
from onboard.receiver.intake import Intake
from onboard.receiver.rebuild import JobResult, Outcome, check_object, solve_block
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.status import ReceiverStatistics
from onboard.simulation.disk import ForgetfulDisk
from onboard.simulation.owner import SimulatedOwner
from onboard.simulation.useful import UsefulSymbols
from onboard.store.inbox import OBJECT_NAME, Inbox, SyncBatch
from onboard.store.shape import ObjectShape
from protocol.frame import HANDLE_SIZE, FrameCodec
from protocol.limits import MIB
from protocol.link_keys import Direction

_IDLE_S = 0.05  # as in the receiver's shell
_CHECK_BYTES_PER_S = 400e6


@dataclass(frozen=True, slots=True, kw_only=True)
class SatelliteOptions:
    """How the simulated satellite is built.

    Attributes:
        sync_interval_s: how much a power cut may cost while frames arrive.
        sync_delay_s: how long the medium takes for it.
        solve_s: of a block of 8,000 symbols; smaller ones take less.
        install_s: from the last bundle to CONFIRMED.
        report_interval_s: between reports.
        report_bytes_per_s: budget of reports.
        is_silent: it never sends.
        inbox_bytes_max: for objects being received.
    """

    sync_interval_s: float = 1.0
    sync_delay_s: float = 0.05
    solve_s: float = 0.15
    install_s: float = 20.0
    report_interval_s: float = 0.1
    report_bytes_per_s: float = 20_000.0
    is_silent: bool = False
    inbox_bytes_max: int = 512 * MIB


class SimulatedSatellite:
    """See the module."""

    def __init__(self, directory: Path, link_key: bytes, options: SatelliteOptions) -> None:
        """Begin with an empty inbox below `directory`."""
        self._root, self._options = directory / "inbox", options
        self._root.mkdir(parents=True, exist_ok=True)
        self._link_key, self._down = link_key, FrameCodec(Direction.DOWN, link_key)
        self._disk = ForgetfulDisk()
        self.owner = SimulatedOwner(options.install_s)
        self.useful = UsefulSymbols()
        self.outgoing: deque[tuple[int, bytes]] = deque()  # station, datagram
        self._now = 0.0
        self.num_cut = 0  # symbols lost in power cuts
        self.num_received: dict[int, int] = {}  # authentic symbol frames, by station
        self._boot()

    def _boot(self) -> None:
        options = self._options
        report = ReportOptions(
            interval_s=options.report_interval_s,
            bytes_per_s=options.report_bytes_per_s,
            is_silent=options.is_silent,
        )
        self._core = ReceiverCore(
            session=self.owner.boot_count.to_bytes(HANDLE_SIZE, "big"),
            options=CoreOptions(inbox_bytes_max=options.inbox_bytes_max, report=report),
            is_complete=self.owner.is_complete,
            is_wanted=self.owner.is_wanted,
        )
        self._intake = Intake(FrameCodec(Direction.UP, self._link_key))
        self._inbox = Inbox(self._root, self._disk)
        self._jobs: deque[BlockReady | ObjectSolved] = deque()
        self._job_due = self._sync_due = self._batch_due = math.inf
        self._batch: tuple[SyncBatch, dict[int, int]] | None = None
        self._dirty_s = self._frame_s = -math.inf
        self._whole: dict[bytes, JobResult] = {}

    # Inputs

    def receive(self, datagrams: Iterable[bytes], now: float) -> None:
        """Datagrams arrive together."""
        self.advance(now)
        batch = self._intake.sort(((data, None) for data in datagrams), now)
        for station, contact in batch.contacts.items():
            self._down.set_contact(station, contact)
        for cause, num in batch.rejected.items():
            self._core.reject_frame(cause, num)
        for station, (echo, _, num) in batch.heard.items():
            self._frame_s = now
            self._core.station_heard(station, num, echo, now)
        for frame in batch.reports:
            self._core.read_report(frame)
        for run in batch.runs:
            self.num_received[run.station] = self.num_received.get(run.station, 0) + len(run.esis)
            accepted = self._core.receive_symbols(run)
            self._dispatch(now)
            if accepted is not None:
                self._inbox.append_all(accepted.shape, run.block, accepted.esis, accepted.symbols)
                self.useful.add(accepted.shape, run.block, len(accepted.esis), run.station)
                self._note_dirty(now)

    def advance(self, now: float) -> None:
        """Do all that is due by then, in order."""
        while (due := self.next_deadline()) <= now:
            self._now = max(self._now, due)  # a first report has always been due
            self._do_due(self._now)
        self._now = now

    def kill(self, now: float) -> None:
        """The power goes, and comes back: what was not durable is gone."""
        self.advance(now)
        self._inbox.close()
        self._disk.lose_power(self._root)
        self.outgoing.clear()
        self.owner.boot_count += 1
        self._boot()
        before = self.useful.num_held
        found = self._inbox.load()
        self.useful.restore(found, self.owner.is_complete)
        self.num_cut += before - self.useful.num_held
        for entry in found:
            self._intake.remember(entry.shape.kind, entry.shape.handle, entry.shape.num_symbols)
            self._core.restore(entry.shape, entry.symbols, entry.solved, is_whole=entry.is_whole)
        self._dispatch(now)

    # Queries

    def next_deadline(self) -> float:
        """When something is due; infinity if nothing is."""
        report, confirmed = self._core.next_deadline(), self.owner.next_deadline()
        return min(
            self._job_due,
            self._sync_due,
            self._batch_due,
            math.inf if report is None else report,
            math.inf if confirmed is None else confirmed,
        )

    def statistics(self) -> ReceiverStatistics:
        """Of the receiver, since its last start."""
        return self._core.statistics()

    # Private

    def _note_dirty(self, now: float) -> None:
        if self._batch is not None:
            return  # when that sync is through
        if math.isinf(self._sync_due):
            self._dirty_s = now
        self._sync_due = min(self._dirty_s + self._options.sync_interval_s, now + _IDLE_S)

    def _do_due(self, now: float) -> None:
        if self._job_due <= now:
            self._finish_job(now)
        elif self._batch_due <= now:
            self._finish_sync(now)
        elif self._sync_due <= now:
            self._begin_sync(now)
        elif self.owner.advance(now):
            self._core.report_soon()
        else:
            for frame in self._core.frames_to_send(self.owner.report_status(), now):
                self.outgoing.append((frame.station, self._down.encode(frame)))
        self._dispatch(now)

    def _begin_sync(self, now: float) -> None:
        self._sync_due = math.inf
        batch = self._inbox.begin_sync()
        self._core.begin_sync()
        self._disk.hold()
        batch.run()
        self._batch, self._batch_due = (batch, self._disk.release()), now + self._options.sync_delay_s

    def _finish_sync(self, now: float) -> None:
        assert self._batch is not None
        batch, held = self._batch
        self._batch, self._batch_due = None, math.inf
        self._disk.settle(held)
        self._inbox.finish_sync(batch)
        self._core.symbols_stored()
        if self._core.is_dirty:
            self._dirty_s = now
            self._sync_due = min(now + self._options.sync_interval_s, max(now, self._frame_s + _IDLE_S))

    def _dispatch(self, now: float) -> None:
        while (event := self._core.next_event()) is not None:
            match event:
                case BlockReady() | ObjectSolved():
                    self._jobs.append(event)
                case ObjectReady():
                    self._offer(event.shape, now)
                case ObjectDropped():
                    self._drop(event.shape)
        if self._jobs and math.isinf(self._job_due):
            self._job_due = now + self._duration_s(self._jobs[0])

    def _duration_s(self, job: BlockReady | ObjectSolved) -> float:
        if isinstance(job, ObjectSolved):
            return job.shape.layout.padded_size / _CHECK_BYTES_PER_S
        return self._options.solve_s * job.shape.layout.symbols_of(job.block) / 8000

    def _finish_job(self, now: float) -> None:
        job = self._jobs.popleft()
        self._job_due = math.inf
        shape = job.shape
        directory = self._inbox.directory(shape)
        if isinstance(job, ObjectSolved):
            self._finish_check(shape, check_object(self._disk, directory, shape))
        else:
            self._inbox.flush(shape, job.block)
            self._finish_solve(job, solve_block(self._disk, directory, shape, job.block))
        self._dispatch(now)

    def _finish_solve(self, job: BlockReady, result: JobResult) -> None:
        shape, block = job.shape, job.block
        if result.outcome is Outcome.SOLVED:
            self._core.block_rebuilt(shape, block)
            self._inbox.close_log(shape, block)
            self._inbox.mark_solved(shape, block)
            self._core.block_solved(shape, block)
            self.useful.solved(shape, block)
        elif result.outcome is Outcome.SHORT:
            self._core.block_short(shape, block)
        else:
            self._core.block_refused(shape, block)

    def _finish_check(self, shape: ObjectShape, result: JobResult) -> None:
        if result.outcome is not Outcome.WHOLE:
            self._core.object_poisoned(shape)
            return
        self._inbox.seal(shape)
        self._whole[shape.handle] = result
        self._core.object_checked(shape, result.size)

    def _offer(self, shape: ObjectShape, now: float) -> None:
        whole = self._whole[shape.handle]
        assert whole.kind is not None
        path = self._inbox.directory(shape) / OBJECT_NAME
        known = len(self.owner.arrivals)
        verdict = self.owner.judge(shape.handle, whole.kind, path, whole.sha256, now)
        self._core.object_judged(shape, verdict, whole.kind)
        if len(self.owner.arrivals) > known:
            self._core.offer_again()

    def _drop(self, shape: ObjectShape) -> None:
        self._whole.pop(shape.handle, None)
        if not self.owner.is_complete(shape.handle):
            self.useful.forget(shape)
        aside = self._inbox.drop(shape)
        if aside is not None:
            self._inbox.remove(aside)
