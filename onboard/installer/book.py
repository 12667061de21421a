"""What the trust record says of the newest update: every change of its state goes through here, recorded first.

It knows the table of states and the record, and queues the receipt of an update that has ended. It does not know
files, serving or time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from onboard.installer.core import REASON_TEXT, Input, is_unfinished, next_state
from onboard.store.record import LastUpdate, OnboardRecord, RecordStore, Trial
from protocol.message import MessageKind
from protocol.report import Reason, UpdateState

_TEXT_MAX = 1000
_NO_DIGEST = bytes(32)


class Messages(Protocol):
    """Takes messages for the ground and keeps them until they are acknowledged."""

    def say_once(self, key: str, kind: MessageKind, *, re: bytes, body: Mapping[str, Any]) -> None:
        """Queue a message unless one with that key was queued before, in any earlier life."""
        ...


class UpdateBook:
    """The newest update in the record.

    Args:
        store: the trust record, loaded.
        messages: for receipts.
    """

    def __init__(self, store: RecordStore, messages: Messages) -> None:
        self._store, self._messages = store, messages

    @property
    def record(self) -> OnboardRecord:
        """The record as it is durable."""
        return self._store.record

    @property
    def last(self) -> LastUpdate | None:
        """The newest update."""
        return self._store.record.last_update

    @property
    def state(self) -> UpdateState:
        """Its state."""
        return self.last.state if self.last else UpdateState.NONE

    @property
    def is_unfinished(self) -> bool:
        """Whether it still wants something."""
        return is_unfinished(self.state)

    @property
    def attempts(self) -> int:
        """Trials begun so far."""
        trial = self._store.record.trial
        return trial.attempts if trial else 0

    def store(self, record: OnboardRecord) -> None:
        """Make a record durable."""
        self._store.store(record)

    def accept(self, handle: bytes, *, sequence: int, accepted: int) -> None:
        """Begin with a new update; the one before must have ended."""
        last = LastUpdate(
            handle=handle, state=next_state(UpdateState.NONE, Input.ACCEPTED), reason=Reason.NONE, sequence=sequence
        )
        self.store(replace(self.record, accepted=accepted, last_update=last, trial=None))

    def move(self, happened: Input, reason: Reason = Reason.NONE) -> None:
        """Record that something happened."""
        self.store(replace(self.record, last_update=self.moved(happened, reason)))

    def count_trial(self, digest: bytes) -> int:
        """Record that a trial begins, before it does; returns which one it is."""
        trial = Trial(digest=digest, attempts=self.attempts + 1)
        self.store(replace(self.record, last_update=self.moved(Input.TRIAL_STARTED), trial=trial))
        return trial.attempts

    def take_back_trial(self) -> None:
        """Record that the trial that runs was stopped in peace, and does not count."""
        trial = self._store.record.trial
        assert trial is not None
        trial = replace(trial, attempts=trial.attempts - 1)
        self.store(replace(self.record, last_update=self.moved(Input.TRIAL_INTERRUPTED), trial=trial))

    def end(self, how: Input, reason: Reason) -> LastUpdate:
        """Record that the update is REJECTED or CANCELLED."""
        last = self.moved(how, reason)
        record = self.record
        if last.state is UpdateState.REJECTED:
            record = record.with_rejected(last.handle, reason)
        self.store(replace(record, last_update=last, trial=None))
        return last

    def give_up_lost(self) -> None:
        """Record that an unfinished update cannot go on because what it consists of is lost."""
        assert self.last is not None
        last = replace(self.last, state=UpdateState.REJECTED, reason=Reason.INTERNAL)
        self.store(replace(self.record.with_rejected(last.handle, last.reason), last_update=last, trial=None))

    def moved(self, happened: Input, reason: Reason = Reason.NONE) -> LastUpdate:
        """Return the newest update as it will be."""
        assert self.last is not None
        return replace(self.last, state=next_state(self.last.state, happened), reason=reason)

    def report_end(self, digest: bytes | None, *, text: str = "", canary: Mapping[str, float] | None = None) -> None:
        """Queue the receipt of an update that has ended, if it was not queued before."""
        last = self.last
        if last is None or is_unfinished(last.state):
            return
        body = {
            "state": last.state.name.lower(),
            "reason": last.reason.name.lower(),
            "release": digest or _NO_DIGEST,
            "sequence": last.sequence,
            "canary": dict(canary or {}),
            "text": (text or REASON_TEXT[last.reason])[:_TEXT_MAX],
        }
        self._messages.say_once(f"receipt-{last.handle.hex()}", MessageKind.RECEIPT, re=last.handle, body=body)
