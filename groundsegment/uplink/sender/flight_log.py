"""Which symbols were sent when, and which of them are still in flight. Pure.

Frames are numbered as they are sent. Since no symbol is sent twice, a report's echo (block and ESI) names one of these
numbers: everything up to it is *settled*, it has arrived and is counted, or is lost. What was sent later is in flight,
until it is too old for that; then it is settled as well.

It does not know how many symbols arrived: reports say so.
"""

from collections import deque
from dataclasses import dataclass

BlockKey = tuple[bytes, int]  # object handle, source block number

_RUNS_MAX = 65_536  # runs remembered; older ones stay counted but can no longer be named by an echo
_MERGE_S = 0.05  # frames of one block sent within this time are one run


@dataclass(slots=True)
class _Run:
    block: BlockKey
    first_esi: int
    count: int
    first_number: int
    sent_s: float

    @property
    def next_number(self) -> int:
        return self.first_number + self.count


class FlightLog:
    """The log of one uplink process."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._by_block: dict[BlockKey, deque[_Run]] = {}
        self._in_flight: dict[BlockKey, int] = {}
        self._forgotten: dict[BlockKey, int] = {}
        self.num_sent = 0
        self.num_settled = 0  # every frame numbered below is settled
        self.num_expired = 0  # of them, those that no report covered in time

    def sent(self, block: BlockKey, first_esi: int, count: int, now: float) -> None:
        """Note that `count` symbols were sent."""
        assert count > 0
        last = self._runs[-1] if self._runs else None
        if (
            last is not None
            and last.block == block
            and last.first_esi + last.count == first_esi
            and now - last.sent_s < _MERGE_S
        ):
            last.count += count
        else:
            run = _Run(block, first_esi, count, self.num_sent, now)
            self._runs.append(run)
            self._by_block.setdefault(block, deque()).append(run)
        self.num_sent += count
        self._in_flight[block] = self._in_flight.get(block, 0) + count
        if len(self._runs) > _RUNS_MAX:
            self._forget_oldest()

    def in_flight(self, block: BlockKey) -> int:
        """How many symbols of a block may still arrive, or have arrived without being reported."""
        return self._in_flight.get(block, 0) + self._forgotten.get(block, 0)

    @property
    def oldest_s(self) -> float | None:
        """When the oldest frame in flight was sent."""
        return self._runs[0].sent_s if self._runs else None

    @property
    def newest(self) -> tuple[BlockKey, float] | None:
        """The block of the newest frame in flight, and when that was sent."""
        return (self._runs[-1].block, self._runs[-1].sent_s) if self._runs else None

    def sent_s(self, number: int) -> float | None:
        """When a frame in flight was sent."""
        return next((run.sent_s for run in self._runs if run.first_number <= number < run.next_number), None)

    def number_of(self, block: BlockKey, esi: int) -> int | None:
        """The number of the frame that carried a symbol; None if it is settled or not ours."""
        for run in reversed(self._by_block.get(block, ())):
            if run.first_esi <= esi < run.first_esi + run.count:
                return run.first_number + esi - run.first_esi
        return None

    def settle_through(self, number: int) -> None:
        """A report covers everything up to and with this frame."""
        while self._runs and self._runs[0].first_number <= number:
            run = self._runs[0]
            count = min(run.count, number + 1 - run.first_number)
            self._settle(run, count)
        self._forgotten.clear()

    def settle_sent_before(self, time_s: float) -> None:
        """Whatever was sent before has had time enough to be reported."""
        while self._runs and self._runs[0].sent_s < time_s:
            self.num_expired += self._runs[0].count
            self._settle(self._runs[0], self._runs[0].count)
        self._forgotten.clear()

    def _settle(self, run: _Run, count: int) -> None:
        self._in_flight[run.block] -= count
        self.num_settled = run.first_number + count
        run.first_esi += count
        run.first_number += count
        run.count -= count
        if not run.count:
            self._drop_oldest()

    def _forget_oldest(self) -> None:
        run = self._runs[0]
        self._forgotten[run.block] = self._forgotten.get(run.block, 0) + run.count
        self._in_flight[run.block] -= run.count
        self.num_settled = run.next_number
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        run = self._runs.popleft()
        runs = self._by_block[run.block]
        runs.popleft()
        if not runs:
            del self._by_block[run.block]
        if not self._in_flight[run.block]:
            del self._in_flight[run.block]
