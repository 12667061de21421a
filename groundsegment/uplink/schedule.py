"""Whose turn it is on the link: which symbols of which blocks go next. Pure.

Objects go in order, the metadata first. While reports come, each block gets exactly what its report says is missing,
given what is in flight and how many of those will be lost; blocks whose need is still uncertain wait while others have
work. Without reports (a one-way link, a silent return path) it never stops: fresh repair symbols go to all unfinished
blocks in turn, so that all advance together.
"""

import math
from collections import deque
from dataclasses import dataclass

from groundsegment.uplink.block_sender import Aim, BlockSender
from groundsegment.uplink.cargo import Cargo
from groundsegment.uplink.events import Event, ReturnPathSilent
from groundsegment.uplink.feedback import Feedback
from groundsegment.uplink.flight_log import FlightLog
from groundsegment.uplink.learning import Learning
from protocol.report import Reason, UpdateState

# While the disk or the base is the problem, more symbols would only be thrown away.
_PAUSING = {Reason.DISK_FULL, Reason.DISK_FAILED, Reason.BASE_MISSING, Reason.BASE_DAMAGED}
# Under reports: only what is certainly needed; then, rather than idle, insurance against chance alone. In silence: what
# is probably needed, then so much that a block without a report is almost surely complete, object after object.
_CERTAIN, _INSURED, _SURE = Aim(luck=1.0), Aim(luck=-1.0, doubts_loss=False), Aim(luck=-3.0)
# When no report can be answered any more before the contact ends, nothing is gained by holding back.
_LAST = Aim(luck=-3.0, doubts_loss=False)
_HEARD_AIMS, _LAST_AIMS, _SILENT_AIMS = (_CERTAIN, _INSURED), (_CERTAIN, _INSURED, _LAST), (_CERTAIN, _SURE)
_METADATA_REPEAT_S, _METADATA_REPEAT_S_MAX, _REPEAT_GROWTH = 1.0, 30.0, 1.6
_PROBE_SYMBOLS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolRun:
    """Symbols of one block to be sent, in order."""

    handle: bytes
    block: int
    first_esi: int
    count: int


class Schedule:
    """What to send next.

    Attributes:
        has_unsaved_progress: whether more ESIs are reserved than were written down.
    """

    def __init__(
        self, cargo: Cargo, learning: Learning, log: FlightLog, feedback: Feedback, events: deque[Event]
    ) -> None:
        self._cargo, self._learning, self._log, self._feedback = cargo, learning, log, feedback
        self._events = events
        self._said_silent = self._is_last_chance = False
        self._end_s = math.inf
        self._aims: deque[Aim] = deque()  # still to be met, most urgent first
        self._queue: deque[BlockSender] | None = None  # blocks that may miss the first of them; None: start over
        self._blind: tuple[BlockSender, int] | None = None  # whose turn it is in silence, and for how many symbols
        self._metadata_due_s, self._metadata_pause_s, self._metadata_left = 0.0, _METADATA_REPEAT_S, 0
        self.has_unsaved_progress = False

    def begin_contact(self, now: float, end_s: float) -> None:
        """The link is there, until a time."""
        self._end_s, self._is_last_chance = end_s, False
        self._metadata_due_s, self._metadata_pause_s = now, _METADATA_REPEAT_S
        self.start_over()

    def start_over(self) -> None:
        """Something was learned: what was planned does not hold any more."""
        self._said_silent, self._queue = False, None

    def next_run(self, now: float, budget: int) -> SymbolRun | None:
        """Return what to send now, at most `budget` symbols of one block; they count as sent. None for nothing."""
        block, count = self._next_block(now)
        return None if block is None else self._take(block, min(count, budget), now)

    @property
    def metadata_due_s(self) -> float:
        """When the metadata is repeated; infinity once it is there."""
        return math.inf if self._cargo.metadata.is_done else self._metadata_due_s

    def _next_block(self, now: float) -> tuple[BlockSender | None, int]:
        """Whose turn it is, and how many symbols it may send."""
        silent = self._feedback.is_silent(now)
        if silent and not self._said_silent and not self._cargo.is_done:
            self._said_silent, self._queue = True, None
            self._events.append(ReturnPathSilent(silence_s=now - self._feedback.heard_s))
        metadata = self._next_metadata(now)
        if metadata is not None:
            return metadata
        if self._learning.state is UpdateState.BLOCKED and self._learning.reason in _PAUSING and not silent:
            return None, 0
        delay_s = self._feedback.delay_s
        if not self._is_last_chance and delay_s is not None and now + delay_s > self._end_s:
            self._is_last_chance, self._queue = True, None
        if self._queue is None:
            # Insurance against a loss that is only guessed would be waste: first hear what became of something.
            heard = _LAST_AIMS if self._is_last_chance else _HEARD_AIMS if delay_s is not None else (_CERTAIN,)
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
        if self._cargo.metadata.is_done:
            return None
        block = self._cargo.metadata.blocks[0]
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
        is_known = self._learning.is_synced or silent
        return deque(
            block
            for sending in self._cargo.bundles
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
        unfinished = [block for sending in self._cargo.bundles for block in sending.blocks if not block.is_solved]
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
        block = self._cargo.blocks[newest[0]]
        return (None, 0) if block.is_solved else (block, _PROBE_SYMBOLS)

    def _take(self, block: BlockSender, count: int, now: float) -> SymbolRun:
        reserved = block.reserved_esi
        first, count = block.take(count)
        self.has_unsaved_progress |= block.reserved_esi != reserved
        if block is self._cargo.metadata.blocks[0]:
            self._metadata_left = max(0, self._metadata_left - count)
        elif self._blind is not None and block is self._blind[0]:
            self._blind = block, self._blind[1] - count
        self._log.sent(block.key, first, count, now)
        self._feedback.sent(count, now)
        return SymbolRun(handle=block.key[0], block=block.key[1], first_esi=first, count=count)
