"""Whose turn it is among the blocks of one update. Pure.

While reports come, blocks go in order: each gets what its report says is missing, given what is in flight and how many
of those will be lost. In silence they advance together, a symbol each in turn, so that a burst of losses hits many
blocks a little; but only as many objects at a time as a receiver keeps open, window after window.

The metadata has right of way, and is repeated until it is known to be there: without it nothing can be used.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping

from groundsegment.uplink.sender.block_sender import Aim, BlockSender
from groundsegment.uplink.sender.cargo import Cargo, ObjectSender
from groundsegment.uplink.sender.feedback import Feedback
from groundsegment.uplink.sender.flight_log import BlockKey, FlightLog
from groundsegment.uplink.sender.learning import DECIDED, Learning
from groundsegment.uplink.sender.shares import Shares
from protocol.limits import MIB
from protocol.report import Reason, Report, UpdateState

WINDOW_BYTES = 256 * MIB  # half of a receiver's inbox, as it is delivered
WINDOW_OBJECTS = 32  # half of what it keeps open
# While the disk or the base is the problem, more symbols would only be thrown away.
_PAUSING = {Reason.DISK_FULL, Reason.DISK_FAILED, Reason.BASE_MISSING, Reason.BASE_DAMAGED}
_METADATA_REPEAT_S, _METADATA_REPEAT_S_MAX, _REPEAT_GROWTH = 1.0, 120.0, 3.0
_ROUNDING = 1e-6  # of a symbol
_METADATA_AIM = Aim(luck=-3.0, trust=-3.0)

Turn = tuple[BlockSender, int]  # a block, and how many symbols it may send


class UpdateQueue:
    """The blocks of one update.

    Attributes:
        cargo: the update.
        learning: what is known of it.
        priority: higher ones go first.
        weight: of its share among those of the same priority, > 0.
        start: virtual time at which it may be served again, see `schedule`.
    """

    def __init__(
        self,
        cargo: Cargo,
        learning: Learning,
        log: FlightLog,
        feedback: Feedback,
        *,
        priority: int,
        weight: float,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        assert weight > 0
        self.cargo, self.learning, self.priority, self.weight = cargo, learning, priority, weight
        self.start = 0.0
        self._log, self._feedback, self._window_bytes = log, feedback, window_bytes
        self._shares = Shares(cargo, log, feedback) if cargo.lane.count > 1 else None
        self._stage: int | None = None
        self._blocks: deque[BlockSender] = deque()  # heard: that may miss what the stage aims at, in order
        self._together: list[_Advance] = []  # silent: a heap, least covered first
        self._windows: Iterator[list[BlockSender]] = iter(())
        self._metadata_due_s, self._metadata_pause_s, self._metadata_left = 0.0, _METADATA_REPEAT_S, 0

    def begin_contact(self, now: float) -> None:
        """The link is there: the metadata goes up once more if nobody said that it is there."""
        self._metadata_due_s, self._metadata_pause_s, self._metadata_left = now, _METADATA_REPEAT_S, 0
        self.start_over()

    def start_over(self) -> None:
        """Something was learned: what was planned does not hold any more."""
        self._stage = None

    def forget_sync(self) -> None:
        """What happened on board since the last report is not known: a contact begins, the receiver restarted."""
        self.learning.forget_sync()
        if self._shares is not None:
            self._shares.forget_sync()

    def receive_report(self, report: Report, listed: Mapping[BlockKey, int], now: float) -> None:
        """Believe a fresh report; see `Learning.receive_report`."""
        self.learning.receive_report(report, listed, now)
        if self._shares is not None:
            self._shares.learn(now)

    @property
    def is_over(self) -> bool:
        """Whether the satellite has decided, or has all of it."""
        return self.learning.state in DECIDED or self.cargo.is_done

    @property
    def has_bundles_to_send(self) -> bool:
        """Whether any block of a bundle is not known to be there."""
        return any(not block.is_solved for block in self.cargo.bundle_blocks)

    @property
    def metadata_due_s(self) -> float:
        """When the metadata is repeated; infinity once it is there."""
        return math.inf if self.cargo.metadata.is_done else self._metadata_due_s

    def next_metadata(self, now: float) -> Turn | None:
        """The metadata, if it is due."""
        if self.cargo.metadata.is_done:
            return None
        blocks = self.cargo.metadata.blocks
        block = min(blocks, key=lambda block: block.num_sent)
        if self._metadata_left:
            return block, self._metadata_left
        if now < self._metadata_due_s:
            return None
        self._metadata_due_s = now + max(self._metadata_pause_s, self._feedback.timeout_s)
        self._metadata_pause_s = min(self._metadata_pause_s * _REPEAT_GROWTH, _METADATA_REPEAT_S_MAX)
        self._metadata_left = sum(self._need(each, _METADATA_AIM, now) or each.num_source + 1 for each in blocks)
        return block, self._metadata_left

    def next_block(self, stage: int, aim: Aim, now: float, *, silent: bool) -> Turn | None:
        """A block that misses what the stage aims at; None if no one does."""
        learning = self.learning
        if learning.state is UpdateState.BLOCKED and learning.reason in _PAUSING and not silent:
            return None
        if self._stage != stage:
            self._stage = stage
            self._together = []
            if silent and self._shares is not None:
                self._shares.forget_sync()  # nobody says what others do
            self._blocks = deque() if silent else deque(self._candidates())
            self._windows = self._silent_windows() if silent else iter(())
        return self._next_together(aim, now) if silent else self._next_in_order(aim, now)

    def taken(self, block: BlockSender, count: int) -> None:
        """So many symbols of the block whose turn it was are sent."""
        if block.key[0] == self.cargo.handle:
            self._metadata_left = max(0, self._metadata_left - count)
        elif self._together and self._together[0].block is block:
            first = self._together[0]
            first.coverage += count * first.step
            first.left -= count
            if first.left > 0:
                heapq.heapreplace(self._together, first)
            else:
                heapq.heappop(self._together)

    # While reports come

    def _next_in_order(self, aim: Aim, now: float) -> Turn | None:
        while self._blocks:
            count = self._need(self._blocks[0], aim, now)
            if count:
                return self._blocks[0], count
            self._blocks.popleft()
        return None

    def _candidates(self) -> list[BlockSender]:
        """Blocks that may need symbols, in order."""
        if self._shares is not None:
            return self._shares.in_order(is_synced=self.learning.is_synced)
        # What an earlier contact or process sent of a block is not known before a report: that will tell.
        is_known = self.learning.is_synced
        return [block for block in self.cargo.bundle_blocks if not block.is_solved and (is_known or block.is_untouched)]

    # In silence

    def _next_together(self, aim: Aim, now: float) -> Turn | None:
        while not self._together:
            window = next(self._windows, None)
            if window is None:
                return None
            self._open_window(window, aim, now)
        first, rest = self._together[0], self._together[1:3]
        if not rest:
            return first.block, first.left
        ahead = min(other.coverage for other in rest) - first.coverage
        return first.block, min(first.left, max(1, math.ceil(ahead / first.step - _ROUNDING)))

    def _open_window(self, window: list[BlockSender], aim: Aim, now: float) -> None:
        loss = self._feedback.loss
        for number, block in enumerate(window):
            left = self._need(block, aim, now)
            if left:
                in_flight = self._log.in_flight(block.key)
                coverage = block.coverage(in_flight, loss)
                self._together.append(_Advance(coverage, number, block, left, (1 - loss.mean) / block.num_source))
        heapq.heapify(self._together)

    def _silent_windows(self) -> Iterator[list[BlockSender]]:
        """The unfinished blocks, by as many objects as a receiver keeps open."""
        window: list[BlockSender] = []
        size = num_objects = 0
        for sending in self._objects_in_order():
            layout = sending.item.layout
            size += layout.padded_size + layout.size_of(0)
            num_objects += 1
            if window and (size > self._window_bytes or num_objects > WINDOW_OBJECTS):
                yield window
                window, size, num_objects = [], layout.padded_size + layout.size_of(0), 1
            window += [block for block in sending.blocks if not block.is_solved]
        if window:
            yield window

    def _objects_in_order(self) -> list[ObjectSender]:
        """Each station begins at another place."""
        bundles, lane = self.cargo.bundles, self.cargo.lane
        first = len(bundles) * lane.index // lane.count
        return [sending for sending in bundles[first:] + bundles[:first] if not sending.is_done]

    def _need(self, block: BlockSender, aim: Aim, now: float) -> int:
        return block.need(self._log.in_flight(block.key), self._feedback.loss, aim, now)


class _Advance:
    """A block that advances together with others: how far it is, and how many symbols it may still send."""

    __slots__ = ("block", "coverage", "left", "number", "step")

    def __init__(self, coverage: float, number: int, block: BlockSender, left: int, step: float) -> None:
        self.coverage, self.number, self.block, self.left, self.step = coverage, number, block, left, step

    def __lt__(self, other: "_Advance") -> bool:
        return (self.coverage, self.number) < (other.coverage, other.number)
