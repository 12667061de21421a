"""What the solver's worker does to an object's files: solve one block, or check the whole.

Both leave the files so that being killed anywhere only means doing it again: a block is written over itself with the
same bytes, and is durable in the data file before its log may go. Whoever calls marks it solved (`store.inbox`).
It knows the log, the codec and the handle; nothing of quotas, reports or trust.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from struct import Struct

from onboard.errors import StoreError, StoreFailedError, StoreFullError
from onboard.store.disk import Disk, write_all_at
from onboard.store.inbox import DATA_NAME, OBJECT_NAME, log_path
from onboard.store.shape import ObjectShape
from onboard.store.symbol_log import RECORD_OVERHEAD, read_groups, record_size
from protocol.errors import DecodeError
from protocol.fec import solve_packets
from protocol.frame import FrameKind
from protocol.objects import PREFIX_SIZE, ObjectKind, handle_of_digest, parse_prefix

_READ_BYTES = 256 << 10  # a processor's cache holds it


class Outcome(StrEnum):
    """How a job ended."""

    SOLVED = "solved"  # the block is durable in the data file
    SHORT = "short"  # the symbols do not suffice yet
    WHOLE = "whole"  # the object is what its handle says
    POISONED = "poisoned"  # it is not, or the codec refused
    FULL = "full"  # no space
    FAILED = "failed"  # the disk refused
    DIED = "died"  # the worker did not survive it


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What came of a job.

    Attributes:
        outcome: how it ended.
        num_symbols: distinct symbols the log held.
        kind: of a whole object.
        size: of a whole object, bytes.
        sha256: of a whole object.
        text: what went wrong, for the log.
    """

    outcome: Outcome
    num_symbols: int = 0
    kind: ObjectKind | None = None
    size: int = 0
    sha256: bytes = b""
    text: str = ""


def solve_block(disk: Disk, directory: Path, shape: ObjectShape, block: int) -> JobResult:
    """Solve a block from its log into the data file."""
    layout = shape.layout
    num_source = layout.symbols_of(block)
    num_symbols = 0
    try:
        packets = _packets(disk, directory, shape, block)
        num_symbols = len(packets)
        data = solve_packets(shape.kind, num_source, shape.symbol_size, packets)
        del packets
        if data is None:
            return JobResult(outcome=Outcome.SHORT, num_symbols=num_symbols)
        _write_block(disk, directory, data, layout.offset_of(block))
    except DecodeError as error:
        return JobResult(outcome=Outcome.POISONED, num_symbols=num_symbols, text=str(error))
    except FileNotFoundError as error:
        return JobResult(outcome=Outcome.SHORT, text=str(error))
    except StoreError as error:
        return _store_failed(error)
    return JobResult(outcome=Outcome.SOLVED, num_symbols=num_symbols)


def check_object(disk: Disk, directory: Path, shape: ObjectShape) -> JobResult:
    """Compare the file that has every block with the object's handle, and cut it to its size."""
    try:
        handle = _open_whole(disk, directory)
        try:
            return _check_file(disk, handle, shape)
        finally:
            disk.close(handle)
    except (DecodeError, FileNotFoundError) as error:
        return JobResult(outcome=Outcome.POISONED, text=str(error))
    except StoreError as error:
        return _store_failed(error)


def _packets(disk: Disk, directory: Path, shape: ObjectShape, block: int) -> list[bytes]:
    """The distinct symbols of a log, each with the four bytes before it that the codec wants."""
    packets: dict[bytes, bytes] = {}
    cut = Struct(f"{record_size(shape)}s").iter_unpack
    with contextlib.suppress(StoreFailedError):  # a bad sector: what lies before it may do, else the rest comes again
        for _, group in read_groups(disk, log_path(directory, block), shape, block):
            packets.update([(packet[:RECORD_OVERHEAD], packet) for (packet,) in cut(group)])
    if shape.kind is FrameKind.RAPTORQ:
        return list(packets.values())
    keys = shape.symbol_keys(block, (int.from_bytes(head, "big") for head in packets))
    return list(dict(zip(keys, packets.values(), strict=True)).values())


def _write_block(disk: Disk, directory: Path, data: bytes, offset: int) -> None:
    path = directory / DATA_NAME
    handle = disk.open(path, create=True)
    try:
        disk.allocate(handle, offset, len(data))  # all of it or StoreFullError, before anything is written
        write_all_at(disk, handle, data, offset)
        disk.sync(handle)
    finally:
        disk.close(handle)
    disk.sync_directory(directory)  # the mark that follows must not survive without the file


def _check_file(disk: Disk, handle: int, shape: ObjectShape) -> JobResult:
    kind, size = parse_prefix(_read(disk, handle, PREFIX_SIZE, 0))
    if size > min(shape.layout.padded_size, disk.size(handle)):
        raise DecodeError(f"object: says {size} bytes, {disk.size(handle)} solved")
    digest = hashlib.sha256()
    offset = 0
    while offset < size:
        data = _read(disk, handle, min(_READ_BYTES, size - offset), offset)
        if not data:
            raise DecodeError(f"object: ends at {offset} of {size} bytes")
        digest.update(data)
        offset += len(data)
    if handle_of_digest(digest.digest()) != shape.handle:
        raise DecodeError(f"object: its digest starts {digest.hexdigest()[:16]}, not with its handle")
    if disk.size(handle) != size:
        disk.truncate(handle, size)
        disk.sync(handle)
    return JobResult(outcome=Outcome.WHOLE, kind=kind, size=size, sha256=digest.digest())


def _read(disk: Disk, handle: int, size: int, offset: int) -> bytes:
    try:
        return disk.read(handle, size, offset)
    except (
        StoreFailedError
    ) as error:  # as good as other bytes: to read it again will not help, to receive it again will
        raise DecodeError(f"object: {error}") from error


def _open_whole(disk: Disk, directory: Path) -> int:
    try:
        return disk.open(directory / OBJECT_NAME)  # checked and sealed in an earlier life
    except FileNotFoundError:
        return disk.open(directory / DATA_NAME)


def _store_failed(error: StoreError) -> JobResult:
    outcome = Outcome.FULL if isinstance(error, StoreFullError) else Outcome.FAILED
    return JobResult(outcome=outcome, text=str(error))
