"""What reports teach of the link itself: its loss, how long news takes, whether anybody answers. Pure.

A report's echo and its count of received frames give exact samples: of all frames between two echoes, so many
arrived. Delays are measured on the frame that waited longest (the one right after the previous echo), because the
satellite counts symbols only when they are durable, once a second or so.
"""

import math
from collections import deque

from groundsegment.uplink.flight_log import FlightLog
from groundsegment.uplink.loss import LossEstimate

SAMPLE_FRAMES_MIN = 64  # fewer say little, and the count may be a few frames ahead of the echo
TIMEOUT_S_FIRST = 3.0  # until a delay was measured: a second of syncing, a second of flight and queues, one spare
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.3, 20.0
_FORGET = 0.9  # how much of an old, longer delay stays at each measurement


class Feedback:
    """What one return path says."""

    def __init__(self, silence_s: float, loss: LossEstimate) -> None:
        self.loss = loss
        self.heard_s = -math.inf
        self._contact_start_s = -math.inf
        self._silence_s = silence_s
        self._session: bytes | None = None
        self._anchor: tuple[int, int] | None = None  # frames settled, frames received: where the next sample starts
        self._delay_s: float | None = None
        self.samples: deque[tuple[int, int]] = deque(maxlen=16)  # (sent, arrived), for whoever searches a rate
        self._was_heard_in_contact = False
        self._contacts_unheard = 0

    def begin_contact(self, now: float) -> None:
        """A contact begins: nobody is silent yet."""
        self._contacts_unheard = 0 if self._was_heard_in_contact else self._contacts_unheard + 1
        self.heard_s = self._contact_start_s = now
        self._was_heard_in_contact = False
        self._anchor = None
        self.loss = self.loss.as_prior()

    def heard(self, log: FlightLog, frames_received: int, *, session: bytes, echo: int | None, now: float) -> bool:
        """Take in a report; returns whether the receiver restarted since the last one."""
        restarted = self._session is not None and session != self._session
        if restarted:
            self._anchor = None
        self._session = session
        self.heard_s, self._was_heard_in_contact = now, True
        if echo is not None and echo >= log.num_settled:
            self._measure_delay(log.oldest_s, now)
            log.settle_through(echo)
            self._measure_loss(log.num_settled, frames_received)
        log.settle_sent_before(now - self.timeout_s)
        return restarted

    @property
    def delay_s(self) -> float | None:
        """The longest usual time from sending a symbol to hearing of it."""
        return self._delay_s

    @property
    def timeout_s(self) -> float:
        """After this time a symbol that no report covers is lost."""
        if self._delay_s is None:
            return TIMEOUT_S_FIRST
        return min(max(1.5 * self._delay_s + 0.1, TIMEOUT_S_MIN), TIMEOUT_S_MAX)

    @property
    def silent_at_s(self) -> float:
        """When the return path will count as silent if no report comes."""
        # Where no contact ever had a return path, do not wait for one each time.
        patience_s = self._silence_s / 4 if self._contacts_unheard > 1 else self._silence_s
        return self.heard_s + max(patience_s, self._delay_s or 0.0)

    def is_silent(self, now: float) -> bool:
        """Whether nobody has answered for too long."""
        return now >= self.silent_at_s

    def _measure_delay(self, oldest_s: float | None, now: float) -> None:
        if oldest_s is None or oldest_s < self._contact_start_s:
            return  # the gap between two contacts is no delay
        sample_s = now - oldest_s
        if self._delay_s is None or sample_s > self._delay_s:
            self._delay_s = sample_s if self._delay_s is None else (self._delay_s + sample_s) / 2
        else:
            self._delay_s = _FORGET * self._delay_s + (1 - _FORGET) * sample_s

    def _measure_loss(self, settled: int, received: int) -> None:
        if self._anchor is None or received < self._anchor[1]:
            self._anchor = (settled, received)
            return
        sent, arrived = settled - self._anchor[0], received - self._anchor[1]
        if sent < SAMPLE_FRAMES_MIN:
            return
        # A count ahead of its echo shows more arrivals than frames; what is too much belongs to the next sample.
        counted = min(arrived, sent)
        self.loss = self.loss.with_sample(sent=sent, arrived=counted)
        self.samples.append((sent, counted))
        self._anchor = (settled, self._anchor[1] + counted)
