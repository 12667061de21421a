"""The rate of a link that nobody knows, found from reports. Pure.

It compares what was sent with what arrived, one round trip later. While the share that arrives stays what it was, the
rate grows, fast at first. When less arrives than usual, somebody's queue grows or overflows: the rate falls to what is
delivered, and from there it only feels its way up. A step back that does not help is taken back: then the link itself
loses more than it did. So on a link with a rate it sends a few percent more than the link can carry, never twice as
much.

It does not know blocks; loss as the planner and the sender need it is the `feedback`'s.
"""

import math
from collections import deque

RATE_START = 0.5e6  # bytes per second: no more than twice what a slow link carries
RATE_MIN, RATE_MAX = 10e3, 80e6
LOSS_USUAL = 0.05  # before anything is known
_GROWTH, _GROWTH_NEAR = 2.0, 1.05  # from sample to sample; near a rate that was too much
_NEAR = 1.2
_BACK = 0.9  # of what was delivered: lets the queue run empty
_LOSS_STEP = 0.08  # more than usual by this is too much; a busy machine jitters by less
_LOSS_STEP_PLAIN = 0.25  # more than usual by this needs no second look
_SIGMAS, _VARIANCE_MIN = 2.0, 0.06  # chance may look like that
_PRIOR_FRAMES = 100.0  # how many frames what was believed before is worth
_BUSY = 0.7  # the rate was used: more may be tried
_SAMPLE_S, _SAMPLE_FRAMES = 0.2, 64
_SECOND_LOOK_S = 0.5  # a report may be late, and what it does not count looks lost
_LATE_S = 0.05  # after a change of rate, beyond the round trip
_SAMPLES = 12  # among which the usual loss is at the lower quartile
_HISTORY_S, _HISTORY_STEP_S = 30.0, 0.005
_WINDOW_FRAMES_MIN = 2048


class RateSearch:
    """One link.

    Attributes:
        rate_bytes_per_s: how fast to send now.
        is_measured: whether that is more than a guess.
        was_heard: whether anybody ever answered.
    """

    def __init__(self, usual_loss: float = LOSS_USUAL) -> None:
        self.rate_bytes_per_s = RATE_START
        self.is_measured = self.was_heard = False
        self._prior = usual_loss
        self._losses: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)  # loss, frames sent
        self._ceiling = math.inf  # bytes per second that were delivered when more was too much
        self._step_back: tuple[float, float] | None = None  # rate and loss before it, until it is judged
        self._history: deque[tuple[float, int, int]] = deque()  # when, frames and bytes sent by then
        self._frames = self._bytes = 0
        self._session = b""
        self._first_sent_s: float | None = None
        self._round_trip_s = math.inf
        self._anchor: tuple[float, float, float, int] | None = None
        self._settled_s = -math.inf

    def begin_contact(self) -> None:
        """What was sent before has arrived or not; the rate is kept as the best guess."""
        self._anchor = self._first_sent_s = self._step_back = None
        self._round_trip_s = math.inf

    def sent(self, frames: int, size_bytes: int, now: float) -> None:
        """Frames of any kind were sent."""
        self._first_sent_s = now if self._first_sent_s is None else self._first_sent_s
        self._frames, self._bytes = self._frames + frames, self._bytes + size_bytes
        if self._history and now - self._history[-1][0] < _HISTORY_STEP_S:
            self._history[-1] = (self._history[-1][0], self._frames, self._bytes)
        else:
            self._history.append((now, self._frames, self._bytes))
        while len(self._history) > 2 and now - self._history[1][0] > _HISTORY_S:
            self._history.popleft()

    def heard(self, received: int, *, session: bytes, now: float) -> None:
        """A report has counted so many frames."""
        self.was_heard = True
        if self._first_sent_s is None:
            return
        if session != self._session:
            self._session, self._anchor = session, None
        # The first report comes as soon as something arrives; later ones wait for their turn.
        self._round_trip_s = min(self._round_trip_s, now - self._first_sent_s)
        frames, size = self._sent_by(now - self._round_trip_s)
        if self._anchor is None or received < self._anchor[3]:
            if now >= self._settled_s:
                self._anchor = (now, frames, size, received)
            return
        seconds, num_sent = now - self._anchor[0], frames - self._anchor[1]
        if seconds < _SAMPLE_S or num_sent < _SAMPLE_FRAMES:
            return
        arrived, before = received - self._anchor[3], self._anchor
        excess = 1 - arrived / num_sent - self._usual()[0] - self._step(num_sent)
        if 0 < excess < _LOSS_STEP_PLAIN and seconds < _SECOND_LOOK_S:
            return
        self._anchor = (now, frames, size, received)
        rate = self._rate_after(num_sent, arrived, (size - before[2]) / seconds)
        if rate is not None:
            # The next sample begins when the first frame that left at the new rate has arrived.
            self.rate_bytes_per_s = min(max(rate, RATE_MIN), RATE_MAX)
            self._anchor, self._settled_s = None, now + self._round_trip_s + _LATE_S

    def window_frames(self, frame_size: int, delay_s: float | None) -> int:
        """How many frames may be on their way: a receiver that stalls must not be buried."""
        return max(_WINDOW_FRAMES_MIN, round(self.rate_bytes_per_s * ((delay_s or 1.0) + 0.5) / frame_size))

    def _rate_after(self, sent: float, arrived: int, sent_per_s: float) -> float | None:
        """What a sample makes of the rate; None to leave it as it is."""
        loss, usual = 1 - min(arrived, sent) / sent, self._usual()[0]
        if self._step_back is not None:
            rate, loss_before = self._step_back
            self._step_back = None
            if loss > (loss_before + usual) / 2:
                # Slower was no better: this is how the link is now.
                self._losses.clear()
                self._losses.append((loss, sent))
                self._ceiling = math.inf
                return rate
        self.is_measured = True
        if loss > usual + self._step(sent):
            self._step_back = (self.rate_bytes_per_s, loss)
            self._ceiling = sent_per_s * (1 - loss) / (1 - usual)
            return _BACK * self._ceiling
        self._losses.append((loss, sent))
        if sent_per_s < _BUSY * self.rate_bytes_per_s:
            return None
        is_near = self.rate_bytes_per_s < _NEAR * self._ceiling < math.inf
        return self.rate_bytes_per_s * (_GROWTH_NEAR if is_near else _GROWTH)

    def _usual(self) -> tuple[float, float]:
        """The usual loss, and how many frames say so."""
        if not self._losses:
            return self._prior, _PRIOR_FRAMES
        return sorted(self._losses)[len(self._losses) // 4]

    def _step(self, sent: float) -> float:
        """How much more than usual a sample must lose to be too much."""
        usual, frames = self._usual()
        variance = max(usual * (1 - usual), _VARIANCE_MIN) * (1 / sent + 1 / frames)
        return max(_LOSS_STEP, _SIGMAS * math.sqrt(variance))

    def _sent_by(self, time_s: float) -> tuple[float, float]:
        """Frames and bytes sent by a time, between the marks of the history by proportion."""
        after: tuple[float, int, int] | None = None
        for mark in reversed(self._history):
            if mark[0] <= time_s:
                if after is None:
                    return mark[1], mark[2]
                share = (time_s - mark[0]) / (after[0] - mark[0])
                return mark[1] + share * (after[1] - mark[1]), mark[2] + share * (after[2] - mark[2])
            after = mark
        return (0.0, 0.0) if after is None else (after[1], after[2])
