"""How fast frames leave: a token bucket for links with a rate, a rate that finds itself for links without one. Pure.

A modem or a socket that is fed faster than it drains throws frames away, and the sender would take that for loss on
the link. So a known rate is kept to the byte, and an unknown one grows only while the loss that reports show does not.
"""

from collections import deque

BURST_S = 0.1  # covers a late timer or a repair batch; far below the queue of any modem
RATE_START = 16e6  # bytes per second; where the search for an unknown rate begins
RATE_MIN, RATE_MAX = 0.5e6, 80e6
_GROW, _SHRINK = 1.25, 0.7
_LOSS_STEP = 0.08  # loss above the usual that means that somebody's queue overflows; a busy machine jitters by less
_ROUNDS = 12  # samples among which the usual loss is at the lower quartile
_WINDOW_FRAMES_MIN = 2048


class TokenBucket:
    """Bytes that may be sent now at a constant rate."""

    def __init__(self, rate_bytes_per_s: float, now: float) -> None:
        self._rate, self._filled_s = rate_bytes_per_s, now
        self._tokens = 0.0

    def set_rate(self, rate_bytes_per_s: float) -> None:
        """Go on at another rate."""
        self._rate = rate_bytes_per_s

    def available(self, now: float) -> float:
        """Bytes that may be sent; what was not used for longer than the burst is lost."""
        self._tokens += max(0.0, now - self._filled_s) * self._rate
        self._tokens = min(self._tokens, self._rate * BURST_S)
        self._filled_s = now
        return self._tokens

    def spend(self, size_bytes: int) -> None:
        """Bytes were sent; a debt is allowed, and paid back by waiting."""
        self._tokens -= size_bytes


class RateSearch:
    """Finds a rate from reports: grows while the loss stays where it was, steps back when it rises."""

    def __init__(self) -> None:
        self.rate_bytes_per_s = RATE_START
        self._losses: deque[float] = deque(maxlen=_ROUNDS)

    def sample(self, *, sent: int, arrived: int) -> None:
        """Take in a settled sample: of `sent` frames in a row, `arrived` arrived."""
        loss = 1 - min(arrived, sent) / sent
        usual = sorted(self._losses)[len(self._losses) // 4] if self._losses else loss
        self._losses.append(loss)
        factor = _SHRINK if loss > usual + _LOSS_STEP else _GROW
        self.rate_bytes_per_s = min(max(self.rate_bytes_per_s * factor, RATE_MIN), RATE_MAX)

    def window_frames(self, frame_size: int, delay_s: float | None) -> int:
        """How many frames may be on their way: a receiver that stalls must not be buried."""
        return max(_WINDOW_FRAMES_MIN, round(self.rate_bytes_per_s * ((delay_s or 1.0) + 0.5) / frame_size))
