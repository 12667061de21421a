"""Progress where no terminal shows a bar: a line now and then in a log, and none for what is soon done."""

import time
from collections.abc import Callable

PERIOD_S = 15.0


class ProgressLines:
    """Says how far a long step is, at most once in a period.

    Args:
        say: takes a line.
        clock: seconds, monotonic.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._begun_s = self._told_s = clock()

    def show(self, what: str, done: int, total: int) -> None:
        """Something is so far; `total` is 0 where that is not known."""
        now = self._clock()
        if now - self._told_s < PERIOD_S:
            return
        self._told_s = now
        share = f" {min(1.0, done / total):.0%}" if total else ""
        self._say(f"{what}{share}, {now - self._begun_s:.0f} s so far")
