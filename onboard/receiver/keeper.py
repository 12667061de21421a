"""The keeper: makes symbols durable, deletes what is dropped, and sees the receiver through trouble of the disk.

Driven by the receiver's shell, whose loop runs `run_syncs` and `run_drops`. Syncs run in a thread of their own, at
most once per interval while frames arrive, and at once when the link falls silent; only then may a report count the
symbols. Trouble stops storing, not receiving: the owner is told, the disk is tried again now and then, and what was
durable stays. It knows no frame.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from onboard.errors import StoreError, StoreFullError
from onboard.receiver.core import ReceiverCore
from onboard.store.inbox import Inbox
from onboard.store.shape import ObjectShape, SymbolSet
from protocol.limits import MIB
from protocol.report import Reason

logger = logging.getLogger(__name__)

_IDLE_S = 0.05  # silence after which a sync costs no throughput
_FLOOR_BYTES = 8 * MIB  # free at least, else only small objects are stored: a command may have to make room
_ROOM_BYTES = 2 * _FLOOR_BYTES  # free again before everything is stored, or room for the block that found none
_T = TypeVar("_T")


class Keeper:
    """See the module.

    Args:
        core: is told what is durable.
        inbox: where symbols lie.
        sync_interval_s: how much a power cut may take back, in seconds.
        trouble_retry_s: how long to wait before trying a disk again that took nothing.
        on_trouble: told when the disk takes nothing any more, and with NONE when it does again.
        settle: called after anything has happened.
    """

    def __init__(
        self,
        core: ReceiverCore,
        inbox: Inbox,
        *,
        sync_interval_s: float,
        trouble_retry_s: float,
        on_trouble: Callable[[Reason], None],
        settle: Callable[[], None],
    ) -> None:
        self._core, self._inbox = core, inbox
        self._sync_interval_s, self._trouble_retry_s = sync_interval_s, trouble_retry_s
        self._on_trouble, self._settle = on_trouble, settle
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="receiver-disk")
        self._has_work = asyncio.Event()
        self._dirty_at = 0.0  # when the first symbol came that no sync has begun for
        self._drops: asyncio.Queue[Path] = asyncio.Queue()
        self._must_recover = False
        self._room_bytes = _ROOM_BYTES
        self.last_frame_at = 0.0  # set by whoever receives

    async def in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        """Do something slow to files."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def wake(self) -> None:
        """If symbols wait for a sync, see to it."""
        if self._core.is_dirty and not self._has_work.is_set():
            self._dirty_at = asyncio.get_running_loop().time()
            self._has_work.set()

    def note_trouble(self, error: Exception) -> None:
        """The disk did not do something."""
        reason = Reason.DISK_FULL if isinstance(error, StoreFullError) else Reason.DISK_FAILED
        self._must_recover = self._must_recover or reason is Reason.DISK_FAILED
        if self._core.trouble is not reason:
            logger.error("not storing reason=%s error=%s", reason.name, error)
            self._core.pause_storing(reason)
            self._on_trouble(reason)
        self._has_work.set()

    def note_block_too_large(self, size_bytes: int) -> None:
        """A block of that size found no room: wait until there is."""
        self._room_bytes = max(self._room_bytes, _FLOOR_BYTES + size_bytes)

    def drop(self, shape: ObjectShape) -> None:
        """Forget an object's files, at once as far as anybody else can see."""
        try:
            aside = self._inbox.drop(shape)
        except StoreError as error:
            self.note_trouble(error)
            return
        if aside is not None:
            self._drops.put_nowait(aside)

    def reload(self, shape: ObjectShape, block: int) -> None:
        """A log does not hold what was counted: count again."""
        try:
            symbols = self._inbox.reload_block(shape, block)
        except StoreError as error:
            self.note_trouble(error)
            symbols = SymbolSet()
        self._core.block_reloaded(shape, block, symbols)

    async def run_drops(self) -> None:
        """Delete what was dropped, for ever."""
        while True:
            aside = await self._drops.get()
            try:
                await self.in_thread(self._inbox.remove, aside)
            except StoreError as error:  # what is left is deleted at the next start
                logger.warning("cannot delete path=%s error=%s", aside, error)

    async def run_syncs(self) -> None:
        """Make durable what comes, for ever."""
        while True:
            if self._core.trouble is not Reason.NONE:
                await asyncio.sleep(self._trouble_retry_s)
                await self._try_again()
            else:
                await self._has_work.wait()
                await self._wait_until_due()
                self._has_work.clear()
                await self._sync()
            self._settle()

    async def close(self) -> None:
        """Make durable what is left, if possible."""
        try:
            await self.in_thread(self._inbox.begin_sync().run)
        except StoreError as error:  # what it would have saved comes again
            logger.warning("last sync failed error=%s", error)
        self._inbox.close()
        self._thread.shutdown()

    async def _wait_until_due(self) -> None:
        """Wait for silence, or until the oldest symbol has waited long enough."""
        loop = asyncio.get_running_loop()
        latest = self._dirty_at + self._sync_interval_s
        while (now := loop.time()) < (due := min(latest, self.last_frame_at + _IDLE_S)):
            await asyncio.sleep(due - now)

    async def _sync(self) -> bool:
        """Make durable what is not; whether it is."""
        try:
            batch = self._inbox.begin_sync()
        except StoreError as error:
            self.note_trouble(error)
            return False
        self._core.begin_sync()
        try:
            await self.in_thread(batch.run)
        except StoreError as error:
            self.note_trouble(error)
            self._core.sync_failed()
            return False
        self._inbox.finish_sync(batch)
        self._core.symbols_stored()
        self._watch_floor()
        return True

    def _watch_floor(self) -> None:
        try:
            free_bytes = self._inbox.free_bytes()
        except StoreError as error:
            self.note_trouble(error)
            return
        if free_bytes < _FLOOR_BYTES and self._core.trouble is Reason.NONE:
            self.note_trouble(StoreFullError(f"{free_bytes} bytes free, at least {_FLOOR_BYTES} must stay"))

    async def _try_again(self) -> None:
        """After trouble: throw away what may be half written, see whether the disk works again."""
        try:
            if self._must_recover:
                for shape, block, symbols in self._inbox.recover():
                    self._core.block_reloaded(shape, block, symbols)
                self._must_recover = False
            has_room = self._inbox.free_bytes() >= self._room_bytes
        except StoreError as error:
            self.note_trouble(error)
            return
        if await self._sync() and has_room:
            logger.info("storing again")
            self._room_bytes = _ROOM_BYTES
            self._core.resume_storing()
            self._on_trouble(Reason.NONE)
