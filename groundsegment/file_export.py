"""Exports: an update's objects as plain files in a directory, for any transport that carries files.

    u0007-HANDLE.skm               metadata      (`protocol.file_names`)
    u0007-HANDLE-b0003-HANDLE.skb  a bundle
    u0007-HANDLE.sha256            digests of what is there, for `sha256sum -c`
    u0007-HANDLE.txt               the same with sizes, and what to do with it, for people
    command-HANDLE.skc             a signed command that waits to be sent

Each file is written under another name, compared with its digest, synced, and renamed: whatever has its final name is
whole, and an export that was interrupted goes on where it was. It never changes a file that it did not write, and never
reads a whole one into memory. It does not know what the bytes mean, or what carries them.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ROTATE, FlightState, QueuedCommand, Update
from groundsegment.errors import BusyError, DiskError, InputError
from protocol.blocks import block_layout, symbols_needed
from protocol.file_names import bundle_file_name, metadata_file_name, object_file_name, update_list_name
from protocol.limits import MIB
from protocol.objects import ObjectKind, handle_of_digest
from protocol.report import SOLVED, UpdateState

_READ_BYTES = 1 << 20
_TITLE = "Skyload update "
_SUM_LINE = re.compile(r"[0-9a-f]{64}  \S+")
_WHOLE_STATES = {UpdateState.VERIFIED, UpdateState.TRIAL, UpdateState.CONFIRMED}

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportItem:
    """One object of an update.

    Attributes:
        name: of its file.
        kind: METADATA or BUNDLE.
        number: of the bundle; -1 for the metadata.
        sha256: of the object.
        size_bytes: of the object.
        source: its file in the depot.
    """

    name: str
    kind: ObjectKind
    number: int
    sha256: bytes
    size_bytes: int
    source: Path

    @property
    def handle(self) -> bytes:
        """Of the object."""
        return handle_of_digest(self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One file of an export.

    Attributes:
        item: what it carries.
        is_new: written now; else it was there already, whole.
    """

    item: ExportItem
    is_new: bool


def items_of(depot: Depot, update: Update) -> tuple[ExportItem, ...]:
    """All objects of an update, metadata first.

    Raises:
        DiskError: its metadata is not as it was staged.
    """
    try:
        metadata = update.metadata_path.read_bytes()
    except OSError as error:
        raise _lost(update.metadata_path, error.strerror or "lost") from error
    sha256 = hashlib.sha256(metadata).digest()
    if handle_of_digest(sha256) != update.handle:
        raise _lost(update.metadata_path, "it is not as it was staged")
    items = [
        ExportItem(
            name=metadata_file_name(update.sequence, update.handle),
            kind=ObjectKind.METADATA,
            number=-1,
            sha256=sha256,
            size_bytes=len(metadata),
            source=update.metadata_path,
        )
    ]
    for bundle in depot.bundles(update.handle):
        items.append(
            ExportItem(
                name=bundle_file_name(update.sequence, update.handle, bundle.number, bundle.handle),
                kind=ObjectKind.BUNDLE,
                number=bundle.number,
                sha256=bundle.sha256,
                size_bytes=bundle.size_bytes,
                source=bundle.path,
            )
        )
    return tuple(items)


def chosen_items(items: Sequence[ExportItem], only: str | None) -> list[ExportItem]:
    """The items that `--only` means: "metadata", "bundles", or numbers of bundles like "0-3,7".

    Raises:
        InputError: it means nothing.
    """
    if only is None:
        return list(items)
    if only in {"metadata", "bundles"}:
        return [item for item in items if (item.kind is ObjectKind.METADATA) == (only == "metadata")]
    wanted = _parse_ranges(only, num_bundles=len(items) - 1)
    return [item for item in items if item.number in wanted]


def reported_complete(depot: Depot, update: Update, items: Sequence[ExportItem]) -> set[bytes]:
    """Handles of objects that the satellite has reported complete, as far as the depot has heard."""
    everything = {item.handle for item in items}
    if update.state in {FlightState.COMPLETE, FlightState.CONFIRMED}:
        return everything
    complete = _solved_objects(depot, update, items)
    received = depot.journal.last_report(update.satellite)
    if received is None:
        return complete
    complete |= everything & set(received.report.complete)
    status = received.report.status_of(update.handle)
    if status is not None:
        complete.add(update.handle)
        if status.state in _WHOLE_STATES:
            return everything
        ranges = status.bundle_ranges
        complete |= {item.handle for item in items if any(low <= item.number <= high for low, high in ranges)}
    return complete


def export(
    update: Update, items: Sequence[ExportItem], chosen: Sequence[ExportItem], directory: Path, *, on_bytes: OnBytes
) -> list[ExportedFile]:
    """Write the chosen items of an update, and the lists of those that are there.

    Raises:
        InputError: there is something else under one of the names; nothing was written.
        BusyError: another export writes there.
        DiskError: not enough room, or the depot lost a file; what was written is whole.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        files = [
            ExportedFile(item=item, is_new=not _is_whole(directory / item.name, item.size_bytes, item.sha256))
            for item in chosen
        ]
        lists = [directory / update_list_name(update.sequence, update.handle, suffix) for suffix in (".sha256", ".txt")]
        _refuse_foreign_lists(lists)
        _check_room(directory, sum(file.item.size_bytes for file in files if file.is_new))
        for file in files:
            if file.is_new:
                _copy(file.item, directory, on_bytes)
            else:
                on_bytes(file.item.size_bytes)
        present = [item for item in items if (directory / item.name).is_file()]
        _write(lists[0], "".join(f"{item.sha256.hex()}  {item.name}\n" for item in present).encode())
        _write(lists[1], _words(update, items, present, lists[0].name).encode())
    return files


def export_commands(commands: Sequence[QueuedCommand], directory: Path) -> list[tuple[str, bool]]:
    """Write signed commands; returns the name of each file, and whether it is new.

    Raises:
        InputError: there is something else under one of the names; nothing was written.
        BusyError: another export writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        files = []
        for command in commands:
            kind = ObjectKind.METADATA if command.operation == ROTATE else ObjectKind.COMMAND
            name = object_file_name(kind, command.handle)
            sha256 = hashlib.sha256(command.data).digest()
            files.append((name, not _is_whole(directory / name, len(command.data), sha256)))
        for command, (name, is_new) in zip(commands, files, strict=True):
            if is_new:
                _write(directory / name, command.data)
    return files


def _solved_objects(depot: Depot, update: Update, items: Sequence[ExportItem]) -> set[bytes]:
    """Objects of which the satellite has reported every block solved."""
    num_solved: dict[bytes, int] = {}
    for (handle, _), have in depot.journal.on_board(update.satellite).items():
        num_solved[handle] = num_solved.get(handle, 0) + (have == SOLVED)
    return {
        item.handle
        for item in items
        if num_solved.get(item.handle, 0) >= _num_blocks(item.size_bytes, update.symbol_size)
    }


def _num_blocks(size_bytes: int, symbol_size: int) -> int:
    return block_layout(symbols_needed(size_bytes, symbol_size), symbol_size).num_blocks


def _parse_ranges(text: str, *, num_bundles: int) -> Collection[int]:
    wanted: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip(), re.ASCII)
        if match is None:
            raise InputError(f"--only: {text!r}", hint="write metadata, bundles, or numbers of bundles like 0-3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < num_bundles:
            raise InputError(f"--only: there is no bundle {part.strip()}", hint=f"bundles are 0 to {num_bundles - 1}")
        wanted |= set(range(first, last + 1))
    return wanted


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(f"{directory}: another export writes there", hint="wait until it is done") from None
    finally:
        os.close(descriptor)


def _is_whole(path: Path, size_bytes: int, sha256: bytes) -> bool:
    """Whether an object's file is there already, whole."""
    if not path.is_symlink() and not path.exists():
        return False
    is_file = path.is_file() and not path.is_symlink()
    if is_file and path.stat().st_size == size_bytes and _digest_of(path) == sha256:
        return True
    raise InputError(f"{path}: there, but not what it should be", hint="move it away, or give another directory")


def _refuse_foreign_lists(lists: Sequence[Path]) -> None:
    for path in lists:
        if not path.is_symlink() and not path.exists():
            continue
        try:
            text = "" if path.is_symlink() else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        if not text.startswith(_TITLE) and not all(map(_SUM_LINE.fullmatch, text.splitlines() or ["foreign"])):
            raise InputError(f"{path}: not a list of ours", hint="move it away, or give another directory")


def _check_room(directory: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes and free_bytes < needed_bytes + MIB:
        raise DiskError(
            f"{directory}: {free_bytes // MIB} MiB free, {-(-needed_bytes // MIB)} MiB needed",
            hint="--only 0-9 exports a part; the rest can follow on another medium",
        )


def _copy(item: ExportItem, directory: Path, on_bytes: OnBytes) -> None:
    path = directory / item.name
    part = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    try:
        with _source(item) as source, part.open("wb") as target:
            while data := source.read(_READ_BYTES):
                digest.update(data)
                target.write(data)
                on_bytes(len(data))
            if digest.digest() != item.sha256:
                raise _lost(item.source, "it is not as it was staged")
            target.flush()
            os.fsync(target.fileno())
        part.replace(path)
    except BaseException:  # an interrupt, too
        part.unlink(missing_ok=True)
        raise
    _sync_directory(directory)


def _source(item: ExportItem) -> BinaryIO:
    try:
        return item.source.open("rb")
    except OSError as error:
        raise _lost(item.source, error.strerror or "lost") from error


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_directory(path.parent)


def _words(update: Update, items: Sequence[ExportItem], present: Sequence[ExportItem], sums: str) -> str:
    rows = [f"{item.size_bytes:>12}  {item.sha256.hex()[:16]}  {item.name}" for item in present]
    rest = ", the rest comes another way" if len(present) < len(items) else ""
    return "\n".join(
        [
            f"{_TITLE}{update.handle.hex()}",
            f"  sequence {update.sequence}, for satellite {update.satellite}",
            f"  release {update.release_name}, digest {update.release_digest.hex()}",
            f"  {len(present)} of its {len(items)} files are here{rest}",
            "",
            "Check them:             sha256sum -c " + sums,
            "On board, in any order: skyloadd import THIS_DIRECTORY --config satellite.toml",
            "",
            f"{'bytes':>12}  {'sha256 begins':16}  file",
            *rows,
            "",
        ]
    )


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and FUSE file systems cannot
            raise
    finally:
        os.close(descriptor)


def _lost(path: Path, problem: str) -> DiskError:
    return DiskError(f"{path}: {problem}", hint="stage the same release again: a new update takes this one's place")
