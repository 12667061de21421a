"""Ctrl-C, and the processes that we start: a terminal sends it to all of them, and one of them has an answer to it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Processes that start inside never hear of ctrl-C, not even while they import; this one does, at the end.

    One that is told by its initializer only would fill the terminal with a traceback until then, and so would one whose
    start was broken off in the middle.
    """
    resource_tracker.ensure_running()  # started with the first of them, it would let ctrl-C through again
    with _noted():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what they inherit
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    """Another thread (of some library) may take the signal, and the main one would be interrupted all the same."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    noted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for number in noted[:1]:
            handler(number, None)
