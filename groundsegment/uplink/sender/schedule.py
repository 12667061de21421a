"""Whose turn it is on the link: which symbols of which update go next. Pure.

Updates of higher priority go first; those of the same priority share by weight (start-time fair queueing: who has
nothing to send gives its share away, and cannot claim it later).

While reports come, only what is certainly needed is sent; the next ones tell of the rest, and until then the link may
idle: a round of reports costs less than insurance against chance among thousands of symbols, which is wasted more often
than not. Where little is left to chance, it is insured. Without reports (a one-way link, a silent return path) it
never stops: it goes round all unfinished blocks, each time up to a higher probability that they are complete.
"""

import math
from collections import deque
from dataclasses import dataclass

from groundsegment.uplink.sender.block_sender import Aim, BlockSender
from groundsegment.uplink.sender.events import Event, ReturnPathSilent
from groundsegment.uplink.sender.feedback import Feedback
from groundsegment.uplink.sender.flight_log import FlightLog
from groundsegment.uplink.sender.update_queue import Turn, UpdateQueue

# Under reports: only what is certainly needed; then, rather than idle, insurance where it costs a few symbols.
_CERTAIN = Aim(luck=1.0, trust=1.0)
_INSURED = Aim(luck=-1.0, surplus_share_max=0.0, surplus_symbols=4, must_be_cheap=True)
# When no report can be answered any more before the contact ends, nothing is gained by holding back.
_LAST = Aim(luck=-3.0, surplus_share_max=0.005, surplus_symbols=40)
# In silence: so much that a block is almost surely complete, in each further round more (luck, and its growth). Where
# somebody answered a little while ago, probably complete will do at first: the next round is seconds away.
_SILENCE, _HOPEFUL_SILENCE = (-3.0, 1.5), (-1.5, 2.0)
_QUANTUM = 64  # symbols at a time, where updates share
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

    def __init__(self, log: FlightLog, feedback: Feedback, events: deque[Event]) -> None:
        self._log, self._feedback, self._events = log, feedback, events
        self._queues: list[UpdateQueue] = []  # most urgent first
        self._served: dict[int, float] = {}  # by priority: virtual time of the last turn
        self._is_silent = self._is_last_chance = False
        self._end_s = math.inf
        self._stage = 0
        self.has_unsaved_progress = False

    def add(self, queue: UpdateQueue, now: float | None) -> None:
        """Take an update up; `now` if there is a contact."""
        self._queues = sorted([*self._queues, queue], key=lambda queue: -queue.priority)
        if now is not None:
            queue.begin_contact(now)
        self.start_over()

    def remove(self, queue: UpdateQueue) -> None:
        """Send nothing of it any more."""
        self._queues.remove(queue)

    def begin_contact(self, now: float, end_s: float) -> None:
        """The link is there, until a time."""
        self._end_s, self._is_last_chance, self._is_silent = end_s, False, False
        for queue in self._queues:
            queue.begin_contact(now)
        self.start_over()

    def start_over(self) -> None:
        """Something was learned: what was planned does not hold any more."""
        self._stage = 0
        for queue in self._queues:
            queue.start_over()

    def report_heard(self) -> None:
        """Somebody answers."""
        self._is_silent = False
        self.start_over()

    def next_run(self, now: float, budget: int) -> SymbolRun | None:
        """Return what to send now, at most `budget` symbols of one block; they count as sent. None for nothing."""
        self._look_around(now)
        chosen = self._next_turn(now)
        if chosen is None:
            return None
        queue, (block, count) = chosen
        return self._take(queue, block, min(count, budget, self._quantum(queue)), now)

    def next_deadline(self, now: float) -> float:
        """When there may be something to send although no report came."""
        due_s = self._feedback.silent_round_s(self._stage) if self._is_silent else self._feedback.silent_at_s
        metadata_s = min((queue.metadata_due_s for queue in self._queues if not queue.is_over), default=math.inf)
        return max(now, min(due_s, metadata_s))

    def _look_around(self, now: float) -> None:
        """Whether nobody answers any more, or can in this contact."""
        if not self._is_silent and self._feedback.is_silent(now):
            self._is_silent = True
            self.start_over()
            if any(not queue.is_over for queue in self._queues):
                self._events.append(ReturnPathSilent(silence_s=now - self._feedback.heard_s))
        delay_s = self._feedback.delay_s
        if not self._is_last_chance and delay_s is not None and now + delay_s > self._end_s:
            self._is_last_chance = True
            self.start_over()

    def _next_turn(self, now: float) -> tuple[UpdateQueue, Turn] | None:
        queues = [queue for queue in self._in_turn() if not queue.is_over]
        while queues:
            aim = self._aim(now)
            for queue in queues:
                turn = queue.next_metadata(now)
                if turn is None and aim is not None:
                    turn = queue.next_block(self._stage, aim, now, silent=self._is_silent)
                if turn is not None:
                    return queue, turn
            if aim is None:
                return None if self._is_silent else self._probe(now)
            self._stage += 1
            if self._is_silent and not any(queue.has_bundles_to_send for queue in queues):
                return None
        return None

    def _aim(self, now: float) -> Aim | None:
        """What the stage aims at; None when there is nothing more to aim at."""
        if self._is_silent:
            if now < self._feedback.silent_round_s(self._stage):
                return None
            first, growth = _HOPEFUL_SILENCE if self._feedback.was_heard_in_contact else _SILENCE
            luck = first * growth**self._stage
            return Aim(luck=luck, trust=luck / 2)
        aims = [_CERTAIN]
        # Insurance against a loss that is only guessed would be waste: first hear what became of something.
        if self._feedback.delay_s is not None:
            aims.append(_INSURED)
        if self._is_last_chance:
            aims.append(_LAST)
        return aims[self._stage] if self._stage < len(aims) else None

    def _in_turn(self) -> list[UpdateQueue]:
        if len(self._queues) < 2:
            return self._queues
        return sorted(self._queues, key=lambda queue: (-queue.priority, self._start(queue)))

    def _start(self, queue: UpdateQueue) -> float:
        return max(queue.start, self._served.get(queue.priority, 0.0))

    def _quantum(self, queue: UpdateQueue) -> int:
        is_alone = sum(other.priority == queue.priority for other in self._queues) == 1
        return 1 << 30 if is_alone else _QUANTUM

    def _probe(self, now: float) -> tuple[UpdateQueue, Turn] | None:
        """All is in flight, and no echo comes: its last frames may be lost. Two more tell what became of the rest."""
        newest = self._log.newest
        if newest is None or now - newest[1] < self._feedback.probe_after_s:
            return None
        for queue in self._queues:
            block = queue.cargo.blocks.get(newest[0])
            if block is not None and not block.is_solved and not queue.is_over:
                return queue, (block, _PROBE_SYMBOLS)
        return None

    def _take(self, queue: UpdateQueue, block: BlockSender, count: int, now: float) -> SymbolRun:
        reserved = block.reserved_esi
        first, count = block.take(count)
        self.has_unsaved_progress |= block.reserved_esi != reserved
        queue.taken(block, count)
        self._served[queue.priority] = start = self._start(queue)
        queue.start = start + count / queue.weight
        self._log.sent(block.key, first, count, now)
        self._feedback.sent(count, now)
        return SymbolRun(handle=block.key[0], block=block.key[1], first_esi=first, count=count)
