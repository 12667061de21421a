"""How far a long step is: a bar on a terminal; in a log a line now and then, and none for what is soon done."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from groundsegment.console.output import err

PERIOD_S = 15.0
OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


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


@contextmanager
def packing_progress() -> Iterator[OnProgress]:
    """Show what is being done: a bar on a terminal, a line now and then in a log."""
    if not sys.stderr.isatty():
        yield ProgressLines(partial(err.print, markup=False)).show
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from groundsegment.planner.quantities import format_bytes

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            amount = f"{format_bytes(done)} of {format_bytes(total)}" if total else format_bytes(done) if done else ""
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=None, amount=amount)
            progress.update(tasks[phase], completed=done, total=total or None, amount=amount)

        yield show
