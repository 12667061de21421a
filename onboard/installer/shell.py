"""The installer: trusted metadata in, bundles in, a release that serves out. Decisions are `core`'s.

Driven by objects from the receiver (`object_ready`), failures of workers (`worker_failed`), commands (`revert`,
`cancel`), and its own loop (`run`). It joins the parts and does little itself: `intake` trusts metadata, each pending
update goes its own way (`pending`), `changeover` lets one at a time change what serves, `shelf` keeps the confirmed
releases, `book` the record.

Promises:
- What counts is in the trust record before it is acted on; `start` and `run` finish or undo what a crash left, from
  the record alone. At no moment is a release half installed under its final name.
- What serves goes on serving until a new release has passed its trial; if that fails, nobody noticed.
- An obstacle (disk full, base unreadable) holds one update and is reported; nothing that arrived is lost.
- CONFIRMED is recorded before it is reported; a receipt that cannot be sent undoes nothing.

It does not know frames, HTTP, or processes.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path

from onboard import telemetry as events
from onboard.errors import StoreCorruptError, StoreError, UnknownError
from onboard.installer.book import UpdateBook
from onboard.installer.changeover import Changeover, Reverted
from onboard.installer.core import Fate, Input, Standing, is_overtaken, overtaken_by
from onboard.installer.forgetting import forget_release
from onboard.installer.freshness import LIFE_S as NONCE_LIFE_S
from onboard.installer.housekeeping import delete_leftovers
from onboard.installer.intake import Intake, reason_of
from onboard.installer.pending import Workshop
from onboard.installer.roster import Roster
from onboard.installer.shelf import Shelf
from onboard.installer.surroundings import InstallStatus, Surroundings
from onboard.installer.threads import Background, in_thread
from onboard.installer.update_file import AcceptedUpdate, accepted_update, restore_update
from onboard.store.disk import free_bytes
from onboard.store.record import PENDING_MAX, RecordedUpdate
from protocol.limits import METADATA_SIZE_MAX, MIB
from protocol.objects import ObjectKind
from protocol.report import UPDATES_MAX, Reason, UpdateState
from protocol.trust import TrustedRotation, TrustedUpdate, TrustState

_RETRY_S_MAX = 600.0


class Installer:
    """See the module."""

    def __init__(self, given: Surroundings) -> None:
        self._given, self._layout, self._telemetry = given, given.layout, given.telemetry
        self.inbox_trouble = Reason.NONE
        """Why the receiver stores nothing for now."""
        self._background = Background(lambda error: self._telemetry.emit(events.INSTALLER_FAILED, error=repr(error)))
        self._book = UpdateBook(given.store, given.messages)
        self._intake = Intake(given, self._book)
        self._shelf = Shelf(
            layout=given.layout,
            store=given.store,
            serving=given.serving,
            telemetry=given.telemetry,
            keep_releases=given.options.keep_releases,
            drain_timeout_s=given.options.drain_timeout_s,
            crash_point=given.crash_point,
            bases=lambda: self._roster.bases,
            on_room=self._retry_all,
        )
        self._changeover = Changeover(
            given.serving,
            given.telemetry,
            self._shelf,
            probation_s=given.options.probation_s,
            crash_point=given.crash_point,
            on_free=self.wake,
            spawn=self._background.spawn,
        )
        self._roster = Roster(
            Workshop(
                given=given,
                book=self._book,
                shelf=self._shelf,
                changeover=self._changeover,
                on_ended=self._note_ended,
                spawn=self._background.spawn,
            )
        )
        self._evidence: frozenset[bytes] = frozenset()
        self._accepting = asyncio.Lock()
        self._failed: asyncio.Future[None] | None = None  # set while `run` runs
        self._retry_s = given.retry_s

    @property
    def root(self) -> bytes:
        """Trusted root metadata as it is now."""
        return self._intake.root

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Finish or undo what the last life left, as far as it needs no serving.

        Raises:
            StoreError: the disk refused.
        """
        record = self._book.record
        for update in record.pending:
            if update.state is UpdateState.TRIAL:
                self._book.move(update.handle, Input.TRIAL_INTERRUPTED)
                self._telemetry.emit(events.TRIAL_INTERRUPTED, about=update.handle, attempts=update.attempts)
        for update in (*record.pending, *record.ended):
            try:
                self._roster.read(update)
            except StoreCorruptError as error:
                self._telemetry.emit(events.METADATA_LOST, about=update.handle, error=str(error))
                if update.metadata:
                    self._book.hold_lost(update.handle)
                else:
                    self._book.give_up_lost(update.handle)
        await self._tidy()
        self._evidence = self._shelf.evidence()
        for pending in self._roster:
            await pending.open()
        await self._shelf.delete_unneeded()
        for update in self._book.record.ended:
            self._book.report_end(update)

    async def run(self) -> None:
        """Take step after step, for ever.

        Raises:
            StoreError: the trust record cannot be written: nothing may be acted on any more.
        """
        self._failed = asyncio.get_running_loop().create_future()
        renewal = asyncio.create_task(self._renew_nonces())
        renewal.add_done_callback(self._hear_of_stop)
        try:
            for pending in self._roster:
                pending.launch(self._hear_of_stop)
            await self._failed
        finally:
            self._failed = None
            renewal.cancel()
            await asyncio.gather(*(pending.stop() for pending in self._roster))
            self._background.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether an update has not quite ended yet, or something is done in the background."""
        return len(self._background) > 0 or any(not pending.is_unfinished() for pending in self._roster)

    # -- inputs --------------------------------------------------------------------------------------------

    async def object_ready(self, handle: bytes, kind: ObjectKind, path: Path, sha256: bytes) -> Fate:
        """Take a whole object; may come again for one that was used already."""
        if self.is_complete(handle):
            return Fate.USED
        if kind is ObjectKind.METADATA:
            async with self._accepting:
                return await self._take_metadata(handle, path)
        if kind is ObjectKind.BUNDLE:
            return await self._take_bundle(path, sha256)
        return Fate.BAD

    def worker_failed(self, digest: bytes, reason: str, *, failures: int) -> None:
        """Hear of a dead worker; the serving release is returned from after three deaths in a row."""
        self._changeover.worker_failed(digest, reason, failures=failures)

    def wake(self) -> None:
        """Something changed outside: serving is up, a turn is free."""
        for pending in self._roster:
            pending.wake()

    async def revert(self, digest: bytes | None, *, why: str = "command") -> Reverted:
        """Let a release that is on board serve again; see `changeover`."""
        return await self._changeover.revert(digest, why=why)

    async def cancel(self, handle: bytes) -> None:
        """Drop a pending update, or metadata that waits to become one.

        Raises:
            UnknownError: there is none with that handle, or it ended first.
        """
        if self._intake.is_held(handle):
            self._intake.refuse(handle, Reason.COMMANDED, "cancelled before it was accepted")
            self._given.offer_again()  # the inbox lets go of it
            return
        if self._roster.is_lost(handle):
            await self._wind_up_lost(self._book.end(handle, Input.CANCELLED, Reason.COMMANDED))
            return
        pending = self._roster.get(handle)
        if pending is None or not pending.is_unfinished():
            raise UnknownError(f"no unfinished update {handle.hex()}", hint="see the report: it may have ended")
        await pending.stop()
        if not pending.is_unfinished():
            raise UnknownError(f"update {handle.hex()} ended first: {pending.state.name}", hint="its receipt says more")
        await pending.end(Input.CANCELLED, Reason.COMMANDED)

    def activate(self, handle: bytes) -> None:
        """Let the trial of an update begin that was signed to wait for it.

        Raises:
            UnknownError: it does not wait, or not yet.
        """
        update = self._book.record.update(handle)
        if update is None or not self._book.is_pending(handle):
            raise UnknownError(f"no unfinished update {handle.hex()}", hint="see the report: it may have ended")
        if update.reason is not Reason.HELD:
            raise UnknownError(
                f"update {handle.hex()} is {update.state.name}: it does not wait to be activated",
                hint="an update staged with --hold does, once it is VERIFIED",
            )
        self._book.activate(handle)
        self._given.crash_point("activated")
        self._telemetry.emit(events.UPDATE_ACTIVATED, about=handle)
        self.wake()

    async def forget(self, digest: bytes) -> str:
        """Wipe a release that nothing needs, and its keys; see `forgetting`."""
        return await forget_release(self._shelf, digest)

    def hold(self, digest: bytes) -> contextlib.AbstractAsyncContextManager[None]:
        """Keep the files of a release from being built or deleted meanwhile."""
        return self._shelf.locks.of(digest)

    # -- queries -------------------------------------------------------------------------------------------

    def is_complete(self, handle: bytes) -> bool:
        """Whether no frame of this object is wanted any more."""
        if self._book.is_known(handle):
            return not self._roster.is_lost(handle)
        if self._intake.is_refused(handle) or handle in self._evidence:
            return True
        if self._intake.is_used_rotation(handle):
            return True
        return self._roster.is_used_up(handle)

    def is_wanted(self, handle: bytes) -> bool:
        """Whether an object is waited for."""
        return self._roster.is_wanted(handle)

    def update_of(self, handle: bytes) -> bytes | None:
        """The pending update that waits for an object."""
        return self._roster.update_of(handle)

    def is_signed(self, handle: bytes) -> bool:
        """Whether an object is one that a pending, trusted update names, or its metadata."""
        return self._roster.is_signed(handle)

    def refusal_of(self, handle: bytes) -> Reason | None:
        """Why metadata with that handle was refused, if it was."""
        return self._intake.refusal_of(handle)

    def signed_bundle(self, release: bytes, number: int) -> bytes | None:
        """SHA-256 of a bundle, as signed, if a pending update makes that release and has that bundle."""
        return self._roster.signed_bundle(release, number)

    def status(self) -> InstallStatus:
        """Where things stand."""
        record = self._book.record
        pending, ended = (
            [self._roster.standing(update, trouble=self.inbox_trouble) for update in updates]
            for updates in (record.pending, record.ended)
        )
        # What was refused may be of anybody: it never takes the place of what is trusted.
        seats = [*pending, self._intake.waiting, *ended[:1], self._intake.refused, *ended[1:]]
        free = 0
        with contextlib.suppress(StoreError):
            free = free_bytes(self._layout.state_dir) // MIB
        return InstallStatus(
            updates=tuple(filter(None, seats))[:UPDATES_MAX],
            serving=self._given.serving.release,
            accepted=record.accepted,
            floor=record.floor,
            free_mib=free,
            root_version=self._intake.root_version,
            epoch=record.epoch,
            nonce=self._given.nonces.told,
            commands=record.command_highest,
        )

    # -- objects -------------------------------------------------------------------------------------------

    async def _take_metadata(self, handle: bytes, path: Path) -> Fate:
        if self._roster.is_lost(handle):
            return await self._take_back(handle, path)
        with path.open("rb") as file:
            data = file.read(METADATA_SIZE_MAX + 1)
        roots = self._intake.new_roots(data)
        if roots is not None and not await self._follow(handle, roots):
            return Fate.KEPT
        trusted = self._intake.judge(handle, data)
        if trusted is None:
            return Fate.USED
        if isinstance(trusted, TrustedRotation):
            self._intake.note_rotation(handle)
            return Fate.USED
        update = accepted_update(data, trusted.manifest)
        newcomer = Standing(handle=handle, version=trusted.version, release=trusted.manifest.release_digest)
        if is_overtaken(newcomer, self._book.known):
            self._intake.refuse(handle, Reason.ROLLBACK, "a newer update to the same release came before it")
            return Fate.USED
        standings = self._book.standings
        overtaken = overtaken_by(newcomer, standings, beside=trusted.manifest.beside)
        if any(each.state is UpdateState.TRIAL for each in overtaken):
            return Fate.KEPT  # it takes seconds to minutes: let it end, its release may be the new one's base
        if len(standings) - len(overtaken) >= PENDING_MAX:
            self._intake.hold(handle, Reason.TOO_MANY_UPDATES, f"{len(standings)} updates are pending")
            return Fate.KEPT  # offered again when one of them has ended
        try:
            self._intake.keep_update(update)
        except StoreError as error:
            return self._keep_for_later(handle, error)
        self._given.crash_point("metadata-kept")
        await self._accept(update, trusted, {each.handle for each in overtaken})
        return Fate.USED

    async def _follow(self, handle: bytes, state: TrustState) -> bool:
        """Trust new roots from now on, whatever comes with them; returns whether the disk took them."""
        try:
            self._intake.keep_root(state)
        except StoreError as error:
            self._keep_for_later(handle, error)
            return False
        self._given.crash_point("root-kept")
        is_new_epoch = state.epoch > self._book.record.epoch
        if is_new_epoch:
            await self._stop({each.handle for each in self._book.standings})
        ended = self._book.rotate(state)
        self._given.crash_point("root-rotated")
        self._intake.note_root(handle, state, is_new_epoch=is_new_epoch)
        await self._wind_up(ended)
        self._given.offer_again()
        return True

    def _keep_for_later(self, handle: bytes, error: StoreError) -> Fate:
        self._intake.hold(handle, reason_of(error), str(error))
        self._background.spawn(self._offer_later())
        return Fate.KEPT

    async def _renew_nonces(self) -> None:
        while True:
            await asyncio.sleep(NONCE_LIFE_S)
            self._given.nonces.renew()

    async def _stop(self, handles: Collection[bytes]) -> None:
        for pending in self._roster:
            if pending.handle in handles:
                await pending.stop()

    async def _wind_up(self, ended: Collection[RecordedUpdate]) -> None:
        for old in ended:
            loser = self._roster.get(old.handle)
            await (self._wind_up_lost(old) if loser is None else loser.wind_up(old))
        with contextlib.suppress(StoreError):  # the next start deletes what is left
            self._roster.forget_files()

    async def _take_back(self, handle: bytes, path: Path) -> Fate:
        """Take the metadata of an accepted update again: it is the same, so there is nothing to judge."""
        update = self._book.record.update(handle)
        assert update is not None
        try:
            restore_update(self._layout, update, path)
            self._roster.read(update)
        except StoreCorruptError as error:
            self._telemetry.emit(events.METADATA_LOST, about=handle, error=str(error))
            return Fate.BAD
        except StoreError as error:
            return self._keep_for_later(handle, error)
        self._given.crash_point("metadata-back")
        self._intake.note_accepted(handle)
        pending = self._roster.get(handle)
        if pending is not None and self._failed is not None:
            pending.launch(self._hear_of_stop)
        self._given.offer_again()
        return Fate.USED

    async def _wind_up_lost(self, ended: RecordedUpdate) -> None:
        self._telemetry.emit(events.UPDATE_CANCELLED, about=ended.handle, reason=ended.reason.name)
        self._book.report_end(ended)
        self._note_ended(ended)
        await self._shelf.clear_away(ended.release)

    async def _offer_later(self) -> None:
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _RETRY_S_MAX)
        await asyncio.sleep(pause_s)
        self._given.offer_again()

    async def _accept(self, update: AcceptedUpdate, trusted: TrustedUpdate, overtaken: Collection[bytes]) -> None:
        await self._stop(overtaken)
        metadata = hashlib.sha256(update.metadata).digest()
        ended = self._book.accept(update.handle, trusted, metadata=metadata, overtaken=overtaken)
        self._given.crash_point("accepted")
        self._intake.note_accepted(update.handle)
        self._retry_s = self._given.retry_s
        self._telemetry.emit(
            events.UPDATE_ACCEPTED,
            about=update.handle,
            sequence=update.manifest.sequence,
            release=update.manifest.release_digest.hex()[:16],
            bundles=len(update.manifest.bundles),
            beside=update.manifest.beside,
            fresh=trusted.is_fresh,
        )
        newcomer = self._roster.add(update)
        await self._wind_up(ended)
        await newcomer.open()
        if self._failed is not None:
            newcomer.launch(self._hear_of_stop)
        self._given.offer_again()

    async def _take_bundle(self, path: Path, sha256: bytes) -> Fate:
        takers = self._roster.takers(sha256)
        if not takers:
            return Fate.KEPT  # perhaps of an update whose metadata is on its way
        fates = [await pending.take_bundle(path, sha256) for pending in takers]
        return next((fate for fate in (Fate.SPOILT, Fate.KEPT) if fate in fates), Fate.USED)

    # -- the pending updates -------------------------------------------------------------------------------

    def _hear_of_stop(self, task: asyncio.Task[None]) -> None:
        """An update's loop ended; if by an error, then so does ours."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _note_ended(self, update: RecordedUpdate) -> None:
        """Let go of an update; what held others back may be gone with it."""
        self._roster.drop(update.handle)
        self._retry_all()
        if update.state is UpdateState.CONFIRMED:
            self._evidence = self._shelf.evidence()
        else:
            self._background.spawn(self._shelf.delete_unneeded())
        if update.reason is not Reason.SUPERSEDED:  # the newer one may want the same bundles
            self._given.offer_again()  # the inbox lets go of what it has of them; who waited for room may come

    def _retry_all(self) -> None:
        """What was an obstacle may be gone: a release was deleted, an update has ended."""
        for pending in self._roster:
            pending.wake(is_retry=True)

    # -- housekeeping --------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """Delete what no record speaks of, and let the link follow the record."""
        record = self._book.record
        self._roster.forget_files()
        known = [release.digest for release in record.releases]
        wanted = [update.release for update in record.pending]
        for name, error in await in_thread(lambda: list(delete_leftovers(self._layout, known=known, wanted=wanted))):
            if error is None:
                self._telemetry.emit(events.LEFTOVER_DELETED, name=name)
            else:
                self._telemetry.emit(events.LEFTOVER_STAYS, name=name, error=str(error))
        if record.current is not None:
            self._shelf.link(record.current)
