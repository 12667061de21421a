"""The trust record on the disk: three copies of a few facts, in files that need no space to be rewritten.

    trust-1.record, trust-2.record, trust-3.record      see `slots` for what is in each

The files are made whole, once, by `create`; from then on they never grow, so facts can be written on a full disk. A
write goes to one copy after the other, each synced before the next is touched, so a power cut tears one at most; it
counts once two copies have it, and is made before anyone acts on it. A copy whose write or sync failed is not written
in place again: that error is final. `mend` makes it anew, as a new file.

`load` reads and votes, and changes nothing: it may run beside the daemon. `mend` writes again whatever is damaged,
lost, or was left behind by a cut; in a life that goes on, `keep_whole` calls it every so often, and then even three
copies that are ruined cost nothing, since the record is in memory. Both read the medium. What was found adds up in
`damage`.

It does not know what the facts mean (`facts`): the installer and the daemon do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from onboard.errors import StoreCorruptError, StoreError, StoreFailedError, StoreFullError
from onboard.store.disk import Disk, RealDisk, replace_file, write_all_at
from onboard.store.facts import (
    ENDED_MAX,
    PENDING_MAX,
    REJECTED_MAX,
    RELEASES_MAX,
    KnownRelease,
    OnboardRecord,
    RecordedUpdate,
    RejectedUpdate,
)
from onboard.store.slots import (
    COPY_SIZE,
    NUM_COPIES,
    SLOT_SIZE,
    Damage,
    Verdict,
    encode_slot,
    first_image,
    ruined,
    slot_of,
    vote,
)
from protocol.errors import DecodeError

__all__ = [
    "COUNTER_STEP",
    "ENDED_MAX",
    "PENDING_MAX",
    "REJECTED_MAX",
    "RELEASES_MAX",
    "KnownRelease",
    "MessageCounters",
    "OnboardRecord",
    "RecordStore",
    "RecordedUpdate",
    "RejectedUpdate",
    "copy_paths",
    "keep_whole",
]

COUNTER_STEP = 64  # message counters reserved by one write: a crash skips at most so many
MEND_PERIOD_S = 3600.0
_COPIES_NEEDED = 2  # that have a write before it counts


def copy_paths(path: Path) -> tuple[Path, ...]:
    """Return where the copies of the record of that name lie."""
    return tuple(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, NUM_COPIES + 1))


class RecordStore:
    """The record's files.

    Args:
        path: the record's name, `trust.record`; see `copy_paths`.
        disk: where it lies.
        make_room: called when a lost copy finds no space to be written again; says whether there may be some now.
    """

    def __init__(self, path: Path, disk: Disk | None = None, *, make_room: Callable[[], bool] = lambda: False) -> None:
        self._path, self._paths, self._disk = path, copy_paths(path), disk or RealDisk()
        self._make_room = make_room
        self._sequence = 0
        self._record: OnboardRecord | None = None
        self._usable: tuple[Path, ...] = ()
        self._failed: set[Path] = set()
        self._unread: dict[str, str] = {}  # why a copy could not be read, by its name
        self._has_failed = False
        self.damage = Damage()
        """What was found so far, in this life."""
        self.on_damage: Callable[[Damage], None] = lambda damage: None
        """Told when a copy failed, or `mend` found something."""
        self.on_failed: Callable[[StoreFailedError], None] = lambda error: None
        """Told when a write did not come through: whoever runs on this record has to stop."""

    @property
    def record(self) -> OnboardRecord:
        """What was last loaded or stored."""
        assert self._record is not None, "load or create first"
        return self._record

    def create(self, record: OnboardRecord) -> None:
        """Make the files, both slots of each, where there are none yet.

        Raises:
            StoreFullError: no space; nothing was made.
            StoreFailedError: the disk refused.
        """
        sequence, image = first_image(record.encode())
        try:
            for path in self._paths:
                replace_file(path, image, self._disk)
        except StoreFullError:
            for path in self._paths:
                self._disk.unlink(path)
            raise
        self._sequence, self._record, self._has_failed = sequence, record, False
        self._usable = self._paths

    def load(self) -> OnboardRecord | None:
        """Return the newest record that the copies hold, None if there is no copy.

        Raises:
            StoreCorruptError: there are files, but no record in them. Do not make a new one: the counters in it
                are what stops an old update from being accepted again.
            StoreFailedError: the disk refused.
        """
        verdict = self._vote()
        if verdict is None:
            return None
        try:
            self._record = OnboardRecord.decode(verdict.data)
        except DecodeError as error:  # its sum is right, so it is what somebody wrote
            raise StoreCorruptError(
                str(self._path),
                expected="a record of this build",
                got=str(error),
                hint="run the build that wrote it, or one that is newer",
            ) from None
        self._sequence, self._has_failed = verdict.sequence, False
        self._usable = tuple(path for path, stale in zip(self._paths, verdict.stale, strict=True) if stale is not None)
        return self._record

    def mend(self) -> Damage:
        """Write again every slot that is damaged, lost or left behind; returns what was found.

        A copy that cannot be written is left alone; the others hold the record. One may be all that is left: nothing is
        in doubt then, for no new fact is on its way, so that is told and does not end anything (ADR 0008). Only whoever
        may write here calls it.

        Raises:
            StoreFailedError: somebody else wrote it, or an earlier write failed.
        """
        if self._has_failed:
            raise StoreFailedError(f"{self._path}: an earlier write failed", hint="restart the daemon")
        ours = self._sequence, self.record.encode()
        copies = [self._read_copy(path) for path in self._paths]
        verdict = vote(copies)
        if verdict is not None and verdict.sequence > self._sequence:
            raise StoreFailedError(f"{self._path}: somebody else wrote it", hint="restart the daemon")
        if verdict is None or (verdict.sequence, verdict.data) != ours:
            verdict = ruined(*ours)
        usable = []
        for path, stale in zip(self._paths, verdict.stale, strict=True):
            try:
                self._mend_copy(path, None if path in self._failed else stale, verdict.image)
            except StoreError:
                self._failed.add(path)
            else:
                self._failed.discard(path)
                usable.append(path)
        self._usable = tuple(usable)
        found = verdict.damage + Damage(num_failed=len(self._paths) - len(usable))
        self._note(found)
        return found

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
        slot = encode_slot(sequence, record.encode())
        self._has_failed = True  # until it is proven otherwise
        try:
            self._write(slot, sequence)
        except StoreFailedError as error:
            self.on_failed(error)
            raise
        self._sequence, self._record, self._has_failed = sequence, record, False

    # -- reading -------------------------------------------------------------------------------------------

    def _vote(self) -> Verdict | None:
        copies = [self._read_copy(path) for path in self._paths]
        if copies == [None] * NUM_COPIES:
            if self._has_file(self._path):
                raise StoreCorruptError(
                    str(self._path),
                    expected="three copies",
                    got="the one file of an older build",
                    hint="provision this satellite anew: move its state directory away",
                )
            return None
        verdict = vote(copies)
        if verdict is None:
            raise StoreCorruptError(
                str(self._path),
                expected="a valid slot",
                got=f"none in {sum(copy is not None for copy in copies)} copies{self._why_unread()}",
                hint="restore it from a copy; without it old updates could be replayed",
            )
        return verdict

    def _read_copy(self, path: Path) -> bytes | None:
        """The bytes of a copy, synced; None if there is no such file, b"" if it cannot be read."""
        self._unread.pop(path.name, None)
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            return None
        except StoreError as error:
            self._unread[path.name] = str(error)
            return b""
        try:
            # What a killed daemon wrote may be in the kernel's memory only, and nobody may act on that.
            self._disk.sync(handle)
            self._disk.forget(handle)
            data = self._disk.read(handle, COPY_SIZE, 0)
        except StoreError as error:  # for want of space, too: what a sync does not write is no copy
            self._unread[path.name] = str(error)
            return b""
        finally:
            self._disk.close(handle)
        return data

    def _why_unread(self) -> str:
        return "".join(f"; {name}: {problem}" for name, problem in sorted(self._unread.items()))

    def _has_file(self, path: Path) -> bool:
        try:
            self._disk.close(self._disk.open(path))
        except FileNotFoundError:
            return False
        return True

    # -- writing -------------------------------------------------------------------------------------------

    def _mend_copy(self, path: Path, stale: tuple[int, ...] | None, image: bytes) -> None:
        if stale is None:
            self._make_copy(path, image)
            return
        for number in stale:  # where it is not good: what is, is not touched
            self._write_slot(path, image[number * SLOT_SIZE : (number + 1) * SLOT_SIZE], number)

    def _make_copy(self, path: Path, image: bytes) -> None:
        try:
            replace_file(path, image, self._disk)
        except StoreFullError:
            if not self._make_room():
                raise
            replace_file(path, image, self._disk)

    def _write(self, slot: bytes, sequence: int) -> None:
        done, errors = [], []
        for path in self._usable:
            try:
                self._write_slot(path, slot, slot_of(sequence))
            except StoreFailedError as error:
                errors.append(error)
                self._failed.add(path)
            else:
                done.append(path)
        if len(done) < min(_COPIES_NEEDED, len(self._usable)) or not done:
            raise errors[0] if errors else StoreFailedError(f"{self._path}: it is gone", hint="restore it from a copy")
        self._usable = tuple(done)
        if errors:
            self._note(Damage(num_failed=len(errors)))

    def _write_slot(self, path: Path, slot: bytes, number: int) -> None:
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            raise StoreFailedError(f"{path}: it is gone", hint="restore it from a copy") from None
        try:
            write_all_at(self._disk, handle, slot, number * SLOT_SIZE)
            self._disk.sync(handle)
        except StoreFullError as error:  # on a copying file system, say: no better than any other failure
            raise StoreFailedError(f"{path}: {error}", hint=error.hint) from error
        finally:
            self._disk.close(handle)

    def _note(self, found: Damage) -> None:
        self.damage += found
        if found != Damage():
            self.on_damage(found)


async def keep_whole(
    store: RecordStore, *, period_s: float = MEND_PERIOD_S, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Mend a record every so often, for ever: flips of months must not come to two in one place.

    Raises:
        StoreFailedError: it cannot be written, or somebody else wrote it.
    """
    while True:
        await sleep(period_s)
        found = store.mend()
        if found.num_bad:
            store.store(replace(store.record, num_mended=store.record.num_mended + found.num_bad))


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
