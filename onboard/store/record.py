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
from protocol.report import NO_HANDLE, Reason, UpdateState

SLOT_SIZE = 4096
RELEASES_MAX = 8  # known at once: those kept, the one on trial, and room for a change of `keep_releases`
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
class Trial:
    """A release that is being tried.

    Attributes:
        digest: which.
        attempts: started so far, this one included.
    """

    digest: bytes
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LastUpdate:
    """The newest update and how it stands.

    Attributes:
        handle: of its metadata object.
        state: of the table in the installer.
        reason: why it is rejected or stands still.
        sequence: of the update.
    """

    handle: bytes
    state: UpdateState
    reason: Reason
    sequence: int


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
        accepted: version of the newest accepted metadata; stops replay.
        floor: lowest release sequence that may ever serve; raised only after a confirmation.
        boot_count: starts of the daemon.
        message_counter: counters below it may have been used; see `MessageCounters`.
        command_highest: `protocol.command.CounterWindow.highest`.
        command_seen: `protocol.command.CounterWindow.seen`.
        current: digest of the release that serves, None before the first.
        previous: digest of the release to return to.
        releases: all sealed releases on board, newest first.
        trial: the release being tried.
        last_update: the newest update.
        rejected: newest first, at most REJECTED_MAX.
    """

    accepted: int = 0
    floor: int = 0
    boot_count: int = 0
    message_counter: int = 1
    command_highest: int = 0
    command_seen: int = 0
    current: bytes | None = None
    previous: bytes | None = None
    releases: tuple[KnownRelease, ...] = ()
    trial: Trial | None = None
    last_update: LastUpdate | None = None
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
        trial, last = self.trial, self.last_update
        data = pack_map(
            {
                "v": _VERSION,
                "accepted": self.accepted,
                "floor": self.floor,
                "boots": self.boot_count,
                "message": self.message_counter,
                "command": self.command_highest,
                "seen": self.command_seen.to_bytes(8, "big"),
                "current": self.current,
                "previous": self.previous,
                "releases": [{"d": r.digest, "n": r.name, "s": r.sequence} for r in self.releases],
                "trial": trial and {"d": trial.digest, "a": trial.attempts},
                "last": last and {"h": last.handle, "st": int(last.state), "re": int(last.reason), "sq": last.sequence},
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
            floor=fields.integer("floor"),
            boot_count=fields.integer("boots"),
            message_counter=fields.integer("message", lowest=1),
            command_highest=fields.integer("command"),
            command_seen=int.from_bytes(fields.data("seen", size=8), "big"),
            current=_optional_digest(fields, "current"),
            previous=_optional_digest(fields, "previous"),
            releases=tuple(_known_release(item) for item in fields.items("releases", length_max=RELEASES_MAX)),
            trial=None if fields.is_none("trial") else _trial(fields.mapping("trial")),
            last_update=None if fields.is_none("last") else _last_update(fields.mapping("last")),
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


def _trial(item: dict[str, Any]) -> Trial:
    fields = Fields(item, unit="record trial")
    trial = Trial(digest=fields.data("d", size=_DIGEST_SIZE), attempts=fields.integer("a"))
    fields.finish()
    return trial


def _last_update(item: dict[str, Any]) -> LastUpdate:
    fields = Fields(item, unit="record update")
    last = LastUpdate(
        handle=fields.data("h", size=len(NO_HANDLE)),
        state=_update_state(fields),
        reason=_reason(fields),
        sequence=fields.integer("sq"),
    )
    fields.finish()
    return last


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
