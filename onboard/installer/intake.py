"""Metadata objects on their way to being trusted updates: judged, kept, refused, or held until there is room.

Roots are followed first, as far as they are good, and stay in force whatever becomes of the update that they came with.
What is refused or held is known to this life only: the frames of a refused object are dropped, and it may be asked
again once another update was accepted, for the root may be another one then; a held object stays with the receiver,
which offers it again. Nothing here changes the trust record; a new root is durable before the record names it.

It does not know bundles, or which updates are pending.
"""

import contextlib
from collections import OrderedDict

from onboard import telemetry as events
from onboard.errors import InstallError, StoreError, StoreFullError
from onboard.installer.acceptance import follow_roots_of, judge_metadata
from onboard.installer.book import UpdateBook
from onboard.installer.surroundings import Surroundings, UpdateStanding
from onboard.installer.update_file import AcceptedUpdate, keep_update
from onboard.store.roots import forget_roots, keep_root, root_digest
from onboard.store.trust_facts import trust_state_of
from protocol.report import Reason, UpdateState
from protocol.roots import read_root
from protocol.trust import TrustedRotation, TrustedUpdate, TrustState

_REFUSED_MAX = 64  # handles of untrusted metadata remembered, so that their frames are dropped


class Intake:
    """See the module.

    Args:
        given: the installer's surroundings.
        book: the record of updates.
    """

    def __init__(self, given: Surroundings, book: UpdateBook) -> None:
        self._given, self._book, self._telemetry = given, book, given.telemetry
        self._root, self._is_root_lost = given.root, given.is_root_lost
        self._rotations: OrderedDict[bytes, None] = OrderedDict()
        self._refused: OrderedDict[bytes, Reason] = OrderedDict()
        self._held: OrderedDict[bytes, Reason] = OrderedDict()

    @property
    def root(self) -> bytes:
        """Trusted root metadata as it is now; empty if it was lost."""
        return b"" if self._is_root_lost else self._root

    @property
    def root_version(self) -> int:
        """Of the root that the next one has to follow."""
        return read_root(self._root).version if self._is_root_lost else self._book.record.root_version

    @property
    def root_digest(self) -> bytes:
        """Of the root, as the record holds it."""
        return root_digest(self._root)

    @property
    def waiting(self) -> UpdateStanding | None:
        """The newest trusted metadata that is held."""
        for handle, reason in reversed(self._held.items()):
            return UpdateStanding(handle=handle, state=UpdateState.BLOCKED, reason=reason)
        return None

    @property
    def refused(self) -> UpdateStanding | None:
        """The metadata refused last: the ground must learn why the update it is sending does not start."""
        for handle, reason in reversed(self._refused.items()):
            return UpdateStanding(handle=handle, state=UpdateState.REJECTED, reason=reason)
        return None

    def is_refused(self, handle: bytes) -> bool:
        """Whether metadata was refused."""
        return handle in self._refused

    def refusal_of(self, handle: bytes) -> Reason | None:
        """Why metadata was refused, if it was."""
        return self._refused.get(handle)

    def is_held(self, handle: bytes) -> bool:
        """Whether trusted metadata waits."""
        return handle in self._held

    def is_used_rotation(self, handle: bytes) -> bool:
        """Whether an object brought roots that were followed in this life."""
        return handle in self._rotations

    def new_roots(self, data: bytes) -> TrustState | None:
        """What is to be trusted by the roots in a metadata object, whatever else is in it; None if none is new."""
        state = follow_roots_of(
            data,
            self._state,
            satellite=self._given.satellite,
            private_key=self._given.release_private_key,
        )
        return None if state.root == self._root else state

    def judge(self, handle: bytes, data: bytes) -> TrustedUpdate | TrustedRotation | None:
        """Decide whether a metadata object is to be trusted, its roots being followed; None if it is refused."""
        try:
            return judge_metadata(
                data,
                self._state,
                satellite=self._given.satellite,
                private_key=self._given.release_private_key,
                utc=self._given.utc(),
                nonces=self._given.nonces.known,
                must_be_fresh=self._given.must_be_fresh,
                is_root_lost=self._is_root_lost,
            )
        except InstallError as error:
            self.refuse(handle, error.reason, str(error))
            return None

    @property
    def _state(self) -> TrustState:
        return trust_state_of(self._book.record, self._root)

    def keep_root(self, state: TrustState) -> None:
        """Make a root durable before the record speaks of it.

        Raises:
            StoreError: the disk refused.
        """
        keep_root(self._given.layout, state.root)

    def keep_update(self, update: AcceptedUpdate) -> None:
        """Make a trusted update durable before the record speaks of it.

        Raises:
            StoreError: the disk refused.
        """
        keep_update(self._given.layout.state_dir, update)

    def note_rotation(self, handle: bytes) -> None:
        """An object of roots alone was followed: it is wanted no more."""
        self._held.pop(handle, None)
        self._rotations[handle] = None
        while len(self._rotations) > _REFUSED_MAX:
            self._rotations.popitem(last=False)

    def note_root(self, handle: bytes, state: TrustState, *, is_new_epoch: bool) -> None:
        """The record speaks of a new root: go by it from now on."""
        if is_new_epoch:
            self._telemetry.emit(events.EPOCH_BEGUN, about=handle, epoch=state.epoch, floor=state.floor)
        self._root, self._is_root_lost = state.root, False
        self._refused.clear()  # what the old root refused, the new one may trust
        self._telemetry.emit(events.ROOT_ROTATED, about=handle, version=state.root_version)
        with contextlib.suppress(StoreError):  # the next start deletes what is left
            forget_roots(self._given.layout, but=root_digest(state.root))

    def refuse(self, handle: bytes, reason: Reason, text: str) -> None:
        """Want an object no more."""
        self._held.pop(handle, None)
        self._refused[handle] = reason
        while len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)
        self._telemetry.emit(events.UPDATE_REFUSED, about=handle, reason=reason.name, error=text)

    def hold(self, handle: bytes, reason: Reason, text: str) -> None:
        """Say that trusted metadata waits for room."""
        if self._held.get(handle) is not reason:
            self._telemetry.emit(events.UPDATE_WAITS, about=handle, reason=reason.name, error=text)
        self._held[handle] = reason
        while len(self._held) > _REFUSED_MAX:
            self._held.popitem(last=False)

    def note_accepted(self, handle: bytes) -> None:
        """An update is pending now: what was refused may be asked again."""
        self._held.pop(handle, None)
        self._refused.clear()


def reason_of(error: StoreError) -> Reason:
    """What a report says of a disk that refused."""
    return Reason.DISK_FULL if isinstance(error, StoreFullError) else Reason.DISK_FAILED
