"""The uplink's sender: which symbols of which blocks go up next. Pure: no sockets, files, clocks, randomness.

Driven by

- a contact that begins or ends       begin_contact, end_contact
- a report from the satellite         receive_report
- room on the link                    frames_to_send
- time                                next_deadline

and asked for next_event and statistics. What is carried is the `cargo`, what reports say of it is `learning`, whose
turn it is decides the `schedule`.

It promises never to use an ESI twice if what `progress` said is written down before the frames it covers are sent.
It does not know bytes: `symbols` makes those.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from groundsegment.uplink.cargo import Cargo, OutgoingObject, Progress
from groundsegment.uplink.events import Event
from groundsegment.uplink.feedback import Feedback
from groundsegment.uplink.flight_log import FlightLog
from groundsegment.uplink.learning import DECIDED, Learning
from groundsegment.uplink.loss import LossEstimate
from groundsegment.uplink.schedule import Schedule, SymbolRun
from protocol.frame import FrameKind
from protocol.report import Reason, Report, UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkOptions:
    """How to send.

    Attributes:
        kind: how symbols are made.
        silence_s: without a report for so long, the return path counts as silent; longer where reports take longer.
        loss: what is believed of the link before anything is known.
    """

    kind: FrameKind = FrameKind.RAPTORQ
    silence_s: float = 2.0
    loss: LossEstimate = field(default_factory=LossEstimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkStatistics:
    """A snapshot.

    Attributes:
        symbols_sent: by this core.
        symbols_settled: of them, those that reports cover or that are too old.
        blocks: in all; blocks_solved: of them.
        bundles: in all; bundles_complete: of them.
        symbols_needed: source symbols in all; symbols_there: of them, on board or no longer needed.
        loss: estimate.
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
    feedback_s: float | None
    is_silent: bool
    state: UpdateState
    reason: Reason


class Uplink:
    """Sends one update to one satellite."""

    def __init__(
        self,
        objects: Sequence[OutgoingObject],
        progress: Iterable[Progress] = (),
        options: UplinkOptions | None = None,
    ) -> None:
        """Take up an update.

        Args:
            objects: the metadata object first, then the bundles in order.
            progress: what an earlier process kept.
            options: how to send.
        """
        self._options = options or UplinkOptions()
        self._cargo = Cargo(objects, progress, self._options.kind, self._options.loss)
        self._log = FlightLog()
        self._feedback = Feedback(self._options.silence_s, self._options.loss)
        self._events: deque[Event] = deque()
        self._learning = Learning(self._cargo, self._log, self._feedback, self._events)
        self._schedule = Schedule(self._cargo, self._learning, self._log, self._feedback, self._events)
        self._is_up = False

    # Inputs

    def begin_contact(self, now: float, end_s: float = math.inf) -> None:
        """The link is there, until a time where that is known."""
        self._is_up = True
        self._feedback.begin_contact(now)
        self._learning.begin_contact()
        self._schedule.begin_contact(now, end_s)

    def end_contact(self) -> None:
        """The link is gone; nothing is sent until the next contact."""
        self._is_up = False

    def receive_report(self, report: Report, *, session: bytes, now: float) -> None:
        """Believe a fresh report; replays and stale ones must have been sorted out before."""
        self._learning.receive_report(report, session=session, now=now)
        self._schedule.start_over()

    def frames_to_send(self, now: float, budget: int) -> list[SymbolRun]:
        """Return what to send now, at most `budget` symbols; they count as sent.

        If `has_unsaved_progress` is true afterwards, write `progress` down before sending them.
        """
        runs: list[SymbolRun] = []
        while self._is_up and not self.is_decided and budget > 0:
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
        if self._feedback.is_silent(now):
            return now
        return min(self._feedback.silent_at_s, self._schedule.metadata_due_s)

    def other_frames_sent(self, count: int, now: float) -> None:
        """Frames without symbols went up; the satellite counts them too."""
        self._feedback.sent(count, now)

    # Outputs

    def next_event(self) -> Event | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    @property
    def has_unsaved_progress(self) -> bool:
        """Whether more ESIs are reserved than `progress` has said."""
        return self._schedule.has_unsaved_progress

    def progress(self, *, exact: bool = False) -> list[Progress]:
        """What to keep for the next process.

        Args:
            exact: nothing is sent any more: not even reserved ESIs are skipped.
        """
        self._schedule.has_unsaved_progress = False
        return self._cargo.progress(exact=exact)

    # Queries

    @property
    def state(self) -> UpdateState:
        """Where the update stands on board, as last reported."""
        return self._learning.state

    @property
    def reason(self) -> Reason:
        """Why it stands there."""
        return self._learning.reason

    @property
    def is_decided(self) -> bool:
        """Whether the satellite has decided, so that nothing is left to do."""
        return self._learning.state in DECIDED

    def loss_for_next_contact(self) -> LossEstimate:
        """What was learned of the link, as a prior."""
        return self._feedback.loss.as_prior()

    def frame_totals(self) -> tuple[int, int]:
        """Frames sent, and of them received, as far as reports tell."""
        return self._feedback.totals()

    @property
    def share_there(self) -> float:
        """How much of all bundles is on board or no longer needed, 0..1."""
        blocks = self._cargo.bundle_blocks
        there = sum(min(block.have, block.num_source) for block in blocks)
        return there / max(1, sum(block.num_source for block in blocks))

    def statistics(self, now: float) -> UplinkStatistics:
        """A snapshot."""
        bundle_blocks = self._cargo.bundle_blocks
        return UplinkStatistics(
            symbols_sent=self._log.num_sent,
            symbols_settled=self._log.num_settled,
            blocks=len(bundle_blocks),
            blocks_solved=sum(block.is_solved for block in bundle_blocks),
            bundles=len(self._cargo.bundles),
            bundles_complete=sum(sending.is_complete for sending in self._cargo.bundles),
            symbols_needed=sum(block.num_source for block in bundle_blocks),
            symbols_there=sum(min(block.have, block.num_source) for block in bundle_blocks),
            loss=self._feedback.loss,
            feedback_s=self._feedback.delay_s,
            is_silent=self._feedback.is_silent(now),
            state=self._learning.state,
            reason=self._learning.reason,
        )
