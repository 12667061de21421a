"""The trust record: the few facts that must never be forgotten, in a file that needs no space to be rewritten.

Two slots of 4 KiB are written in turn, each synced before the write counts; the newest valid one is the record.

    offset  size  field
    0       4     magic "SKR1"
    4       8     sequence of the write, big-endian; the higher one is newer
    12      4     length of the record
    16      4     CRC-32 over sequence, length and record
    20      n     the record, msgpack

Facts are written before anyone acts on them. The file is made whole, once, by `create`; from then on it never grows,
so it can be written on a full disk. It does not know what the facts mean: the installer and the daemon do.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from onboard.errors import StoreCorruptError, StoreFailedError, StoreFullError
from onboard.store.disk import Disk, RealDisk, replace_file, write_all_at
from protocol.errors import DecodeError
from protocol.limits import NAME_LENGTH_MAX
from protocol.packing import Fields, pack_map, unpack_map
from protocol.report import NO_HANDLE, UPDATES_MAX, Reason, UpdateState
from protocol.trust import ALL_CLOSED

SLOT_SIZE = 4096
PENDING_MAX = UPDATES_MAX  # at once: a report must have a seat for each
ENDED_MAX = 4  # remembered with how they ended, newest first
RELEASES_MAX = 15  # known at once: six kept, what pending updates make or build on, and the one just confirmed
REJECTED_MAX = 16  # updates remembered as rejected, newest first
COUNTER_STEP = 64  # message counters reserved by one write: a crash skips at most so many
_MAGIC = b"SKR1"
_HEADER = struct.Struct(">4sQII")
_SUMMED = struct.Struct(">QI")
_VERSION = 1
_DIGEST_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRelease:
    """A sealed release on board.

    Attributes:
        digest: SHA-256 of its manifest of files; names its directory.
        name: what people call it.
        sequence: of the update that brought it.
    """

    digest: bytes
    name: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUpdate:
    """An accepted update and how it stands.

    Attributes:
        handle: of its metadata object.
        version: of its metadata; the higher one is newer.
        sequence: of the update.
        release: digest of the release it makes.
        state: of the table in the installer.
        reason: why it is rejected or stands still.
        attempts: trials begun, the running one included.
    """

    handle: bytes
    version: int
    sequence: int
    release: bytes
    state: UpdateState
    reason: Reason = Reason.NONE
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedUpdate:
    """An update that ended REJECTED; it is not tried again.

    Attributes:
        handle: of its metadata object.
        reason: why.
    """

    handle: bytes
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OnboardRecord:
    """Everything the satellite must never forget.

    Attributes:
        accepted: version of the newest accepted metadata; stops replay, and never goes back.
        closed: which versions before it may not be accepted either, see `protocol.trust.TrustState`.
        floor: lowest release sequence that may ever serve; raised only after a confirmation.
        boot_count: starts of the daemon.
        message_counter: counters below it may have been used; see `MessageCounters`.
        command_highest: `protocol.command.CounterWindow.highest`.
        command_seen: `protocol.command.CounterWindow.seen`.
        current: digest of the release that serves, None before the first.
        previous: digest of the release to return to.
        releases: all sealed releases on board, newest first.
        pending: updates that have not ended, newest version first, at most PENDING_MAX.
        ended: the updates that ended last, newest end first, at most ENDED_MAX.
        rejected: newest first, at most REJECTED_MAX.
    """

    accepted: int = 0
    closed: int = ALL_CLOSED
    floor: int = 0
    boot_count: int = 0
    message_counter: int = 1
    command_highest: int = 0
    command_seen: int = 0
    current: bytes | None = None
    previous: bytes | None = None
    releases: tuple[KnownRelease, ...] = ()
    pending: tuple[RecordedUpdate, ...] = ()
    ended: tuple[RecordedUpdate, ...] = ()
    rejected: tuple[RejectedUpdate, ...] = field(default=())

    def release(self, digest: bytes) -> KnownRelease | None:
        """The known release with that digest."""
        return next((known for known in self.releases if known.digest == digest), None)

    def with_release(self, known: KnownRelease) -> Self:
        """Return a record that knows one release more; one with the same digest is replaced."""
        others = (other for other in self.releases if other.digest != known.digest)
        return replace(self, releases=(known, *others))

    def without_release(self, digest: bytes) -> Self:
        """Return a record that does not know a release any more."""
        return replace(self, releases=tuple(known for known in self.releases if known.digest != digest))

    def update(self, handle: bytes) -> RecordedUpdate | None:
        """The pending or lately ended update with that handle."""
        return next((update for update in (*self.pending, *self.ended) if update.handle == handle), None)

    def is_pending(self, handle: bytes) -> bool:
        """Whether an update has not ended."""
        return any(update.handle == handle for update in self.pending)

    def with_pending(self, update: RecordedUpdate) -> Self:
        """Return a record with a pending update; one with the same handle is replaced."""
        others = (other for other in self.pending if other.handle != update.handle)
        pending = sorted((update, *others), key=lambda each: each.version, reverse=True)
        return replace(self, pending=tuple(pending))

    def with_ended(self, update: RecordedUpdate) -> Self:
        """Return a record in which a pending update has ended."""
        return replace(
            self,
            pending=tuple(other for other in self.pending if other.handle != update.handle),
            ended=(update, *self.ended)[:ENDED_MAX],
        )

    def with_rejected(self, handle: bytes, reason: Reason) -> Self:
        """Return a record that remembers one rejected update more, and forgets the oldest if there are too many."""
        others = (old for old in self.rejected if old.handle != handle)
        entries = (RejectedUpdate(handle=handle, reason=reason), *others)
        return replace(self, rejected=entries[:REJECTED_MAX])

    def is_rejected(self, handle: bytes) -> bool:
        """Whether an update ended REJECTED."""
        return any(old.handle == handle for old in self.rejected)

    def encode(self) -> bytes:
        """Return the record as msgpack; it always fits a slot."""
        assert len(self.releases) <= RELEASES_MAX
        assert len(self.rejected) <= REJECTED_MAX
        assert len(self.pending) <= PENDING_MAX
        assert len(self.ended) <= ENDED_MAX
        data = pack_map(
            {
                "v": _VERSION,
                "accepted": self.accepted,
                "closed": self.closed.to_bytes(8, "big"),
                "floor": self.floor,
                "boots": self.boot_count,
                "message": self.message_counter,
                "command": self.command_highest,
                "seen": self.command_seen.to_bytes(8, "big"),
                "current": self.current,
                "previous": self.previous,
                "releases": [{"d": r.digest, "n": r.name, "s": r.sequence} for r in self.releases],
                "pending": [_packed(update) for update in self.pending],
                "ended": [_packed(update) for update in self.ended],
                "rejected": [{"h": old.handle, "re": int(old.reason)} for old in self.rejected],
            }
        )
        assert len(data) <= SLOT_SIZE - _HEADER.size
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a record.

        Raises:
            DecodeError: not a record of this version.
        """
        fields = Fields(unpack_map(data, unit="record", size_max=SLOT_SIZE), unit="record")
        version = fields.integer("v")
        if version != _VERSION:
            raise DecodeError(f"record: version {version} is not known")
        record = cls(
            accepted=fields.integer("accepted"),
            closed=int.from_bytes(fields.data("closed", size=8), "big"),
            floor=fields.integer("floor"),
            boot_count=fields.integer("boots"),
            message_counter=fields.integer("message", lowest=1),
            command_highest=fields.integer("command"),
            command_seen=int.from_bytes(fields.data("seen", size=8), "big"),
            current=_optional_digest(fields, "current"),
            previous=_optional_digest(fields, "previous"),
            releases=tuple(_known_release(item) for item in fields.items("releases", length_max=RELEASES_MAX)),
            pending=tuple(_update(item) for item in fields.items("pending", length_max=PENDING_MAX)),
            ended=tuple(_update(item) for item in fields.items("ended", length_max=ENDED_MAX)),
            rejected=tuple(_rejected(item) for item in fields.items("rejected", length_max=REJECTED_MAX)),
        )
        fields.finish()
        return record


class RecordStore:
    """The record's file.

    Args:
        path: of the file.
        disk: where it lies.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, self._disk = path, disk or RealDisk()
        self._sequence = 0
        self._record: OnboardRecord | None = None
        self._has_failed = False
        self.on_failed: Callable[[StoreFailedError], None] = lambda error: None
        """Told when a write did not come through: whoever runs on this record has to stop."""

    @property
    def record(self) -> OnboardRecord:
        """What was last loaded or stored."""
        assert self._record is not None, "load or create first"
        return self._record

    def create(self, record: OnboardRecord) -> None:
        """Make the file, both slots of it, where there is none yet.

        Raises:
            StoreFullError: no space; nothing was made.
            StoreFailedError: the disk refused.
        """
        first, second = _slot(1, record), _slot(2, record)
        replace_file(self._path, first + second, self._disk)
        self._sequence, self._record, self._has_failed = 2, record, False

    def load(self) -> OnboardRecord | None:
        """Return the newest valid record, None if there is no file.

        Raises:
            StoreCorruptError: there is a file, but no valid slot in it. Do not make a new one: the counters in it
                are what stops an old update from being accepted again.
            StoreFailedError: the disk refused.
        """
        try:
            handle = self._disk.open(self._path)
        except FileNotFoundError:
            return None
        try:
            slots = [self._disk.read(handle, SLOT_SIZE, at * SLOT_SIZE) for at in range(2)]
            self._disk.sync(
                handle
            )  # what a killed daemon wrote may be in the kernel's memory only: nobody may act on it
        finally:
            self._disk.close(handle)
        found = [entry for entry in map(_parse_slot, slots) if entry is not None]
        if not found:
            raise StoreCorruptError(
                str(self._path),
                expected="a valid slot",
                got="none of two",
                hint="restore it from a copy; without it old updates could be replayed",
            )
        self._sequence, self._record = max(found, key=lambda entry: entry[0])
        self._has_failed = False
        return self._record

    def store(self, record: OnboardRecord) -> None:
        """Make a record durable; when this returns, a power cut cannot bring the old one back.

        Raises:
            StoreFailedError: a write or sync failed. The old or the new one is there: load before going on.
        """
        if self._has_failed:
            raise StoreFailedError(f"{self._path}: an earlier write failed", hint="restart the daemon")
        assert self._record is not None, "load or create first"
        if record == self._record:
            return
        sequence = self._sequence + 1
        slot = _slot(sequence, record)
        self._has_failed = True  # until it is proven otherwise
        try:
            self._write(slot, sequence)
        except StoreFailedError as error:
            self.on_failed(error)
            raise
        self._sequence, self._record, self._has_failed = sequence, record, False

    def _write(self, slot: bytes, sequence: int) -> None:
        try:
            handle = self._disk.open(self._path)
        except FileNotFoundError:
            raise StoreFailedError(f"{self._path}: it is gone", hint="restore it from a copy") from None
        try:
            write_all_at(self._disk, handle, slot, (sequence + 1) % 2 * SLOT_SIZE)  # over the older one
            self._disk.sync(handle)
        except StoreFullError as error:  # on a copying file system, say: no better than any other failure
            raise StoreFailedError(f"{self._path}: {error}", hint=error.hint) from error
        finally:
            self._disk.close(handle)


class MessageCounters:
    """Hands out message counters, each once for ever, with one write of the record for COUNTER_STEP of them.

    Args:
        store: loaded.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._next = self._reserved = store.record.message_counter

    def take(self) -> int:
        """Return a counter never returned before, not even before a power cut."""
        if self._next >= self._reserved:
            self._reserved = self._next + COUNTER_STEP
            self._store.store(replace(self._store.record, message_counter=self._reserved))
        self._next += 1
        return self._next - 1


def _slot(sequence: int, record: OnboardRecord) -> bytes:
    data = record.encode()
    checksum = zlib.crc32(data, zlib.crc32(_SUMMED.pack(sequence, len(data))))
    return (_HEADER.pack(_MAGIC, sequence, len(data), checksum) + data).ljust(SLOT_SIZE, b"\0")


def _parse_slot(slot: bytes) -> tuple[int, OnboardRecord] | None:
    if len(slot) < _HEADER.size:
        return None
    magic, sequence, length, checksum = _HEADER.unpack_from(slot)
    data = slot[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(data) != length:
        return None
    if zlib.crc32(data, zlib.crc32(_SUMMED.pack(sequence, length))) != checksum:
        return None
    try:
        return sequence, OnboardRecord.decode(data)
    except DecodeError:
        return None


def _optional_digest(fields: Fields, name: str) -> bytes | None:
    return None if fields.is_none(name) else fields.data(name, size=_DIGEST_SIZE)


def _known_release(item: Any) -> KnownRelease:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record release")
    known = KnownRelease(
        digest=fields.data("d", size=_DIGEST_SIZE),
        name=fields.text("n", length_max=NAME_LENGTH_MAX),
        sequence=fields.integer("s"),
    )
    fields.finish()
    return known


def _packed(update: RecordedUpdate) -> dict[str, Any]:
    return {
        "h": update.handle,
        "v": update.version,
        "sq": update.sequence,
        "d": update.release,
        "st": int(update.state),
        "re": int(update.reason),
        "a": update.attempts,
    }


def _update(item: Any) -> RecordedUpdate:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record update")
    update = RecordedUpdate(
        handle=fields.data("h", size=len(NO_HANDLE)),
        version=fields.integer("v"),
        sequence=fields.integer("sq"),
        release=fields.data("d", size=_DIGEST_SIZE),
        state=_update_state(fields),
        reason=_reason(fields),
        attempts=fields.integer("a"),
    )
    fields.finish()
    return update


def _rejected(item: Any) -> RejectedUpdate:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record rejected")
    rejected = RejectedUpdate(handle=fields.data("h", size=len(NO_HANDLE)), reason=_reason(fields))
    fields.finish()
    return rejected


def _update_state(fields: Fields) -> UpdateState:
    try:
        return UpdateState(fields.integer("st"))
    except ValueError as error:
        raise DecodeError(f"record: {error}") from None


def _reason(fields: Fields) -> Reason:
    try:
        return Reason(fields.integer("re"))
    except ValueError as error:
        raise DecodeError(f"record: {error}") from None
