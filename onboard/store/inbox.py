"""The inbox: what has arrived of the objects being received, on the disk. See `layout` for its files and promises.

Driven by the receiver's shell. Methods marked "slow" wait for the medium and belong in its disk thread: they touch
files only, never this object's memory. All others touch memory and page cache and belong in its loop; `load`,
`recover` and `reload_block` are rare enough to wait for.

It promises that after a crash `load` finds every symbol of a finished sync and every block that was marked solved.
It keeps at most BUFFERED_BYTES_MAX of symbols in memory. It does not know how many symbols a block needs, what an
object is, or what time it is. Bookkeeping of the quota is the core's.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from struct import Struct

from onboard.errors import StoreError, StoreFailedError
from onboard.store.disk import Disk, write_all
from onboard.store.shape import ObjectShape, SymbolSet
from onboard.store.symbol_log import RECORD_OVERHEAD, Sum, pack_group, read_groups, record_size, sum_of

FLUSH_BYTES = 128 * 1024  # of one log: large enough that the system call costs nothing
BUFFERED_BYTES_MAX = 8 * 1024 * 1024  # of all logs together
_HANDLES_MAX = 128  # open at once; more are opened again when synced
DATA_NAME = "data"
OBJECT_NAME = "object"
_DROPPED = "dropped-"
_pack_esi = Struct(">I").pack


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What `load` found of one object; all of it is durable.

    Attributes:
        shape: what it is.
        symbols: of its blocks that are not solved.
        solved: blocks that are in its data file.
        is_whole: its digest was checked, nothing is missing.
    """

    shape: ObjectShape
    symbols: dict[int, SymbolSet]
    solved: frozenset[int]
    is_whole: bool


@dataclass(slots=True)
class _Log:
    shape: ObjectShape
    block: int
    path: Path
    make_sum: Sum
    record_size: int
    size: int = 0  # whole groups in the file
    synced_size: int = 0
    parts: list[bytes] = field(default_factory=list)  # ESI and symbol in turn, not written yet
    handle: int | None = None
    is_named: bool = False  # its name is durable


@dataclass(frozen=True, slots=True)
class _DirtyLog:
    log: _Log
    path: Path
    handle: int | None  # open, or to be opened for the sync
    size: int


class SyncBatch:
    """What one sync makes durable: made in the loop, run in the disk thread."""

    def __init__(self, disk: Disk, logs: list[_DirtyLog], directories: list[Path], made: dict[bytes, int]) -> None:
        self._disk, self._directories = disk, directories
        self.logs, self.made = logs, made

    def __bool__(self) -> bool:
        return bool(self.logs or self._directories)

    def run(self) -> None:
        """Make it durable. Slow.

        Raises:
            StoreFailedError: some of it may not be durable, and never will be by trying again, room or not.
        """
        failure: StoreError | None = None
        syncs = [partial(self._sync_log, dirty) for dirty in self.logs]
        syncs += [partial(self._disk.sync_directory, directory) for directory in self._directories]
        for sync in syncs:
            try:
                sync()
            except FileNotFoundError:
                continue  # solved or dropped in the meantime
            except StoreError as error:
                failure = error
        if failure:
            raise StoreFailedError(str(failure), hint=failure.hint) from failure

    def _sync_log(self, dirty: _DirtyLog) -> None:
        handle = dirty.handle
        try:
            if handle is None:
                handle = self._disk.open(dirty.path)
            self._disk.sync(handle)
        finally:
            if handle is not None:
                self._disk.close(handle)


class Inbox:
    """The files under inbox/.

    Args:
        root: the directory; made if it is not there.
        disk: where it lies.
    """

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root, self._disk = root, disk
        self._logs: dict[tuple[bytes, int], _Log] = {}
        self._made: dict[bytes, int] = {}  # objects whose directory is there: a number for each time it was made
        self._named: dict[bytes, int] = {}  # the same, where the directory's name is durable
        self._num_made = self._num_dropped = self._num_handles = 0
        self._buffered = 0
        self._lost: list[tuple[ObjectShape, int, SymbolSet]] = []  # by a `recover` that did not come to its end

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    def load(self) -> list[StoredObject]:
        """Read what is there, make it durable, delete what is worth nothing. Once, before anything else.

        Raises:
            StoreError: the disk refused.
        """
        self._disk.make_directory(self._root)
        found = []
        for name in self._disk.list_directory(self._root):
            shape = ObjectShape.parse(name)
            if shape is None:
                _remove_tree(self._disk, self._root / name)
            else:
                found.append(self._load_object(shape))
        self._disk.sync_directory(self._root)
        return found

    def directory(self, shape: ObjectShape) -> Path:
        """Where an object's files lie."""
        return self._root / shape.directory_name

    def append(self, shape: ObjectShape, block: int, esi: int, symbol: bytes) -> None:
        """Take a symbol; see `append_all`."""
        self.append_all(shape, block, (esi,), (symbol,))

    def append_all(self, shape: ObjectShape, block: int, esis: Sequence[int], symbols: Sequence[bytes]) -> None:
        """Take symbols of a block. They count as stored after the next sync.

        Raises:
            StoreFullError: no space to write buffered symbols. They are kept, these too; do not bring more.
            StoreFailedError: the disk refused; call `recover`.
        """
        log = self._logs.get((shape.handle, block)) or self._new_log(shape, block)
        parts = log.parts
        parts.extend(chain.from_iterable(zip(map(_pack_esi, esis), symbols, strict=True)))
        self._buffered += len(symbols) * log.record_size
        if len(parts) * log.record_size >= 2 * FLUSH_BYTES:
            self._flush(log)
        elif self._buffered > BUFFERED_BYTES_MAX:
            for other in self._logs.values():
                self._flush(other)

    def flush(self, shape: ObjectShape, block: int) -> None:
        """Let a reader of the log see all symbols. Raises as `append`."""
        log = self._logs.get((shape.handle, block))
        if log is not None:
            self._flush(log)

    def begin_sync(self) -> SyncBatch:
        """Return what is not durable yet. One batch at a time. Raises as `append`."""
        for log in self._logs.values():
            self._flush(log)
        dirty = [log for log in self._logs.values() if log.size != log.synced_size]
        logs = []
        for log in dirty:
            logs.append(_DirtyLog(log, log.path, log.handle, log.size))
            self._num_handles -= log.handle is not None
            log.handle = None
        directories = dict.fromkeys(log.path.parent for log in dirty if not log.is_named)
        made = {handle: number for handle, number in self._made.items() if self._named.get(handle) != number}
        if made:
            directories[self._root] = None  # last: a name that is durable leads to durable names
        return SyncBatch(self._disk, logs, list(directories), made)

    def finish_sync(self, batch: SyncBatch) -> None:
        """The batch ran without an error."""
        for dirty in batch.logs:
            dirty.log.synced_size = dirty.size
            dirty.log.is_named = True
        for handle, number in batch.made.items():
            if self._made.get(handle) == number:
                self._named[handle] = number

    def recover(self) -> list[tuple[ObjectShape, int, SymbolSet]]:
        """After StoreFailedError: throw away all that is not durable.

        Returns:
            What is left of each block that lost something.

        Raises:
            StoreError: not even that is possible now; call again later.
        """
        for log in list(self._logs.values()):
            if log.size != log.synced_size or log.parts:
                self._lost.append((log.shape, log.block, self._cut_back(log)))
        for shape, _, symbols in self._lost:
            if symbols:
                with contextlib.suppress(FileNotFoundError):  # dropped since an earlier try
                    self._disk.sync_directory(self.directory(shape))
        self._disk.sync_directory(self._root)
        self._named.update(self._made)
        lost, self._lost = self._lost, []
        return lost

    def _cut_back(self, log: _Log) -> SymbolSet:
        """Leave of a log what is durable; if the disk refuses, the log stays as it is, for another try."""
        if not log.synced_size:
            self._disk.unlink(log.path)
            self._forget_log(log)
            return SymbolSet()
        handle = self._disk.open(log.path)
        try:
            self._disk.truncate(handle, log.synced_size)
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        symbols = SymbolSet()
        for _, group in read_groups(self._disk, log.path, log.shape, log.block):
            _add_group(symbols, log.shape, log.block, group)
        self._forget_log(log)
        self._new_log(log.shape, log.block, log.synced_size)
        return symbols

    def reload_block(self, shape: ObjectShape, block: int) -> SymbolSet:
        """Read a log again that did not hold what was counted; what is returned is durable."""
        log = self._logs.get((shape.handle, block))
        if log is not None:
            self._flush(log)
            self._forget_log(log)
        symbols = self._load_log(shape, block)
        with contextlib.suppress(FileNotFoundError):  # it was dropped
            self._disk.sync_directory(self.directory(shape))
            self._disk.sync_directory(self._root)
        return symbols

    def close_log(self, shape: ObjectShape, block: int) -> None:
        """Forget a log that is not needed any more, unwritten symbols included. The file stays for `mark_solved`."""
        log = self._logs.get((shape.handle, block))
        if log is not None:
            self._forget_log(log)

    def mark_solved(self, shape: ObjectShape, block: int) -> None:
        """Note durably that a block is in the data file, and give back the space of its log. Slow.

        The data file and its name must be durable; `close_log` must have been called.
        """
        directory = self.directory(shape)
        done = directory / _done_name(block)
        self._disk.rename(directory / _log_name(block), done)
        self._disk.sync_directory(directory)
        self._disk.sync_directory(self._root)
        self._shrink(done)

    def place(self, shape: ObjectShape, path: Path) -> None:
        """Let a durable file be the whole object, under a second name. Slow. Then `close_log`, check, and `seal`."""
        directory = self.directory(shape)
        self._disk.make_directory(directory)
        self._disk.unlink(directory / OBJECT_NAME)  # of a try that did not come to its end
        self._disk.link(path, directory / OBJECT_NAME)
        self._disk.sync_directory(directory)
        self._disk.sync_directory(self._root)
        self._disk.unlink(directory / DATA_NAME)  # solved blocks: `seal` must not take them for the whole

    def seal(self, shape: ObjectShape) -> Path:
        """Note durably that the data file is the whole object, digest and size checked. Slow. Returns its path."""
        directory = self.directory(shape)
        path = directory / OBJECT_NAME
        with contextlib.suppress(FileNotFoundError):  # sealed in an earlier life
            self._disk.rename(directory / DATA_NAME, path)
        self._disk.sync_directory(directory)
        self._remove_names(directory, keep=(OBJECT_NAME,))
        return path

    def drop(self, shape: ObjectShape) -> Path | None:
        """Forget an object. Its directory is out of the way at once; give what is returned to `remove`."""
        for key in [key for key in self._logs if key[0] == shape.handle]:
            self._forget_log(self._logs[key])
        self._made.pop(shape.handle, None)
        self._named.pop(shape.handle, None)
        self._num_dropped += 1
        aside = self._root / f"{_DROPPED}{self._num_dropped}"
        try:
            self._disk.rename(self.directory(shape), aside)
        except FileNotFoundError:
            return None
        return aside

    def remove(self, aside: Path) -> None:
        """Delete what `drop` put out of the way. Slow."""
        _remove_tree(self._disk, aside)

    def free_bytes(self) -> int:
        """How much the disk can still take."""
        return self._disk.free_bytes(self._root)

    def close(self) -> None:
        """Let go of all files. What is not synced may be lost."""
        for log in list(self._logs.values()):
            self._forget_log(log)

    def _new_log(self, shape: ObjectShape, block: int, durable_size: int = 0) -> _Log:
        path = self.directory(shape) / _log_name(block)
        make_sum = sum_of(shape, block)
        log = _Log(shape=shape, block=block, path=path, make_sum=make_sum, record_size=record_size(shape))
        log.size, log.synced_size, log.is_named = durable_size, durable_size, durable_size > 0
        self._logs[shape.handle, block] = log
        return log

    def _forget_log(self, log: _Log) -> None:
        if log.handle is not None:
            self._disk.close(log.handle)
            self._num_handles -= 1
        self._buffered -= len(log.parts) // 2 * log.record_size
        self._logs.pop((log.shape.handle, log.block), None)

    def _flush(self, log: _Log) -> None:
        if not log.parts:
            return
        handle = self._open(log)
        group = pack_group(log.make_sum, log.parts)
        try:
            write_all(self._disk, handle, group)
        except StoreError:
            # No half group may stay before the next one.
            self._disk.truncate(handle, log.size)
            raise
        log.size += len(group)
        self._buffered -= len(log.parts) // 2 * log.record_size
        log.parts.clear()
        if self._num_handles > _HANDLES_MAX:
            self._disk.close(handle)
            self._num_handles -= 1
            log.handle = None

    def _open(self, log: _Log) -> int:
        if log.handle is None:
            try:
                if log.shape.handle not in self._made:
                    self._disk.make_directory(log.path.parent)
                    self._note_made(log.shape)
                log.handle = self._disk.open_log(log.path)
            except FileNotFoundError as error:
                raise StoreFailedError(f"{log.path}: its directory is gone", hint="restart the daemon") from error
            self._num_handles += 1
        return log.handle

    def _note_made(self, shape: ObjectShape) -> None:
        self._num_made += 1
        self._made[shape.handle] = self._num_made

    def _load_object(self, shape: ObjectShape) -> StoredObject:
        directory = self.directory(shape)
        self._note_made(shape)
        self._named[shape.handle] = self._made[shape.handle]
        names = set(self._disk.list_directory(directory))
        if OBJECT_NAME in names:
            self._disk.sync_directory(directory)
            self._remove_names(directory, keep=(OBJECT_NAME,))
            return StoredObject(shape=shape, symbols={}, solved=frozenset(), is_whole=True)
        solved, symbols = set(), {}
        for block in range(shape.layout.num_blocks):
            if _done_name(block) in names:
                solved.add(block)
                self._shrink(directory / _done_name(block))
                self._disk.unlink(directory / _log_name(block))
            elif _log_name(block) in names:
                symbols[block] = self._load_log(shape, block)
        self._disk.sync_directory(directory)
        return StoredObject(shape=shape, symbols=symbols, solved=frozenset(solved), is_whole=False)

    def _load_log(self, shape: ObjectShape, block: int) -> SymbolSet:
        """Make a log durable, count what is in it, cut off what is torn or cannot be read."""
        path = self.directory(shape) / _log_name(block)
        symbols, end = SymbolSet(), 0
        try:
            handle = self._disk.open(path)
        except FileNotFoundError:
            return symbols
        try:
            # Before it is read: the kernel may remember what an earlier life could not write, and says so only once.
            self._disk.sync(handle)
            self._disk.forget(handle)
            with contextlib.suppress(StoreFailedError):  # a bad sector: one log must not keep the rest from starting
                for offset, group in read_groups(self._disk, path, shape, block):
                    _add_group(symbols, shape, block, group)
                    end = offset
            if self._disk.size(handle) != end:
                self._disk.truncate(handle, end)
                self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        self._new_log(shape, block, end)
        return symbols

    def _shrink(self, path: Path) -> None:
        handle = self._disk.open(path)
        try:
            if self._disk.size(handle):
                self._disk.truncate(handle, 0)
        finally:
            self._disk.close(handle)

    def _remove_names(self, directory: Path, *, keep: Iterable[str]) -> None:
        for name in self._disk.list_directory(directory):
            if name not in keep:
                self._disk.unlink(directory / name)


def _add_group(symbols: SymbolSet, shape: ObjectShape, block: int, group: memoryview) -> None:
    size = record_size(shape)
    esis = (int.from_bytes(group[at : at + RECORD_OVERHEAD], "big") for at in range(0, len(group), size))
    symbols.add_all(shape.symbol_keys(block, esis))


def _log_name(block: int) -> str:
    return f"{block:03d}.log"


def _done_name(block: int) -> str:
    return f"{block:03d}.done"


def log_path(directory: Path, block: int) -> Path:
    """Where a block's symbols lie."""
    return directory / _log_name(block)


def _remove_tree(disk: Disk, path: Path) -> None:
    """Delete a file, or a directory of files."""
    try:
        names = disk.list_directory(path)
    except StoreFailedError:  # not a directory
        disk.unlink(path)
        return
    for name in names:
        disk.unlink(path / name)
    disk.remove_directory(path)
