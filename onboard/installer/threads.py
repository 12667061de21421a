"""Blocking work beside the loop, that ends soon when nobody waits for it any more.

Long work calls `check_stop` now and then; whoever cancels `in_thread` waits for its end, for a thread cannot be
stopped half way.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_STOPPED: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


class WorkStoppedError(Exception):
    """Nobody waits for this work any more."""


class Background:
    """Work that nobody waits for, told of when it fails.

    Args:
        on_failed: told why.
    """

    def __init__(self, on_failed: Callable[[BaseException], None]) -> None:
        self._on_failed = on_failed
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How much is being done."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Begin with it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Drop all of it."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failed(error)


class KeyedLocks:
    """A lock for each key that somebody uses."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[bytes, asyncio.Lock] = weakref.WeakValueDictionary()

    def of(self, key: bytes) -> asyncio.Lock:
        """The lock of a key: keep it as long as it is held or waited for."""
        return self._locks.setdefault(key, asyncio.Lock())


def check_stop() -> None:
    """Raise WorkStoppedError if whoever waited for this thread was cancelled; elsewhere nothing."""
    stopped = _STOPPED.get()
    if stopped is not None and stopped.is_set():
        raise WorkStoppedError


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work; a cancellation tells it to stop and waits for its end."""
    stopped = threading.Event()
    token = _STOPPED.set(stopped)
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))  # takes our context along
    _STOPPED.reset(token)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: it is what we asked for
        raise
