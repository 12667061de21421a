"""Messages to the ground: signed, numbered, sent until acknowledged, and kept across restarts where it matters.

An `Outbox` whose receipts, results and answers lie in `STATE_DIR/messages/` until the ground reports them complete:

    HANDLE.ska        a message not acknowledged yet
    KEY.done          the message with that key was queued once (`say_once`); empty

The file is written before the message is queued; a disk that refuses costs durability, never the message.

Each sort of message has places of its own (`Sort`, PLACES), and only one of its own sort gives way, the oldest. So
whoever may ask, or cause events, pushes out answers and events, and never a receipt that was not acknowledged yet. What
says how an update ended is sent first.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

from onboard.errors import StoreError
from onboard.store.disk import TEMPORARY_SUFFIX, RealDisk, read_start, replace_file
from onboard.telemetry import MESSAGE_NOT_KEPT, MESSAGE_QUEUED, Telemetry
from protocol.envelope import key_id
from protocol.errors import ProtocolError
from protocol.exchange import Outbox
from protocol.limits import MESSAGE_SIZE_MAX
from protocol.message import Message, MessageKind
from protocol.objects import object_handle
from protocol.receipt import ReceiptState
from protocol.report import NO_HANDLE


class Sort(IntEnum):
    """Sorts of messages, in the order in which they are sent."""

    VERDICT = auto()  # receipts of what was accepted and how it ended: only signed updates cause them
    SERVING = auto()  # receipts of what serves now: reverts cause them
    RESULT = auto()  # of commands
    DAMAGE = auto()
    ANSWER = auto()  # to questions
    PASSING = auto()  # what is not kept: events, and receipts of refusals, which anybody may cause


PLACES: Mapping[Sort, int] = {
    Sort.VERDICT: 64,
    Sort.SERVING: 16,
    Sort.RESULT: 32,
    Sort.DAMAGE: 8,
    Sort.ANSWER: 32,
    Sort.PASSING: 32,
}
"""How many of each sort may wait."""
MESSAGES_MAX = sum(PLACES.values())

_RETRY_S = 2.0
_DONE_MAX = 16
_TEXT_SIZE_MAX = 48 * 1024  # leaves room for the rest of a message of 64 KiB


class MessageBox(Outbox):
    """See the module.

    Args:
        directory: made if missing.
        satellite: our name.
        public_key: raw Ed25519 public key that goes with `sign`.
        sign: signs with our identity key.
        take_counter: gives counters, each once for ever.
        telemetry: events.
        now: monotonic seconds, the receiver's clock.
        stamp: what every receipt says of the moment it is signed: see `protocol.receipt`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        satellite: str,
        public_key: bytes,
        sign: Callable[[bytes], bytes],
        take_counter: Callable[[], int],
        telemetry: Telemetry,
        now: Callable[[], float],
        stamp: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        super().__init__(retry_s=_RETRY_S, length_max=MESSAGES_MAX)
        self._directory, self._disk = directory, RealDisk()
        self._satellite, self._public_key, self._sign = satellite, public_key, sign
        self._take_counter, self._telemetry, self._now = take_counter, telemetry, now
        self._stamp = stamp
        self._kept: set[bytes] = set()
        self._sorts: dict[bytes, Sort] = {}  # oldest first, within each sort
        self.on_queued: Callable[[], None] = lambda: None

    def load(self) -> None:
        """Queue what an earlier life did not get rid of.

        Raises:
            StoreError: the disk refused.
        """
        self._disk.make_directory(self._directory)
        self._disk.sync_directory(self._directory.parent)
        for path in self._directory.glob(f"*{TEMPORARY_SUFFIX}"):
            self._disk.unlink(path)
        found = sorted(filter(None, map(self._read, self._directory.glob("*.ska"))), key=lambda entry: entry[0])
        for _, data, sort in found:
            self._kept.add(object_handle(data))
            self._queue(data, sort)

    def _read(self, path: Path) -> tuple[int, bytes, Sort] | None:
        """Return counter, bytes, sort of a kept message; one that cannot be read goes, so that it holds nothing up."""
        try:
            data = read_start(path, MESSAGE_SIZE_MAX)
            if object_handle(data).hex() == path.stem:
                message = Message.open(data, public_keys={key_id(self._public_key): self._public_key})
                return message.counter, data, _sort_of(message.kind, message.body)
            problem = "torn: it was never said"
        except (OSError, ProtocolError) as error:
            problem = str(error)
        self._telemetry.emit(MESSAGE_NOT_KEPT, name=path.name, error=problem)
        with contextlib.suppress(StoreError):
            self._disk.unlink(path)
        return None

    def say(self, kind: MessageKind, *, re: bytes = NO_HANDLE, body: Mapping[str, Any], is_kept: bool = True) -> bool:
        """Queue a message.

        Args:
            kind: of the message.
            re: handle of what it answers.
            body: see `protocol.message`.
            is_kept: whether it survives a restart.

        Returns:
            Whether it will.
        """
        if kind is MessageKind.RECEIPT:
            body = {**body, **self._stamp()}
        message = Message(
            satellite=self._satellite, counter=self._take_counter(), kind=kind, re=re, body=_bounded(body)
        )
        data = message.seal(public_key=self._public_key, sign=self._sign)
        sort = _sort_of(kind, body) if is_kept else Sort.PASSING
        if is_kept:
            try:
                replace_file(self._path(object_handle(data)), data)
                self._kept.add(object_handle(data))
            except (StoreError, OSError) as error:
                is_kept = False
                self._telemetry.emit(MESSAGE_NOT_KEPT, about=re, error=str(error))
        self._queue(data, sort)
        self._telemetry.emit(MESSAGE_QUEUED, about=re, kind=kind.value, bytes=len(data))
        self.on_queued()
        return is_kept

    def say_once(self, key: str, kind: MessageKind, *, re: bytes, body: Mapping[str, Any]) -> None:
        """Queue a message unless one with that key was queued before, in any earlier life."""
        done = self._directory / f"{key}.done"
        if done.exists():
            return
        if not self.say(kind, re=re, body=body):
            return  # the next life says it again: better twice than never
        try:
            # After the message: a power cut between the two says it twice, which is better than never.
            replace_file(done, b"")
            others = sorted(self._directory.glob("*.done"), key=lambda path: path.stat().st_mtime_ns)
            for path in others[:-_DONE_MAX]:
                self._disk.unlink(path)
        except (StoreError, OSError) as error:
            self._telemetry.emit(MESSAGE_NOT_KEPT, about=re, error=str(error))

    def drop(self, handle: bytes) -> None:
        """The ground has it, or others need its place: its file goes too."""
        self._sorts.pop(handle, None)
        if handle in self._kept:
            self._kept.discard(handle)
            with contextlib.suppress(StoreError):
                self._disk.unlink(self._path(handle))
        super().drop(handle)

    def _queue(self, data: bytes, sort: Sort) -> None:
        handle = object_handle(data)
        peers = [other for other, its in self._sorts.items() if its is sort and other != handle]
        for other in peers[: max(0, len(peers) + 1 - PLACES[sort])]:
            self.drop(other)
        self._sorts[handle] = sort
        self.put(data, self._now())

    def _in_turn(self) -> Iterable[bytes]:
        return sorted(self._objects, key=self._sorts.__getitem__)  # stable: the oldest of each sort first

    def _path(self, handle: bytes) -> Path:
        return self._directory / f"{handle.hex()}.ska"


def _sort_of(kind: MessageKind, body: Mapping[str, Any]) -> Sort:
    match kind:
        case MessageKind.RECEIPT if body.get("state") == ReceiptState.SERVING.value:
            return Sort.SERVING
        case MessageKind.RECEIPT:
            return Sort.VERDICT
        case MessageKind.RESULT:
            return Sort.RESULT
        case MessageKind.DAMAGE:
            return Sort.DAMAGE
        case MessageKind.ANSWER:
            return Sort.ANSWER
        case MessageKind.EVENT:
            return Sort.PASSING


def _bounded(body: Mapping[str, Any]) -> dict[str, Any]:
    """Cut texts that would not fit a message."""
    return {
        name: value.encode(errors="replace")[:_TEXT_SIZE_MAX].decode(errors="ignore")
        if isinstance(value, str)
        else value
        for name, value in body.items()
    }
