"""When to hold symbols back although the link is up: reports came regularly, and suddenly none does. Pure.

Then the receiver is probably down, and what is sent now is sent into the void. So we only call until it answers. But
the way down alone may have died, and the way up go on working: all holding back together takes no longer than
HOLD_S_MAX and a small share of the time in which reports came. Where they never came, or only now and then, nothing is
held back.
"""

from collections import deque

HOLD_S_MAX = 10.0  # a receiver is back by then, or nobody knows when
_REFILL = 0.02  # of the time in which reports come
_REPORTS_MIN = 8  # fewer say nothing of how regular they are
_REPORTS = 32
_INTERVALS = 6.0  # so many usual intervals without a report are no chance
_SILENCE_S_MIN = 0.4


class Patience:
    """One link.

    Args:
        is_wanted: False never holds anything back.
    """

    def __init__(self, *, is_wanted: bool = True) -> None:
        self._is_wanted = is_wanted
        self._heard: deque[float] = deque(maxlen=_REPORTS)
        self._left_s = HOLD_S_MAX
        self._since_s: float | None = None

    def begin_contact(self) -> None:
        """Nobody has answered yet."""
        self._heard.clear()
        self._left_s, self._since_s = HOLD_S_MAX, None

    def heard(self, now: float) -> None:
        """A report came."""
        if self._since_s is not None:
            self._left_s -= now - self._since_s
            self._since_s = None
        elif self._heard:
            self._left_s = min(HOLD_S_MAX, self._left_s + _REFILL * (now - self._heard[-1]))
        self._heard.append(now)

    def holds(self, now: float) -> bool:
        """Whether to hold symbols back now."""
        if not self._is_wanted or len(self._heard) < _REPORTS_MIN:
            return False
        usual_s = (self._heard[-1] - self._heard[0]) / (len(self._heard) - 1)
        if now - self._heard[-1] < max(_SILENCE_S_MIN, _INTERVALS * usual_s):
            return False
        self._since_s = now if self._since_s is None else self._since_s
        if now - self._since_s < self._left_s:
            return True
        self._left_s, self._since_s = 0.0, None
        self._heard.clear()  # from now on blindly, until reports are regular again
        return False
