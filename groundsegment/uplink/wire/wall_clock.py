"""The time on the wall, by the loop's clock: steady within a contact, set anew between them. A shell."""

import asyncio
from collections.abc import Callable


class WallClock:
    """One run.

    Attributes:
        offset_s: what is added to the loop's time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop, self._clock = loop, clock
        self.set()

    def set(self) -> None:
        """Between contacts the clock may be set, or stand still with a machine that sleeps; inside one it may not."""
        self.offset_s = self._clock() - self._loop.time()

    def unix_s(self) -> float:
        """Unix seconds."""
        return self._loop.time() + self.offset_s


async def sleep_or(event: asyncio.Event, seconds: float) -> None:
    """Sleep, or less if the event comes."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
