"""The workshop: blocks are solved, objects checked, sealed and offered, one at a time each.

Driven by the receiver's shell, whose loop runs `run_jobs` and `run_offers` and hands on the core's events. What the
solver finds goes back to the core as facts. It knows the sink; nothing of frames.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from onboard.errors import StoreError, StoreFailedError, StoreFullError
from onboard.receiver.core import ReceiverCore
from onboard.receiver.events import FileVerdict, ObjectSink, Verdict
from onboard.receiver.keeper import Keeper
from onboard.receiver.orders import BlockReady, ObjectSolved
from onboard.receiver.rebuild import JobResult, Outcome
from onboard.receiver.solver import Solver
from onboard.store.inbox import OBJECT_NAME, Inbox
from onboard.store.shape import ObjectShape, shape_of_file

logger = logging.getLogger(__name__)

_CHECK_TRIES = 3  # workers that checking an object may cost
_T = TypeVar("_T")
_FILE_VERDICTS = {
    Verdict.CONSUMED: FileVerdict.USED,
    Verdict.KEPT: FileVerdict.KEPT,
    Verdict.REFUSED: FileVerdict.REFUSED,
    Verdict.SPOILT: FileVerdict.DAMAGED,
}


class Workshop:
    """See the module.

    Args:
        core: asks, and is told.
        inbox: where the files are.
        keeper: knows what to do when the disk does not.
        solver: solves and checks.
        sink: takes whole objects.
        on_poisoned: told the handle of an object whose bytes were not what it says, though its symbols were authentic.
        settle: called after anything has happened.
    """

    def __init__(
        self,
        core: ReceiverCore,
        inbox: Inbox,
        keeper: Keeper,
        solver: Solver,
        sink: ObjectSink,
        *,
        on_poisoned: Callable[[bytes], None],
        settle: Callable[[], None],
    ) -> None:
        self._core, self._inbox, self._keeper, self._solver, self._sink = core, inbox, keeper, solver, sink
        self._on_poisoned, self._settle = on_poisoned, settle
        self._jobs: asyncio.Queue[BlockReady | ObjectSolved] = asyncio.Queue()
        self._offers: asyncio.Queue[ObjectShape] = asyncio.Queue()
        self._whole: dict[bytes, JobResult] = {}
        self._judged: dict[bytes, asyncio.Future[FileVerdict]] = {}  # of objects that came as files
        self._settling: list[asyncio.Future[None]] = []  # to be told when anything has happened
        self.num_solver_deaths = 0

    def put_job(self, job: BlockReady | ObjectSolved) -> None:
        """Something is to be solved or checked."""
        self._jobs.put_nowait(job)

    def put_offer(self, shape: ObjectShape) -> None:
        """An object is to be offered."""
        self._offers.put_nowait(shape)

    def forget(self, shape: ObjectShape) -> None:
        """An object is dropped."""
        self._whole.pop(shape.handle, None)
        _tell(self._judged.pop(shape.handle, None), FileVerdict.DAMAGED)

    def note_settled(self) -> None:
        """Something has happened: whoever waits for a busy object may look again."""
        while self._settling:
            _tell(self._settling.pop(), None)

    async def take_file(self, path: Path, handle: bytes, size: int) -> FileVerdict:
        """See `shell.Receiver.take_file`."""
        loop = asyncio.get_running_loop()
        while (begun := self._core.begin_file(shape_of_file(handle, size))) is FileVerdict.BUSY:
            settled: asyncio.Future[None] = loop.create_future()
            self._settling.append(settled)
            await settled
        self._settle()  # first: an object that gave way may be this one, of an earlier life
        if isinstance(begun, FileVerdict):
            return begun
        try:
            await self._keeper.in_thread(self._inbox.place, begun, path)
        except (StoreError, FileNotFoundError) as error:
            logger.warning("cannot place path=%s error=%s", path, error)
            self._core.file_failed(begun)
            self._settle()
            return FileVerdict.NOT_STORED
        for block in range(begun.layout.num_blocks):
            self._inbox.close_log(begun, block)
        judged: asyncio.Future[FileVerdict] = loop.create_future()
        self._judged[handle] = judged
        self._core.file_placed(begun)
        self._settle()
        return await judged

    async def run_jobs(self) -> None:
        """Solve and check, for ever."""
        while True:
            job = await self._jobs.get()
            if isinstance(job, BlockReady):
                await self._solve(job)
            else:
                await self._check(job.shape)
            self._settle()

    async def run_offers(self) -> None:
        """Offer whole objects, for ever."""
        while True:
            shape = await self._offers.get()
            whole = self._whole[shape.handle]
            assert whole.kind is not None
            path = self._inbox.directory(shape) / OBJECT_NAME
            try:
                verdict = await self._sink.object_ready(shape.handle, whole.kind, path, whole.size, whole.sha256)
            except Exception:
                logger.exception("the sink failed handle=%s", shape.handle.hex())
                verdict = Verdict.KEPT
            self._core.object_judged(shape, verdict, whole.kind)
            _tell(self._judged.pop(shape.handle, None), _FILE_VERDICTS[verdict])
            self._settle()

    async def close(self) -> None:
        """End."""
        for judged in self._judged.values():
            judged.cancel()
        for settled in self._settling:
            settled.cancel()
        await self._solver.close()

    async def _solve(self, job: BlockReady) -> None:
        shape, block = job.shape, job.block
        try:
            self._inbox.flush(shape, block)
        except StoreError as error:
            self._keeper.note_trouble(error)
            self._core.block_postponed(shape, block)
            return
        result = await self._solver.solve(self._inbox.directory(shape), block)
        match result.outcome:
            case Outcome.SOLVED:
                await self._mark_solved(shape, block)
            case Outcome.SHORT:
                if result.num_symbols < job.num_symbols:
                    self._keeper.reload(shape, block)
                self._core.block_short(shape, block)
            case Outcome.DIED:
                self.num_solver_deaths += 1
                self._core.block_short(shape, block, has_died=True)
            case Outcome.FULL | Outcome.FAILED:
                self._keeper.note_block_too_large(shape.layout.size_of(block))
                self._keeper.note_trouble(_error_of(result))
                self._core.block_postponed(shape, block)
            case _:
                self._tell_poisoned(shape, result)
                self._core.block_refused(shape, block)

    async def _mark_solved(self, shape: ObjectShape, block: int) -> None:
        self._core.block_rebuilt(shape, block)
        self._inbox.close_log(shape, block)
        try:
            await self._keeper.in_thread(self._inbox.mark_solved, shape, block)
        except (StoreError, FileNotFoundError) as error:
            self._keeper.note_trouble(error)
            self._keeper.reload(shape, block)
            self._core.block_postponed(shape, block)
        else:
            self._core.block_solved(shape, block)

    async def _check(self, shape: ObjectShape) -> None:
        for _ in range(_CHECK_TRIES):
            result = await self._solver.check(self._inbox.directory(shape))
            if result.outcome is not Outcome.DIED:
                break
            self.num_solver_deaths += 1
        if result.outcome in {Outcome.FULL, Outcome.FAILED}:
            self._keeper.note_trouble(_error_of(result))
            self._core.object_postponed(shape)
        elif result.outcome is not Outcome.WHOLE:
            self._tell_poisoned(shape, result)
            self._core.object_poisoned(shape)
        else:
            await self._seal(shape, result)

    async def _seal(self, shape: ObjectShape, result: JobResult) -> None:
        try:
            await self._keeper.in_thread(self._inbox.seal, shape)
        except (StoreError, FileNotFoundError) as error:
            self._keeper.note_trouble(error)
            self._core.object_postponed(shape)
            return
        self._whole[shape.handle] = result
        self._core.object_checked(shape, result.size)

    def _tell_poisoned(self, shape: ObjectShape, result: JobResult) -> None:
        logger.warning("object thrown away handle=%s cause=%s", shape.handle.hex(), result.text)
        self._on_poisoned(shape.handle)


def _tell(waiting: asyncio.Future[_T] | None, what: _T) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(what)


def _error_of(result: JobResult) -> StoreError:
    return StoreFullError(result.text) if result.outcome is Outcome.FULL else StoreFailedError(result.text)
