"""How fast a scrub goes, and what it does next. Pure."""

from collections.abc import Sequence

from onboard.scrub.guard import Guard
from protocol.damage import LostRange

PAUSE_S_MIN = 0.05
_IDLE_S = 60.0  # there is nothing to scrub: look again


def pause_s(step_bytes: int, total_bytes: int, *, period_s: float) -> float:
    """How long to wait after a step, so that all there is has been read after one period."""
    if total_bytes <= 0:
        return _IDLE_S
    return max(PAUSE_S_MIN, period_s * step_bytes / total_bytes)


def next_release(releases: Sequence[bytes], after: bytes) -> bytes | None:
    """The release whose turn it is after another; the first after one that is gone."""
    if not releases:
        return None
    return releases[(releases.index(after) + 1) % len(releases)] if after in releases else releases[0]


def is_news(guard: Guard, cells: range, bad: Sequence[int], lost: Sequence[LostRange]) -> bool:
    """Whether the cells just read say something that nobody knows yet: new damage, or that what was lost is back."""
    return any((cell in bad) != _is_lost(guard, cell, lost) for cell in cells if cell in bad or lost)


def _is_lost(guard: Guard, cell: int, lost: Sequence[LostRange]) -> bool:
    if cell >= guard.map.num_blocks:
        return False
    span = guard.map.where(cell)
    return any(each.file == span.file and each.covers(span.offset) for each in lost)
