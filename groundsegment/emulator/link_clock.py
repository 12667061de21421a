"""Link time from the event loop's clock. A shell: it reads the wall clock once, for the epoch."""

import asyncio
import time


class LinkClock:
    """Link time from the loop's clock: link_s = (wall - epoch) * time_scale."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, time_scale: float, epoch_unix_s: float | None) -> None:
        self._loop = loop
        self.time_scale = time_scale
        utc_s = time.time()  # noqa: TID251 - the emulator's own clock
        self.epoch_unix_s = utc_s if epoch_unix_s is None else epoch_unix_s
        # Read the wall clock once: a step of it in mid-flight must not make link time jump.
        self._epoch_loop_s = loop.time() - (utc_s - self.epoch_unix_s)

    def link_s(self) -> float:
        """Link time now."""
        return (self._loop.time() - self._epoch_loop_s) * self.time_scale

    def loop_s(self, link_s: float) -> float:
        """The loop's time at a link time."""
        return self._epoch_loop_s + link_s / self.time_scale
