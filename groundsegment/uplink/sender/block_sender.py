"""One source block on its way up: how many of its symbols are there, under way, and still to be sent. Pure.

The arithmetic of the sender lives here; `schedule` decides which block has its turn. Symbols of a block are numbered by
ESI; ours are those of our lane, source symbols first, and no ESI is used twice: `next_esi` only rises, up to the lane's
end.
"""

import math
from dataclasses import dataclass, field

from groundsegment.uplink.sender.flight_log import BlockKey
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.frame import FrameKind

RESERVE_SHARE = 4  # a quarter of a block is reserved at once: few commits, few skipped symbols after a kill
RESERVE_SYMBOLS_MIN = 64
SAMPLE_SYMBOLS_MIN = 64
STALL_S = 3.0  # a solver may take that long before we think that K symbols did not suffice


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """How much to send for a block that lacks symbols.

    Attributes:
        luck: how many standard deviations of chance to count on. Positive: send fewer, the next reports tell. Negative:
            assume bad luck and send more, so that it will probably do.
        trust: the same for not knowing the loss. Positive: assume that fewer are lost than we think.
        surplus_share_max: of the block, what may be sent for fear of bad luck.
        surplus_symbols: what may be sent for it however small the block is.
        must_be_cheap: send nothing at all where chance asks for more than that: then waiting costs less.
    """

    luck: float
    trust: float = 0.0
    surplus_share_max: float = math.inf
    surplus_symbols: int = 8
    must_be_cheap: bool = False

    def margin(self, in_flight: float, num_source: int, loss: LossEstimate) -> float:
        """Symbols that shall arrive beyond those that are needed (short of them, if negative) if all is as expected."""
        surplus_max = max(self.surplus_symbols, self.surplus_share_max * num_source)
        return min(self._chance(in_flight, loss), surplus_max) - self.trust * in_flight * loss.deviation

    def is_too_dear(self, in_flight: float, loss: LossEstimate) -> bool:
        """Whether it is better to wait for the next report."""
        return self.must_be_cheap and self._chance(in_flight, loss) > self.surplus_symbols

    def _chance(self, in_flight: float, loss: LossEstimate) -> float:
        return -self.luck * math.sqrt(in_flight * loss.mean * (1 - loss.mean) * loss.dispersion)


@dataclass(slots=True)
class BlockSender:
    """What we know of one block.

    Attributes:
        key: object handle and block number.
        num_source: K.
        kind: how its symbols are made.
        lane: which of its symbols are ours to send.
        next_esi: no symbol of ours from here on was sent.
        reserved_esi: symbols below this may have been sent, whatever happens to us; written down before use.
        have: durable symbols on board, as last reported, whoever sent them.
        is_solved: nothing more is needed.
        prior_sent: symbols that earlier processes of ours have sent, at most.
        prior_flight: of them, those that may still be under way.
        foreign: symbols that other stations probably have under way.
        full_since_s: since when K symbols are there and the block is still not solved.
        absent_since_s: since when reports no longer list it.
        num_sent: symbols sent by this process.
        mark: symbols settled, symbols there, frames expired, at an earlier report: where the next sample starts.
    """

    key: BlockKey
    num_source: int
    kind: FrameKind
    lane: Lane = field(default_factory=Lane)
    next_esi: int = 0
    reserved_esi: int = 0
    have: int = 0
    is_solved: bool = False
    prior_sent: int = 0
    prior_flight: int = 0
    foreign: float = 0.0
    full_since_s: float | None = None
    absent_since_s: float | None = None
    num_sent: int = 0
    mark: tuple[int, int, int] | None = None

    @property
    def is_untouched(self) -> bool:
        """Whether not one symbol was ever sent, so that no report is needed to know that all are missing."""
        return self.next_esi == 0 and self.have == 0

    def coverage(self, in_flight: int, loss: LossEstimate) -> float:
        """The share of the block that is there or expected: what is sent blindly goes to the smallest."""
        return (self.have + self._expected(in_flight + self.prior_flight, loss)) / self.num_source

    def need(self, in_flight: int, loss: LossEstimate, aim: Aim, now: float) -> int:
        """How many symbols to send now.

        Args:
            in_flight: symbols sent that no report has settled.
            loss: what is believed of the link.
            aim: how much luck to count on.
            now: seconds.
        """
        if self.is_solved:
            return 0
        in_flight += self.prior_flight
        if aim.is_too_dear(in_flight, loss):
            return 0
        lacking = self._target(now) - self.have - self.foreign
        if self._expected(in_flight, loss) >= lacking + aim.margin(in_flight, self.num_source, loss):
            return 0
        # Each symbol adds an expected arrival and a little deviation: two rounds of the fixed point suffice.
        arrival = (1 - loss.mean) * self._share_of_news
        total = lacking / arrival
        for _ in range(2):
            total = (lacking + aim.margin(max(total, in_flight), self.num_source, loss)) / arrival
        return max(1, math.ceil(total) - in_flight)

    def _target(self, now: float) -> int:
        """K, and a little more once K did not suffice (1 in 100 times)."""
        if self.full_since_s is not None and now - self.full_since_s > STALL_S:
            return max(self.num_source, self.have) + 2
        return self.num_source

    def _expected(self, in_flight: int, loss: LossEstimate) -> float:
        return in_flight * (1 - loss.mean) * self._share_of_news

    @property
    def _share_of_news(self) -> float:
        """How many of the symbols that arrive are new; without a codec, once around, only those that were lost."""
        if self.kind is FrameKind.PLAIN and self.next_esi > self.num_source:
            return max(1, self.num_source - self.have) / self.num_source
        return 1.0

    def take(self, count: int) -> tuple[int, int]:
        """Use up ESIs without a gap, at most `count`: (first, how many)."""
        end = self.lane.end_esi(self.num_source)
        if self.lane.at_or_after(self.next_esi) >= end:
            self.next_esi = self.reserved_esi = 0
        first, count = self.lane.run(self.next_esi, count)
        count = min(count, end - first)
        self.next_esi = first + count
        self.num_sent += count
        if self.next_esi > self.reserved_esi:
            ahead = max(RESERVE_SYMBOLS_MIN, self.num_source // RESERVE_SHARE)
            self.reserved_esi = self.lane.nth(self.lane.num_below(self.next_esi) + ahead)
        return first, count

    def sample(self, have: int, in_flight: int, num_expired: int) -> tuple[int, int] | None:
        """How many symbols were settled since the mark, and how many of them arrived; None if that says little.

        Args:
            have: as reported.
            in_flight: symbols of this block that are not settled.
            num_expired: frames of any block settled by time, not by a report: they may arrive yet, so they are none.
        """
        if self.lane.count > 1:
            return None  # others may have sent some of those
        settled, before = self.num_sent - in_flight, self.mark
        if before is None or have < before[1] or have >= self.num_source or num_expired != before[2]:
            self.mark = (settled, have, num_expired)
            return None
        sent = settled - before[0]
        if sent < SAMPLE_SYMBOLS_MIN:
            return None  # where frames overtake each other a few may be counted before they are settled
        arrived = min(have - before[1], sent)  # what is too much belongs to the next sample
        self.mark = (settled, before[1] + arrived, num_expired)
        return sent, arrived

    def rejoin(self, in_flight: int, loss: LossEstimate) -> None:
        """Go on in a process that knows some of what was sent before as its own: that is not counted twice."""
        if in_flight and self.prior_sent:
            self.prior_sent = max(0, self.prior_sent - in_flight)
            self.learn_prior(loss, is_settled=False)

    def learn(self, have: int, now: float) -> None:
        """Believe a report."""
        self.is_solved = False
        self.have = have
        self.absent_since_s = None
        if have < self.num_source:
            self.full_since_s = None
        elif self.full_since_s is None:
            self.full_since_s = now

    def learn_prior(self, loss: LossEstimate, *, is_settled: bool) -> None:
        """Take what earlier processes sent, and `have` does not explain, for under way until all of that is settled."""
        left = self.prior_sent - math.ceil(self.have / (1 - loss.mean))
        self.prior_flight = 0 if is_settled or self.is_solved else max(0, left)

    def learn_solved(self) -> None:
        """Believe a report that needs no more."""
        self.is_solved = True
        self.have = max(self.have, self.num_source)
        self.prior_flight = 0
        self.full_since_s = self.absent_since_s = None
