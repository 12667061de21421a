"""What serves, and who may change it: a trial, a revert, a return from a release that fails. One of them at a time.

A revert is obeyed at once: it interrupts a trial that runs, which is undone, does not count as an attempt, and is made
again afterwards; the release to go back to is chosen when it is told, not when its turn comes. A return by itself waits
for its turn, and asks again then. A release that was replaced finishes its answers in the background; no trial begins
before it has, so that never three releases take memory at once.

It does not know how an update came to be ready, or why it ended.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass

from onboard import telemetry as events
from onboard.errors import InstallError, UnknownError
from onboard.installer.serving import Serving, ServingProblem
from onboard.installer.shelf import Shelf
from onboard.installer.trial import FailureWatch, Trial
from onboard.store.record import KnownRelease
from onboard.telemetry import Telemetry
from protocol.report import UpdateState

_FAILURES_MAX = 3  # crashes in a row of the confirmed release before we go back


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverted:
    """What a revert did.

    Attributes:
        known: the release that serves now.
        interrupted: handle of the update whose trial it interrupted.
    """

    known: KnownRelease
    interrupted: bytes | None = None


class Changeover:
    """See the module.

    Args:
        serving: whatever serves.
        telemetry: events.
        shelf: the confirmed releases.
        probation_s: see `config.InstallConfig`.
        crash_point: see `surroundings`.
        on_free: called when a trial may begin that could not before.
        spawn: runs work in the background.
    """

    def __init__(
        self,
        serving: Serving,
        telemetry: Telemetry,
        shelf: Shelf,
        *,
        probation_s: float,
        crash_point: Callable[[str], None],
        on_free: Callable[[], None],
        spawn: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._serving, self._telemetry, self._shelf = serving, telemetry, shelf
        self._crash_point, self.on_free, self._spawn = crash_point, on_free, spawn
        self._watch = FailureWatch()
        self.trial = Trial(serving, telemetry, self._watch, probation_s=probation_s, crash_point=crash_point)
        self._turn = asyncio.Lock()
        self._trying: tuple[bytes, asyncio.Task[None]] | None = None
        self._num_draining = 0
        self._left_for_failing: set[bytes] = set()

    @property
    def is_free(self) -> bool:
        """Whether a trial may begin now."""
        return not self._turn.locked() and not self._num_draining

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the only one to change what serves."""
        try:
            async with self._turn:
                yield
        finally:
            self.on_free()

    async def supervise(self, handle: bytes, work: Coroutine[None, None, None]) -> bool:
        """Run the trial of an update in a task of its own; the caller has the turn.

        Returns:
            Whether it came to an end; False if a revert interrupted it.
        """
        task = asyncio.create_task(work)
        self._trying = handle, task
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
            raise
        finally:
            self._trying = None
        if task.cancelled():
            return False
        task.result()
        return True

    async def revert(self, digest: bytes | None, *, why: str) -> Reverted:
        """Let a release that is on board serve again; None means the one before.

        Raises:
            UnknownError: no such release may serve.
            InstallError: it does not load; what served goes on.
            ServingProblem: serving itself failed.
        """
        known, interrupted = self._shelf.choose(digest), None
        if not self._is_serving(known):
            interrupted = self._interrupt()
        async with self.turn():
            known = self._shelf.choose(known.digest)  # the floor may have risen while we waited
            if not self._is_serving(known):
                await self._go_back_to(known)
                self._telemetry.emit(events.REVERTED, release=known.digest.hex()[:16], name=known.name, why=why)
            self._left_for_failing.discard(known.digest)  # who says so gives it another chance
        return Reverted(known=known, interrupted=interrupted)

    def worker_failed(self, digest: bytes, reason: str, *, failures: int) -> None:
        """Hear of a dead worker; the serving release is returned from after three deaths in a row."""
        self._telemetry.emit(events.WORKER_FAILED, release=digest.hex()[:16], reason=reason, failures=failures)
        if self._watch.tell(digest, reason) or digest != self._shelf.store.record.current:
            return
        if failures >= _FAILURES_MAX and digest not in self._left_for_failing:
            self._left_for_failing.add(digest)
            self._spawn(self._return_from(digest))

    def retire(self, old: bytes | None, new: bytes) -> None:
        """Let the release that was replaced finish, then delete releases that nobody needs."""
        self._num_draining += 1
        self._spawn(self._drain(old if old != new else None))

    def _is_serving(self, known: KnownRelease) -> bool:
        return known.digest == self._shelf.store.record.current == self._serving.release

    def _interrupt(self) -> bytes | None:
        if self._trying is None:
            return None
        handle, task = self._trying
        update = self._shelf.store.record.update(handle)
        is_on_trial = update is not None and update.state is UpdateState.TRIAL  # else it has failed just now
        return handle if is_on_trial and task.cancel() else None

    async def _return_from(self, digest: bytes) -> None:
        """Leave a release that crashes again and again."""
        try:
            async with self.turn():
                if self._shelf.store.record.current != digest:
                    return  # a trial has replaced it while we waited
                known = await self._go_back_to_any()
        except (UnknownError, ServingProblem) as error:
            self._left_for_failing.discard(digest)  # try again at its next failure
            self._telemetry.emit(events.REVERT_FAILED, release=digest.hex()[:16], error=str(error))
        else:
            self._telemetry.emit(events.RETURNED, release=known.digest.hex()[:16], name=known.name)

    async def _go_back_to_any(self) -> KnownRelease:
        """Let the first release serve that can: the one before, others, the golden one at last; returns it.

        Raises:
            UnknownError: none is left, or the last one failed as well.
        """
        failing = set(self._left_for_failing)
        while True:
            known = self._shelf.choose(None, but=failing)
            try:
                await self._go_back_to(known)
            except InstallError as error:  # its fault: there may be another one
                failing.add(known.digest)
                self._telemetry.emit(events.REVERT_FAILED, release=known.digest.hex()[:16], error=str(error))
            else:
                return known

    async def _go_back_to(self, known: KnownRelease) -> None:
        """Let a confirmed release serve instead of the current one."""
        await self.trial.take_over(self._shelf.candidate(known.digest, known.name))
        record = self._shelf.store.record
        self._shelf.make_current(known, record)
        self.retire(record.current, known.digest)

    async def _drain(self, old: bytes | None) -> None:
        try:
            if old is not None:
                await self._shelf.drain(old)
            self._crash_point("drained")
        finally:
            self._num_draining -= 1
            self.on_free()
        await self._shelf.delete_unneeded()
