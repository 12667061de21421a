"""How fast frames leave: a token bucket for links with a rate, the `rate_search` for links without one. Pure.

A modem or a socket that is fed faster than it drains throws frames away, and the sender would take that for loss on
the link. So a known rate is kept to the byte, and an unknown one is searched for from below. Where nobody has said the
rate and nobody answers, hardly anything is sent: any rate would be a guess, and most of it lost.
"""

from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.core import UplinkStatistics

UNHEARD_FRAMES = 256  # at a rate that nobody has said, before anybody has answered
BURST_S = 0.1  # covers a late timer or a repair batch; far below the queue of any modem


class TokenBucket:
    """Bytes that may be sent now at a constant rate."""

    def __init__(self, rate_bytes_per_s: float, now: float) -> None:
        self._rate, self._filled_s = rate_bytes_per_s, now
        self._tokens = 0.0

    @property
    def rate_bytes_per_s(self) -> float:
        """How fast it fills."""
        return self._rate

    def set_rate(self, rate_bytes_per_s: float) -> None:
        """Go on at another rate."""
        self._rate = rate_bytes_per_s

    def available(self, now: float, frame_size: int) -> float:
        """Bytes that may be sent; what was not used for longer than the burst is lost, but never a whole frame."""
        self._tokens += max(0.0, now - self._filled_s) * self._rate
        self._tokens = min(self._tokens, max(self._rate * BURST_S, 2.0 * frame_size))
        self._filled_s = now
        return self._tokens

    def spend(self, size_bytes: int) -> None:
        """Bytes were sent; a debt is allowed, and paid back by waiting."""
        self._tokens -= size_bytes


class Pacer:
    """How many symbols may leave now, in one contact.

    Attributes:
        is_open: the rate is to be found.
    """

    def __init__(self, rate_bytes_per_s: float | None, search: RateSearch, now: float) -> None:
        """Begin a contact.

        Args:
            rate_bytes_per_s: of the link; None if it is to be found.
            search: of the link; it outlives the contact.
            now: seconds.
        """
        self.is_open, self._search = rate_bytes_per_s is None, search
        self._bucket = TokenBucket(search.rate_bytes_per_s if rate_bytes_per_s is None else rate_bytes_per_s, now)

    def budget(self, frame_size: int, statistics: UplinkStatistics | None, now: float) -> int:
        """Frames that may be sent now; where the rate is to be found, it takes what is known of the link."""
        if not self.is_open or statistics is None:
            return int(self._bucket.available(now, frame_size) // frame_size)
        self._bucket.set_rate(self._search.rate_bytes_per_s)
        budget = int(self._bucket.available(now, frame_size) // frame_size)
        flying = statistics.symbols_sent - statistics.symbols_settled
        if not self._search.was_heard:
            return min(budget, UNHEARD_FRAMES - flying)
        if statistics.is_silent:
            return budget
        return min(budget, self._search.window_frames(frame_size, statistics.feedback_s) - flying)

    @property
    def rate_bytes_per_s(self) -> float:
        """How fast frames leave now."""
        return self._bucket.rate_bytes_per_s

    def spend(self, size_bytes: int) -> None:
        """Bytes were sent."""
        self._bucket.spend(size_bytes)

    def needs_rate(self, statistics: UplinkStatistics) -> bool:
        """Whether nobody has said the rate, and nobody is there to find it with."""
        return self.is_open and not self._search.was_heard and statistics.symbols_sent >= UNHEARD_FRAMES
