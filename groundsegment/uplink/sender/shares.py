"""Several stations at one update at the same time, without talking: which blocks each takes on, when to let go. Pure.

Each station has a share of the blocks, in the order of their lanes. It sends its own from the front to the back; done
with that, it helps the share with most left, from the back to the front, so that two stations meet once. Helpers of
one share begin at different places, and not before they have watched it for as long as news takes: where all of a
share fits between sending and hearing of it, its owner has it under way, unseen.

What others do is learned from reports alone. Symbols that came beyond our own were somebody else's: from their rate
follows how many more are under way unseen, in which blocks, and that much is left to them. A helper leaves also what
will have been sent by the time it is noticed itself. So nobody sends what another is about to; what two stations send
too much, where they meet, is what such a forecast errs by.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from groundsegment.uplink.sender.block_sender import BlockSender
from groundsegment.uplink.sender.cargo import Cargo
from groundsegment.uplink.sender.feedback import Feedback
from groundsegment.uplink.sender.flight_log import FlightLog

_WATCH_S = 4.0  # over so long, and some delays, others are remembered
_STALL_JUMPS, _STALL_S_MIN = 2.5, 1.5  # without a jump for so many usual ones, nobody is there any more
_DELAY_S_GUESS, _ECHO_S_GUESS = 2.0, 0.5  # until they are known
_SIGMAS, _SYMBOLS_MIN = 3.0, 8  # what looks like somebody else's may be our own luck


@dataclass(slots=True)
class _Watch:
    """What others sent of one block, as far as reports tell.

    Attributes:
        have: symbols there, as last reported.
        settled: of our own, as last settled.
        jumps: when a report said more: time, symbols of others, symbols of ours.
    """

    have: int
    settled: int
    jumps: deque[tuple[float, float, float]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """Somebody's way through a share.

    Attributes:
        blocks: still unfinished ones, in the order in which they are sent.
        rate: symbols that arrive per second.
        newest_s: when the last of them were heard of.
    """

    blocks: tuple[BlockSender, ...]
    rate: float
    newest_s: float


class Shares:
    """The blocks of one update, and who is at them."""

    def __init__(self, cargo: Cargo, log: FlightLog, feedback: Feedback) -> None:
        self._log, self._feedback, self._lane = log, feedback, cargo.lane
        blocks, count = cargo.bundle_blocks, cargo.lane.count
        cuts = [len(blocks) * number // count for number in range(count + 1)]
        self._shares = [blocks[cuts[number] : cuts[number + 1]] for number in range(count)]
        self._watches: dict[int, _Watch] = {}  # by the block's identity
        self._helped: int | None = None
        self._synced_s: float | None = None  # when counts were first compared
        self._now = 0.0

    def forget_sync(self) -> None:
        """What others did meanwhile is not known: counts are compared anew."""
        self._watches.clear()
        self._synced_s = None
        for share in self._shares:
            for block in share:
                block.foreign = 0.0

    def learn(self, now: float) -> None:
        """A report was heard, and all blocks have taken it in."""
        if self._synced_s is None:
            self._synced_s = now
        self._now = now
        for share in self._shares:
            for block in share:
                self._watch(block, now)
                block.foreign = 0.0
        for number, share in enumerate(self._shares):
            for stream in self._streams(number, share, now):
                self._foresee(stream, self._rank(number), now)

    def in_order(self, *, is_synced: bool) -> list[BlockSender]:
        """Blocks that may need symbols from us, most urgent first."""
        own = self._shares[self._lane.index]
        if not is_synced:  # others may have sent anything else meanwhile
            return [block for block in own if block.is_untouched and not block.is_solved]
        result = [block for block in own if not block.is_solved]
        others = [number for number in range(self._lane.count) if number != self._lane.index]
        left = {number: self._left(number) for number in others}
        if self._helped is None or left.get(self._helped, 0.0) <= 0:
            self._helped = max(others, key=left.__getitem__, default=None)
        others.sort(key=lambda number: (number != self._helped, -left[number]))
        for number in others:
            if self._may_help(number):
                result += self._from_behind(number)
        return result

    def _may_help(self, number: int) -> bool:
        """Whether who is at a share already would have been noticed by now."""
        watched_s = self._now - (self._now if self._synced_s is None else self._synced_s)
        return watched_s >= self._delay_s * (1 + (self._rank(number) - 1) / self._lane.count)

    @property
    def _delay_s(self) -> float:
        """From sending a symbol to hearing of it."""
        return self._feedback.delay_s or _DELAY_S_GUESS

    # Where to help

    def _left(self, number: int) -> float:
        """Symbols that nobody has under way."""
        arriving = 1 - self._feedback.loss.mean
        return sum(
            max(0.0, block.num_source - block.have - block.foreign - arriving * self._log.in_flight(block.key))
            for block in self._shares[number]
            if not block.is_solved
        )

    def _from_behind(self, number: int) -> list[BlockSender]:
        """A share's unfinished blocks, last first; the second helper begins at half, the third at a quarter ..."""
        blocks = [block for block in reversed(self._shares[number]) if not block.is_solved]
        skip = int(len(blocks) * _spread(self._rank(number) - 1))
        return blocks[skip:] + blocks[:skip]

    def _rank(self, number: int) -> int:
        """0 for the owner of a share, then its helpers."""
        return (self._lane.index - number) % self._lane.count

    # What others do

    def _watch(self, block: BlockSender, now: float) -> None:
        settled = block.num_sent - self._log.in_flight(block.key)
        watch = self._watches.get(id(block))
        if watch is None or block.have < watch.have:
            self._watches[id(block)] = _Watch(block.have, settled)
            return
        if block.have > watch.have:
            ours = (settled - watch.settled) * (1 - self._feedback.loss.mean)
            watch.jumps.append((now, block.have - watch.have - ours, ours))
            watch.have, watch.settled = block.have, settled
        watch_s = _WATCH_S + (1 + self._lane.count) * self._delay_s
        while watch.jumps and now - watch.jumps[0][0] > watch_s:
            watch.jumps.popleft()

    def _streams(self, number: int, share: list[BlockSender], now: float) -> list[_Stream]:
        """The owner's way forward, if that is not us, and helpers' ways backward."""
        active = [index for index, block in enumerate(share) if self._is_foreign(block)]
        if not active:
            return []
        forward = [index for index in active if self._rank(number) and not _is_gap_before(share, index)]
        backward = [index for index in active if index not in forward]
        streams = []
        if forward:
            ahead = share[forward[0] :]
            streams.append(self._stream([share[index] for index in forward], ahead, self._rank(number), now))
        if backward:
            ahead = share[backward[-1] :: -1]
            streams.append(self._stream([share[index] for index in backward], ahead, self._rank(number), now))
        return [stream for stream in streams if stream is not None]

    def _is_foreign(self, block: BlockSender) -> bool:
        """Whether more came of it lately than we can have sent."""
        watch = self._watches[id(block)]
        others, ours = sum(jump[1] for jump in watch.jumps), sum(jump[2] for jump in watch.jumps)
        return others > self._chance(ours) + _SYMBOLS_MIN

    def _chance(self, ours: float) -> float:
        """How many more of our own may have come than we think."""
        loss = self._feedback.loss
        return _SIGMAS * (math.sqrt(max(0.0, ours) * loss.mean * loss.dispersion) + ours * loss.deviation)

    def _stream(self, active: list[BlockSender], ahead: list[BlockSender], rank: int, now: float) -> _Stream | None:
        jumps = sorted(jump for block in active for jump in self._watches[id(block)].jumps)
        times = sorted({time_s for time_s, others, ours in jumps if others > self._chance(ours) + _SYMBOLS_MIN})
        if not times:
            return None
        seconds = times[-1] - times[0]
        period_s = seconds / (len(times) - 1) if seconds else self._feedback.sync_s
        # One after the other takes heart when somebody has gone: the owner first, each in time to be seen by the next.
        patience_s = max(_STALL_S_MIN, _STALL_JUMPS * period_s) + rank * self._delay_s
        if now - times[-1] > patience_s:
            return None
        arrived = sum(others for time_s, others, _ in jumps if time_s > times[0] or not seconds)
        unfinished = tuple(block for block in ahead if not block.is_solved)
        return _Stream(blocks=unfinished, rate=arrived / (seconds or period_s), newest_s=times[-1])

    def _foresee(self, stream: _Stream, rank: int, now: float) -> None:
        """Lay what is under way unseen into the blocks in which it probably is."""
        unseen_s = now - stream.newest_s + (self._feedback.echo_s or _ECHO_S_GUESS)
        if rank:  # until we are noticed
            unseen_s += self._delay_s * (1 + (rank - 1) / self._lane.count)
        coming = max(0.0, stream.rate) * unseen_s
        for block in stream.blocks:
            lacking = max(0.0, block.num_source - block.have - block.foreign)
            block.foreign += min(coming, lacking)
            coming -= min(coming, lacking)
            if coming <= 0:
                return


def _is_gap_before(share: list[BlockSender], index: int) -> bool:
    """Whether a block that nobody has begun lies before this one."""
    return any(block.have == 0 and not block.is_solved for block in share[:index])


def _spread(number: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: as far from those before as can be (van der Corput)."""
    result, step = 0.0, 0.5
    while number:
        number, bit = divmod(number, 2)
        result += bit * step
        step /= 2
    return result
