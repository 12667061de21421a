"""Bytes of symbols: source symbols straight from the file, repair symbols from a process that makes them ahead.

Making repair symbols holds the GIL for up to 100 ms, so a worker process does it, in batches, before they are due:
the next batch of a block is asked for when its source symbols, or the last batch, run out. A batch holds symbols of one
lane, without those of others between them. The cache is bounded; what falls out of it is made again, with the same
bytes.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from groundsegment.errors import DiskError, GroundError
from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.flight_log import BlockKey
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.encoder import InlineExecutor, encode_repair
from protocol.frame import FrameKind
from protocol.limits import ESI_MAX

BATCH_SYMBOLS_MIN = 128
BATCH_BYTES_MAX = 4 << 20  # of one batch; what is asked for at once is never more than a run
CACHE_BYTES_MAX = 48 << 20
ENCODER_TRIES = 3  # processes that one batch may cost
_INLINE = InlineExecutor()
INLINE_BYTES_MAX = 128 << 10  # of a block: metadata is made at once, it must not wait for a process to start


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFile:
    """An object, the file that holds its bytes, and the lane in which it is sent."""

    item: OutgoingObject
    path: Path
    lane: Lane = field(default_factory=Lane)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Repair symbols of a block, counted within the lane."""

    first: int
    count: int
    future: "Future[bytes]"
    size_bytes: int

    @property
    def end(self) -> int:
        return self.first + self.count


class SymbolSource:
    """Symbols of objects. Use it in a `with`: it holds files open."""

    def __init__(self, files: Mapping[bytes, ObjectFile], kind: FrameKind, executor: Executor) -> None:
        """Open nothing yet.

        Args:
            files: objects by handle; more may come, and go when nothing more of them is asked for.
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
            GroundError: the process that makes symbols dies again and again.
        """
        file = self._files[run.handle]
        item, lane = file.item, self._lane(file)
        num_source = item.layout.symbols_of(run.block)
        result = self._source_symbols(item, run.block, run.first_esi, min(run.first_esi + run.count, num_source))
        at = lane.num_below(run.first_esi + len(result))
        end = at + run.count - len(result)
        while at < end:
            batch, data = await self._made(file, run.block, at, end - at)
            size, stop = item.symbol_size, min(end, batch.end)
            offsets = range((at - batch.first) * size, (stop - batch.first) * size, size)
            result += [data[offset : offset + size] for offset in offsets]
            at = stop
        self._look_ahead(file, run.block, end, lane.num_below(num_source))
        return result

    def _lane(self, file: ObjectFile) -> Lane:
        return file.lane if self._kind is not FrameKind.PLAIN else Lane()

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

    async def _made(self, file: ObjectFile, block: int, first: int, count: int) -> tuple[_Batch, bytes]:
        """The batch that holds a repair symbol, and its bytes."""
        for _ in range(ENCODER_TRIES):
            batch = self._batch(file, block, first, count)
            try:
                return batch, await asyncio.wrap_future(batch.future)
            except BrokenExecutor:
                self._batches.clear()  # all that was asked of a process that died
                self._cached_bytes = 0
        raise GroundError(
            f"the process that makes repair symbols was killed {ENCODER_TRIES} times",
            hint="free some memory (it needs up to 200 MB), and run the same command again: it goes on where it was",
        )

    def _batch(self, file: ObjectFile, block: int, first: int, count: int) -> _Batch:
        """The batch that holds a repair symbol, made now if need be."""
        key = (file.item.handle, block)
        for batch in self._batches.get(key, ()):
            if batch.first <= first < batch.end:
                self._batches.move_to_end(key)
                return batch
        return self._ask(file, block, first, count)

    def _ask(self, file: ObjectFile, block: int, first: int, count: int) -> _Batch:
        layout, size, lane = file.item.layout, file.item.symbol_size, self._lane(file)
        num_source = layout.symbols_of(block)
        # The deeper the ESI, the more is made and thrown away for each batch: larger batches keep the share constant.
        deep = first - lane.num_below(num_source)
        # A sixth: what 10 % of loss needs, without the next batch being asked for; each costs a whole encoding.
        wanted = max(count, BATCH_SYMBOLS_MIN, deep // 4, num_source // 6)
        # Where many blocks advance together, two batches of each must stay in the cache.
        room = CACHE_BYTES_MAX // 2 // (len(self._batches) + 1)
        count = max(count, min(wanted, min(room, BATCH_BYTES_MAX) // size, lane.num_below(ESI_MAX + 1) - first))
        executor = self._executor if layout.size_of(block) > INLINE_BYTES_MAX else _INLINE
        future = executor.submit(encode_repair, str(file.path), layout, block, int(self._kind), lane, first, count)
        batch = _Batch(first, count, future, count * size)
        key = (file.item.handle, block)
        batches = self._batches.setdefault(key, [])
        batches.append(batch)
        self._batches.move_to_end(key)
        self._cached_bytes += batch.size_bytes
        if len(batches) > 2:
            self._cached_bytes -= batches.pop(0).size_bytes
        while self._cached_bytes > CACHE_BYTES_MAX and len(self._batches) > 1:
            _, dropped = self._batches.popitem(last=False)
            self._cached_bytes -= sum(entry.size_bytes for entry in dropped)
        return batch

    def _look_ahead(self, file: ObjectFile, block: int, at: int, first: int) -> None:
        """Ask for what comes next, so that it is there when its turn comes; `first` is the first repair symbol."""
        ahead = max(BATCH_SYMBOLS_MIN // 4, first // 8)
        batches = self._batches.get((file.item.handle, block), ())
        if not batches:
            if first - ahead <= at <= first:
                self._ask(file, block, first, 0)
            return
        last = batches[-1]
        if last.first <= at and last.end - at < last.count // 8:
            self._ask(file, block, last.end, 0)
