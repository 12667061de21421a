"""Blocking work beside the loop, that ends soon when nobody waits for it any more.

Long work calls `check_stop` now and then; whoever cancels `in_thread` waits for its end, for a thread cannot be
stopped half way.
"""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_STOPPED: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


class WorkStoppedError(Exception):
    """Nobody waits for this work any more."""


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
