"""The updates that the record speaks of: the pending ones at work, and of those that ended which bundles they had.

So that frames of a bundle that nobody needs any more are dropped, also after a restart, and a bundle finds every update
that needs it. It does not decide or record anything.
"""

from collections.abc import Collection, Iterator

from onboard.errors import StoreCorruptError
from onboard.installer.building import Building
from onboard.installer.pending import PendingUpdate, Workshop
from onboard.installer.surroundings import UpdateStanding
from onboard.installer.update_file import AcceptedUpdate, forget_updates, read_update
from onboard.store.record import RecordedUpdate
from protocol.manifest import bundle_digest
from protocol.report import Reason, UpdateState


class Roster:
    """See the module.

    Args:
        workshop: shared by all pending updates.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop, self._given, self._book = workshop, workshop.given, workshop.book
        self._pending: dict[bytes, PendingUpdate] = {}
        self._bundles: dict[bytes, Collection[bytes]] = {}  # handles, of all that the record remembers
        self._lost: set[bytes] = set()  # handles of pending ones whose metadata is damaged
        self._takers: dict[bytes, list[PendingUpdate]] = {}  # by bundle, of all those: asked for every frame

    def __iter__(self) -> Iterator[PendingUpdate]:
        """All pending updates; one may come or go meanwhile."""
        return iter(list(self._pending.values()))

    def get(self, handle: bytes) -> PendingUpdate | None:
        """The pending update with that handle."""
        return self._pending.get(handle)

    # -- changes -------------------------------------------------------------------------------------------

    def add(self, update: AcceptedUpdate, *, is_whole: bool = False) -> PendingUpdate:
        """Take a pending update up; with `is_whole`, one that wants no bundle any more."""
        building = Building(
            update,
            self._given.layout,
            satellite=self._given.satellite,
            release_private_key=self._given.release_private_key,
            is_known=lambda digest: self._book.record.release(digest) is not None,
            is_whole=is_whole,
        )
        pending = self._pending[update.handle] = PendingUpdate(building, self._workshop)
        self._bundles[update.handle] = update.bundle_numbers
        self._index()
        return pending

    def read(self, update: RecordedUpdate) -> None:
        """Take an update up again from its file.

        Raises:
            StoreCorruptError: it is pending, and its metadata is damaged.
        """
        try:
            kept = read_update(
                self._given.layout,
                update,
                private_key=self._given.release_private_key,
                satellite=self._given.satellite,
            )
        except StoreCorruptError:
            self._bundles[update.handle] = ()
            if self._book.is_pending(update.handle):
                self._lost.add(update.handle)
                raise
            return
        self._lost.discard(update.handle)
        if self._book.is_pending(update.handle):
            self.add(kept, is_whole=update.state in {UpdateState.VERIFIED, UpdateState.TRIAL})
        else:
            self._bundles[update.handle] = kept.bundle_numbers
            self._index()

    def drop(self, handle: bytes) -> None:
        """An update has ended; of the ended ones only what the record remembers is remembered here."""
        self._pending.pop(handle, None)
        self._lost.discard(handle)
        record = self._book.record
        for old in [old for old in self._bundles if record.update(old) is None]:
            del self._bundles[old]
        self._index()

    def _index(self) -> None:
        self._takers = {handle: [] for bundles in self._bundles.values() for handle in bundles}
        for pending in self._pending.values():
            for handle in pending.update.bundle_numbers:
                self._takers[handle].append(pending)

    def forget_files(self) -> None:
        """Delete the files of updates that no record speaks of.

        Raises:
            StoreError: the disk refused.
        """
        forget_updates(self._given.layout.state_dir, but=self._bundles)

    # -- queries -------------------------------------------------------------------------------------------

    @property
    def bases(self) -> list[bytes]:
        """The releases that pending updates build on; while one is lost, that may be any."""
        if self._lost:
            return [known.digest for known in self._book.record.releases]
        bases = (pending.update.manifest.base for pending in self._pending.values() if pending.is_unfinished())
        return [base for base in bases if base is not None]

    def takers(self, sha256: bytes) -> list[PendingUpdate]:
        """The pending updates that have a bundle with that SHA-256."""
        return [pending for pending in self._pending.values() if bundle_digest(sha256) in pending.update.numbers]

    def is_lost(self, handle: bytes) -> bool:
        """Whether a pending update's metadata is damaged, and must come again."""
        return handle in self._lost

    def is_wanted(self, handle: bytes) -> bool:
        """Whether an object is waited for: a bundle, or metadata that was lost."""
        return handle in self._lost or any(not pending.has_bundle(handle) for pending in self._takers.get(handle, ()))

    def update_of(self, handle: bytes) -> bytes | None:
        """The pending update that waits for a bundle; the first of them if several do."""
        waiting = (pending for pending in self._takers.get(handle, ()) if not pending.has_bundle(handle))
        return next((pending.update.handle for pending in waiting), None)

    def is_used_up(self, handle: bytes) -> bool:
        """Whether a bundle is known, and nobody needs it any more."""
        return handle in self._takers and not self.is_wanted(handle)

    def signed_bundle(self, release: bytes, number: int) -> bytes | None:
        """Digest of a bundle, as signed, if a pending update makes that release and has that bundle."""
        for pending in self._pending.values():
            if pending.building.digest == release and number < pending.building.num_bundles:
                return pending.update.manifest.bundles[number].digest
        return None

    def is_signed(self, handle: bytes) -> bool:
        """Whether a pending update has that handle, or names a bundle with it."""
        return self._book.is_pending(handle) or any(pending.is_unfinished() for pending in self._takers.get(handle, ()))

    def standing(self, update: RecordedUpdate, *, trouble: Reason) -> UpdateStanding:
        """Where an update of the record stands.

        Args:
            update: of the record.
            trouble: why the receiver stores nothing for now.
        """
        pending, num_bundles = self._pending.get(update.handle), len(self._bundles.get(update.handle, ()))
        is_whole = update.state is UpdateState.CONFIRMED and num_bundles > 0
        return UpdateStanding(
            handle=update.handle,
            state=update.state,
            reason=trouble if update.state is UpdateState.RECEIVING else update.reason,
            sequence=update.sequence,
            release=update.release,
            attempts=update.attempts,
            num_bundles=num_bundles,
            bundle_ranges=((0, num_bundles - 1),) if is_whole else pending.building.ranges if pending else (),
        )
