"""When to report: while frames arrive, soon after news, then now and then for a while; never over budget. Pure."""

from dataclasses import dataclass

BEACON_INTERVAL_S = 5.0  # a report without news, for a ground that waits or has lost the last one
BEACON_DURATION_S = 600.0  # after the last uplink frame: a pass lasts 6-8 minutes
_URGENT_SHARE = 0.25  # of the interval is waited after something worth telling


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """How much is told.

    Attributes:
        interval_s: between reports while frames arrive, > 0.
        bytes_per_s: budget of reports on the link, frames and all.
        is_silent: never transmit.
    """

    interval_s: float = 0.1
    bytes_per_s: float = 20_000.0
    is_silent: bool = False


class ReportTimer:
    """Knows when the next report is due."""

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._last_frame_at: float | None = None
        self._last_report_at = float("-inf")
        self._affordable_at = float("-inf")
        self._has_news = self._is_urgent = False

    def frame_arrived(self, now: float) -> None:
        """An authentic frame came up: somebody is there."""
        self._last_frame_at = now
        self._has_news = True

    def note_news(self, *, is_urgent: bool = False) -> None:
        """Something changed that the ground would like to know."""
        self._has_news = True
        self._is_urgent = self._is_urgent or is_urgent

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
        due = max(self._last_report_at + wait_s, self._affordable_at)
        return due if due - self._last_frame_at <= BEACON_DURATION_S else None

    def report_sent(self, size_bytes: int, now: float) -> None:
        """A report of that many bytes goes out."""
        self._last_report_at = now
        self._affordable_at = max(self._affordable_at, now) + size_bytes / self._options.bytes_per_s
        self._has_news = self._is_urgent = False
