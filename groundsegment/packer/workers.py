"""Who encodes: processes of this machine, or a Dask cluster; results come back in order, a bounded number in flight.

Any `concurrent.futures.Executor` will do. Processes ignore ctrl-C (the parent ends them) and end by themselves when
the parent was killed. What a cluster needs is said in `cluster`.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TypeVar

from groundsegment.errors import GroundError
from protocol.limits import MIB

_J = TypeVar("_J")
_R = TypeVar("_R")

_POOL_PAYS_BYTES = 16 * MIB  # starting processes takes about a second
_IN_FLIGHT_PER_WORKER = 4  # enough that no worker waits for the writer, few enough to bound memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who encodes.

    Attributes:
        count: of them; one process is this one itself.
        executor: of somebody else, who started it and ends it; None for processes of our own.
        check: makes sure that those who are not processes of our own can read these files as we do.
    """

    count: int = 1
    executor: Executor | None = field(default=None, compare=False)
    check: Callable[[Iterable[Path]], None] | None = field(default=None, compare=False)

    @contextmanager
    def started(self, raw_bytes: int, files: Iterable[Path] = ()) -> Iterator[Executor | None]:
        """Give an executor for that many bytes; none at all where this process is soon done by itself.

        Args:
            raw_bytes: to be encoded.
            files: that they are read from.
        """
        if self.executor is not None and raw_bytes:
            if self.check is not None:
                self.check(files)
            yield self.executor
        elif self.count <= 1 or raw_bytes < _POOL_PAYS_BYTES:
            yield None
        else:
            # spawn: a forked child would share our database connection and locks.
            executor = ProcessPoolExecutor(self.count, mp_context=get_context("spawn"), initializer=_prepare_worker)
            try:
                yield executor
            finally:
                executor.shutdown(wait=True, cancel_futures=True)


def run_in_order(
    executor: Executor | None, function: Callable[[_J], _R], jobs: Iterable[_J], *, num_workers: int
) -> Iterator[tuple[_J, _R]]:
    """Yield (job, function(job)) for each job, in order.

    Raises:
        GroundError: a worker died.
    """
    if executor is None:
        for job in jobs:
            yield job, function(job)
        return
    waiting: deque[tuple[_J, Future[_R]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, executor.submit(function, job)))
            if len(waiting) >= _IN_FLIGHT_PER_WORKER * num_workers:
                yield _take(waiting)
        while waiting:
            yield _take(waiting)
    except (BrokenExecutor, CancelledError) as error:
        hint = "run the same command again, it goes on where it was; if memory is short, with --workers 1"
        raise GroundError("a packing process was killed", hint=hint) from error
    finally:
        for _, future in waiting:
            future.cancel()


def _take(waiting: deque[tuple[_J, Future[_R]]]) -> tuple[_J, _R]:
    job, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return job, result


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
