"""What reports teach of the link itself: its loss, how long news takes, whether anybody answers. Pure.

Two clocks tick in a report. Its echo is durable, a second or so behind: it settles which symbols are no longer in
flight, and for blocks that stay open long enough the counts say exactly what became of them. Its count of received
frames is as of now: over time it tells the loss, once it is compared with what had been sent one round trip before.
It is kept as running totals, so that an error in one sample is made good in the next.
"""

import math
from collections import deque
from dataclasses import dataclass, replace

from groundsegment.uplink.sender.flight_log import FlightLog
from groundsegment.uplink.sender.loss import LossEstimate

SAMPLE_FRAMES_MIN = 64  # fewer say little
_REST_FRAMES_MIN = 16  # of a contact that was too short for that
SAMPLE_AIR_MIN = 4  # times the frames that are between the two ends
TIMEOUT_S_FIRST = 3.0  # until a delay was measured: a second of syncing, a second of flight and queues, one spare
TIMEOUT_S_MAX = 30.0
PROBE_S = 0.1
LOSS_DOWN = LossEstimate.of_mean(0.1, 4.0)  # reports are few: the first ones count
_OUTAGE_S = 0.3  # a shorter one is like any burst
_FORGET = 0.9  # how much of an old, longer delay stays at each measurement
_HISTORY_S = 30.0  # the longest round trip that can be compared over
_HISTORY_STEP_S = 0.02
_IDLE_PATIENCE_S = 10.0
_GAP_CHANCE = 1e-3  # that no report comes through although the return path is as it was
_INTERVALS_MEAN = 8  # reports over which the usual time between two is taken
_SYNC_S_MIN = 0.5
_JITTER_S = 0.03  # by so much reports are late or early: what left meanwhile may be miscounted
_GAP_MAX = 10_000  # reports; more were never lost in one contact: somebody counts otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """What a report counted: when it came, what had been sent a round trip before, and by then; what was received."""

    time_s: float = -math.inf
    sent_before: float = 0.0
    sent: float = 0.0
    received: int = 0


class Feedback:
    """What one return path says.

    Attributes:
        loss: of the way up.
        loss_down: of the way down, from gaps in the numbers of reports.
        heard_s: when the last report came, or the contact began.
        was_heard_in_contact: whether a report came in this contact.
    """

    def __init__(self, silence_s: float, loss: LossEstimate, loss_down: LossEstimate | None = None) -> None:
        self.loss, self.loss_down = loss, loss_down or LOSS_DOWN
        self.heard_s = -math.inf
        self._contact_start_s, self._first_contact_s = -math.inf, math.inf
        self._silence_s = silence_s
        self._session: bytes | None = None
        self._sequence: int | None = None  # of the newest report of this contact
        self._interval_s = 0.0  # between two reports that are sent
        self._enough_sent = 0.0
        self._answered_s = 0.0  # from the beginning of a contact to its first report
        self._history: deque[tuple[float, int]] = deque()  # when, frames of all kinds sent by then
        self._num_sent = 0
        self._anchor: tuple[float, int] | None = None  # frames sent, frames received: where the next sample starts
        self._in_air = self._anchor_s = 0.0
        self._blind_until, self._blind_until_s = 0, -math.inf  # symbols sent, time: when the last silence ended
        self._base: _Count | None = None  # when this session was first heard in this contact
        self._latest = _Count()
        self._closed = (0.0, 0, 0.0)  # totals of earlier sessions and contacts: sent, received, variance of sent
        self._first: tuple[float, int] | None = (
            None  # when, frames received: of this contact's first report that counts
        )
        self._last = (-math.inf, 0)  # and of the last one
        self._was_sampled = False  # whether this contact taught anything
        self._delay_s: float | None = None
        self._round_trip_s = math.inf
        self.was_heard_in_contact = False
        self._contacts_unheard = 0

    def begin_contact(self, now: float) -> None:
        """A contact begins: nobody is silent yet."""
        self._contacts_unheard = 0 if self.was_heard_in_contact else self._contacts_unheard + 1
        self.heard_s = self._contact_start_s = now
        self._first_contact_s = min(self._first_contact_s, now)
        self._close_totals()
        self.was_heard_in_contact = False
        self._anchor = self._sequence = self._first = None
        self._was_sampled = False
        self.loss, self.loss_down = self.loss.as_prior(), self.loss_down.as_prior()

    def end_contact(self) -> None:
        """A contact is over: if it was too short for a sample, what it counted in all is one."""
        if self._was_sampled or self._first is None or self._round_trip_s >= _HISTORY_S:
            return
        (first_s, before), (last_s, after) = self._first, self._last
        if last_s - first_s + self._round_trip_s > _HISTORY_S:
            return
        begun = self._sent_by(first_s - self._round_trip_s)
        sent = int(self._sent_by(last_s - self._round_trip_s) - begun)
        if sent >= _REST_FRAMES_MIN:
            in_air = self._sent_by(first_s) - begun  # the round trip may be shorter than was seen so early
            self._sample(sent=sent, arrived=min(after - before, sent), miscounted=in_air / SAMPLE_AIR_MIN)

    def sent(self, count: int, now: float) -> None:
        """Frames of any kind were sent."""
        self._num_sent += count
        if self._history and now - self._history[-1][0] < _HISTORY_STEP_S:
            self._history[-1] = (self._history[-1][0], self._num_sent)
        else:
            self._history.append((now, self._num_sent))
        while len(self._history) > 2 and now - self._history[1][0] > _HISTORY_S:
            self._history.popleft()

    def heard(
        self,
        log: FlightLog,
        frames_received: int,
        *,
        session: bytes,
        sequence: int | None = None,
        echo: int | None,
        now: float,
    ) -> bool:
        """Take in a report; returns whether the receiver restarted since the last one."""
        restarted = self._session is not None and session != self._session
        if restarted:
            self._close_totals()
            self._anchor = self._sequence = None
        if restarted or self._was_out(now):
            # What was sent into the silence met another link than this one, if any, and what a power cut took was not
            # lost on the link: nothing is learned from its fate.
            self._blind_until, self._blind_until_s, self._anchor = log.num_sent, now, None
            self._first = None
        if not self.was_heard_in_contact:
            self._answered_s = now - self._contact_start_s
        self._session = session
        self._count_gap(sequence, now)
        self.heard_s, self.was_heard_in_contact = now, True
        if echo is not None and echo >= log.num_settled:
            self._measure_delay(log, echo, now)
            log.settle_through(echo)
        if self._round_trip_s < _HISTORY_S:
            self._measure_loss(frames_received, now)
        self._count(frames_received, now)
        log.settle_sent_before(now - self.timeout_s)
        # Who sends next to nothing is answered seldom: so many frames must go up before nobody seems to be there.
        unanswered = 1 - (1 - self.loss.mean) * (1 - self.loss_down.mean)
        self._enough_sent = self._num_sent + math.log(_GAP_CHANCE) / math.log(unanswered)
        return restarted

    def totals(self) -> tuple[int, int]:
        """Frames sent, and of them received, over all contacts, as far as reports tell."""
        sent, received, _ = self._totals()
        return round(sent), received

    @property
    def num_miscounted(self) -> float:
        """So many of the frames sent in `totals` may be too many or too few, as a standard deviation."""
        return math.sqrt(self._totals()[2])

    def _totals(self) -> tuple[float, int, float]:
        """The same, and the variance of the frames sent.

        What a report counts had left between a round trip ago, as far as that is known, and now. Where sending began or
        stopped meanwhile, that makes a difference: the truth is somewhere between the two.
        """
        if self._base is None:
            return self._closed
        arrived = self._latest.received - self._base.received
        bounds = (self._latest.sent_before - self._base.sent_before, self._latest.sent - self._base.sent)
        low, high = max(min(bounds), arrived), max(*bounds, arrived)
        sent, received, variance = self._closed
        # What is counted twice on board is no frame more.
        return sent + (low + high) / 2, received + max(0, arrived), variance + (high - low) ** 2 / 12

    def _close_totals(self) -> None:
        self._closed, self._base = self._totals(), None

    def is_sampling(self, log: FlightLog) -> bool:
        """Whether what is settled now was sent while somebody answered."""
        return log.num_settled >= self._blind_until

    def is_prior_settled(self, log: FlightLog, now: float) -> bool:
        """Whether all that an earlier process sent has arrived or is lost: so has something later, or it is too old."""
        return log.num_settled > log.num_expired or now - self._first_contact_s > self.timeout_s

    def exact_sample(self, *, sent: int, arrived: int) -> None:
        """Symbols of an open block: what was settled, and what of it was counted."""
        self._sample(sent=sent, arrived=arrived, is_exact=True)

    @property
    def delay_s(self) -> float | None:
        """The longest usual time from sending a symbol to hearing that it is safe."""
        return self._delay_s

    @property
    def echo_s(self) -> float:
        """The least age of what a report counts, when it is heard; 0 if unknown."""
        return self._round_trip_s if self._round_trip_s < math.inf else 0.0

    @property
    def sync_s(self) -> float:
        """About how long it takes on board until what came is counted, and so until counts rise again."""
        return max(_SYNC_S_MIN, (self._delay_s or 0.0) - self.echo_s)

    @property
    def timeout_s(self) -> float:
        """After this time a symbol that no report covers is lost."""
        if self._delay_s is None:
            return min(max(TIMEOUT_S_FIRST, 2 * self._answered_s + 1.0), TIMEOUT_S_MAX)
        return min(3 * self._delay_s + 1.0, TIMEOUT_S_MAX)

    @property
    def probe_after_s(self) -> float:
        """When nothing was sent for so long and no echo came, something new should be sent to be echoed."""
        return self._delay_s + PROBE_S if self._delay_s is not None else TIMEOUT_S_FIRST

    @property
    def silent_at_s(self) -> float:
        """When the return path will count as silent if no report comes."""
        # Where no contact ever had a return path, do not wait for one each time.
        patience_s = self._silence_s / 4 if self._contacts_unheard > 1 else self._silence_s
        patience_s = max(patience_s, self._delay_s or 0.0, self._gap_s)
        if self.was_heard_in_contact and self._num_sent < self._enough_sent:
            patience_s = max(patience_s, _IDLE_PATIENCE_S)
        return self.heard_s + patience_s

    @property
    def _gap_s(self) -> float:
        """How long it takes, as good as always, until a report comes through."""
        lost = self.loss_down.mean
        return min(self._interval_s * math.log(_GAP_CHANCE) / math.log(lost), TIMEOUT_S_MAX)

    def is_silent(self, now: float) -> bool:
        """Whether nobody has answered for too long."""
        return now >= self.silent_at_s

    def silent_round_s(self, number: int) -> float:
        """When a further round of blind sending begins in silence: at once, where no answer may be hoped for."""
        if not self.was_heard_in_contact:
            return -math.inf
        return self.heard_s + (self.silent_at_s - self.heard_s) * 2.0**number

    def _was_out(self, now: float) -> bool:
        """Whether reports had stopped for longer than their usual loss explains: a fade, a cut, a dead receiver."""
        if not self._interval_s:
            return self.is_silent(now)
        return now - self.heard_s > max(self._gap_s, _OUTAGE_S)

    def _count_gap(self, sequence: int | None, now: float) -> None:
        """Reports are numbered without gaps: what lies between two that came was lost."""
        if sequence is not None and self._sequence is not None and 0 < sequence - self._sequence <= _GAP_MAX:
            count = sequence - self._sequence
            self.loss_down = self.loss_down.with_sample(sent=count, arrived=1)
            more_s = (now - self.heard_s) / count - self._interval_s
            self._interval_s += more_s / (2 if more_s > 0 else _INTERVALS_MEAN)
        self._sequence = sequence

    def _measure_delay(self, log: FlightLog, echo: int, now: float) -> None:
        """The frame after the last echo waited longest, the echoed one shortest."""
        longest, shortest = log.oldest_s, log.sent_s(echo)
        if longest is None or shortest is None or longest < max(self._contact_start_s, self._blind_until_s):
            return  # the gap between two contacts is no delay, nor is one within
        if now - shortest < 0.9 * self._round_trip_s:
            self._round_trip_s = now - shortest
            self._anchor = None  # totals taken over another round trip cannot be compared
            self._set_base_anew()
        sample_s = now - longest
        if self._delay_s is None:
            self._delay_s = sample_s
        elif sample_s > self._delay_s:
            self._delay_s = (self._delay_s + sample_s) / 2
        else:
            self._delay_s = _FORGET * self._delay_s + (1 - _FORGET) * sample_s

    def _set_base_anew(self) -> None:
        """The first report counted frames that had left later than the round trip seen at first made believe."""
        if self._base is not None and self._history:
            sent_s = self._base.time_s - self._round_trip_s
            if self._history[0][0] <= sent_s:  # else it is too long ago
                self._base = replace(self._base, sent_before=self._sent_by(sent_s))

    def _count(self, received: int, now: float) -> None:
        """Remember what the first report and the last one have counted, of what was sent while somebody answered."""
        if self._blind_until_s >= max(self._contact_start_s, now - self._round_trip_s):
            return
        self._first, self._last = self._first or (now, received), (now, received)

    def _measure_loss(self, received: int, now: float) -> None:
        sent = self._sent_by(now - self._round_trip_s)
        in_air = self._num_sent - sent
        self._latest = _Count(time_s=now, sent_before=sent, sent=self._num_sent, received=received)
        self._base = self._base or self._latest
        if now - self._round_trip_s < self._blind_until_s:
            return
        if self._anchor is None or received < self._anchor[1]:
            self._anchor, self._in_air, self._anchor_s = (sent, received), in_air, now
            return
        # The round trip is not known to the frame: where sending starts or stops, that many may be miscounted.
        self._in_air = max(self._in_air, in_air)
        num_sent, arrived = int(sent - self._anchor[0]), received - self._anchor[1]
        if num_sent < max(SAMPLE_FRAMES_MIN, SAMPLE_AIR_MIN * self._in_air):
            return
        counted = min(arrived, num_sent)  # what is too much belongs to the next sample
        miscounted = _JITTER_S * num_sent / max(now - self._anchor_s, _JITTER_S)
        self._sample(sent=num_sent, arrived=counted, miscounted=miscounted)
        self._anchor_s = now
        self._anchor, self._in_air = (self._anchor[0] + num_sent, self._anchor[1] + counted), in_air

    def _sample(self, *, sent: int, arrived: int, is_exact: bool = False, miscounted: float = 0.0) -> None:
        self._was_sampled |= sent > 0
        self.loss = self.loss.with_sample(sent=sent, arrived=arrived, is_exact=is_exact, miscounted=miscounted)

    def _sent_by(self, time_s: float) -> float:
        """Frames sent by a time, between the marks of the history by proportion."""
        after = self._num_sent, math.inf
        for mark_s, count in reversed(self._history):
            if mark_s <= time_s:
                if math.isinf(after[1]):
                    return count
                return count + (after[0] - count) * (time_s - mark_s) / (after[1] - mark_s)
            after = count, mark_s
        return 0.0 if not self._history else float(self._history[0][1])
