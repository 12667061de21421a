"""What the receiver's owner says, and what the receiver counts. Pure; `events` passes it on."""

from dataclasses import dataclass, field
from enum import Enum

from protocol.report import NO_HANDLE, NO_NONCE, Reason, UpdateStatus


class Verdict(Enum):
    """What became of an object that was handed over."""

    CONSUMED = "consumed"  # used, durably: its file goes, its frames are dropped, reports list it as complete
    KEPT = "kept"  # no use for it yet: the file stays under the quota and is offered again after `offer_again`
    REFUSED = "refused"  # bad: its file goes, it is forgotten and collected again if its frames come again
    SPOILT = "spoilt"  # our medium changed its file since it was checked: as REFUSED; reports say that it is missing


class FileVerdict(Enum):
    """What became of a file that holds a whole object."""

    USED = "used"  # consumed by the owner
    COMPLETE = "complete"  # nobody needs it any more
    KEPT = "kept"  # no use for it yet: it is in the inbox
    REFUSED = "refused"  # bad, says the owner
    DAMAGED = "damaged"  # its bytes are not what its handle says
    NO_ROOM = "no_room"  # nobody waits for it, and the inbox is full
    NOT_STORED = "not_stored"  # the disk did not take it
    BUSY = "busy"  # it is being solved or judged at the moment


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStatus:
    """What a report says beyond frames; the fields are those of `protocol.report.Report`."""

    updates: tuple[UpdateStatus, ...] = ()
    serving: bytes = NO_HANDLE
    accepted: int = 0
    root_version: int = 0
    epoch: int = 0
    nonce: bytes = NO_NONCE
    commands: int = 0
    boot_count: int = 0
    free_mib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverStatistics:
    """Counters since the receiver was made, and what is open now.

    Attributes:
        frames_received: authentic frames.
        frames_received_of: the same, by station.
        frames_rejected: those that were not, by cause: "truncated", "version", "checksum", "malformed", "unknown" (a
            short header that fits no object that is known).
        symbols_accepted: taken into a log.
        symbols_duplicate: had them already.
        symbols_surplus: of objects or blocks that need no more.
        symbols_refused: by cause: "layout" (differs from what its object has), "kind" (no codec), "unsigned",
            "update" or "quota" (whose share of the inbox is spent), "store" (the disk did not take it).
        reports_received: authentic reports of the ground.
        reports_sent: our own.
        frames_sent: down, reports among them.
        blocks_solved: solved and durable.
        solves_failed: asked for, but the symbols did not suffice yet.
        objects_completed: consumed.
        objects_poisoned: solved, but not what the handle says: thrown away.
        objects_refused: by the sink.
        objects_spoilt: damaged on the medium after they were checked: thrown away, to be collected again.
        objects_dropped: let go of before they were used.
        drops: the same, by cause: "unsigned" (unfinished, gave way), "kept" (whole, gave way), "foreign" (the ground
            sends it in another shape).
        bytes_completed: of the objects consumed.
        files_taken: objects that came whole, as files.
        open_objects: being collected or kept.
        open_bytes: what they take of the quota.
        syncs: done.
        solver_deaths: workers of the solver that died.
        store_trouble: why symbols are not being stored, NONE if they are.
    """

    frames_received: int = 0
    frames_received_of: dict[int, int] = field(default_factory=dict)
    frames_rejected: dict[str, int] = field(default_factory=dict)
    symbols_accepted: int = 0
    symbols_duplicate: int = 0
    symbols_surplus: int = 0
    symbols_refused: dict[str, int] = field(default_factory=dict)
    reports_received: int = 0
    reports_sent: int = 0
    frames_sent: int = 0
    blocks_solved: int = 0
    solves_failed: int = 0
    objects_completed: int = 0
    objects_poisoned: int = 0
    objects_refused: int = 0
    objects_spoilt: int = 0
    objects_dropped: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    bytes_completed: int = 0
    files_taken: int = 0
    open_objects: int = 0
    open_bytes: int = 0
    syncs: int = 0
    solver_deaths: int = 0
    store_trouble: Reason = Reason.NONE
