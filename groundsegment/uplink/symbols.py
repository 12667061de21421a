"""Bytes of symbols: source symbols straight from the file, repair symbols from a process that makes them ahead.

Making repair symbols holds the GIL for up to 100 ms, so a worker process does it, in batches, before they are due:
the next batch of a block is asked for when its source symbols, or the last batch, run out. The cache is bounded; what
falls out of it is made again, with the same bytes.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from groundsegment.errors import DiskError
from groundsegment.uplink.cargo import OutgoingObject
from groundsegment.uplink.flight_log import BlockKey
from groundsegment.uplink.schedule import SymbolRun
from protocol.blocks import BlockLayout
from protocol.fec import BlockEncoder
from protocol.frame import FrameKind

BATCH_SYMBOLS_MIN = 128
BATCH_BYTES_MAX = 4 << 20  # of one batch; what is asked for at once is never more than a run
CACHE_BYTES_MAX = 48 << 20
INLINE_BYTES_MAX = 128 << 10  # of a block: metadata is made at once, it must not wait for a process to start


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFile:
    """An object and the file that holds its bytes."""

    item: OutgoingObject
    path: Path


@dataclass(frozen=True, slots=True)
class _Batch:
    first_esi: int
    count: int
    future: "Future[bytes]"


class SymbolSource:
    """Symbols of the objects of one update. Use it in a `with`: it holds files open."""

    def __init__(self, files: Mapping[bytes, ObjectFile], kind: FrameKind, executor: Executor) -> None:
        """Open nothing yet.

        Args:
            files: objects by handle.
            kind: how repair symbols are made.
            executor: where they are made.
        """
        self._files, self._kind, self._executor = files, kind, executor
        self._descriptors: dict[bytes, int] = {}
        self._batches: OrderedDict[BlockKey, list[_Batch]] = OrderedDict()
        self._cached_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        for batches in self._batches.values():
            for batch in batches:
                batch.future.cancel()

    async def symbols(self, run: SymbolRun) -> list[bytes]:
        """Return the symbols of a run, in order.

        Raises:
            DiskError: the file is gone or shorter than it was.
        """
        item = self._files[run.handle].item
        num_source = item.layout.symbols_of(run.block)
        end = run.first_esi + run.count
        result = self._source_symbols(item, run.block, run.first_esi, min(end, num_source))
        at = run.first_esi + len(result)
        while at < end:
            batch = self._batch(item, run.block, at, end - at)
            data = await asyncio.wrap_future(batch.future)
            size, stop = item.symbol_size, min(end, batch.first_esi + batch.count)
            result += [data[(esi - batch.first_esi) * size :][:size] for esi in range(at, stop)]
            at = stop
        self._look_ahead(item, run.block, end, num_source)
        return result

    # Source symbols

    def _source_symbols(self, item: OutgoingObject, block: int, first: int, stop: int) -> list[bytes]:
        if first >= stop:
            return []
        size = item.symbol_size
        offset = item.layout.offset_of(block) + first * size
        data = self._read(item.handle, offset, (stop - first) * size)
        return [data[at : at + size].ljust(size, b"\0") for at in range(0, (stop - first) * size, size)]

    def _read(self, handle: bytes, offset: int, size: int) -> bytes:
        path = self._files[handle].path
        try:
            if handle not in self._descriptors:
                while len(self._descriptors) >= 16:
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
                self._descriptors[handle] = os.open(path, os.O_RDONLY)
            return os.pread(self._descriptors[handle], size, offset)
        except OSError as error:
            hint = "restore the depot from a backup, or stage the update again"
            raise DiskError(f"{path}: {error.strerror or error}", hint=hint) from error

    # Repair symbols

    def _batch(self, item: OutgoingObject, block: int, esi: int, count: int) -> _Batch:
        """The batch that holds a repair symbol, made now if need be."""
        key = (item.handle, block)
        for batch in self._batches.get(key, ()):
            if batch.first_esi <= esi < batch.first_esi + batch.count:
                self._batches.move_to_end(key)
                return batch
        return self._ask(item, block, esi, count)

    def _ask(self, item: OutgoingObject, block: int, esi: int, count: int) -> _Batch:
        layout, size = item.layout, item.symbol_size
        num_source = layout.symbols_of(block)
        # The deeper the ESI, the more is made and thrown away for each batch: larger batches keep the share constant.
        count = max(count, BATCH_SYMBOLS_MIN, (esi - num_source) // 4, num_source // 8)
        count = min(count, BATCH_BYTES_MAX // size)
        executor = self._executor if layout.size_of(block) > INLINE_BYTES_MAX else _INLINE
        future = executor.submit(
            encode_repair, str(self._files[item.handle].path), layout, block, int(self._kind), esi, count
        )
        batch = _Batch(esi, count, future)
        key = (item.handle, block)
        batches = self._batches.setdefault(key, [])
        batches.append(batch)
        self._batches.move_to_end(key)
        self._cached_bytes += count * size
        if len(batches) > 2:
            self._cached_bytes -= batches.pop(0).count * size
        while self._cached_bytes > CACHE_BYTES_MAX and len(self._batches) > 1:
            old, dropped = self._batches.popitem(last=False)
            self._cached_bytes -= sum(entry.count for entry in dropped) * self._files[old[0]].item.symbol_size
        return batch

    def _look_ahead(self, item: OutgoingObject, block: int, esi: int, num_source: int) -> None:
        """Ask for what comes next, so that it is there when its turn comes."""
        ahead = max(BATCH_SYMBOLS_MIN // 4, num_source // 8)
        batches = self._batches.get((item.handle, block), ())
        if not batches:
            if num_source - ahead <= esi <= num_source:
                self._ask(item, block, num_source, 0)
            return
        end = batches[-1].first_esi + batches[-1].count
        if batches[-1].first_esi <= esi and end - esi < batches[-1].count // 8:
            self._ask(item, block, end, 0)


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


_INLINE = InlineExecutor()


def encode_repair(path: str, layout: BlockLayout, block: int, kind: int, first_esi: int, count: int) -> bytes:
    """Return `count` symbols of a block, one after the other. Runs in the worker process."""
    with Path(path).open("rb") as file:
        file.seek(layout.offset_of(block))
        data = file.read(layout.size_of(block)).ljust(layout.size_of(block), b"\0")
    return b"".join(BlockEncoder(FrameKind(kind), data, layout.symbol_size).symbols(first_esi, count))


def encoder_process() -> ProcessPoolExecutor:
    """Return a pool of one process; it ends with us, even if we are killed."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_prepare_worker)
    pool.submit(abs, 0)  # start it now, not when the first repair symbol is due
    return pool


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C goes to the whole group; the parent decides when we end
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(0)
