"""The uplink's sender: which symbols of which blocks go up next. Pure: no sockets, files, clocks, randomness.

Driven by

- a contact that begins or ends       begin_contact, end_contact
- a report from the satellite         receive_report
- room on the link                    frames_to_send
- time                                next_deadline

and asked for next_event and statistics. Objects go in order, the metadata first. While reports come, each block gets
exactly what its report says is missing, given what is in flight and how many of those will be lost; blocks whose need
is still uncertain wait while others have work. Without reports (a one-way link, a silent return path) it never stops:
fresh repair symbols go to all unfinished blocks in turn, so that all advance together. A late report puts everything
right, a receiver that lost something is believed.

It promises never to use an ESI twice if what `progress` said is written down before the frames it covers are sent.
It does not know bytes: `symbols` makes those.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from groundsegment.uplink.block_sender import Aim, BlockSender
from groundsegment.uplink.events import (
    AllBundlesComplete,
    Event,
    ObjectComplete,
    ObjectReopened,
    ReceiverRestarted,
    ReportHeard,
    ReturnPathSilent,
    StateChanged,
)
from groundsegment.uplink.feedback import Feedback
from groundsegment.uplink.flight_log import BlockKey, FlightLog
from groundsegment.uplink.loss import LossEstimate
from protocol.blocks import BlockLayout, block_layout
from protocol.frame import FrameKind
from protocol.limits import REPORT_SIZE_MAX
from protocol.report import NO_HANDLE, SOLVED, Reason, Report, UpdateState

_DECIDED = {UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED}
_ALL_ARRIVED = _DECIDED | {UpdateState.VERIFIED, UpdateState.TRIAL}
# While the disk or the base is the problem, more symbols would only be thrown away.
_PAUSING = {Reason.DISK_FULL, Reason.DISK_FAILED, Reason.BASE_MISSING, Reason.BASE_DAMAGED}
_REPORT_FIXED_SIZE, _RANGE_SIZE, _HANDLE_SIZE, _BLOCK_SIZE = 58, 4, 8, 12
# Under reports: only what is certainly needed; then, rather than idle, insurance against chance alone. In silence: what
# is probably needed, then so much that a block without a report is almost surely complete, object after object.
_CERTAIN, _INSURED, _SURE = Aim(luck=1.0), Aim(luck=-1.0, doubts_loss=False), Aim(luck=-3.0)
_HEARD_AIMS, _SILENT_AIMS = (_CERTAIN, _INSURED), (_CERTAIN, _SURE)
_METADATA_REPEAT_S, _METADATA_REPEAT_S_MAX, _REPEAT_GROWTH = 1.0, 30.0, 1.6
_PROBE_SYMBOLS = 2
_ABSENT_S = 2.0  # between two reports a block may move from "open" to "complete": not gone at once
_ABSENT_SOLVED_S = 30.0  # a whole bundle is hashed and opened meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingObject:
    """One object to be sent.

    Attributes:
        handle: of the object.
        num_symbols: source symbols in all.
        symbol_size: T, bytes.
        bundle: its number, or None for the metadata.
    """

    handle: bytes
    num_symbols: int
    symbol_size: int
    bundle: int | None

    @property
    def layout(self) -> BlockLayout:
        """Its blocks."""
        return block_layout(self.num_symbols, self.symbol_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolRun:
    """Symbols of one block to be sent, in order."""

    handle: bytes
    block: int
    first_esi: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What must be kept of one block across a restart."""

    handle: bytes
    block: int
    next_esi: int
    have: int


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


@dataclass(slots=True)
class _Sending:
    item: OutgoingObject
    blocks: list[BlockSender]
    is_complete: bool = False

    @property
    def is_done(self) -> bool:
        return self.is_complete or all(block.is_solved for block in self.blocks)


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
        assert objects
        assert objects[0].bundle is None
        self._options = options or UplinkOptions()
        self._sending = {item.handle: _Sending(item, self._senders(item, progress)) for item in objects}
        self._blocks = {block.key: block for sending in self._sending.values() for block in sending.blocks}
        self._metadata = self._sending[objects[0].handle]
        self._bundles = [self._sending[item.handle] for item in objects[1:]]
        self._log = FlightLog()
        self._feedback = Feedback(self._options.silence_s, self._options.loss)
        self._events: deque[Event] = deque()
        self._state, self._reason = UpdateState.NONE, Reason.NONE
        self._is_up = self._is_synced = self._said_silent = self._said_complete = False
        self._aims: deque[Aim] = deque()  # still to be met, most urgent first
        self._queue: deque[BlockSender] | None = None  # blocks that may miss the first of them; None: start over
        self._blind: tuple[BlockSender, int] | None = None  # whose turn it is in silence, and for how many symbols
        self._metadata_due_s, self._metadata_pause_s, self._metadata_left = 0.0, _METADATA_REPEAT_S, 0
        self._unsaved = False

    # Inputs

    def begin_contact(self, now: float) -> None:
        """The link is there."""
        self._is_up, self._is_synced, self._said_silent = True, False, False
        self._feedback.begin_contact(now)
        self._metadata_due_s, self._metadata_pause_s = now, _METADATA_REPEAT_S
        self._queue = None

    def end_contact(self) -> None:
        """The link is gone; nothing is sent until the next contact."""
        self._is_up = False

    def receive_report(self, report: Report, *, session: bytes, now: float) -> None:
        """Believe a fresh report; replays and stale ones must have been sorted out before."""
        echo = self._log.number_of((report.echo_handle, report.echo_block), report.echo_esi)
        if self._feedback.heard(self._log, report.frames_received, session=session, echo=echo, now=now):
            self._events.append(ReceiverRestarted(session=session))
            self._is_synced = False
        self._events.append(ReportHeard(report=report, session=session))
        self._learn_complete(report)
        self._learn_blocks(report, now, is_restart=not self._is_synced)
        self._learn_state(report)
        self._is_synced, self._said_silent, self._queue = True, False, None
        if not self._said_complete and all(sending.is_complete for sending in self._bundles):
            self._said_complete = True
            self._events.append(AllBundlesComplete())

    def frames_to_send(self, now: float, budget: int) -> list[SymbolRun]:
        """Return what to send now, at most `budget` symbols; they count as sent.

        If `has_unsaved_progress` is true afterwards, write `progress` down before sending them.
        """
        runs: list[SymbolRun] = []
        while self._is_up and not self.is_decided and budget > 0:
            block, count = self._next_block(now)
            if block is None:
                break
            run = self._take(block, min(count, budget), now)
            runs.append(run)
            budget -= run.count
        return runs

    def next_deadline(self, now: float) -> float | None:
        """When to ask for frames again although no report came; None if only a report can help."""
        if not self._is_up or self.is_decided:
            return None
        if self._feedback.is_silent(now):
            return now
        return min(self._feedback.silent_at_s, self._metadata_due_s if not self._metadata.is_done else math.inf)

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
        return self._unsaved

    def progress(self, *, exact: bool = False) -> list[Progress]:
        """What to keep for the next process.

        Args:
            exact: nothing is sent any more: not even reserved ESIs are skipped.
        """
        self._unsaved = False
        return [
            Progress(
                handle=block.key[0],
                block=block.key[1],
                next_esi=block.next_esi if exact else block.reserved_esi,
                have=SOLVED if block.is_solved else block.have,
            )
            for block in self._blocks.values()
            if not block.is_untouched or block.is_solved
        ]

    def next_sample(self) -> tuple[int, int] | None:
        """How many frames in a row were sent, and of them arrived, in the last stretch that reports covered."""
        return self._feedback.samples.popleft() if self._feedback.samples else None

    # Queries

    @property
    def state(self) -> UpdateState:
        """Where the update stands on board, as last reported."""
        return self._state

    @property
    def reason(self) -> Reason:
        """Why it stands there."""
        return self._reason

    @property
    def is_decided(self) -> bool:
        """Whether the satellite has decided, so that nothing is left to do."""
        return self._state in _DECIDED

    def loss_for_next_contact(self) -> LossEstimate:
        """What was learned of the link, as a prior."""
        return self._feedback.loss.as_prior()

    def frame_totals(self) -> tuple[int, int]:
        """Frames sent, and of them received, as far as reports tell."""
        return self._feedback.totals()

    def statistics(self, now: float) -> UplinkStatistics:
        """A snapshot."""
        bundle_blocks = [block for sending in self._bundles for block in sending.blocks]
        return UplinkStatistics(
            symbols_sent=self._log.num_sent,
            symbols_settled=self._log.num_settled,
            blocks=len(bundle_blocks),
            blocks_solved=sum(block.is_solved for block in bundle_blocks),
            bundles=len(self._bundles),
            bundles_complete=sum(sending.is_complete for sending in self._bundles),
            symbols_needed=sum(block.num_source for block in bundle_blocks),
            symbols_there=sum(min(block.have, block.num_source) for block in bundle_blocks),
            loss=self._feedback.loss,
            feedback_s=self._feedback.delay_s,
            is_silent=self._feedback.is_silent(now),
            state=self._state,
            reason=self._reason,
        )

    # Learning

    def _learn_complete(self, report: Report) -> None:
        if report.update == self._metadata.item.handle:
            self._complete(self._metadata)
            whole = report.state in _ALL_ARRIVED
            for sending in self._bundles:
                number = sending.item.bundle
                if whole or any(first <= number <= last for first, last in report.bundle_ranges if number is not None):
                    self._complete(sending)
        for handle in report.complete:
            if handle in self._sending:
                self._complete(self._sending[handle])

    def _complete(self, sending: _Sending) -> None:
        for block in sending.blocks:
            block.learn_solved()
        if not sending.is_complete:
            sending.is_complete = True
            self._events.append(ObjectComplete(handle=sending.item.handle, bundle=sending.item.bundle))

    def _learn_blocks(self, report: Report, now: float, *, is_restart: bool) -> None:
        listed = {(entry.handle, entry.block): entry.have for entry in report.open_blocks}
        said_complete = set(report.complete)
        for sending in self._sending.values():
            handle = sending.item.handle
            if handle in said_complete:
                continue
            for block in sending.blocks:
                have = listed.get(block.key)
                if have is None:
                    continue
                if have == SOLVED:
                    block.learn_solved()
                elif not self._is_known_complete(sending, report):
                    self._reopen(sending)
                    sample = block.sample(have, self._log.in_flight(block.key), self._log.num_expired)
                    if sample is not None and not is_restart:
                        self._feedback.exact_sample(sent=sample[0], arrived=sample[1])
                    block.learn(have, now)
        if not _is_full(report):
            self._learn_absent(report, set(listed), now, is_restart=is_restart)

    def _is_known_complete(self, sending: _Sending, report: Report) -> bool:
        """Whether this very report says elsewhere that the object is complete."""
        if report.update != self._metadata.item.handle:
            return False
        number = sending.item.bundle
        if number is None or report.state in _ALL_ARRIVED:
            return True
        return any(first <= number <= last for first, last in report.bundle_ranges)

    def _learn_absent(self, report: Report, listed: set[BlockKey], now: float, *, is_restart: bool) -> None:
        """A report with room to spare that does not list a block: nothing of it is there."""
        said_complete = set(report.complete)
        for sending in self._sending.values():
            if sending.item.handle in said_complete or self._is_known_complete(sending, report):
                continue
            for block in sending.blocks:
                if block.key in listed or (block.have == 0 and not block.is_solved):
                    block.prior_flight = 0
                    continue
                if block.absent_since_s is None:
                    block.absent_since_s = now
                # Solved blocks may be on their way from "open" to "complete": a bundle is hashed and opened meanwhile.
                patience_s = _ABSENT_SOLVED_S if block.is_solved else 0.0 if is_restart else _ABSENT_S
                if now - block.absent_since_s >= patience_s:
                    self._reopen(sending)
                    block.learn(0, now)

    def _reopen(self, sending: _Sending) -> None:
        if sending.is_complete:
            sending.is_complete = self._said_complete = False
            self._events.append(ObjectReopened(handle=sending.item.handle, bundle=sending.item.bundle))

    def _learn_state(self, report: Report) -> None:
        if report.update != self._metadata.item.handle or report.update == NO_HANDLE:
            return
        if (report.state, report.reason) != (self._state, self._reason):
            self._state, self._reason = report.state, report.reason
            self._events.append(StateChanged(state=report.state, reason=report.reason))

    # Sending

    def _next_block(self, now: float) -> tuple[BlockSender | None, int]:
        """Whose turn it is, and how many symbols it may send."""
        silent = self._feedback.is_silent(now)
        if silent and not self._said_silent:
            self._said_silent, self._queue = True, None
            self._events.append(ReturnPathSilent(silence_s=now - self._feedback.heard_s))
        metadata = self._next_metadata(now)
        if metadata is not None:
            return metadata
        if self._state is UpdateState.BLOCKED and self._reason in _PAUSING and not silent:
            return None, 0
        if self._queue is None:
            # Insurance against a loss that is only guessed would be waste: first hear what became of something.
            heard = _HEARD_AIMS if self._feedback.delay_s is not None else (_CERTAIN,)
            self._aims = deque(_SILENT_AIMS if silent else heard)
            self._queue = self._candidates(silent=silent)
        while self._aims:
            while self._queue:
                count = self._need(self._queue[0], self._aims[0], now)
                if count:
                    return self._queue[0], count
                self._queue.popleft()
            self._aims.popleft()
            self._queue = self._candidates(silent=silent)
        return self._next_blindly() if silent else self._next_probe(now)

    def _next_metadata(self, now: float) -> tuple[BlockSender, int] | None:
        """The metadata has right of way, and is repeated until it is there: without it nothing can be used."""
        if self._metadata.is_done:
            return None
        block = self._metadata.blocks[0]
        if self._metadata_left:
            return block, self._metadata_left
        if now < self._metadata_due_s:
            return None
        self._metadata_due_s = now + max(self._metadata_pause_s, self._feedback.timeout_s)
        self._metadata_pause_s = min(self._metadata_pause_s * _REPEAT_GROWTH, _METADATA_REPEAT_S_MAX)
        self._metadata_left = self._need(block, _SURE, now) or block.num_source + 1
        return block, self._metadata_left

    def _candidates(self, *, silent: bool) -> deque[BlockSender]:
        """Blocks that may need symbols, in order."""
        is_known = self._is_synced or silent
        return deque(
            block
            for sending in self._bundles
            for block in sending.blocks
            # What an earlier contact or process sent of a block is not known before a report: that will tell.
            if not block.is_solved and (is_known or block.is_untouched)
        )

    def _need(self, block: BlockSender, aim: Aim, now: float) -> int:
        return block.need(self._log.in_flight(block.key), self._feedback.loss, aim, now)

    def _next_blindly(self) -> tuple[BlockSender | None, int]:
        """All is sent that should do, and nobody says whether it did: let all unfinished blocks advance together."""
        if self._blind is not None and self._blind[1] > 0 and not self._blind[0].is_solved:
            return self._blind
        unfinished = [block for sending in self._bundles for block in sending.blocks if not block.is_solved]
        if not unfinished:
            return None, 0
        loss = self._feedback.loss
        block = min(unfinished, key=lambda block: block.coverage(self._log.in_flight(block.key), loss))
        self._blind = block, max(32, block.num_source // 32)
        return self._blind

    def _next_probe(self, now: float) -> tuple[BlockSender | None, int]:
        """All is in flight, and no echo comes: its last frames may be lost. Two more tell what became of the rest."""
        newest = self._log.newest
        if newest is None or now - newest[1] < self._feedback.probe_after_s:
            return None, 0
        block = self._blocks[newest[0]]
        return (None, 0) if block.is_solved else (block, _PROBE_SYMBOLS)

    def _take(self, block: BlockSender, count: int, now: float) -> SymbolRun:
        reserved = block.reserved_esi
        first, count = block.take(count)
        self._unsaved |= block.reserved_esi != reserved
        if block is self._metadata.blocks[0]:
            self._metadata_left = max(0, self._metadata_left - count)
        elif self._blind is not None and block is self._blind[0]:
            self._blind = block, self._blind[1] - count
        self._log.sent(block.key, first, count, now)
        self._feedback.sent(count, now)
        return SymbolRun(handle=block.key[0], block=block.key[1], first_esi=first, count=count)

    def _senders(self, item: OutgoingObject, progress: Iterable[Progress]) -> list[BlockSender]:
        known: Mapping[int, Progress] = {entry.block: entry for entry in progress if entry.handle == item.handle}
        layout = item.layout
        senders = []
        for number in range(layout.num_blocks):
            block = BlockSender((item.handle, number), layout.symbols_of(number), self._options.kind)
            entry = known.get(number)
            if entry is None:
                block.mark = (0, 0, 0)
            else:
                block.next_esi = block.reserved_esi = entry.next_esi
                block.is_solved = entry.have == SOLVED
                block.have = block.num_source if block.is_solved else entry.have
                arrival = 1 - self._options.loss.mean
                block.prior_flight = 0 if block.is_solved else max(0, entry.next_esi - math.ceil(block.have / arrival))
            senders.append(block)
        return senders


def _is_full(report: Report) -> bool:
    """Whether a report may have left something out for want of room."""
    used = (
        _REPORT_FIXED_SIZE
        + _RANGE_SIZE * len(report.bundle_ranges)
        + _HANDLE_SIZE * len(report.complete)
        + _BLOCK_SIZE * len(report.open_blocks)
    )
    return used + _BLOCK_SIZE > REPORT_SIZE_MAX
