"""The report: what one end tells the other about what has arrived. One frame, always; losing one costs nothing.

    offset  size  field
    0       8     echo handle      of the last symbol frame that arrived (all zero: none yet). All that was sent
    8       1     echo block       before it has arrived or is lost: so the sender knows what is still in flight
    9       3     echo esi
    12      4     frames received  in this session, authentic ones
    16      4     frames rejected  damaged, forged, malformed
    20      1     state            `UpdateState` of the update below
    21      1     reason           `Reason`: why it is rejected or stands still
    22      2     flags            reserved, 0
    24      8     update           handle of the metadata object of the newest update (all zero: none)
    32      8     serving          first 8 bytes of the digest of the release that answers (all zero: none)
    40      4     accepted         newest accepted metadata version
    44      4     boot count
    48      4     free space       MiB
    52      2     a: number of complete bundle ranges of `update`
    54      2     b: number of complete objects
    56      2     c: number of open blocks
    58      4a    ranges: first, last bundle index (2 + 2), inclusive, rising
            8b    handles of complete objects
            12c   open blocks: handle (8), block (1), durable symbols (3; 0xFFFFFF = solved)

All integers big-endian. Entries are most urgent first; what does not fit is left out. Echo, open blocks, complete
objects and ranges cover only what a power cut cannot take back; frames received and rejected are as of now, so that the
loss is known before a sync. The session is the handle field of the frame, its sequence number never repeats.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from protocol.errors import DecodeError, TruncatedError
from protocol.limits import REPORT_SIZE_MAX

NO_HANDLE = bytes(8)
SOLVED = 0xFFFFFF
_U16_MAX, _U32_MAX = 0xFFFF, 0xFFFFFFFF

_FIXED = struct.Struct(">8sB3sIIBBH8s8sIIIHHH")
_RANGE = struct.Struct(">HH")
_BLOCK = struct.Struct(">8sB3s")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report; the fields are those of the layout above."""

    echo_handle: bytes = NO_HANDLE
    echo_block: int = 0
    echo_esi: int = 0
    frames_received: int = 0
    frames_rejected: int = 0
    state: UpdateState = UpdateState.NONE
    reason: Reason = Reason.NONE
    update: bytes = NO_HANDLE
    serving: bytes = NO_HANDLE
    accepted: int = 0
    boot_count: int = 0
    free_mib: int = 0
    bundle_ranges: tuple[tuple[int, int], ...] = ()
    complete: tuple[bytes, ...] = ()
    open_blocks: tuple[OpenBlock, ...] = field(default=())

    def encode(self, size_max: int = REPORT_SIZE_MAX) -> bytes:
        """Return the report, at most `size_max` bytes; entries that do not fit are left out, counters wrap.

        Never raises: a number too large for its field is sent as the largest, for a report that is not sent says less.
        """
        room = size_max - _FIXED.size
        ranges = [pair for pair in self.bundle_ranges if max(pair) <= _U16_MAX][: room // _RANGE.size]
        room -= len(ranges) * _RANGE.size
        # Neither list may starve the other: open blocks get at least half of what is left.
        complete = self.complete[: max(room // 2, room - len(self.open_blocks) * _BLOCK.size) // 8]
        room -= len(complete) * 8
        blocks = self.open_blocks[: room // _BLOCK.size]
        fixed = _FIXED.pack(
            self.echo_handle,
            self.echo_block,
            self.echo_esi.to_bytes(3, "big"),
            self.frames_received & _U32_MAX,
            self.frames_rejected & _U32_MAX,
            self.state,
            self.reason,
            0,
            self.update,
            self.serving,
            min(self.accepted, _U32_MAX),
            self.boot_count & _U32_MAX,
            min(max(self.free_mib, 0), _U32_MAX),
            len(ranges),
            len(complete),
            len(blocks),
        )
        parts = [fixed, *(_RANGE.pack(*pair) for pair in ranges), *complete]
        parts += [
            _BLOCK.pack(entry.handle, entry.block, min(entry.have, SOLVED).to_bytes(3, "big")) for entry in blocks
        ]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a report.

        Raises:
            DecodeError: lengths or values are out of range.
        """
        if len(data) < _FIXED.size:
            raise TruncatedError("report", expected=_FIXED.size, got=len(data))
        values = _FIXED.unpack_from(data)
        num_ranges, num_complete, num_blocks = values[13:]
        size = _FIXED.size + num_ranges * _RANGE.size + num_complete * 8 + num_blocks * _BLOCK.size
        if size != len(data):
            raise TruncatedError("report", expected=size, got=len(data))
        if values[7]:
            raise DecodeError(f"report: flags {values[7]} are not known")
        try:
            state, reason = UpdateState(values[5]), Reason(values[6])
        except ValueError as error:
            raise DecodeError(f"report: {error}") from None
        at = _FIXED.size
        ranges = tuple(_RANGE.unpack_from(data, at + i * _RANGE.size) for i in range(num_ranges))
        _check_ranges(ranges)
        at += num_ranges * _RANGE.size
        complete = tuple(data[at + i * 8 : at + i * 8 + 8] for i in range(num_complete))
        at += num_complete * 8
        return cls(
            echo_handle=values[0],
            echo_block=values[1],
            echo_esi=int.from_bytes(values[2], "big"),
            frames_received=values[3],
            frames_rejected=values[4],
            state=state,
            reason=reason,
            update=values[8],
            serving=values[9],
            accepted=values[10],
            boot_count=values[11],
            free_mib=values[12],
            bundle_ranges=ranges,
            complete=complete,
            open_blocks=tuple(_open_block(data, at + i * _BLOCK.size) for i in range(num_blocks)),
        )


def _open_block(data: bytes, at: int) -> OpenBlock:
    handle, block, have = _BLOCK.unpack_from(data, at)
    return OpenBlock(handle=handle, block=block, have=int.from_bytes(have, "big"))


def _check_ranges(ranges: tuple[tuple[int, int], ...]) -> None:
    before = -1
    for first, last in ranges:
        if not before < first <= last:
            raise DecodeError(f"report: bundle range {first}..{last} is out of order")
        before = last
