"""Metadata objects on their way to being trusted updates: judged, kept, refused, or held until there is room.

What is refused or held is known to this life only: the frames of a refused object are dropped, and it may be asked
again once another update was accepted, for the root may be another one then; a held object stays with the receiver,
which offers it again. Nothing here changes the trust record; a new root is durable before the record speaks of what it
signed.

It does not know bundles, or which updates are pending.
"""

from collections import OrderedDict
from pathlib import Path

from onboard import telemetry as events
from onboard.errors import InstallError, StoreError, StoreFullError
from onboard.installer.acceptance import judge_metadata
from onboard.installer.book import UpdateBook
from onboard.installer.surroundings import Surroundings, UpdateStanding
from onboard.installer.update_file import AcceptedUpdate, accepted_update, keep_update
from onboard.store.disk import replace_file
from protocol.limits import METADATA_SIZE_MAX
from protocol.report import Reason, UpdateState
from protocol.trust import TrustedUpdate

_REFUSED_MAX = 64  # handles of untrusted metadata remembered, so that their frames are dropped


class Intake:
    """See the module.

    Args:
        given: the installer's surroundings.
        book: the record of updates.
    """

    def __init__(self, given: Surroundings, book: UpdateBook) -> None:
        self._given, self._book, self._telemetry = given, book, given.telemetry
        self.root = given.root
        """Trusted root metadata as it is now."""
        self._refused: OrderedDict[bytes, Reason] = OrderedDict()
        self._held: OrderedDict[bytes, Reason] = OrderedDict()

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

    def judge(self, handle: bytes, path: Path) -> tuple[AcceptedUpdate, TrustedUpdate] | None:
        """Decide whether a metadata object is to be trusted; None if it is refused."""
        with path.open("rb") as file:
            data = file.read(METADATA_SIZE_MAX + 1)
        try:
            trusted = judge_metadata(
                data,
                self._book.trust_state(self.root),
                satellite=self._given.satellite,
                utc=self._given.utc(),
                floor=self._book.record.floor,
            )
        except InstallError as error:
            self.refuse(handle, error.reason, str(error))
            return None
        return accepted_update(data, trusted.manifest), trusted

    def keep(self, update: AcceptedUpdate, trusted: TrustedUpdate) -> None:
        """Make a trusted update and the root that it brings durable, before the record speaks of it.

        Raises:
            StoreError: the disk refused.
        """
        keep_update(self._given.layout.state_dir, update)
        if trusted.state.root != self.root:
            replace_file(self._given.layout.root, trusted.state.root)
            self.root = trusted.state.root

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
