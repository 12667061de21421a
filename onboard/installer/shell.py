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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onboard import telemetry as events
from onboard.config import InstallConfig
from onboard.errors import InstallError, StoreCorruptError, StoreError, UnknownError
from onboard.installer.acceptance import judge_metadata, open_release_key
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.core import (
    REASON_TEXT,
    CanaryVerdict,
    Fate,
    Input,
    OnBoard,
    Step,
    is_obstacle,
    is_unfinished,
    next_state,
    next_step,
    release_to_return_to,
    releases_to_delete,
)
from onboard.installer.housekeeping import delete_leftovers, memory_available_bytes, point_current
from onboard.installer.release import METADATA_NAME, ReleaseDirectory, delete_tree
from onboard.installer.serving import Serving, ServingProblem
from onboard.installer.trial import Candidate, FailureWatch, Trial
from onboard.installer.update_file import AcceptedUpdate, accepted_update, forget_updates, keep_update, read_update
from onboard.store.disk import RealDisk, free_bytes, replace_file
from onboard.store.layout import StateLayout
from onboard.store.record import KnownRelease, LastUpdate, OnboardRecord, RecordStore
from onboard.store.record import Trial as CountedTrial
from onboard.telemetry import Telemetry
from protocol.limits import METADATA_SIZE_MAX, MIB
from protocol.message import MessageKind
from protocol.objects import ObjectKind, object_handle
from protocol.report import NO_HANDLE, Reason, UpdateState
from protocol.trust import TrustedUpdate, TrustState

_T = TypeVar("_T")
_RETRY_S_MAX = 600.0
_REFUSED_MAX = 64  # handles of untrusted metadata remembered, so that their frames are dropped
_FAILURES_MAX = 3  # crashes in a row of the confirmed release before we go back


class Messages(Protocol):
    """Takes messages for the ground and keeps them until they are acknowledged."""

    def say_once(self, key: str, kind: MessageKind, *, re: bytes, body: Mapping[str, Any]) -> None:
        """Queue a message unless one with that key was queued before, in any earlier life."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the installer is given.

    Attributes:
        layout: the state directory; its directories exist.
        store: the trust record, loaded.
        root: trusted root metadata.
        satellite: our name.
        release_private_key: opens release keys.
        options: from the configuration.
        serving: whatever serves.
        messages: to the ground.
        telemetry: events.
        utc: the time, if the clock is believed.
        offer_again: tells the receiver to offer kept objects again.
        crash_point: called with a name where a power cut would be most unkind; for tests.
        retry_s: first pause before a blocked update is tried again; doubles up to ten minutes.
    """

    layout: StateLayout
    store: RecordStore
    root: bytes
    satellite: str
    release_private_key: bytes
    options: InstallConfig
    serving: Serving
    messages: Messages
    telemetry: Telemetry
    utc: Callable[[], datetime | None] = lambda: None
    offer_again: Callable[[], None] = lambda: None
    crash_point: Callable[[str], None] = lambda name: None
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStatus:
    """Where the newest update stands; for reports and people."""

    state: UpdateState
    reason: Reason
    update: bytes
    sequence: int
    release: bytes | None
    serving: bytes | None
    accepted: int
    floor: int
    attempts: int
    num_bundles: int
    bundle_ranges: tuple[tuple[int, int], ...]
    free_mib: int


class Installer:
    """See the module."""

    def __init__(self, given: Surroundings) -> None:
        self._given, self._layout, self._store = given, given.layout, given.store
        self._telemetry, self._serving = given.telemetry, given.serving
        self._root = given.root
        self._update: AcceptedUpdate | None = None
        self._assembly: Assembly | None = None
        self._is_on_board = False  # the release is sealed already: no bundle is needed
        self._refused: OrderedDict[bytes, Reason] = OrderedDict()
        self._evidence: frozenset[bytes] = frozenset()
        self._mutex = asyncio.Lock()
        self._wake = asyncio.Event()
        self._watch = FailureWatch()
        self._trial = Trial(
            self._serving,
            self._telemetry,
            self._watch,
            probation_s=given.options.probation_s,
            crash_point=given.crash_point,
        )
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
        record = self._store.record
        last = record.last_update
        forget_updates(self._layout.state_dir, but=last.handle if last else None)
        if last is not None:
            await self._remember(last)
        wanted = self._update.manifest.release_digest if self._update and self._is_unfinished() else None
        known = [release.digest for release in record.releases]
        for name in await _in_thread(lambda: delete_leftovers(self._layout, known=known, wanted=wanted)):
            self._telemetry.emit(events.LEFTOVER_DELETED, name=name)
        if record.current is not None:
            point_current(self._layout, record.current)
        self._read_evidence()
        if self._state() is UpdateState.RECEIVING:
            await self._open()
        self._report_end()

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
        if self._watch.tell(digest, reason) or digest != self._store.record.current:
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
            record = self._store.record
            known = self._choose(record, digest)
            if known.digest == record.current == self._serving.release:
                return known
            await self._trial.take_over(self._candidate(known.digest, known.name))
            self._make_current(known, record)
            self._telemetry.emit(events.REVERTED, release=known.digest.hex()[:16], name=known.name, why=why)
            self._retire(record.current, known.digest)
            return known

    async def cancel(self, handle: bytes) -> None:
        """Drop an unfinished update.

        Raises:
            UnknownError: it is not the newest one, or has ended.
        """
        last = self._store.record.last_update
        if last is None or last.handle != handle or not is_unfinished(last.state):
            raise UnknownError(f"no unfinished update {handle.hex()}", hint="see the report: it may have ended")
        if self._trial_task is not None:
            self._is_cancelled = True
            self._trial_task.cancel()
        async with self._mutex:
            self._is_cancelled = False
            if self._is_unfinished():
                await self._end(Input.CANCELLED, Reason.COMMANDED)
        self._wake.set()

    # -- queries -------------------------------------------------------------------------------------------

    def is_complete(self, handle: bytes) -> bool:
        """Whether no frame of this object is wanted any more."""
        last = self._store.record.last_update
        if (last is not None and last.handle == handle) or handle in self._refused or handle in self._evidence:
            return True
        if self._store.record.is_rejected(handle):
            return True
        number = self._update.bundle_numbers.get(handle) if self._update else None
        return number is not None and self._has_bundle(number)

    def is_wanted(self, handle: bytes) -> bool:
        """Whether an object is waited for."""
        return self._update is not None and handle in self._update.bundle_numbers and not self.is_complete(handle)

    @property
    def root(self) -> bytes:
        """Trusted root metadata as it is now."""
        return self._root

    def status(self) -> InstallStatus:
        """Where things stand."""
        record, last = self._store.record, self._store.record.last_update
        state, reason = (last.state, last.reason) if last else (UpdateState.NONE, Reason.NONE)
        handle = last.handle if last else NO_HANDLE
        if self._refused and not is_unfinished(state):
            # The ground must learn why the update it is sending does not start.
            handle, reason = next(reversed(self._refused.items()))
            state = UpdateState.REJECTED
        free = 0
        with contextlib.suppress(StoreError):
            free = free_bytes(self._layout.state_dir) // MIB
        return InstallStatus(
            state=state,
            reason=reason,
            update=handle,
            sequence=last.sequence if last else 0,
            release=self._update.manifest.release_digest if self._update else None,
            serving=self._serving.release,
            accepted=record.accepted,
            floor=record.floor,
            attempts=record.trial.attempts if record.trial else 0,
            num_bundles=len(self._update.manifest.bundles) if self._update else 0,
            bundle_ranges=self._bundle_ranges() if last and handle == last.handle else (),
            free_mib=free,
        )

    def _bundle_ranges(self) -> tuple[tuple[int, int], ...]:
        count = len(self._update.manifest.bundles) if self._update else 0
        if count and self._has_bundle(count - 1) and self._assembly is None:
            return ((0, count - 1),)
        return tuple((first, stop - 1) for first, stop in self._assembly.installed) if self._assembly else ()

    def _has_bundle(self, number: int) -> bool:
        if self._is_on_board or self._state() not in {UpdateState.RECEIVING, UpdateState.BLOCKED}:
            return True
        return self._assembly is not None and number in self._assembly.installed

    def _state(self) -> UpdateState:
        last = self._store.record.last_update
        return last.state if last else UpdateState.NONE

    def _is_unfinished(self) -> bool:
        return is_unfinished(self._state())

    # -- objects -------------------------------------------------------------------------------------------

    async def _take_metadata(self, handle: bytes, path: Path) -> Fate:
        if self._trial_task is not None:
            return Fate.KEPT  # a trial takes seconds to minutes: let it end, its release may be the new one's base
        async with self._mutex:
            with path.open("rb") as file:
                data = file.read(METADATA_SIZE_MAX + 1)
            try:
                trusted = judge_metadata(
                    data,
                    TrustState(root=self._root, accepted=self._store.record.accepted),
                    satellite=self._given.satellite,
                    utc=self._given.utc(),
                    floor=self._store.record.floor,
                )
            except InstallError as error:
                self._refuse(handle, error)
                return Fate.USED
            try:
                await self._accept(data, trusted)
            except StoreError as error:
                self._telemetry.emit(events.INSTALLER_FAILED, about=handle, error=str(error))
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

    async def _accept(self, data: bytes, trusted: TrustedUpdate) -> None:
        """Persist first, then trust."""
        update = accepted_update(data, trusted.manifest)
        keep_update(self._layout.state_dir, update)
        if trusted.state.root != self._root:
            replace_file(self._layout.root, trusted.state.root)
            self._root = trusted.state.root
        self._given.crash_point("metadata-kept")
        if self._is_unfinished():
            await self._end(Input.CANCELLED, Reason.SUPERSEDED)
        last = LastUpdate(
            handle=update.handle,
            state=next_state(UpdateState.NONE, Input.ACCEPTED),
            reason=Reason.NONE,
            sequence=update.manifest.sequence,
        )
        self._store.store(replace(self._store.record, accepted=trusted.state.accepted, last_update=last, trial=None))
        self._given.crash_point("accepted")
        forget_updates(self._layout.state_dir, but=update.handle)
        self._update, self._assembly, self._is_on_board = update, None, False
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
        async with self._mutex:
            update, assembly = self._update, self._assembly
            number = update.numbers.get(sha256) if update else None
            if update is None or number is None or self._state() is UpdateState.BLOCKED:
                return Fate.KEPT
            if self._has_bundle(number):
                return Fate.USED
            if assembly is None:
                return Fate.KEPT
            try:
                await _in_thread(lambda: assembly.install(path, number))
            except InstallError as error:
                await self._stand_still(error)
                return Fate.KEPT if is_obstacle(error.reason) else Fate.USED
            self._given.crash_point("bundle-installed")
            self._retry_s = self._given.retry_s
            self._telemetry.emit(events.BUNDLE_INSTALLED, about=update.handle, number=number)
            if assembly.is_complete:
                self._wake.set()
        return Fate.USED

    # -- steps ---------------------------------------------------------------------------------------------

    async def _take_step(self) -> float | None:
        """Do what is next; returns how long to wait at most before looking again."""
        async with self._mutex:
            record = self._store.record
            step = next_step(
                self._state(),
                attempts=record.trial.attempts if record.trial else 0,
                attempts_max=self._given.options.attempts_max,
                is_complete=self._is_on_board or (self._assembly is not None and self._assembly.is_complete),
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
                self._move(Input.TRIAL_INTERRUPTED)
                self._telemetry.emit(events.TRIAL_INTERRUPTED, attempts=self._attempts())
            case Step.GIVE_UP:
                await self._end(Input.GIVEN_UP, Reason.TOO_MANY_ATTEMPTS)
            case Step.TRY:
                if not self._serving.is_up:
                    return 1.0
                return await self._supervise_trial()
            case _:
                return None
        return 0

    async def _seal(self) -> None:
        assembly, update = self._assembly, self._update
        assert update is not None
        if assembly is not None:
            target = self._layout.release(update.manifest.release_digest)
            await _in_thread(assembly.verify)
            self._given.crash_point("digests-right")
            await _in_thread(lambda: assembly.seal(target, update.metadata))
            self._given.crash_point("sealed")
        self._move(Input.SEALED)
        self._assembly = None
        self._given.crash_point("verified")
        self._telemetry.emit(events.UPDATE_VERIFIED, about=update.handle)

    async def _retry(self) -> float:
        """See whether the obstacle is gone; the record changes only if it is, so a full disk is not worn out."""
        last = self._store.record.last_update
        assert last is not None
        try:
            await self._prepare()
        except InstallError as error:
            if not is_obstacle(error.reason):
                self._move(Input.CLEARED)
                raise
            if error.reason is not last.reason:
                self._move(Input.OBSTACLE, error.reason)
            return self._next_pause_s()
        self._next_pause_s()  # reset only by a bundle that goes in: a damaged base looks fine until then
        self._move(Input.CLEARED)
        self._telemetry.emit(events.UPDATE_RESUMED, about=last.handle, reason=last.reason.name)
        self._given.offer_again()
        return 0

    def _next_pause_s(self) -> float:
        self._retry_s = min(2 * self._retry_s, _RETRY_S_MAX)
        return self._retry_s / 2

    async def _supervise_trial(self) -> float:
        self._trial_task = asyncio.create_task(self._try())
        try:
            await asyncio.wait({self._trial_task})
        except asyncio.CancelledError:
            self._trial_task.cancel()
            await asyncio.wait({self._trial_task})
            raise
        finally:
            task, self._trial_task = self._trial_task, None
        self._given.offer_again()  # metadata that waited for the end of the trial
        if task.cancelled() and self._is_cancelled:
            return 0  # whoever cancelled has the mutex next, and records it
        task.result()
        # Not at once: what interrupted the trial may need a moment to come back.
        return 1.0 if self._state() is UpdateState.VERIFIED else 0

    async def _try(self) -> None:
        update = self._update
        assert update is not None
        manifest, attempts = update.manifest, self._attempts() + 1
        self._move(Input.TRIAL_STARTED, trial=CountedTrial(digest=manifest.release_digest, attempts=attempts))
        self._given.crash_point("trial-counted")
        self._telemetry.emit(events.TRIAL_STARTED, about=update.handle, attempt=attempts)
        try:
            _check_memory(manifest.memory_bytes)
            verdict = await self._trial.run(
                self._candidate(manifest.release_digest, manifest.release_name), manifest.canary
            )
        except InstallError as error:
            await self._end(Input.TRIAL_FAILED, error.reason, text=str(error))
        except ServingProblem as error:
            self._move(Input.TRIAL_INTERRUPTED)
            self._telemetry.emit(events.TRIAL_INTERRUPTED, about=update.handle, error=str(error), attempts=attempts)
        else:
            self._confirm(update, verdict)

    def _confirm(self, update: AcceptedUpdate, verdict: CanaryVerdict) -> None:
        manifest, before = update.manifest, self._store.record
        known = KnownRelease(digest=manifest.release_digest, name=manifest.release_name, sequence=manifest.sequence)
        self._make_current(
            known,
            replace(
                before,
                last_update=self._last_moved(before, Input.TRIAL_PASSED),
                trial=None,
                floor=max(before.floor, manifest.floor),
            ),
        )
        self._given.crash_point("confirmed")
        self._telemetry.emit(events.UPDATE_CONFIRMED, about=update.handle, release=known.digest.hex()[:16])
        canary = {"agreeing": verdict.agreeing, "expected": verdict.expected, "permille": verdict.agreement_permille}
        self._report_end(canary=canary)
        self._given.crash_point("receipt-queued")
        self._read_evidence()
        self._retire(before.current, known.digest)

    # -- shared by steps -----------------------------------------------------------------------------------

    async def _remember(self, last: LastUpdate) -> None:
        try:
            self._update = read_update(self._layout.state_dir, last.handle)
        except StoreCorruptError as error:
            if is_unfinished(last.state):
                self._telemetry.emit(events.INSTALLER_FAILED, about=last.handle, error=str(error))
                record = self._store.record.with_rejected(last.handle, Reason.INTERNAL)
                ended = replace(last, state=UpdateState.REJECTED, reason=Reason.INTERNAL)
                self._store.store(replace(record, last_update=ended, trial=None))

    async def _open(self) -> None:
        """Get ready to take bundles; an obstacle holds the update."""
        try:
            await self._prepare()
        except InstallError as error:
            await self._stand_still(error)

    async def _prepare(self) -> None:
        update = self._update
        assert update is not None
        digest = update.manifest.release_digest
        self._assembly = None
        self._is_on_board = await _in_thread(lambda: _is_sealed_and_whole(self._layout.release(digest), digest))
        if self._is_on_board:
            return
        key = open_release_key(update.manifest, self._given.release_private_key, satellite=self._given.satellite)
        plan = Plan(manifest=update.manifest, update=update.handle, release_key=key, base=self._base(update))
        part = self._layout.release_part(digest)
        self._assembly = await _in_thread(lambda: Assembly.open(part, plan))

    def _base(self, update: AcceptedUpdate) -> ReleaseDirectory | None:
        base = update.manifest.base
        if base is None:
            return None
        if self._store.record.release(base) is None:
            raise InstallError(f"base {base.hex()[:16]} is not on board", reason=Reason.BASE_MISSING)
        try:
            return ReleaseDirectory.open(self._layout.release(base), base)
        except StoreCorruptError as error:
            raise InstallError(str(error), reason=Reason.BASE_DAMAGED) from error

    async def _stand_still(self, error: InstallError) -> None:
        """Hold or end the update, by the reason it cannot go on."""
        if not is_obstacle(error.reason):
            await self._end(Input.UNBUILDABLE, error.reason, text=str(error))
            return
        self._assembly = None  # after a failed write its handles prove nothing; it is opened again
        self._move(Input.OBSTACLE, error.reason)
        self._telemetry.emit(events.UPDATE_BLOCKED, reason=error.reason.name, error=str(error))
        self._wake.set()

    async def _end(self, how: Input, reason: Reason, *, text: str = "") -> None:
        """Bring an update to REJECTED or CANCELLED: recorded, cleared away, reported."""
        record = self._store.record
        last = self._last_moved(record, how, reason)
        if last.state is UpdateState.REJECTED:
            record = record.with_rejected(last.handle, reason)
        self._store.store(replace(record, last_update=last, trial=None))
        self._given.crash_point("ended")
        is_rejected = last.state is UpdateState.REJECTED
        self._telemetry.emit(
            events.UPDATE_REJECTED if is_rejected else events.UPDATE_CANCELLED,
            about=last.handle,
            reason=reason.name,
            error=text,
        )
        self._assembly = None
        if self._update is not None:
            await self._clear_away(self._update.manifest.release_digest)
        self._report_end(text=text)

    async def _clear_away(self, digest: bytes) -> None:
        """Delete what was built, unless the release was on board before."""
        paths = [self._layout.release_part(digest)]
        if self._store.record.release(digest) is None:
            paths.append(self._layout.release(digest))
        with contextlib.suppress(StoreError):  # the next start deletes what is left
            for path in paths:
                await _in_thread(partial(delete_tree, path, RealDisk()))

    def _report_end(self, *, text: str = "", canary: Mapping[str, int] | None = None) -> None:
        """Queue the receipt of an update that has ended, if it was not queued before."""
        record = self._store.record
        last = record.last_update
        if last is None or is_unfinished(last.state):
            return
        digest = self._update.manifest.release_digest if self._update else bytes(32)
        body = {
            "state": last.state.name.lower(),
            "reason": last.reason.name.lower(),
            "release": digest,
            "sequence": last.sequence,
            "canary": dict(canary or {}),
            "text": (text or REASON_TEXT[last.reason])[:1000],
        }
        self._given.messages.say_once(f"receipt-{last.handle.hex()}", MessageKind.RECEIPT, re=last.handle, body=body)

    def _move(self, happened: Input, reason: Reason = Reason.NONE, *, trial: CountedTrial | None = None) -> None:
        record = self._store.record
        last = self._last_moved(record, happened, reason)
        self._store.store(replace(record, last_update=last, trial=trial or record.trial))

    @staticmethod
    def _last_moved(record: OnboardRecord, happened: Input, reason: Reason = Reason.NONE) -> LastUpdate:
        assert record.last_update is not None
        return replace(record.last_update, state=next_state(record.last_update.state, happened), reason=reason)

    def _make_current(self, known: KnownRelease, record: OnboardRecord) -> None:
        """Link, then record, that a release serves. The record decides; `start` mends the link after a crash."""
        point_current(self._layout, known.digest)
        self._given.crash_point("linked")
        previous = record.current if record.current != known.digest else record.previous
        self._store.store(replace(record.with_release(known), current=known.digest, previous=previous))

    def _attempts(self) -> int:
        trial = self._store.record.trial
        return trial.attempts if trial else 0

    def _candidate(self, digest: bytes, name: str) -> Candidate:
        return Candidate(digest=digest, name=name, directory=self._layout.release(digest))

    # -- releases ------------------------------------------------------------------------------------------

    def _choose(self, record: OnboardRecord, digest: bytes | None) -> KnownRelease:
        hint = "`skyloadd releases` lists what is on board"
        if digest is not None:
            known = record.release(digest)
            if known is None:
                raise UnknownError(f"no confirmed release {digest.hex()[:16]} on board", hint=hint)
            if known.sequence < record.floor:
                raise UnknownError(
                    f"release {digest.hex()[:16]} has sequence {known.sequence}, below the floor {record.floor}",
                    hint="a signed update forbade releases this old",
                )
            return known
        found = release_to_return_to(
            _on_board(record), leaving=record.current, previous=record.previous, floor=record.floor
        )
        known = record.release(found.digest) if found else None
        if known is None:
            raise UnknownError("there is no release to go back to", hint=hint)
        return known

    async def _return_from(self, digest: bytes) -> None:
        try:
            found = self._choose(self._store.record, None)
            if found.digest in self._left_for_failing:
                raise UnknownError("the release before fails as well", hint="uplink another one")
            await self.revert(found.digest, why="worker failed again and again")
        except (UnknownError, InstallError, ServingProblem) as error:
            self._left_for_failing.discard(digest)  # try again at its next failure
            self._telemetry.emit(events.REVERT_FAILED, release=digest.hex()[:16], error=str(error))

    def _retire(self, old: bytes | None, new: bytes) -> None:
        self._spawn(self._drain(old if old != new else None))

    async def _drain(self, old: bytes | None) -> None:
        """Let the old release finish, then delete releases that nobody needs."""
        if old is not None:
            try:
                await self._serving.drain(old, timeout_s=self._given.options.drain_timeout_s)
            except ServingProblem as error:
                self._telemetry.emit(events.OLD_NOT_DRAINED, release=old.hex()[:16], error=str(error))
                with contextlib.suppress(ServingProblem):
                    await self._serving.unload(old)
        self._given.crash_point("drained")
        async with self._mutex:
            await self._delete_unneeded()

    async def _delete_unneeded(self) -> None:
        record = self._store.record
        needed: set[bytes | None] = {self._serving.release}
        if self._update is not None and self._is_unfinished():
            needed |= {self._update.manifest.release_digest, self._update.manifest.base}
        goners = releases_to_delete(
            _on_board(record),
            serving=record.current,
            needed=needed,
            keep=self._given.options.keep_releases,
            floor=record.floor,
        )
        for digest in goners:
            record = self._store.record.without_release(digest)
            previous = record.previous if record.previous != digest else None
            self._store.store(replace(record, previous=previous))
            self._given.crash_point("forgotten")
            await self._clear_away(digest)
            self._telemetry.emit(events.RELEASE_DELETED, release=digest.hex()[:16])

    def _read_evidence(self) -> None:
        """Remember which metadata objects brought what is on board: their frames are not wanted again."""
        found = set()
        for release in self._store.record.releases:
            with contextlib.suppress(OSError):
                found.add(object_handle((self._layout.release(release.digest) / METADATA_NAME).read_bytes()))
        self._evidence = frozenset(found)

    def _spawn(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._telemetry.emit(events.INSTALLER_FAILED, error=repr(task.exception()))


def _on_board(record: OnboardRecord) -> list[OnBoard]:
    return [OnBoard(digest=release.digest, sequence=release.sequence) for release in record.releases]


def _is_sealed_and_whole(directory: Path, digest: bytes) -> bool:
    if not directory.exists():
        return False
    try:
        return not ReleaseDirectory.open(directory, digest).find_damage()
    except (StoreCorruptError, OSError):
        return False


def _check_memory(needed_bytes: int) -> None:
    available = memory_available_bytes()
    if available is not None and needed_bytes > available:
        raise InstallError(
            f"needs {needed_bytes // MIB} MiB of memory, {available // MIB} MiB are free",
            reason=Reason.ENGINE_UNSUITABLE,
            hint="the old release stays loaded during the trial",
        )


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work; a cancellation waits for its end, for a thread cannot be stopped half way."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
