"""Where repair symbols are made: a process of its own, for it holds the GIL for up to 100 ms. Started again if it dies.

Whoever waits for a batch of a process that died asks again: the bytes of a symbol do not depend on who made it.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from groundsegment.interrupts import ctrl_c_held
from groundsegment.uplink.sender.lane import Lane
from protocol.blocks import BlockLayout
from protocol.fec import BlockEncoder
from protocol.frame import FrameKind


class InlineExecutor(Executor):
    """Makes symbols at once, where the caller is."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":  # noqa: ANN401
        """Call it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the future
            future.set_exception(error)
        return future


def encode_repair(path: str, layout: BlockLayout, block: int, kind: int, lane: Lane, first: int, count: int) -> bytes:
    """Return `count` symbols of a block that follow each other in a lane. Runs in the worker process."""
    with Path(path).open("rb") as file:
        file.seek(layout.offset_of(block))
        data = file.read(layout.size_of(block)).ljust(layout.size_of(block), b"\0")
    start = lane.nth(first)
    made = BlockEncoder(FrameKind(kind), data, layout.symbol_size).symbols(
        start, lane.nth(first + count - 1) + 1 - start
    )
    return b"".join(made if lane.count == 1 else (made[lane.nth(first + step) - start] for step in range(count)))


class EncoderProcess(Executor):
    """A pool of one process that ends with us, even if we are killed; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self._pool = _pool()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":  # noqa: ANN401
        """Let the process call it. The future fails with BrokenExecutor if the process dies: submit it again."""
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except BrokenExecutor:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = _pool()
            return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process."""
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)


def _pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_prepare_worker)
    with ctrl_c_held():  # the parent decides when it ends
        pool.submit(abs, 0)  # start it now, not when the first repair symbol is due
    return pool


def _prepare_worker() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(0)
