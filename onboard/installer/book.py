"""What the trust record says of updates: every change of their states goes through here, recorded first.

It knows the table of states and the record, and queues the receipt of an update that has ended. It does not know
files, serving or time. Every change is one write, without a pause in which somebody else could write.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

from onboard.installer.core import REASON_TEXT, Input, Standing, is_unfinished, next_state
from onboard.store.record import KnownRelease, OnboardRecord, RecordedUpdate, RecordStore
from onboard.store.roots import root_digest
from onboard.store.trust_facts import with_trust
from protocol.manifest import Manifest
from protocol.message import MessageKind
from protocol.report import Reason, UpdateState
from protocol.trust import TrustedUpdate, TrustState

_TEXT_MAX = 1000


class Messages(Protocol):
    """Takes messages for the ground and keeps them until they are acknowledged."""

    def say_once(self, key: str, kind: MessageKind, *, re: bytes, body: Mapping[str, Any]) -> None:
        """Queue a message unless one with that key was queued before, in any earlier life."""
        ...


class UpdateBook:
    """The updates in the record.

    Args:
        store: the trust record, loaded.
        messages: for receipts.
    """

    def __init__(self, store: RecordStore, messages: Messages) -> None:
        self._store, self._messages = store, messages
        self._indexed: OnboardRecord | None = None
        self._handles: frozenset[bytes] = frozenset()

    @property
    def record(self) -> OnboardRecord:
        """The record as it is durable."""
        return self._store.record

    @property
    def standings(self) -> tuple[Standing, ...]:
        """The pending updates, newest first."""
        return tuple(map(_standing, self.record.pending))

    @property
    def known(self) -> tuple[Standing, ...]:
        """The pending updates and those that ended lately."""
        return (*self.standings, *map(_standing, self.record.ended))

    def state(self, handle: bytes) -> UpdateState:
        """Where an update stands; NONE if nobody remembers it."""
        update = self.record.update(handle)
        return update.state if update else UpdateState.NONE

    def is_known(self, handle: bytes) -> bool:
        """Whether the record speaks of an update, pending or ended. Asked for every frame."""
        record = self.record
        if record is not self._indexed:
            handles = [update.handle for update in (*record.pending, *record.ended)]
            self._handles = frozenset([*handles, *(old.handle for old in record.rejected)])
            self._indexed = record
        return handle in self._handles

    def is_pending(self, handle: bytes) -> bool:
        """Whether an update was accepted and has not ended."""
        return self.record.is_pending(handle)

    def rotate(self, state: TrustState) -> list[RecordedUpdate]:
        """Trust new roots; if a new epoch begins with them, end all that is pending; returns these."""
        is_new_epoch = state.epoch > self.record.epoch
        pending = [update.handle for update in self.record.pending] if is_new_epoch else []
        record, ended = self._with_cancelled(pending, Reason.EPOCH_ENDED)
        self._store.store(with_trust(record, state, root_digest(state.root)))
        return ended

    def _with_cancelled(self, handles: Collection[bytes], reason: Reason) -> tuple[OnboardRecord, list[RecordedUpdate]]:
        """The record without these pending updates, and they as they ended."""
        record = self.record
        ended = [
            replace(update, state=next_state(update.state, Input.CANCELLED), reason=reason)
            for update in record.pending
            if update.handle in handles
        ]
        for update in ended:
            record = record.with_ended(update)
        return record, ended

    def accept(
        self, handle: bytes, trusted: TrustedUpdate, *, metadata: bytes, overtaken: Collection[bytes]
    ) -> list[RecordedUpdate]:
        """Begin with a new update, whose object has the SHA-256 `metadata`, and end those that it overtakes: these.

        Its roots were followed before.
        """
        record, ended = self._with_cancelled(overtaken, Reason.SUPERSEDED)
        record = with_trust(record, trusted.state, root_digest(trusted.state.root))
        newcomer = RecordedUpdate(
            handle=handle,
            version=trusted.version,
            sequence=trusted.manifest.sequence,
            release=trusted.manifest.release_digest,
            state=next_state(UpdateState.NONE, Input.ACCEPTED),
            metadata=metadata,
        )
        self._store.store(record.with_pending(newcomer))
        return ended

    def move(self, handle: bytes, happened: Input, reason: Reason = Reason.NONE) -> None:
        """Record that something happened to a pending update."""
        self._store.store(self.record.with_pending(self._moved(handle, happened, reason)))

    def activate(self, handle: bytes) -> None:
        """Record that an update that was held may be tried."""
        self._store.store(self.record.with_pending(replace(self._pending(handle), reason=Reason.NONE)))

    def count_trial(self, handle: bytes) -> int:
        """Record that a trial begins, before it does; returns which one it is."""
        update = self._moved(handle, Input.TRIAL_STARTED)
        update = replace(update, attempts=update.attempts + 1)
        self._store.store(self.record.with_pending(update))
        return update.attempts

    def take_back_trial(self, handle: bytes) -> None:
        """Record that the trial that runs was stopped in peace, and does not count."""
        update = self._moved(handle, Input.TRIAL_INTERRUPTED)
        self._store.store(self.record.with_pending(replace(update, attempts=update.attempts - 1)))

    def end(self, handle: bytes, how: Input, reason: Reason) -> RecordedUpdate:
        """Record that a pending update is REJECTED or CANCELLED."""
        return self._store_ended(self._moved(handle, how, reason))

    def hold_lost(self, handle: bytes) -> None:
        """Record that a pending update stands still, whatever its state, until its metadata has been sent again."""
        update = self._pending(handle)
        held = replace(update, state=UpdateState.BLOCKED, reason=Reason.METADATA_LOST)
        if held != update:
            self._store.store(self.record.with_pending(held))

    def give_up_lost(self, handle: bytes) -> RecordedUpdate:
        """Record that a pending update that cannot be known again is lost, whatever its state: an older build's."""
        return self._store_ended(replace(self._pending(handle), state=UpdateState.REJECTED, reason=Reason.INTERNAL))

    def confirmed(self, handle: bytes, manifest: Manifest) -> tuple[KnownRelease, OnboardRecord]:
        """Return the release that an update confirms, and the record as it is to be, but for the release itself."""
        known = KnownRelease(digest=manifest.release_digest, name=manifest.release_name, sequence=manifest.sequence)
        record = self.record.with_ended(self._moved(handle, Input.TRIAL_PASSED))
        return known, replace(record, floor=max(record.floor, manifest.floor))

    def report_end(self, update: RecordedUpdate, *, text: str = "", canary: Mapping[str, float] | None = None) -> None:
        """Queue the receipt of an update that has ended, if it was not queued before."""
        assert not is_unfinished(update.state)
        body = {
            "state": update.state.name.lower(),
            "reason": update.reason.name.lower(),
            "release": update.release,
            "sequence": update.sequence,
            "canary": dict(canary or {}),
            "text": (text or REASON_TEXT[update.reason])[:_TEXT_MAX],
        }
        self._messages.say_once(f"receipt-{update.handle.hex()}", MessageKind.RECEIPT, re=update.handle, body=body)

    def _store_ended(self, update: RecordedUpdate) -> RecordedUpdate:
        record = self.record.with_ended(update)
        if update.state is UpdateState.REJECTED:
            record = record.with_rejected(update.handle, update.reason)
        self._store.store(record)
        return update

    def _pending(self, handle: bytes) -> RecordedUpdate:
        return next(update for update in self.record.pending if update.handle == handle)

    def _moved(self, handle: bytes, happened: Input, reason: Reason = Reason.NONE) -> RecordedUpdate:
        update = self._pending(handle)
        return replace(update, state=next_state(update.state, happened), reason=reason)


def _standing(update: RecordedUpdate) -> Standing:
    is_held = update.reason is Reason.HELD
    return Standing(
        handle=update.handle, version=update.version, release=update.release, state=update.state, is_held=is_held
    )
