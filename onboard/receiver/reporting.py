"""When to report to one station: while its frames arrive, soon after news, then now and then for a while. Pure.

What goes down is paid from one budget, whoever it is for: reports first, messages from what they leave.
"""

from dataclasses import dataclass

BEACON_INTERVAL_S = 5.0  # a report without news, for a ground that waits or has lost the last one
BEACON_DURATION_S = 600.0  # after the last uplink frame: a pass lasts 6-8 minutes
_URGENT_SHARE = 0.25  # of the interval is waited after something worth telling


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """How much is told.

    Attributes:
        interval_s: between reports to a station while its frames arrive, > 0.
        bytes_per_s: budget of all that goes down, frames and all.
        is_silent: never transmit.
    """

    interval_s: float = 0.1
    bytes_per_s: float = 20_000.0
    is_silent: bool = False


class DownlinkBudget:
    """What may be sent down: nothing is saved up, so that a pause is followed by no burst.

    Args:
        bytes_per_s: > 0.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self.affordable_at = float("-inf")

    def spend(self, size_bytes: int, now: float) -> None:
        """That many bytes go down."""
        self.affordable_at = max(self.affordable_at, now) + size_bytes / self._bytes_per_s


class ReportTimer:
    """Knows when the next report to a station is due."""

    def __init__(self, options: ReportOptions, budget: DownlinkBudget) -> None:
        self._options, self._budget = options, budget
        self._last_frame_at: float | None = None
        self._last_report_at = float("-inf")
        self._has_news = self._is_urgent = False

    def frame_arrived(self, now: float) -> None:
        """An authentic frame came up: somebody is there."""
        self._last_frame_at = now
        self._has_news = True

    def note_news(self, *, is_urgent: bool = False) -> None:
        """Something changed that the ground would like to know."""
        self._has_news = True
        self._is_urgent = self._is_urgent or is_urgent

    def note_time(self, now: float) -> None:
        """It is so late: who was not heard for long is gone, though a report may be due since before that."""
        if self._last_frame_at is not None and now - self._last_frame_at > BEACON_DURATION_S:
            self._last_frame_at = None

    def is_heard(self, now: float) -> bool:
        """Whether it is worth sending: the ground was heard of lately, and we may speak."""
        heard = self._last_frame_at
        return not self._options.is_silent and heard is not None and now - heard <= BEACON_DURATION_S

    def next_deadline(self) -> float | None:
        """When a report is due, None if there is nobody to report to."""
        if self._options.is_silent or self._last_frame_at is None:
            return None
        wait_s = BEACON_INTERVAL_S
        if self._has_news:
            wait_s = self._options.interval_s * (_URGENT_SHARE if self._is_urgent else 1.0)
        due = max(self._last_report_at + wait_s, self._budget.affordable_at)
        return due if due - self._last_frame_at <= BEACON_DURATION_S else None

    @property
    def last_report_at(self) -> float:
        """When the last one went out."""
        return self._last_report_at

    def report_sent(self, size_bytes: int, now: float) -> None:
        """A report of that many bytes goes out."""
        self._last_report_at = now
        self._budget.spend(size_bytes, now)
        self._has_news = self._is_urgent = False
