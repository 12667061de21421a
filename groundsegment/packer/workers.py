"""Runs jobs on several processes and hands back their results in order, a bounded number in flight.

Any `concurrent.futures.Executor` will do. Workers ignore ctrl-C (the parent ends them) and end by themselves when the
parent was killed.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from groundsegment.errors import GroundError

_J = TypeVar("_J")
_R = TypeVar("_R")

_IN_FLIGHT_PER_WORKER = 4  # enough that no worker waits for the writer, few enough to bound memory


@contextmanager
def worker_processes(count: int) -> Iterator[Executor | None]:
    """Give an executor of `count` fresh processes; none at all for one, where the caller's own will do."""
    if count <= 1:
        yield None
        return
    # spawn: a forked child would share our database connection and locks.
    executor = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_prepare_worker)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def run_in_order(
    executor: Executor | None, function: Callable[[_J], _R], jobs: Iterable[_J], *, num_workers: int
) -> Iterator[_R]:
    """Yield function(job) for each job, in order.

    Raises:
        GroundError: a worker died.
    """
    if executor is None:
        yield from map(function, jobs)
        return
    waiting: deque[Future[_R]] = deque()
    try:
        for job in jobs:
            waiting.append(executor.submit(function, job))
            if len(waiting) >= _IN_FLIGHT_PER_WORKER * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor:
        hint = "run the same command again, it goes on where it was; if memory is short, with --workers 1"
        raise GroundError("a packing process was killed", hint=hint) from None
    finally:
        for future in waiting:
            future.cancel()


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
