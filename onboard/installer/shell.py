"""The installer: trusted metadata in, bundles in, a release that serves out. Decisions are `core`'s; this does them.

Driven by objects from the receiver (`object_ready`), failures of workers (`worker_failed`), commands (`revert`,
`cancel`), and its own loop (`run`), which takes the next step until nothing is to be done. One mutex orders all that
changes the record; heavy work (hashing, unpacking) runs in a thread, so that frames keep being received.

Promises:
- What counts is in the trust record before it is acted on; `start` and `run` finish or undo what a crash left, from
  the record alone. At no moment is a release half installed under its final name.
- What serves goes on serving until a new release has passed its trial; if that fails, nobody noticed.
- An obstacle (disk full, base unreadable) holds the update and is reported; nothing that arrived is lost.
- CONFIRMED is recorded before it is reported; a receipt that cannot be sent undoes nothing.

It does not know frames, HTTP, or processes.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from onboard import telemetry as events
from onboard.errors import InstallError, StoreCorruptError, StoreError, StoreFullError, UnknownError
from onboard.installer.acceptance import judge_metadata
from onboard.installer.book import UpdateBook
from onboard.installer.building import Building
from onboard.installer.core import Fate, Input, Step, is_obstacle, is_unfinished, next_step
from onboard.installer.housekeeping import delete_leftovers, memory_available_bytes
from onboard.installer.serving import ServingProblem
from onboard.installer.shelf import Shelf
from onboard.installer.surroundings import InstallStatus, Surroundings
from onboard.installer.threads import in_thread
from onboard.installer.trial import FailureWatch, PassedTrial, Trial
from onboard.installer.update_file import AcceptedUpdate, accepted_update, forget_updates, keep_update, read_update
from onboard.store.disk import free_bytes, replace_file
from onboard.store.record import KnownRelease, LastUpdate
from protocol.limits import METADATA_SIZE_MAX, MIB
from protocol.objects import ObjectKind
from protocol.report import NO_HANDLE, Reason, UpdateState
from protocol.trust import TrustedUpdate, TrustState

_RETRY_S_MAX = 600.0
_SERVING_POLL_S = 1.0  # while serving is away: it also wakes us when it is back
_REFUSED_MAX = 64  # handles of untrusted metadata remembered, so that their frames are dropped
_FAILURES_MAX = 3  # crashes in a row of the confirmed release before we go back


class Installer:
    """See the module."""

    def __init__(self, given: Surroundings) -> None:
        self._given, self._layout, self._telemetry, self._serving = (
            given,
            given.layout,
            given.telemetry,
            given.serving,
        )
        self.root = given.root
        """Trusted root metadata as it is now."""
        self.inbox_trouble = Reason.NONE
        """Why the receiver stores nothing for now."""
        self._book = UpdateBook(given.store, given.messages)
        self._building = Building(
            given.layout,
            satellite=given.satellite,
            release_private_key=given.release_private_key,
            is_known=lambda digest: given.store.record.release(digest) is not None,
        )
        self._shelf = Shelf(
            layout=given.layout,
            store=given.store,
            serving=given.serving,
            telemetry=given.telemetry,
            keep_releases=given.options.keep_releases,
            drain_timeout_s=given.options.drain_timeout_s,
            crash_point=given.crash_point,
        )
        self._watch = FailureWatch()
        self._trial = Trial(
            given.serving,
            given.telemetry,
            self._watch,
            probation_s=given.options.probation_s,
            crash_point=given.crash_point,
        )
        self._refused: OrderedDict[bytes, Reason] = OrderedDict()
        self._held: tuple[bytes, Reason] | None = None  # metadata that the disk did not take yet
        self._evidence: frozenset[bytes] = frozenset()
        self._useless: frozenset[bytes] = frozenset()  # bundles of the update that the newest one superseded
        self._mutex = asyncio.Lock()
        self._wake = asyncio.Event()
        self._trial_task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._retry_s = given.retry_s
        self._left_for_failing: set[bytes] = set()
        self._background: set[asyncio.Task[None]] = set()

    # -- inputs --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Finish or undo what the last life left, as far as it needs no serving.

        Raises:
            StoreError: the disk refused.
        """
        book, record = self._book, self._book.record
        forget_updates(self._layout.state_dir, but=book.last.handle if book.last else None)
        if book.last is not None:
            self._remember(book.last)
        wanted = self._building.digest if book.is_unfinished else None
        known = [release.digest for release in record.releases]
        for name, error in await in_thread(lambda: list(delete_leftovers(self._layout, known=known, wanted=wanted))):
            if error is None:
                self._telemetry.emit(events.LEFTOVER_DELETED, name=name)
            else:
                self._telemetry.emit(events.LEFTOVER_STAYS, name=name, error=str(error))
        if record.current is not None:
            self._shelf.link(record.current)
        self._evidence = self._shelf.evidence()
        if book.state is UpdateState.RECEIVING:
            await self._open()
        await self._delete_unneeded()
        book.report_end(self._building.digest)

    async def run(self) -> None:
        """Take step after step, for ever.

        Raises:
            StoreError: the trust record cannot be written: nothing may be acted on any more.
        """
        try:
            while True:
                self._wake.clear()
                pause_s = await self._take_step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
        finally:
            for task in self._background:
                task.cancel()

    async def object_ready(self, handle: bytes, kind: ObjectKind, path: Path, sha256: bytes) -> Fate:
        """Take a whole object; may come again for one that was used already."""
        if self.is_complete(handle):
            return Fate.USED
        if kind is ObjectKind.METADATA:
            return await self._take_metadata(handle, path)
        if kind is ObjectKind.BUNDLE:
            return await self._take_bundle(path, sha256)
        return Fate.BAD

    def worker_failed(self, digest: bytes, reason: str, *, failures: int) -> None:
        """Hear of a dead worker; the serving release is returned from after three deaths in a row."""
        self._telemetry.emit(events.WORKER_FAILED, release=digest.hex()[:16], reason=reason, failures=failures)
        if self._watch.tell(digest, reason) or digest != self._book.record.current:
            return
        if failures >= _FAILURES_MAX and digest not in self._left_for_failing:
            self._left_for_failing.add(digest)
            self._spawn(self._return_from(digest))

    def wake(self) -> None:
        """Something changed outside: serving is up, space was freed."""
        self._wake.set()

    async def revert(self, digest: bytes | None, *, why: str = "command") -> KnownRelease:
        """Let a release that is on board serve again; None means the one before.

        Raises:
            UnknownError: no such release may serve.
            InstallError: it does not load; what served goes on.
            ServingProblem: serving itself failed.
        """
        async with self._mutex:
            known = self._shelf.choose(digest)
            if known.digest != self._book.record.current or known.digest != self._serving.release:
                await self._go_back_to(known)
                self._telemetry.emit(events.REVERTED, release=known.digest.hex()[:16], name=known.name, why=why)
            self._left_for_failing.discard(known.digest)  # who says so gives it another chance
            return known

    async def cancel(self, handle: bytes) -> None:
        """Drop an unfinished update.

        Raises:
            UnknownError: it is not the newest one, or has ended.
        """
        last = self._book.last
        if last is None or last.handle != handle or not self._book.is_unfinished:
            raise UnknownError(f"no unfinished update {handle.hex()}", hint="see the report: it may have ended")
        self._is_cancelled = True  # no step begins while we wait
        if self._trial_task is not None:
            self._trial_task.cancel()
        try:
            async with self._mutex:
                if self._book.is_unfinished:
                    await self._end(Input.CANCELLED, Reason.COMMANDED)
                ended = self._book.last
        finally:
            self._is_cancelled = False
            self._wake.set()
        if ended is None or ended.handle != handle or ended.state is not UpdateState.CANCELLED:
            state = ended.state.name if ended else "gone"
            raise UnknownError(f"update {handle.hex()} ended first: {state}", hint="see its receipt")

    # -- queries -------------------------------------------------------------------------------------------

    def is_complete(self, handle: bytes) -> bool:
        """Whether no frame of this object is wanted any more."""
        last, update = self._book.last, self._building.update
        if (last is not None and last.handle == handle) or handle in self._refused or handle in self._evidence:
            return True
        if self._book.record.is_rejected(handle):
            return True
        number = update.bundle_numbers.get(handle) if update else None
        if number is None:
            return handle in self._useless
        return not self._is_receiving() or self._building.has_bundle(number)

    def is_wanted(self, handle: bytes) -> bool:
        """Whether an object is waited for."""
        update = self._building.update
        return update is not None and handle in update.bundle_numbers and not self.is_complete(handle)

    def refusal_of(self, handle: bytes) -> Reason | None:
        """Why metadata with that handle was refused, if it was."""
        return self._refused.get(handle)

    def signed_bundle(self, release: bytes, number: int) -> bytes | None:
        """SHA-256 of a bundle, as signed, if an update in hand makes that release and has that bundle."""
        update = self._building.update
        if update is None or update.manifest.release_digest != release or number >= len(update.manifest.bundles):
            return None
        return update.manifest.bundles[number].sha256

    def status(self) -> InstallStatus:
        """Where things stand."""
        record, last = self._book.record, self._book.last
        state, reason, handle = (last.state, last.reason, last.handle) if last else _NOTHING
        if state is UpdateState.RECEIVING:
            reason = self.inbox_trouble
        if self._refused and not is_unfinished(state):
            # The ground must learn why the update it is sending does not start.
            handle, reason = next(reversed(self._refused.items()))
            state = UpdateState.REJECTED
        if self._held and not is_unfinished(state):
            (handle, reason), state = self._held, UpdateState.BLOCKED
        free = 0
        with contextlib.suppress(StoreError):
            free = free_bytes(self._layout.state_dir) // MIB
        return InstallStatus(
            state=state,
            reason=reason,
            update=handle,
            sequence=last.sequence if last else 0,
            release=self._building.digest,
            serving=self._serving.release,
            accepted=record.accepted,
            floor=record.floor,
            attempts=self._book.attempts,
            num_bundles=self._building.num_bundles,
            bundle_ranges=self._building.ranges if last and handle == last.handle else (),
            free_mib=free,
        )

    def _is_receiving(self) -> bool:
        return self._book.state in {UpdateState.RECEIVING, UpdateState.BLOCKED}

    # -- objects -------------------------------------------------------------------------------------------

    async def _take_metadata(self, handle: bytes, path: Path) -> Fate:
        if self._trial_task is not None:
            return Fate.KEPT  # a trial takes seconds to minutes: let it end, its release may be the new one's base
        async with self._mutex:
            self._held = None
            with path.open("rb") as file:
                data = file.read(METADATA_SIZE_MAX + 1)
            try:
                trusted = judge_metadata(
                    data,
                    TrustState(root=self.root, accepted=self._book.record.accepted),
                    satellite=self._given.satellite,
                    utc=self._given.utc(),
                    floor=self._book.record.floor,
                )
            except InstallError as error:
                self._refuse(handle, error)
                return Fate.USED
            try:
                await self._accept(data, trusted)
            except StoreError as error:
                self._hold(handle, error)
                return Fate.KEPT
            await self._open()
        self._wake.set()
        self._given.offer_again()
        return Fate.USED

    def _refuse(self, handle: bytes, error: InstallError) -> None:
        self._refused[handle] = error.reason
        while len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)
        self._telemetry.emit(events.UPDATE_REFUSED, about=handle, reason=error.reason.name, error=str(error))

    def _hold(self, handle: bytes, error: StoreError) -> None:
        """Trusted metadata could not be made durable: say so, and ask for it again after a while."""
        self._held = handle, _reason_of(error)
        self._telemetry.emit(events.UPDATE_BLOCKED, about=handle, reason=self._held[1].name, error=str(error))
        self._spawn(self._offer_later(self._next_pause_s()))

    async def _offer_later(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        self._given.offer_again()

    async def _accept(self, data: bytes, trusted: TrustedUpdate) -> None:
        """Persist first, then trust."""
        update = accepted_update(data, trusted.manifest)
        keep_update(self._layout.state_dir, update)
        if trusted.state.root != self.root:
            replace_file(self._layout.root, trusted.state.root)
            self.root = trusted.state.root
        self._given.crash_point("metadata-kept")
        if self._book.is_unfinished:
            await self._end(Input.CANCELLED, Reason.SUPERSEDED)
        self._book.accept(update.handle, sequence=update.manifest.sequence, accepted=trusted.state.accepted)
        self._given.crash_point("accepted")
        old = self._building.update
        self._useless = frozenset(old.bundle_numbers) if old else frozenset()
        self._building.begin(update)
        with contextlib.suppress(StoreError):  # the next start deletes what is left
            forget_updates(self._layout.state_dir, but=update.handle)
        self._refused.clear()
        self._retry_s = self._given.retry_s
        self._telemetry.emit(
            events.UPDATE_ACCEPTED,
            about=update.handle,
            sequence=update.manifest.sequence,
            release=update.manifest.release_digest.hex()[:16],
            bundles=len(update.manifest.bundles),
        )

    async def _take_bundle(self, path: Path, sha256: bytes) -> Fate:
        if self._bundle_number(sha256) is None:
            return Fate.KEPT  # perhaps of an update whose metadata is on its way
        async with self._mutex:
            number = self._bundle_number(sha256)
            if number is None or self._book.state is UpdateState.BLOCKED:
                return Fate.KEPT
            if not self._is_receiving() or self._building.has_bundle(number):
                return Fate.USED
            try:
                await self._building.install(path, number)
            except InstallError as error:
                await self._stand_still(error)
                return Fate.KEPT if is_obstacle(error.reason) else Fate.USED
            self._given.crash_point("bundle-installed")
            self._retry_s = self._given.retry_s
            self._telemetry.emit(events.BUNDLE_INSTALLED, number=number)
            if self._building.is_complete:
                self._wake.set()
        return Fate.USED

    def _bundle_number(self, sha256: bytes) -> int | None:
        update = self._building.update
        return update.numbers.get(sha256) if update else None

    # -- steps ---------------------------------------------------------------------------------------------

    async def _take_step(self) -> float | None:
        """Do what is next; returns how long to wait at most before looking again."""
        async with self._mutex:
            if self._is_cancelled:
                return None
            step = next_step(
                self._book.state,
                attempts=self._book.attempts,
                attempts_max=self._given.options.attempts_max,
                is_complete=self._building.is_complete,
                is_trying=False,
            )
            try:
                return await self._do(step)
            except (StoreError, asyncio.CancelledError):
                raise
            except InstallError as error:
                await self._stand_still(error)
            except Exception as error:  # noqa: BLE001 - a bug must not stop what serves; it is told and tried again
                self._telemetry.emit(events.INSTALLER_FAILED, error=repr(error), step=step.name)
                return self._next_pause_s()
        return 0

    async def _do(self, step: Step) -> float | None:
        match step:
            case Step.SEAL:
                await self._seal()
            case Step.RETRY_LATER:
                return await self._retry()
            case Step.RECOVER:
                self._book.move(Input.TRIAL_INTERRUPTED)
                self._telemetry.emit(events.TRIAL_INTERRUPTED, attempts=self._book.attempts)
            case Step.GIVE_UP:
                await self._end(Input.GIVEN_UP, Reason.TOO_MANY_ATTEMPTS)
            case Step.TRY:
                return await self._supervise_trial() if self._serving.is_up else _SERVING_POLL_S
            case _:
                return None
        return 0

    async def _open(self) -> None:
        """Get ready to take bundles; an obstacle holds the update."""
        try:
            await self._building.prepare()
        except InstallError as error:
            await self._stand_still(error)

    async def _seal(self) -> None:
        await self._building.seal(self._given.crash_point)
        self._given.crash_point("sealed")
        self._book.move(Input.SEALED)
        self._given.crash_point("verified")
        assert self._building.update is not None
        self._telemetry.emit(events.UPDATE_VERIFIED, about=self._building.update.handle)

    async def _retry(self) -> float:
        """See whether the obstacle is gone; the record changes only if it is, so a full disk is not worn out."""
        last = self._book.last
        assert last is not None
        try:
            await self._building.prepare()
        except InstallError as error:
            if not is_obstacle(error.reason):
                self._book.move(Input.CLEARED)
                raise
            if error.reason is not last.reason:
                self._book.move(Input.OBSTACLE, error.reason)
            return self._next_pause_s()
        self._next_pause_s()  # reset only by a bundle that goes in: a damaged base looks fine until then
        self._book.move(Input.CLEARED)
        self._telemetry.emit(events.UPDATE_RESUMED, about=last.handle, reason=last.reason.name)
        self._given.offer_again()
        return 0

    def _next_pause_s(self) -> float:
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _RETRY_S_MAX)
        return pause_s

    async def _supervise_trial(self) -> float:
        task = self._trial_task = asyncio.create_task(self._try())
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if self._book.state is UpdateState.TRIAL:  # told to stop: no fault of the release
                self._book.take_back_trial()
            raise
        finally:
            self._trial_task = None
        self._given.offer_again()  # metadata that waited for the end of the trial
        if task.cancelled() and self._is_cancelled:
            return 0  # whoever cancelled has the mutex next, and records it
        task.result()
        # Not at once: what interrupted the trial may need a moment to come back.
        return _SERVING_POLL_S if self._book.state is UpdateState.VERIFIED else 0

    async def _try(self) -> None:
        update = self._building.update
        assert update is not None
        manifest = update.manifest
        attempt = self._book.count_trial(manifest.release_digest)
        self._given.crash_point("trial-counted")
        self._telemetry.emit(events.TRIAL_STARTED, about=update.handle, attempt=attempt)
        try:
            _check_memory(manifest.memory_bytes)
            candidate = self._shelf.candidate(manifest.release_digest, manifest.release_name)
            passed = await self._trial.run(candidate, manifest.canary)
        except InstallError as error:
            await self._end(Input.TRIAL_FAILED, error.reason, text=str(error))
        except ServingProblem as error:
            self._book.move(Input.TRIAL_INTERRUPTED)
            self._telemetry.emit(events.TRIAL_INTERRUPTED, about=update.handle, error=str(error), attempts=attempt)
        else:
            self._confirm(update, passed)

    def _confirm(self, update: AcceptedUpdate, passed: PassedTrial) -> None:
        manifest, before = update.manifest, self._book.record
        known = KnownRelease(digest=manifest.release_digest, name=manifest.release_name, sequence=manifest.sequence)
        last, floor = self._book.moved(Input.TRIAL_PASSED), max(before.floor, manifest.floor)
        self._shelf.make_current(known, replace(before, last_update=last, trial=None, floor=floor))
        self._given.crash_point("confirmed")
        self._telemetry.emit(events.UPDATE_CONFIRMED, about=update.handle, release=known.digest.hex()[:16])
        verdict = passed.verdict
        canary = {
            "agreeing": verdict.agreeing,
            "expected": verdict.expected,
            "permille": verdict.agreement_permille,
            "swap_ms": passed.swap_ms,
        }
        self._book.report_end(known.digest, canary=canary)
        self._given.crash_point("receipt-queued")
        self._evidence = self._shelf.evidence()
        self._retire(before.current, known.digest)

    # -- shared by steps -----------------------------------------------------------------------------------

    def _remember(self, last: LastUpdate) -> None:
        """Read the newest update again; an unfinished one that is lost is given up."""
        try:
            update = read_update(self._layout.state_dir, last.handle)
        except StoreCorruptError as error:
            if self._book.is_unfinished:
                self._telemetry.emit(events.INSTALLER_FAILED, about=last.handle, error=str(error))
                self._book.give_up_lost()
            return
        is_whole = last.state in {UpdateState.VERIFIED, UpdateState.TRIAL, UpdateState.CONFIRMED}
        self._building.begin(update, is_whole=is_whole)

    async def _stand_still(self, error: InstallError) -> None:
        """Hold or end the update, by the reason it cannot go on."""
        if not is_obstacle(error.reason):
            await self._end(Input.UNBUILDABLE, error.reason, text=str(error))
            return
        self._building.stop()
        self._book.move(Input.OBSTACLE, error.reason)
        self._telemetry.emit(events.UPDATE_BLOCKED, reason=error.reason.name, error=str(error))
        self._wake.set()

    async def _end(self, how: Input, reason: Reason, *, text: str = "") -> None:
        """Bring an update to REJECTED or CANCELLED: recorded, cleared away, reported."""
        last = self._book.end(how, reason)
        self._given.crash_point("ended")
        is_rejected = last.state is UpdateState.REJECTED
        event = events.UPDATE_REJECTED if is_rejected else events.UPDATE_CANCELLED
        self._telemetry.emit(event, about=last.handle, reason=reason.name, error=text)
        self._building.stop()
        if self._building.digest is not None:
            await self._shelf.clear_away(self._building.digest)
        self._book.report_end(self._building.digest, text=text)
        if reason is not Reason.SUPERSEDED:  # the newer one may want the same bundles
            self._given.offer_again()  # the inbox lets go of what it has of them

    async def _return_from(self, digest: bytes) -> None:
        """Leave a release that crashes again and again."""
        try:
            async with self._mutex:
                if self._book.record.current != digest:
                    return  # a trial has replaced it while we waited
                known = self._shelf.choose(None)
                if known.digest in self._left_for_failing:
                    raise UnknownError("the release before fails as well", hint="uplink another one")
                await self._go_back_to(known)
        except (UnknownError, InstallError, ServingProblem) as error:
            self._left_for_failing.discard(digest)  # try again at its next failure
            self._telemetry.emit(events.REVERT_FAILED, release=digest.hex()[:16], error=str(error))
        else:
            self._telemetry.emit(events.RETURNED, release=known.digest.hex()[:16], name=known.name)

    async def _go_back_to(self, known: KnownRelease) -> None:
        """Let a confirmed release serve instead of the current one."""
        await self._trial.take_over(self._shelf.candidate(known.digest, known.name))
        record = self._book.record
        self._shelf.make_current(known, record)
        self._retire(record.current, known.digest)

    def _retire(self, old: bytes | None, new: bytes) -> None:
        self._spawn(self._drain(old if old != new else None))

    async def _drain(self, old: bytes | None) -> None:
        """Let the old release finish, then delete releases that nobody needs."""
        if old is not None:
            await self._shelf.drain(old)
        self._given.crash_point("drained")
        async with self._mutex:
            await self._delete_unneeded()

    async def _delete_unneeded(self) -> None:
        update = self._building.update if self._book.is_unfinished else None
        needed = {update.manifest.release_digest, update.manifest.base} if update else set()
        await self._shelf.delete_unneeded(needed)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._telemetry.emit(events.INSTALLER_FAILED, error=repr(task.exception()))


_NOTHING = (UpdateState.NONE, Reason.NONE, NO_HANDLE)


def _reason_of(error: StoreError) -> Reason:
    return Reason.DISK_FULL if isinstance(error, StoreFullError) else Reason.DISK_FAILED


def _check_memory(needed_bytes: int) -> None:
    available = memory_available_bytes()
    if available is not None and needed_bytes > available:
        raise InstallError(
            f"needs {needed_bytes // MIB} MiB of memory, {available // MIB} MiB are free",
            reason=Reason.ENGINE_UNSUITABLE,
            hint="the old release stays loaded during the trial",
        )
