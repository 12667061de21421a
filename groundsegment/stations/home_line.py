"""A station's line home: one sync at a time, in a thread, so that a disk that hangs never costs a contact. A shell."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.station_sync import SyncOutcome, sync_station

GRACE_S = 2.0  # to finish a step, once asked to stop


class HomeLine:
    """Where home can be reached from one station.

    Args:
        directory: the station's.
        root: the home depot, or a directory that is kept alike.
        clock: Unix seconds.
    """

    def __init__(self, directory: StationDirectory, root: Path, *, clock: Callable[[], float]) -> None:
        self._directory, self._root, self._clock = directory, root, clock
        self._is_busy = False

    async def sync(self, stop: asyncio.Event, *, deadline_s: float) -> SyncOutcome | None:
        """Exchange letters; None if that hangs until the deadline, or does so still from an earlier call.

        Args:
            stop: ends it early.
            deadline_s: Unix seconds; what is not copied by then is copied next time.

        Raises:
            InputError: this directory must not fly any more.
            BusyError: another process syncs it, or holds its database.
        """
        if self._is_busy:
            return None
        done = self._start(lambda: stop.is_set() or self._clock() >= deadline_s)
        stopped = asyncio.ensure_future(stop.wait())
        try:
            patience_s = None if deadline_s == float("inf") else max(deadline_s - self._clock(), 0.0) + GRACE_S
            either: set[asyncio.Future[Any]] = {done, stopped}
            await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                await asyncio.wait({done}, timeout=GRACE_S if stop.is_set() else 0)
            return done.result() if done.done() else None
        finally:
            stopped.cancel()
            done.cancel()  # nobody waits any more; the thread ends by itself

    def _start(self, should_stop: Callable[[], bool]) -> "asyncio.Future[SyncOutcome]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[SyncOutcome] = loop.create_future()

        def settle(outcome: SyncOutcome | BaseException) -> None:
            if done.done():
                return
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        def work() -> None:
            outcome: SyncOutcome | BaseException
            try:
                utc = datetime.fromtimestamp(self._clock(), tz=UTC)
                outcome = sync_station(self._directory, self._root, utc=utc, should_stop=should_stop)
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                outcome = error
            self._is_busy = False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, outcome)

        self._is_busy = True
        threading.Thread(target=work, name="sync", daemon=True).start()
        return done
