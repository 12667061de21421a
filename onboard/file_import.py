"""Imports: hands the objects that wait in the spool to the receiver, and tells what became of each.

Driven by `skyloadd import` through the control socket (`take`), by news from the installer (`wake`), and by its own
loop, which takes what waits at start and looks again now and then. An object stays in the spool until it was used,
refused, or is needed no more; so a power cut at any moment only means that it is handed over once more. Before that
its bytes are compared with its name, once a life.

It does not know what is in an object, whom to trust, or how a file got here (`spool`, `import_command`).
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from onboard.errors import StoreError
from onboard.receiver.events import FileVerdict
from onboard.spool import Spool, SpooledFile
from protocol.bundle import HEADER_SIZE, peek_target
from protocol.errors import DecodeError
from protocol.manifest import bundle_digest
from protocol.objects import ObjectKind, handle_of_digest

logger = logging.getLogger(__name__)

_RETRY_S = 30.0  # what waits for room or a disk is tried again so often; news wake us earlier
_OVER_MAX = 64
_DAMAGED = "damaged on board: import it again"
_PATIENCE_S = 60.0  # for one verdict: a bundle takes seconds; whoever asks is told that it waits


class Fortune(StrEnum):
    """What became of an imported file, in the words of `skyloadd import`."""

    USED = "used"
    COMPLETE = "already there"
    KEPT = "kept"  # for an update that is not there yet, or cannot take it now
    WAITING = "waiting"  # in the spool, to be taken by itself
    REFUSED = "refused"
    PASSED_OVER = "passed over"  # not for the satellite

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self in {Fortune.USED, Fortune.COMPLETE, Fortune.REFUSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file.

    Attributes:
        fortune: in one word.
        reason: why, if there is more to say.
    """

    fortune: Fortune
    reason: str = ""


class FileImport:
    """See the module.

    Args:
        spool: where objects wait.
        take: hands one to the receiver: path, handle, size in bytes.
        is_complete: whether nobody needs an object any more. Quick.
        find_fault: says what is known by now to be wrong with an object, "" for nothing; its path is None if it is not
            in the spool. Quick.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        take: Callable[[Path, bytes, int], Coroutine[Any, Any, FileVerdict]],
        is_complete: Callable[[bytes], bool],
        find_fault: Callable[[bytes, Path | None], str],
    ) -> None:
        self._spool, self._take = spool, take
        self._is_complete, self._find_fault = is_complete, find_fault
        self._mutex = asyncio.Lock()
        self._wake = asyncio.Event()
        self._whole: set[bytes] = set()  # digests that were compared
        self._over: OrderedDict[bytes, Outcome] = OrderedDict()  # what became of the last ones
        self._taking: dict[bytes, asyncio.Task[FileVerdict]] = {}
        self.num_waiting = 0
        """Objects in the spool, as of the last look."""

    async def run(self) -> None:
        """Take what waits, for ever. The receiver must have started."""
        try:
            while True:
                self._wake.clear()
                await self._take_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_S if self.num_waiting else None):
                        await self._wake.wait()
        finally:
            for task in self._taking.values():
                task.cancel()

    def wake(self) -> None:
        """Something changed: what was of no use may be now."""
        if self.num_waiting:
            self._wake.set()

    async def take(self, sha256: bytes) -> Outcome | None:
        """Take one object from the spool now; None if it is not there, and is needed.

        Raises:
            StoreError: the disk refused.
        """
        async with self._mutex:
            file = await asyncio.to_thread(self._spool.find, sha256)
            if file is None:
                return self._known(sha256)
            outcome = await self._take_one(file)
        if not outcome.fortune.is_over:
            self.num_waiting += 1
            if self.num_waiting == 1:
                self._wake.set()  # from now on the loop tries again
        return outcome

    def _known(self, sha256: bytes) -> Outcome | None:
        """What to say of an object that is not in the spool, or not any more."""
        handle = handle_of_digest(sha256)
        if fault := self._find_fault(handle, None):
            return Outcome(fortune=Fortune.REFUSED, reason=fault)
        if self._is_complete(handle):
            return self._over.pop(sha256, None) or Outcome(fortune=Fortune.COMPLETE)
        return None

    async def _take_all(self) -> None:
        try:
            files = await asyncio.to_thread(self._spool.files)
            num_over = 0
            for file in files:
                async with self._mutex:
                    num_over += await self._is_over(file)
            self.num_waiting = len(files) - num_over
        except StoreError as error:
            logger.warning("cannot take files error=%s", error)
            self.num_waiting = max(self.num_waiting, 1)

    async def _is_over(self, file: SpooledFile) -> bool:
        if not await asyncio.to_thread(self._spool.has, file):
            return True  # who asked was quicker
        outcome = await self._take_one(file)
        if outcome.fortune.is_over:
            self._over[file.sha256] = outcome  # who put it there may not have asked yet
            while len(self._over) > _OVER_MAX:
                self._over.popitem(last=False)
        return outcome.fortune.is_over

    async def _take_one(self, file: SpooledFile) -> Outcome:
        outcome = await self._try(file)
        if outcome.fortune.is_over:
            self._whole.discard(file.sha256)
            await asyncio.to_thread(self._spool.remove, file)
            logger.info("file taken handle=%s outcome=%s %s", file.handle.hex(), outcome.fortune, outcome.reason)
        return outcome

    async def _try(self, file: SpooledFile) -> Outcome:
        if file.sha256 not in self._whole:
            if not await asyncio.to_thread(self._spool.is_whole, file):
                return Outcome(fortune=Fortune.REFUSED, reason=_DAMAGED)
            self._whole.add(file.sha256)
        fault = self._find_fault(file.handle, file.path)
        if not fault:
            outcome = _outcome_of(await self._verdict_of(file), file.kind)
            if outcome.fortune is not Fortune.WAITING:  # now it was looked into
                fault = self._find_fault(file.handle, file.path)
        return Outcome(fortune=Fortune.REFUSED, reason=fault) if fault else outcome

    async def _verdict_of(self, file: SpooledFile) -> FileVerdict | None:
        """What the receiver says; None if it says nothing yet."""
        task = self._taking.get(file.sha256)
        if task is None:
            task = self._taking[file.sha256] = asyncio.create_task(self._take(file.path, file.handle, file.size_bytes))
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        if not task.done():
            return None
        del self._taking[file.sha256]
        try:
            return task.result()
        except Exception:
            logger.exception("a file could not be taken handle=%s", file.handle.hex())
            return None


def find_bundle_fault(path: Path, signed: Callable[[bytes, int], bytes | None]) -> str:
    """Say what is wrong with a bundle whose release is being built; "" for nothing, or nothing that could be known.

    Args:
        path: of the object, as the spool has it; its digest is in its name.
        signed: the digest that a bundle of a release must have, None if no update in hand says.
    """
    file = SpooledFile.parse(path, 0)
    if file is None or file.kind is not ObjectKind.BUNDLE:
        return ""
    try:
        with path.open("rb") as opened:
            release, number = peek_target(opened.read(HEADER_SIZE))
    except (OSError, DecodeError):
        return ""
    digest = signed(release, number)
    return "" if digest in {None, bundle_digest(file.sha256)} else f"damaged: not bundle {number} as it was signed"


def _outcome_of(verdict: FileVerdict | None, kind: ObjectKind) -> Outcome:
    match verdict:
        case FileVerdict.USED:
            return Outcome(fortune=Fortune.USED)
        case FileVerdict.COMPLETE:
            return Outcome(fortune=Fortune.COMPLETE)
        case FileVerdict.KEPT:
            is_bundle = kind is ObjectKind.BUNDLE
            until = "until its update is there, and can take it" if is_bundle else "until the one before has ended"
            return Outcome(fortune=Fortune.KEPT, reason=until)
        case FileVerdict.REFUSED:
            return Outcome(fortune=Fortune.REFUSED, reason="the daemon has no use for it")
        case FileVerdict.DAMAGED:
            return Outcome(fortune=Fortune.REFUSED, reason=_DAMAGED)
        case FileVerdict.NO_ROOM:
            return Outcome(fortune=Fortune.WAITING, reason="the inbox is full of what no update needs yet")
        case FileVerdict.NOT_STORED:
            return Outcome(fortune=Fortune.WAITING, reason="the disk takes nothing now")
    return Outcome(fortune=Fortune.WAITING, reason="the daemon is busy with it")
