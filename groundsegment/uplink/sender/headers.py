"""Which symbols go with a short header: those of an object that the satellite has seen whole frames of. Pure.

A short header costs 8 bytes less and says nothing to a receiver that does not know the object (`protocol.frame`). So
the first frames of each object in a contact are whole, and now and then one after them, for a receiver that has lost
it: nothing has to be asked or remembered, on a one-way link too. Where somebody answered and has stopped, they stay
whole until somebody answers again: the frames that told of an object may have gone into the void.
"""

WHOLE_FIRST = 32  # even at 50 % loss one of them arrives but for 1 in 4 billion
WHOLE_EVERY = 64  # after that; a receiver that forgot an object knows it again after so many
_SILENCE_S_MIN = 1.0
_INTERVALS = 4.0  # so many usual intervals without a report are no chance
_NEWEST_SHARE = 0.25  # of the usual interval
_PAUSE_S_MAX = 10.0  # a longer one says nothing of what is usual


class Headers:
    """What was sent of each object in this contact."""

    def __init__(self) -> None:
        self._num_sent: dict[bytes, int] = {}
        self._heard_s: float | None = None
        self._usual_s = 0.0

    def start_over(self) -> None:
        """A contact begins, or the receiver restarted: it may have lost everything."""
        self._num_sent.clear()
        self._heard_s = None

    def heard(self, now: float) -> None:
        """A report came."""
        if self._is_out(now):
            self._num_sent.clear()
        if self._heard_s is not None:
            pause_s = min(now - self._heard_s, _PAUSE_S_MAX)
            self._usual_s += _NEWEST_SHARE * (pause_s - self._usual_s)
        self._heard_s = now

    def take(self, handle: bytes, count: int, now: float) -> list[bool]:
        """Choose for the next symbols of an object: which of them may go short."""
        if self._is_out(now):
            return [False] * count
        first = self._num_sent.get(handle, 0)
        self._num_sent[handle] = first + count
        return [number >= WHOLE_FIRST and number % WHOLE_EVERY != 0 for number in range(first, first + count)]

    def _is_out(self, now: float) -> bool:
        return self._heard_s is not None and now - self._heard_s > max(_SILENCE_S_MIN, _INTERVALS * self._usual_s)
