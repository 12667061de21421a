"""The report: what one end tells the other about what has arrived. One frame, always; losing one costs nothing.

    offset  size  field
    0       6     echo handle      of the last symbol frame that arrived from this station (all zero: none yet). All
    6       3     echo block (4 bits), esi (20)   that it sent before has arrived or is lost: so it knows what is
                                   still in flight
    9       4     frames received  of this station in this session, authentic ones
    13      4     frames rejected  damaged, forged, malformed, of any station
    17      6     serving          first 6 bytes of the digest of the release that answers (all zero: none)
    23      4     accepted         newest accepted metadata version of the epoch
    27      2     root version     of the trusted root
    29      2     epoch            see `trust`
    31      12    nonce            what a timestamp may echo to show that it is fresh (all zero: nothing)
    43      4     commands         highest number of a signed command so far; whoever gives numbers starts above
    47      4     boot count
    51      4     free space       MiB
    55      1     flags            bit 0: something was left out for want of room; others 0
    56      1     a: number of updates
    57      1     b: number of complete objects
    58      1     c: number of open objects
    59            a updates, most urgent first:
                  6   handle of its metadata object
                  1   state            `UpdateState`
                  1   reason           `Reason`: why it is rejected or stands still
                  2   r: number of complete bundle ranges
                  4r  ranges: first, last bundle index (2 + 2), inclusive, rising
            6b    handles of complete objects
                  c open objects, most urgent first:
                  6   handle
                  1   n: number of blocks listed
                  3n  block (4 bits), durable symbols (20 bits; 0xFFFFF = solved)

All integers big-endian. What does not fit is left out. Echo, open blocks, complete objects and ranges cover only what a
power cut cannot take back; frames received and rejected are as of now, so that the loss is known before a sync. The
session is the handle field of the frame, its sequence number never repeats.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import groupby
from typing import Any, Self

from protocol.errors import DecodeError, TruncatedError
from protocol.frame import HANDLE_SIZE
from protocol.limits import BLOCKS_MAX, ESI_MAX, REPORT_SIZE_MAX

NO_HANDLE = bytes(HANDLE_SIZE)
FRESHNESS_SIZE = 12
NO_NONCE = bytes(FRESHNESS_SIZE)
SOLVED = 0xFFFFF
UPDATES_MAX = 4  # pending on board at once, or ended a little while ago
_U8_MAX, _U16_MAX, _U32_MAX = 0xFF, 0xFFFF, 0xFFFFFFFF
_LEFT_OUT = 1

_FIXED = struct.Struct(">6s3sII6sIHH12sIIIBBBB")
_UPDATE = struct.Struct(">6sBBH")
_RANGE = struct.Struct(">HH")
_OBJECT = struct.Struct(">6sB")
_BLOCK_SIZE = 3
_BLOCK_BITS = 20


class UpdateState(IntEnum):
    """Where an update stands on board."""

    NONE = 0
    RECEIVING = 1  # metadata trusted, bundles arriving
    VERIFIED = 2  # all files there, digests right, sealed
    TRIAL = 3  # its worker loads and answers the canary
    CONFIRMED = 4
    REJECTED = 5
    CANCELLED = 6  # by command, or superseded by a newer update
    BLOCKED = 7  # cannot go on until something changes: see the reason


class Reason(IntEnum):
    """Why an update is rejected, or stands still."""

    NONE = 0
    UNTRUSTED = 1
    ROLLBACK = 2
    EXPIRED = 3
    WRONG_SATELLITE = 4
    DISK_FULL = 5
    DISK_FAILED = 6
    BASE_MISSING = 7
    BASE_DAMAGED = 8
    BUNDLE_DAMAGED = 9
    DIGEST_MISMATCH = 10
    LOAD_FAILED = 11
    CANARY_FAILED = 12
    WORKER_FAILED = 13
    TOO_MANY_ATTEMPTS = 14
    ENGINE_UNSUITABLE = 15
    COMMANDED = 16
    SUPERSEDED = 17
    INTERNAL = 18
    TOO_MANY_UPDATES = 19  # as many as the satellite can keep apart are pending
    HELD = 20  # it is verified, and its trial waits for an `activate` command
    REPLAYED = 24  # that version was accepted before, or shut out by a later one
    MIXED = 25  # parts of different statements
    UNSIGNED = 26  # a role without the signatures that the root asks for
    ROOT_UNSIGNED = 27  # a new root without the old one's threshold, or its own
    MALFORMED = 28  # not metadata at all
    NOT_FRESH = 29  # it echoes nothing that the satellite told lately, and it must
    EPOCH_ENDED = 30  # a root began a new epoch before it was confirmed
    TRUST_LOST = 31  # the trusted root is damaged: roots must come again, up to the newest one trusted
    METADATA_LOST = 32  # it was accepted, and our medium damaged its metadata since: the same object must come again


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStatus:
    """How one update stands on board.

    Attributes:
        handle: of its metadata object.
        state: where it stands.
        reason: why it is rejected or stands still.
        bundle_ranges: complete bundles, (first, last) inclusive, rising.
    """

    handle: bytes
    state: UpdateState
    reason: Reason = Reason.NONE
    bundle_ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBlock:
    """How far a block is.

    Attributes:
        handle: of the object.
        block: source block number.
        have: durable symbols, or SOLVED.
    """

    handle: bytes
    block: int
    have: int


_NO_UPDATE = UpdateStatus(handle=NO_HANDLE, state=UpdateState.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report; the fields are those of the layout above.

    Attributes:
        is_full: something was left out for want of room, so that what is not listed may be there all the same.
    """

    echo_handle: bytes = NO_HANDLE
    echo_block: int = 0
    echo_esi: int = 0
    frames_received: int = 0
    frames_rejected: int = 0
    serving: bytes = NO_HANDLE
    accepted: int = 0
    root_version: int = 0
    epoch: int = 0
    nonce: bytes = NO_NONCE
    commands: int = 0
    boot_count: int = 0
    free_mib: int = 0
    is_full: bool = False
    updates: tuple[UpdateStatus, ...] = ()
    complete: tuple[bytes, ...] = ()
    open_blocks: tuple[OpenBlock, ...] = field(default=())

    @property
    def update(self) -> bytes:
        """Handle of the most urgent update, NO_HANDLE if there is none."""
        return self._first.handle

    @property
    def state(self) -> UpdateState:
        """State of the most urgent update."""
        return self._first.state

    @property
    def reason(self) -> Reason:
        """Reason of the most urgent update."""
        return self._first.reason

    @property
    def bundle_ranges(self) -> tuple[tuple[int, int], ...]:
        """Complete bundles of the most urgent update."""
        return self._first.bundle_ranges

    @property
    def _first(self) -> UpdateStatus:
        return self.updates[0] if self.updates else _NO_UPDATE

    def status_of(self, update: bytes) -> UpdateStatus | None:
        """What is said of an update, None if nothing is."""
        return next((entry for entry in self.updates if entry.handle == update), None)

    def encode(self, size_max: int = REPORT_SIZE_MAX) -> bytes:
        """Return the report, at most `size_max` bytes; entries that do not fit are left out, counters wrap.

        Never raises: a number too large for its field is sent as the largest, for a report that is not sent says less.
        """
        room = size_max - _FIXED.size
        # No list may starve the others: complete objects and open blocks have a quarter of the room each, if need be.
        blocks_size = _blocks_size(self.open_blocks)
        wanted = min(len(self.complete), _U8_MAX) * HANDLE_SIZE
        kept = min(wanted, room // 4) + min(blocks_size, room // 4)
        updates, room_left, cut_updates = _pack_updates(self.updates, room - kept)
        room = room_left + kept
        num_complete = min(wanted, max(room // 2, room - blocks_size)) // HANDLE_SIZE
        room -= num_complete * HANDLE_SIZE
        objects, num_objects, cut_blocks = _pack_blocks(self.open_blocks, room)
        is_full = self.is_full or cut_updates or cut_blocks or num_complete < len(self.complete)
        fixed = _FIXED.pack(
            self.echo_handle,
            (self.echo_block << _BLOCK_BITS | self.echo_esi).to_bytes(_BLOCK_SIZE, "big"),
            self.frames_received & _U32_MAX,
            self.frames_rejected & _U32_MAX,
            self.serving,
            min(self.accepted, _U32_MAX),
            min(self.root_version, _U16_MAX),
            min(self.epoch, _U16_MAX),
            self.nonce,
            min(self.commands, _U32_MAX),
            self.boot_count & _U32_MAX,
            min(max(self.free_mib, 0), _U32_MAX),
            _LEFT_OUT if is_full else 0,
            len(updates),
            num_complete,
            num_objects,
        )
        return b"".join((fixed, *updates, *self.complete[:num_complete], *objects))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a report.

        Raises:
            DecodeError: lengths or values are out of range.
        """
        reader = _Reader(data)
        values = reader.take(_FIXED)
        flags, num_updates, num_complete, num_objects = values[12:]
        if flags & ~_LEFT_OUT:
            raise DecodeError(f"report: flags {flags} are not known")
        if num_updates > UPDATES_MAX:
            raise DecodeError(f"report: {num_updates} updates, at most {UPDATES_MAX}")
        echo = int.from_bytes(values[1], "big")
        report = cls(
            echo_handle=values[0],
            echo_block=echo >> _BLOCK_BITS,
            echo_esi=echo & ESI_MAX,
            frames_received=values[2],
            frames_rejected=values[3],
            serving=values[4],
            accepted=values[5],
            root_version=values[6],
            epoch=values[7],
            nonce=values[8],
            commands=values[9],
            boot_count=values[10],
            free_mib=values[11],
            is_full=bool(flags),
            updates=tuple(_read_update(reader) for _ in range(num_updates)),
            complete=tuple(reader.take_bytes(HANDLE_SIZE) for _ in range(num_complete)),
            open_blocks=_read_objects(reader, num_objects),
        )
        reader.finish()
        return report


class _Reader:
    """Takes a report apart from its start."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take_bytes(layout.size))

    def take_bytes(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise TruncatedError("report", expected=end, got=len(self._data))
        data, self._at = self._data[self._at : end], end
        return data

    def finish(self) -> None:
        if self._at != len(self._data):
            raise TruncatedError("report", expected=self._at, got=len(self._data))


def _pack_updates(updates: tuple[UpdateStatus, ...], room: int) -> tuple[list[bytes], int, bool]:
    """Pack what fits; returns (entries, room left, whether something was left out)."""
    entries: list[bytes] = []
    is_cut = len(updates) > UPDATES_MAX
    for update in updates[:UPDATES_MAX]:
        if room < _UPDATE.size:
            return entries, room, True
        room -= _UPDATE.size
        fitting = [pair for pair in update.bundle_ranges if max(pair) <= _U16_MAX][: room // _RANGE.size]
        is_cut = is_cut or len(fitting) < len(update.bundle_ranges)
        room -= len(fitting) * _RANGE.size
        head = _UPDATE.pack(update.handle, update.state, update.reason, len(fitting))
        entries.append(b"".join((head, *(_RANGE.pack(*pair) for pair in fitting))))
    return entries, room, is_cut


def _runs(blocks: Iterable[OpenBlock]) -> Iterable[tuple[bytes, list[OpenBlock]]]:
    """Neighbours of one object share its handle."""
    for handle, group in groupby(blocks, key=lambda block: block.handle):
        yield handle, list(group)


def _blocks_size(blocks: tuple[OpenBlock, ...]) -> int:
    return sum(_OBJECT.size + len(run) * _BLOCK_SIZE for _, run in _runs(blocks))


def _pack_blocks(blocks: tuple[OpenBlock, ...], room: int) -> tuple[list[bytes], int, bool]:
    """Pack what fits; returns (entries, how many, whether something was left out)."""
    entries: list[bytes] = []
    for handle, run in _runs(blocks):
        count = min(len(run), BLOCKS_MAX, (room - _OBJECT.size) // _BLOCK_SIZE)
        if count < 1 or len(entries) == _U8_MAX:
            return entries, len(entries), True
        room -= _OBJECT.size + count * _BLOCK_SIZE
        numbers = (block.block << _BLOCK_BITS | min(block.have, SOLVED) for block in run[:count])
        packed = b"".join(number.to_bytes(_BLOCK_SIZE, "big") for number in numbers)
        entries.append(_OBJECT.pack(handle, count) + packed)
        if count < len(run):
            return entries, len(entries), True
    return entries, len(entries), False


def _read_update(reader: _Reader) -> UpdateStatus:
    handle, state, reason, num_ranges = reader.take(_UPDATE)
    ranges = tuple((first, last) for first, last in (reader.take(_RANGE) for _ in range(num_ranges)))
    _check_ranges(ranges)
    try:
        return UpdateStatus(handle=handle, state=UpdateState(state), reason=Reason(reason), bundle_ranges=ranges)
    except ValueError as error:
        raise DecodeError(f"report: {error}") from None


def _read_objects(reader: _Reader, num_objects: int) -> tuple[OpenBlock, ...]:
    blocks: list[OpenBlock] = []
    for _ in range(num_objects):
        before = blocks[-1].handle if blocks else None
        blocks += _read_blocks(reader)
        if blocks[-1].handle == before:
            raise DecodeError("report: an object is listed in two parts")
    return tuple(blocks)


def _read_blocks(reader: _Reader) -> Iterable[OpenBlock]:
    handle, count = reader.take(_OBJECT)
    if not 1 <= count <= BLOCKS_MAX:
        raise DecodeError(f"report: {count} blocks of one object")
    for _ in range(count):
        number = int.from_bytes(reader.take_bytes(_BLOCK_SIZE), "big")
        yield OpenBlock(handle=handle, block=number >> _BLOCK_BITS, have=number & SOLVED)


def _check_ranges(ranges: tuple[tuple[int, int], ...]) -> None:
    before = -1
    for first, last in ranges:
        if not before < first <= last:
            raise DecodeError(f"report: bundle range {first}..{last} is out of order")
        before = last
