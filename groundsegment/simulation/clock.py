"""A virtual clock: calls in order of their time, none before it is due. Pure.

Driven by `run`, which jumps from one call to the next. Calls of one time come in the order they were asked for, so a
simulation is the same every time.
"""

import heapq
from collections.abc import Callable

Call = Callable[[], None]


class VirtualClock:
    """See the module.

    Attributes:
        now: virtual seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Call]] = []
        self._num_asked = 0

    def at(self, time_s: float, call: Call) -> None:
        """Call at a time; at once, but not within this call, if that is past."""
        heapq.heappush(self._calls, (max(time_s, self.now), self._num_asked, call))
        self._num_asked += 1

    def after(self, delay_s: float, call: Call) -> None:
        """Call after so many seconds."""
        self.at(self.now + delay_s, call)

    def run(self, until_s: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Do all calls that are due before a time, or until it is over. Then it is that time."""
        while self._calls and self._calls[0][0] < until_s:
            if is_over():
                return
            self.now, _, call = heapq.heappop(self._calls)
            call()
        if not is_over():
            self.now = max(self.now, until_s if self._calls or until_s < float("inf") else self.now)
