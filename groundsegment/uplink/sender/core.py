"""The uplink's sender on one link: which symbols of which updates go up next. Pure: no I/O, clocks, randomness.

Driven by

- an update to be sent, or no longer     add_update, remove_update
- a contact that begins or ends          begin_contact, end_contact
- a report from the satellite            receive_report (once, for all updates)
- other frames that went up              other_frames_sent
- room on the link                       frames_to_send
- time                                   next_deadline

and asked for next_event, progress, statistics and, for each update, status. So a run of the uplink is:

    link = Uplink(UplinkOptions(...))
    link.add_update(objects, progress, priority=0, weight=1.0, lane=Lane(index=station, count=lanes))
    link.begin_contact(now, end_s)
    while ...:
        link.receive_report(report, session=..., sequence=..., now=now)
        runs = link.frames_to_send(now, budget)
        if link.has_unsaved_progress:
            write down link.progress()          # before any of these symbols leaves
        send them
        for each link.next_event(): keep and show it; it says which update it is about
    link.end_contact()
    write down link.progress(exact=True), link.loss, link.loss_down

Updates may come and go at any time, within a contact too. A command is an update of one object, with a priority above
all others. What is carried is a `cargo`, what reports say of it is `learning`, which of its blocks has its turn is the
`update_queue`'s to say, which update has it the `schedule`'s; what reports say of the link is `feedback`.

It promises never to use an ESI of its lane twice if what `progress` said is written down before the frames it covers
are sent. It does not know bytes: `symbols` makes those.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from groundsegment.uplink.sender.cargo import Cargo, OutgoingObject, Progress
from groundsegment.uplink.sender.events import Event, ReceiverRestarted, ReportHeard
from groundsegment.uplink.sender.feedback import LOSS_DOWN, Feedback
from groundsegment.uplink.sender.flight_log import FlightLog
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.learning import DECIDED, Learning
from groundsegment.uplink.sender.loss import LossEstimate
from groundsegment.uplink.sender.schedule import Schedule, SymbolRun
from groundsegment.uplink.sender.update_queue import WINDOW_BYTES, UpdateQueue
from protocol.frame import FrameKind
from protocol.report import Reason, Report, UpdateState

COMMAND_PRIORITY = 1 << 30  # above what any operator gives an update


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkOptions:
    """How to send.

    Attributes:
        kind: how symbols are made.
        silence_s: without a report for so long, the return path counts as silent; longer where reports take longer.
        loss: what is believed of the way up before anything is known in this run; `as_prior` of what was kept.
        loss_down: the same of the way down.
        window_bytes: of objects, that a receiver keeps open at once: in silence no more are sent together.
    """

    kind: FrameKind = FrameKind.RAPTORQ
    silence_s: float = 2.0
    loss: LossEstimate = field(default_factory=LossEstimate)
    loss_down: LossEstimate = LOSS_DOWN
    window_bytes: int = WINDOW_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkStatistics:
    """A snapshot.

    Attributes:
        symbols_sent: by this core, of all updates.
        symbols_settled: of them, those that reports cover or that are too old.
        blocks: in all; blocks_solved: of them.
        bundles: in all; bundles_complete: of them.
        symbols_needed: source symbols in all; symbols_there: of them, on board or no longer needed.
        loss: estimate of the way up.
        loss_down: estimate of the way down.
        feedback_s: from sending a symbol to hearing of it; None if unknown.
        is_silent: whether the return path is.
        state, reason: of the update on board.
    """

    symbols_sent: int
    symbols_settled: int
    blocks: int
    blocks_solved: int
    bundles: int
    bundles_complete: int
    symbols_needed: int
    symbols_there: int
    loss: LossEstimate
    loss_down: LossEstimate = LOSS_DOWN
    feedback_s: float | None
    is_silent: bool
    state: UpdateState
    reason: Reason


class Uplink:
    """Sends updates to one satellite over one link."""

    def __init__(self, options: UplinkOptions | None = None) -> None:
        self._options = options or UplinkOptions()
        self._log = FlightLog()
        self._feedback = Feedback(self._options.silence_s, self._options.loss, self._options.loss_down)
        self._events: deque[Event] = deque()
        self._schedule = Schedule(self._log, self._feedback, self._events)
        self._queues: dict[bytes, UpdateQueue] = {}
        self._is_up = False

    # Inputs

    def add_update(
        self,
        objects: Sequence[OutgoingObject],
        progress: Iterable[Progress] = (),
        *,
        priority: int = 0,
        weight: float = 1.0,
        lane: Lane | None = None,
        now: float = 0.0,
    ) -> bytes:
        """Take up an update; returns its name, the handle of its first object.

        Args:
            objects: the metadata object first, then the bundles in order; or a command alone.
            progress: what an earlier process kept of these objects.
            priority: higher ones go first.
            weight: of its share among those of the same priority, > 0.
            lane: whose symbols are ours; all, without one.
            now: seconds; only within a contact.
        """
        kind, loss = self._options.kind, self._feedback.loss
        cargo = Cargo(objects, progress, kind=kind, loss=loss, lane=lane or Lane())
        assert cargo.handle not in self._queues
        for block in cargo.blocks.values():
            block.rejoin(self._log.in_flight(block.key), loss)
        queue = UpdateQueue(
            cargo,
            Learning(cargo, self._log, self._feedback, self._events),
            self._log,
            self._feedback,
            priority=priority,
            weight=weight,
            window_bytes=self._options.window_bytes,
        )
        self._queues[cargo.handle] = queue
        self._schedule.add(queue, now if self._is_up else None)
        return cargo.handle

    def remove_update(self, update: bytes) -> None:
        """Send no more of an update. What was sent of it is still in flight; ask for its `progress` before."""
        self._schedule.remove(self._queues.pop(update))

    def begin_contact(self, now: float, end_s: float = math.inf) -> None:
        """The link is there, until a time where that is known."""
        self._is_up = True
        self._feedback.begin_contact(now)
        for queue in self._queues.values():
            queue.forget_sync()
        self._schedule.begin_contact(now, end_s)

    def end_contact(self) -> None:
        """The link is gone; nothing is sent until the next contact."""
        if self._is_up:
            self._feedback.end_contact()
        self._is_up = False

    def receive_report(self, report: Report, *, session: bytes, sequence: int | None = None, now: float) -> None:
        """Believe a fresh report; replays and stale ones must have been sorted out before.

        Args:
            report: what it says; its echo and counts are those of our station.
            session: of the receiver that made it.
            sequence: its number in the session; without it nothing is learned of the way down.
            now: seconds.
        """
        echo = self._log.number_of((report.echo_handle, report.echo_block), report.echo_esi)
        if self._feedback.heard(
            self._log, report.frames_received, session=session, sequence=sequence, echo=echo, now=now
        ):
            self._events.append(ReceiverRestarted(session=session))
            for queue in self._queues.values():
                queue.forget_sync()
        self._events.append(ReportHeard(report=report, session=session))
        listed = {(entry.handle, entry.block): entry.have for entry in report.open_blocks}
        for queue in self._queues.values():
            queue.receive_report(report, listed, now)
        self._schedule.report_heard()

    def frames_to_send(self, now: float, budget: int) -> list[SymbolRun]:
        """Return what to send now, at most `budget` symbols; they count as sent.

        If `has_unsaved_progress` is true afterwards, write `progress` down before sending them.
        """
        runs: list[SymbolRun] = []
        while self._is_up and budget > 0:
            run = self._schedule.next_run(now, budget)
            if run is None:
                break
            runs.append(run)
            budget -= run.count
        return runs

    def next_deadline(self, now: float) -> float | None:
        """When to ask for frames again although no report came; None if only a report can help."""
        if not self._is_up or self.is_decided:
            return None
        return self._schedule.next_deadline(now)

    def other_frames_sent(self, count: int, now: float) -> None:
        """Frames without symbols of ours went up; the satellite counts them too."""
        self._feedback.sent(count, now)

    # Outputs

    def next_event(self) -> Event | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    @property
    def has_unsaved_progress(self) -> bool:
        """Whether more ESIs are reserved than `progress` has said."""
        return self._schedule.has_unsaved_progress

    def progress(self, update: bytes | None = None, *, exact: bool = False) -> list[Progress]:
        """What to keep for the next process.

        Args:
            update: of this one alone; of all, without one, and only then it counts as written down.
            exact: nothing is sent any more: not even reserved ESIs are skipped.
        """
        if update is not None:
            return self._queues[update].cargo.progress(exact=exact)
        self._schedule.has_unsaved_progress = False
        return [entry for queue in self._queues.values() for entry in queue.cargo.progress(exact=exact)]

    # Queries: the link

    @property
    def updates(self) -> tuple[bytes, ...]:
        """All updates that were added and not removed."""
        return tuple(self._queues)

    @property
    def is_decided(self) -> bool:
        """Whether the satellite has decided upon all updates, so that nothing is left to do."""
        return all(queue.learning.state in DECIDED for queue in self._queues.values())

    @property
    def loss(self) -> LossEstimate:
        """What was learned of the way up; keep it."""
        return self._feedback.loss

    @property
    def loss_down(self) -> LossEstimate:
        """What was learned of the way down; keep it."""
        return self._feedback.loss_down

    def frame_totals(self) -> tuple[int, int]:
        """Frames sent, and of them received, as far as reports tell."""
        return self._feedback.totals()

    @property
    def num_frames_miscounted(self) -> float:
        """So many of the frames sent in `frame_totals` may be too many or too few, as a standard deviation."""
        return self._feedback.num_miscounted

    # Queries: updates

    def state(self, update: bytes) -> UpdateState:
        """Where an update stands on board, as last reported."""
        return self._queues[update].learning.state

    def reason(self, update: bytes) -> Reason:
        """Why it stands there."""
        return self._queues[update].learning.reason

    def is_complete(self, update: bytes) -> bool:
        """Whether all of an update is on board: nothing of it is left to send."""
        return self._queues[update].cargo.is_done

    def share_there(self, update: bytes) -> float:
        """How much of an update's bundles is on board or no longer needed, 0..1."""
        blocks = self._queues[update].cargo.bundle_blocks
        there = sum(min(block.have, block.num_source) for block in blocks)
        return there / max(1, sum(block.num_source for block in blocks))

    def statistics(self, now: float, update: bytes | None = None) -> UplinkStatistics:
        """A snapshot of the link and of one update; of all of them together, without one."""
        queues = list(self._queues.values()) if update is None else [self._queues[update]]
        bundles = [sending for queue in queues for sending in queue.cargo.bundles]
        blocks = [block for queue in queues for block in queue.cargo.bundle_blocks]
        first = max(queues, key=lambda queue: queue.priority, default=None)
        return UplinkStatistics(
            symbols_sent=self._log.num_sent,
            symbols_settled=self._log.num_settled,
            blocks=len(blocks),
            blocks_solved=sum(block.is_solved for block in blocks),
            bundles=len(bundles),
            bundles_complete=sum(sending.is_complete for sending in bundles),
            symbols_needed=sum(block.num_source for block in blocks),
            symbols_there=sum(min(block.have, block.num_source) for block in blocks),
            loss=self._feedback.loss,
            loss_down=self._feedback.loss_down,
            feedback_s=self._feedback.delay_s,
            is_silent=self._feedback.is_silent(now),
            state=first.learning.state if first else UpdateState.NONE,
            reason=first.learning.reason if first else Reason.NONE,
        )
