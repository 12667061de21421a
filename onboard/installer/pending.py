"""One pending update on its way: it takes its bundles as they come, and its next step whenever there is one.

Driven by bundles (`take_bundle`), by whoever ends it (`stop`, then `end`), by `wake`, and by its own loop (`run`), that
ends with the update. Each pending update has one, and they do not wait for each other: heavy work (hashing, unpacking)
runs in threads, under the lock of the update's release. Only what serves is changed by one at a time (`changeover`).

Promises: what counts is in the trust record before it is acted on, and is never written after the update has ended; an
obstacle holds this update and no other; nothing that arrived is lost.

It does not know frames, trust, or the other pending updates.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from onboard import telemetry as events
from onboard.errors import BundleSpoiltError, InstallError, StoreError
from onboard.installer.book import UpdateBook
from onboard.installer.building import Building
from onboard.installer.changeover import Changeover
from onboard.installer.core import Fate, Input, Step, is_obstacle, is_unfinished, next_step, next_to_try
from onboard.installer.housekeeping import check_memory
from onboard.installer.serving import ServingProblem
from onboard.installer.shelf import Shelf
from onboard.installer.surroundings import Surroundings
from onboard.installer.trial import PassedTrial
from onboard.store.record import RecordedUpdate
from protocol.manifest import bundle_digest
from protocol.report import Reason, UpdateState

_RETRY_S_MAX = 600.0
_SPOILT_MAX = 3  # times that one bundle is sent again in one life: a medium that goes on damaging it is told instead
_SERVING_POLL_S = 1.0  # while serving is away: it also wakes us when it is back


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What all pending updates work with.

    Attributes:
        given: the installer's surroundings.
        book: the record of updates.
        shelf: the confirmed releases.
        changeover: what serves.
        on_ended: told that an update has ended, as soon as that is recorded.
        spawn: runs work in the background.
    """

    given: Surroundings
    book: UpdateBook
    shelf: Shelf
    changeover: Changeover
    on_ended: Callable[[RecordedUpdate], None]
    spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class PendingUpdate:
    """See the module.

    Args:
        building: of its release.
        workshop: shared by all.
    """

    def __init__(self, building: Building, workshop: Workshop) -> None:
        self.building, self.update = building, building.update
        self.handle, self._manifest = self.update.handle, self.update.manifest
        self._given, self._book, self._shelf = workshop.given, workshop.book, workshop.shelf
        self._changeover = workshop.changeover
        self._on_ended, self._spawn = workshop.on_ended, workshop.spawn
        self._telemetry, self._crash_point = self._given.telemetry, self._given.crash_point
        self._lock = self._shelf.locks.of(building.digest)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._retry_s, self._retry_at = self._given.retry_s, 0.0
        self._spoilt: Counter[int] = Counter()  # bundles that our medium damaged

    # -- queries -------------------------------------------------------------------------------------------

    @property
    def state(self) -> UpdateState:
        """Where it stands."""
        return self._book.state(self.handle)

    def is_unfinished(self) -> bool:
        """Whether it still wants something."""
        return is_unfinished(self.state)

    def has_bundle(self, handle: bytes) -> bool:
        """Whether it needs one of its bundles no more."""
        return self._has(self.update.bundle_numbers[handle])

    def _has(self, number: int) -> bool:
        is_receiving = self.state in {UpdateState.RECEIVING, UpdateState.BLOCKED}
        return not is_receiving or self.building.has_bundle(number)

    # -- inputs --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Get ready to take bundles; an obstacle holds the update."""
        if self.state is not UpdateState.RECEIVING:
            return
        try:
            async with self._lock:
                await self.building.prepare()
        except InstallError as error:
            await self._stand_still(error)
        self._wake.set()

    def launch(self, on_stopped: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin to take steps, if it has not begun; `on_stopped` is told when it takes no more."""
        if self._task is None:
            self._task = asyncio.create_task(self.run())
            self._task.add_done_callback(on_stopped)

    async def stop(self) -> None:
        """Take no further step; a trial that runs is undone and does not count."""
        task, self._is_stopping = self._task, True
        if task is None or task is asyncio.current_task():
            return
        task.cancel()
        await asyncio.wait({task})

    def wake(self, *, is_retry: bool = False) -> None:
        """Something changed outside; with `is_retry`, something that may have been an obstacle."""
        if is_retry:
            self._retry_s, self._retry_at = self._given.retry_s, 0.0
        self._wake.set()

    async def take_bundle(self, path: Path, sha256: bytes) -> Fate:
        """Put one of its bundles in place."""
        number = self.update.numbers[bundle_digest(sha256)]
        async with self._lock:
            if self.state is UpdateState.BLOCKED:
                return Fate.KEPT
            if self._has(number):
                return Fate.USED
            failure = None
            try:
                await self.building.install(path, number)
            except InstallError as error:
                failure = error
        if not self.is_unfinished():  # it ended meanwhile
            return Fate.USED
        if isinstance(failure, BundleSpoiltError) and self._is_sent_again(number, failure):
            return Fate.SPOILT
        if failure is not None:
            await self._stand_still(failure)
            return Fate.KEPT if is_obstacle(failure.reason) else Fate.USED
        self._crash_point("bundle-installed")
        self._retry_s = self._given.retry_s
        self._telemetry.emit(events.BUNDLE_INSTALLED, about=self.handle, number=number)
        if self.building.is_complete:
            self._wake.set()
        return Fate.USED

    def _is_sent_again(self, number: int, error: BundleSpoiltError) -> bool:
        self._spoilt[number] += 1
        times = self._spoilt[number]
        self._telemetry.emit(events.BUNDLE_SPOILT, about=self.handle, number=number, times=times, error=str(error))
        return times <= _SPOILT_MAX

    async def end(self, how: Input, reason: Reason, *, text: str = "") -> None:
        """Bring it to REJECTED or CANCELLED: recorded, cleared away, reported."""
        await self.wind_up(self._book.end(self.handle, how, reason), text=text)

    async def wind_up(self, ended: RecordedUpdate, *, text: str = "") -> None:
        """Do what is left to do once it is recorded that it has ended."""
        self._crash_point("ended")
        event = events.UPDATE_REJECTED if ended.state is UpdateState.REJECTED else events.UPDATE_CANCELLED
        self._telemetry.emit(event, about=self.handle, reason=ended.reason.name, error=text)
        self.building.stop()
        self._book.report_end(ended, text=text)
        self._on_ended(ended)
        self._wake.set()
        # Whoever ends it may be stopped himself meanwhile.
        await asyncio.shield(self._spawn(self._clear_away()))

    async def _clear_away(self) -> None:
        await self._shelf.clear_away(self.building.digest)

    # -- steps ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take step after step until the update has ended.

        Raises:
            StoreError: the trust record cannot be written: nothing may be acted on any more.
        """
        while self.is_unfinished() and not self._is_stopping:
            self._wake.clear()
            pause_s = await self._take_step()
            if not self.is_unfinished():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _take_step(self) -> float | None:
        """Do what is next; returns how long to wait at most before looking again."""
        update = self._book.record.update(self.handle)
        assert update is not None
        step = next_step(
            update.state,
            attempts=update.attempts,
            attempts_max=self._given.options.attempts_max,
            is_complete=self.building.is_complete,
            is_trying=False,
            is_forbidden=update.sequence < self._book.record.floor,
            is_held=update.reason is Reason.HELD,
        )
        try:
            return await self._do(step)
        except (StoreError, asyncio.CancelledError):
            raise
        except InstallError as error:
            await self._stand_still(error)
        except Exception as error:  # noqa: BLE001 - a bug must not stop what serves; it is told and tried again
            self._telemetry.emit(events.INSTALLER_FAILED, about=self.handle, error=repr(error), step=step.name)
            return self._next_pause_s()
        return 0

    async def _do(self, step: Step) -> float | None:
        match step:
            case Step.SEAL:
                await self._seal()
            case Step.RETRY_LATER:
                return await self._retry()
            case Step.RECOVER:
                self._book.move(self.handle, Input.TRIAL_INTERRUPTED)
                self._telemetry.emit(events.TRIAL_INTERRUPTED, about=self.handle)
                self._changeover.on_free()
            case Step.GIVE_UP:
                await self.end(Input.GIVEN_UP, Reason.TOO_MANY_ATTEMPTS)
            case Step.FORBID:
                floor = self._book.record.floor
                await self.end(Input.FORBIDDEN, Reason.ROLLBACK, text=f"a confirmed update forbids all below {floor}")
            case Step.TRY if self._manifest.is_repair:
                self._confirm_repair()
            case Step.TRY:
                return await self._try_in_turn()
            case _:
                return None
        return 0

    async def _seal(self) -> None:
        async with self._lock:
            await self.building.seal(self._crash_point)
        self._crash_point("sealed")
        self._book.move(self.handle, Input.SEALED, Reason.HELD if self._manifest.hold else Reason.NONE)
        self._crash_point("verified")
        self._telemetry.emit(events.UPDATE_HELD if self._manifest.hold else events.UPDATE_VERIFIED, about=self.handle)

    async def _retry(self) -> float:
        """See whether the obstacle is gone; the record changes only if it is, so a full disk is not worn out."""
        wait_s = self._retry_at - asyncio.get_running_loop().time()
        if wait_s > 0:
            return wait_s
        before = self._book.record.update(self.handle)
        assert before is not None
        try:
            async with self._lock:
                await self.building.prepare()
        except InstallError as error:
            if not is_obstacle(error.reason):
                self._book.move(self.handle, Input.CLEARED)
                raise
            if error.reason is not before.reason:
                self._book.move(self.handle, Input.OBSTACLE, error.reason)
            return self._put_off()
        self._book.move(self.handle, Input.CLEARED)
        self._telemetry.emit(events.UPDATE_RESUMED, about=self.handle, reason=before.reason.name)
        self._given.offer_again()
        return 0

    def _put_off(self) -> float:
        pause_s = self._next_pause_s()
        self._retry_at = asyncio.get_running_loop().time() + pause_s
        return pause_s

    def _next_pause_s(self) -> float:
        """The next pause; a bundle that goes in makes it short again, for a damaged base looks fine until then."""
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _RETRY_S_MAX)
        return pause_s

    async def _stand_still(self, error: InstallError) -> None:
        """Hold or end the update, by the reason it cannot go on."""
        if not self.is_unfinished():
            return  # cancelled meanwhile
        if not is_obstacle(error.reason):
            await self.end(Input.UNBUILDABLE, error.reason, text=str(error))
            return
        self.building.stop()
        self._book.move(self.handle, Input.OBSTACLE, error.reason)
        self._telemetry.emit(events.UPDATE_BLOCKED, about=self.handle, reason=error.reason.name, error=str(error))
        self._put_off()
        self._wake.set()

    # -- the trial -----------------------------------------------------------------------------------------

    async def _try_in_turn(self) -> float | None:
        if not self._given.serving.is_up:
            return _SERVING_POLL_S
        if not self._changeover.is_free or next_to_try(self._book.standings) != self.handle:
            return None  # woken when that changes
        try:
            async with self._changeover.turn():
                has_ended = await self._changeover.supervise(self.handle, self._try())
        except asyncio.CancelledError:
            self._take_back()
            raise
        self._given.offer_again()  # metadata that waited for the end of the trial
        if not has_ended:
            self._take_back()
            self._telemetry.emit(events.TRIAL_INTERRUPTED, about=self.handle, error="a revert was told")
            return 0
        # Not at once: what interrupted the trial may need a moment to come back.
        return _SERVING_POLL_S if self.state is UpdateState.VERIFIED else 0

    def _take_back(self) -> None:
        """It was told to stop, or to make way: no fault of the release."""
        if self.state is UpdateState.TRIAL:
            self._book.take_back_trial(self.handle)

    async def _try(self) -> None:
        attempt = self._book.count_trial(self.handle)
        self._crash_point("trial-counted")
        self._telemetry.emit(events.TRIAL_STARTED, about=self.handle, attempt=attempt)
        try:
            check_memory(self._manifest.memory_bytes)
            candidate = self._shelf.candidate(self._manifest.release_digest, self._manifest.release_name)
            passed = await self._changeover.trial.run(candidate, self._manifest.canary)
        except InstallError as error:
            await self.end(Input.TRIAL_FAILED, error.reason, text=str(error))
        except ServingProblem as error:
            self._book.move(self.handle, Input.TRIAL_INTERRUPTED)
            self._telemetry.emit(events.TRIAL_INTERRUPTED, about=self.handle, error=str(error), attempts=attempt)
        else:
            self._confirm(passed)

    def _confirm_repair(self) -> None:
        """The release is what was confirmed before, to the bit: it is not tried, and what serves goes on serving."""
        self._book.count_trial(self.handle)
        _, record = self._book.confirmed(self.handle, self._manifest)
        self._given.store.store(record)  # it keeps the sequence, and the place, that it had
        self._telemetry.emit(events.UPDATE_CONFIRMED, about=self.handle, release=self.building.digest.hex()[:16])
        ended = self._book.record.ended[0]
        self._book.report_end(ended, text="what was lost of it is back")
        self._on_ended(ended)

    def _confirm(self, passed: PassedTrial) -> None:
        """Record that it serves for good; without a pause, so that nobody ends it in between."""
        old = self._book.record.current
        known, record = self._book.confirmed(self.handle, self._manifest)
        self._shelf.make_current(known, record)
        self._crash_point("confirmed")
        self._telemetry.emit(events.UPDATE_CONFIRMED, about=self.handle, release=known.digest.hex()[:16])
        ended, verdict = self._book.record.ended[0], passed.verdict
        canary = {
            "agreeing": verdict.agreeing,
            "expected": verdict.expected,
            "permille": verdict.agreement_permille,
            "swap_ms": passed.swap_ms,
        }
        self._book.report_end(ended, canary=canary)
        self._crash_point("receipt-queued")
        self._changeover.retire(old, known.digest)
        self._on_ended(ended)
