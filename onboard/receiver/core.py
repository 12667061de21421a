"""The receiver's core: frames in; what to store, solve, offer, drop and report out. Pure; the shell brings the rest.

Driven by four kinds of input, each of which may queue events (`next_event`):

- an authentic frame              receive_symbol, receive_report
- what the store has done         begin_sync, symbols_stored, block_rebuilt, block_solved, ...
- what the owner has decided      object_judged, offer_again
- time                            next_deadline, frames_to_send

It promises: a report counts a symbol only after `symbols_stored` for a sync that began after the symbol came, and
calls a block solved only after `block_solved`; the echo names the last frame that had come when that sync began, so
echo and counts go together; what is open never exceeds the quota; an object that somebody works on is never dropped.

It does not know what is in an object, whom to trust, or where the symbols lie.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from onboard.receiver.objects import BlockStage, ObjectStage, OpenObject, object_cost
from onboard.receiver.objects import OpenBlock as Block
from onboard.receiver.reporting import ReportOptions, ReportTimer
from onboard.receiver.status import FileVerdict, ReceiverStatistics, ReportStatus, Verdict
from onboard.store.shape import ObjectShape, SymbolSet
from protocol.blocks import block_layout
from protocol.errors import DecodeError
from protocol.fec import can_solve
from protocol.frame import HEADER_SIZE, TAG_SIZE, Frame, FrameKind
from protocol.limits import METADATA_SIZE_MAX, MIB
from protocol.objects import ObjectKind
from protocol.report import NO_HANDLE, SOLVED, OpenBlock, Reason, Report

SOLVING_EXTRA = 16  # symbols still taken while the solver tries: one in a hundred tries needs one more
FOREIGN_MAX = 1024  # frames of another shape, none of its own between: the ground has changed its mind
_COMPLETE_MAX = 128  # handles a report may list
_USED_COMMANDS_MAX = 1024
_FORGOTTEN_MAX = 64
_FORGOTTEN_REPORTS = 20  # reports that say a block is gone: some of them will be lost
_SMALL_SHARE = 8  # one part in so many of the quota is for metadata and commands alone
_SMALL_COST_MAX = 2 * METADATA_SIZE_MAX + 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreOptions:
    """Limits of the receiver.

    Attributes:
        inbox_bytes_max: of the disk, for all open objects.
        open_objects_max: collected or kept at once.
        report: how much is told.
    """

    inbox_bytes_max: int = 512 * MIB
    open_objects_max: int = 64
    report: ReportOptions = field(default_factory=ReportOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReady:
    """Solve this block; its log holds so many symbols."""

    shape: ObjectShape
    block: int
    num_symbols: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSolved:
    """Check this object; all its blocks are there."""

    shape: ObjectShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReady:
    """Offer this object to the owner."""

    shape: ObjectShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDropped:
    """Delete this object's files."""

    shape: ObjectShape


Event = BlockReady | ObjectSolved | ObjectReady | ObjectDropped


class ReceiverCore:
    """See the module.

    Args:
        session: 8 random bytes, new at each start; reports carry it.
        options: limits.
        is_complete: whether the owner needs no frame of an object any more.
        is_wanted: whether the owner is waiting for an object; such a one is not dropped for one that is not.
    """

    def __init__(
        self,
        *,
        session: bytes,
        options: CoreOptions,
        is_complete: Callable[[bytes], bool],
        is_wanted: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._session, self._options = session, options
        self._is_complete, self._is_wanted = is_complete, is_wanted
        self._objects: OrderedDict[bytes, OpenObject] = OrderedDict()  # least recently active first
        self._open_bytes = 0
        self._complete: OrderedDict[bytes, None] = OrderedDict()
        self._used_commands: OrderedDict[bytes, None] = OrderedDict()
        self._forgotten: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._events: deque[Event] = deque()
        self._timer = ReportTimer(options.report)
        self._sequence = 0
        self._trouble = Reason.NONE
        self._dirty: list[Block] = []
        self._syncing: list[tuple[Block, int]] | None = None
        self._num_rebuilt = 0
        self._echo = self._echo_syncing = self._echo_durable = (NO_HANDLE, 0, 0)
        self._rejected: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._num_frames = self._num_accepted = self._num_duplicate = self._num_surplus = 0

    def restore(
        self, shape: ObjectShape, symbols: dict[int, SymbolSet], solved: Iterable[int], *, is_whole: bool
    ) -> None:
        """Take over an object found at start; all of it is durable."""
        entry = OpenObject(shape)
        self._objects[shape.handle] = entry
        self._open_bytes += entry.cost
        if self._is_complete(shape.handle):
            self._note_complete(shape.handle)
            self._drop(entry, forget=False)
            return
        for number, found in symbols.items():
            entry.blocks[number] = Block(number, entry.layout.symbols_of(number), found)
        for number in range(entry.layout.num_blocks) if is_whole else solved:
            entry.note_solved(number)
        for block in entry.blocks.values():
            self._ask_if_ready(entry, block)
        self._check_if_solved(entry)

    # The link

    def receive_symbol(self, frame: Frame, now: float) -> ObjectShape | None:
        """Take a symbol frame; returns its object's shape if the symbol is new and must be stored."""
        handle, number, esi = frame.handle, frame.block, frame.esi
        self._num_frames += 1
        self._timer.frame_arrived(now)
        self._echo = (handle, number, esi)
        entry = self._objects.get(handle)
        if entry is None:
            entry = self._admit(frame)
            if entry is None:
                return None
        elif (
            entry.num_symbols != frame.num_symbols
            or entry.kind is not frame.kind
            or entry.symbol_size != len(frame.payload)
        ):
            self._refuse_foreign(entry)
            return None
        block = entry.blocks.get(number) or entry.block(number)
        if block is None:
            self._refuse("layout")
            return None
        if block.stage is not BlockStage.OPEN and not self._takes_more(block):
            self._num_surplus += 1
            if entry.stage is ObjectStage.KEPT:
                self._note_complete(handle)
            return None
        return self._accept(entry, block, esi)

    def receive_report(self, frame: Frame, now: float) -> tuple[bytes, ...]:
        """Take a report of the ground; returns the handles that it has complete."""
        self._num_frames += 1
        try:
            report = Report.decode(frame.payload)
        except DecodeError:
            self.reject_frame("malformed")
            self._num_frames -= 1
            return ()
        self._timer.frame_arrived(now)
        self._counts["reports_received"] += 1
        return report.complete

    def reject_frame(self, cause: str) -> None:
        """Count a datagram that was no authentic frame."""
        self._rejected[cause] = self._rejected.get(cause, 0) + 1

    # The store

    @property
    def is_dirty(self) -> bool:
        """Whether symbols came that are not on their way to the medium."""
        return bool(self._dirty)

    def begin_sync(self) -> None:
        """A sync begins that covers every symbol accepted so far."""
        assert self._syncing is None
        self._syncing = [(block, block.symbols.num) for block in self._dirty]
        for block in self._dirty:
            block.is_dirty = False
        self._dirty = []
        self._echo_syncing = self._echo_durable if self._num_rebuilt else self._echo

    def symbols_stored(self) -> None:
        """That sync is through: what it covered is durable."""
        assert self._syncing is not None
        for block, num_symbols in self._syncing:
            block.durable = max(block.durable, num_symbols)
        self._syncing = None
        self._echo_durable = self._echo_syncing
        self._counts["syncs"] += 1
        self._timer.note_news()

    def sync_failed(self) -> None:
        """That sync, or writing before it, did not come through."""
        for block, _ in self._syncing or ():
            self._note_dirty(block)
        self._syncing = None

    def block_rebuilt(self, shape: ObjectShape, number: int) -> None:
        """The solver has it, durably, in the data file: its log needs no more."""
        block = self._objects[shape.handle].blocks[number]
        block.stage = BlockStage.REBUILT
        # What of its log was not written never will be: no sync may count it, nor the echo pass it, until the mark.
        self._dirty = [dirty for dirty in self._dirty if dirty is not block]
        self._num_rebuilt += 1

    def block_solved(self, shape: ObjectShape, number: int) -> None:
        """It is marked so, durably."""
        entry = self._objects[shape.handle]
        entry.note_solved(number)
        self._num_rebuilt -= 1
        self._counts["blocks_solved"] += 1
        self._timer.note_news(is_urgent=True)
        self._job_done(entry)
        self._check_if_solved(entry)

    def block_short(self, shape: ObjectShape, number: int, *, has_died: bool = False) -> None:
        """The solver could not do it with what there was. `has_died`: it died trying."""
        entry = self._objects[shape.handle]
        self._counts["solves_failed"] += 1
        block = entry.blocks[number]
        block.stage = BlockStage.OPEN
        if has_died:
            block.num_deaths += 1
            block.asked = 0
        entry.is_poisoned = entry.is_poisoned or block.is_hopeless
        self._job_done(entry)
        self._ask_if_ready(entry, block)

    def block_refused(self, shape: ObjectShape, number: int) -> None:
        """The codec refused its symbols: throw the object away."""
        entry = self._objects[shape.handle]
        entry.blocks[number].stage = BlockStage.OPEN
        entry.is_poisoned = True
        self._job_done(entry)

    def block_postponed(self, shape: ObjectShape, number: int) -> None:
        """The disk had no room for it, or failed: ask again when there is no trouble any more."""
        entry = self._objects[shape.handle]
        block = entry.blocks[number]
        self._num_rebuilt -= block.stage is BlockStage.REBUILT
        block.stage, block.asked = BlockStage.OPEN, 0
        self._job_done(entry)

    def block_reloaded(self, shape: ObjectShape, number: int, symbols: SymbolSet) -> None:
        """Its log holds less than was counted: this is what there is, all of it durable."""
        entry = self._objects.get(shape.handle)
        old = entry.blocks.get(number) if entry else None
        if entry is None or old is None or old.stage is BlockStage.SOLVED:
            return
        block = entry.blocks[number] = Block(number, old.needed, symbols)
        block.num_deaths, block.stage = old.num_deaths, old.stage
        self._dirty = [dirty for dirty in self._dirty if dirty is not old]
        self._forget(shape.handle, number)
        self._ask_if_ready(entry, block)

    def object_checked(self, shape: ObjectShape, size_bytes: int) -> None:
        """Its bytes are what its handle says, and sealed."""
        entry = self._objects[shape.handle]
        entry.stage, entry.size = ObjectStage.OFFERED, size_bytes
        self._timer.note_news(is_urgent=True)
        self._events.append(ObjectReady(shape=shape))

    def object_poisoned(self, shape: ObjectShape) -> None:
        """Its bytes are not what its handle says: throw it away, collect it again."""
        entry = self._objects[shape.handle]
        entry.stage = ObjectStage.COLLECTING
        self._throw_away(entry)

    def object_postponed(self, shape: ObjectShape) -> None:
        """It could not be checked or sealed because of the disk: ask again when there is no trouble any more."""
        self._objects[shape.handle].stage = ObjectStage.COLLECTING

    @property
    def trouble(self) -> Reason:
        """Why symbols are not being stored, NONE if they are."""
        return self._trouble

    def pause_storing(self, reason: Reason) -> None:
        """The disk takes no more: count symbols as refused until further notice.

        On a full disk small objects are still tried, for among them may be the command that makes room.
        """
        self._trouble = reason

    def resume_storing(self) -> None:
        """The disk works again: ask for everything that was postponed."""
        self._trouble = Reason.NONE
        for entry in list(self._objects.values()):
            for block in list(entry.blocks.values()):
                self._ask_if_ready(entry, block)
            self._check_if_solved(entry)

    # The owner

    def object_judged(self, shape: ObjectShape, verdict: Verdict, kind: ObjectKind) -> None:
        """Take the owner's verdict on an object that was offered."""
        entry = self._objects[shape.handle]
        if verdict is Verdict.KEPT:
            entry.stage = ObjectStage.KEPT
            self._note_complete(shape.handle)
            return
        entry.stage = ObjectStage.COLLECTING
        if verdict is Verdict.REFUSED:
            self._counts["objects_refused"] += 1
            self._drop(entry)
            return
        self._counts["objects_completed"] += 1
        self._counts["bytes_completed"] += entry.size
        if kind is ObjectKind.COMMAND:  # an owner remembers what it obeyed, but not under which handle
            _remember(self._used_commands, shape.handle, _USED_COMMANDS_MAX)
        self._drop(entry, forget=False)
        self._note_complete(shape.handle)

    def offer_again(self) -> None:
        """The owner may want what it kept, or need no more of what is being collected."""
        for entry in list(self._objects.values()):
            if not entry.is_busy and self._is_complete(entry.shape.handle):
                self._note_complete(entry.shape.handle)
                self._drop(entry, forget=False)
            elif entry.stage is ObjectStage.KEPT:
                entry.stage = ObjectStage.OFFERED
                self._events.append(ObjectReady(shape=entry.shape))

    # Files

    def begin_file(self, shape: ObjectShape) -> ObjectShape | FileVerdict:
        """A file holds this whole object: take it in, or say why not.

        Until `file_placed` or `file_failed` nobody else works on the object. One that nobody waits for pushes no other
        out, unless it is small.

        Returns:
            As what it is to be placed: an object that is being collected keeps its shape. BUSY passes by itself.
        """
        handle, entry = shape.handle, self._objects.get(shape.handle)
        if handle in self._used_commands or self._is_complete(handle):
            self._note_complete(handle)
            return FileVerdict.COMPLETE
        if entry is None:
            if self._is_paused_for(object_cost(shape)):
                return FileVerdict.NOT_STORED
            may_push = object_cost(shape) <= _SMALL_COST_MAX or self._is_wanted(handle)
            if not self._make_room(shape, may_push=may_push):
                return FileVerdict.NO_ROOM
            entry = self._objects[handle] = OpenObject(shape)
            self._open_bytes += entry.cost
        elif entry.stage is ObjectStage.KEPT:
            return FileVerdict.KEPT
        elif entry.is_busy or entry.is_poisoned:
            return FileVerdict.BUSY
        entry.stage = ObjectStage.CHECKING
        return entry.shape

    def file_placed(self, shape: ObjectShape) -> None:
        """That file is the object, durably: its symbols are needed no more. Check it."""
        entry = self._objects[shape.handle]
        gone = set(map(id, entry.blocks.values()))
        self._dirty = [block for block in self._dirty if id(block) not in gone]
        for number in range(entry.layout.num_blocks):
            entry.note_solved(number)
        self._counts["files_taken"] += 1
        self._timer.note_news(is_urgent=True)
        self._events.append(ObjectSolved(shape=shape))

    def file_failed(self, shape: ObjectShape) -> None:
        """It could not be placed: go on with symbols, if any came."""
        entry = self._objects[shape.handle]
        entry.stage = ObjectStage.COLLECTING
        if not any(block.symbols or block.stage is BlockStage.SOLVED for block in entry.blocks.values()):
            self._drop(entry, forget=False)
            return
        for block in list(entry.blocks.values()):
            self._ask_if_ready(entry, block)
        self._check_if_solved(entry)

    # Outputs

    def next_event(self) -> Event | None:
        """What is to be done next."""
        return self._events.popleft() if self._events else None

    def report_soon(self) -> None:
        """The owner has news for the ground."""
        self._timer.note_news(is_urgent=True)

    def is_heard(self, now: float) -> bool:
        """Whether it is worth sending anything down."""
        return self._timer.is_heard(now)

    def next_deadline(self) -> float | None:
        """When `frames_to_send` has something."""
        return self._timer.next_deadline()

    def frames_to_send(self, status: ReportStatus, now: float) -> list[Frame]:
        """The report, if it is due."""
        due = self._timer.next_deadline()
        if due is None or due > now:
            return []
        frame = self.report_frame(status)
        self._counts["reports_sent"] += 1
        self._timer.report_sent(HEADER_SIZE + len(frame.payload) + TAG_SIZE, now)
        return [frame]

    def report_frame(self, status: ReportStatus) -> Frame:
        """A report, due or not: for whoever carries it by other means than the link."""
        payload = self._report(status).encode()
        frame = Frame(kind=FrameKind.REPORT, handle=self._session, sequence=self._sequence, payload=payload)
        self._sequence += 1
        return frame

    def statistics(self) -> ReceiverStatistics:
        """A snapshot of all counters."""
        return ReceiverStatistics(
            frames_received=self._num_frames,
            frames_rejected=dict(self._rejected),
            symbols_accepted=self._num_accepted,
            symbols_duplicate=self._num_duplicate,
            symbols_surplus=self._num_surplus,
            symbols_refused=dict(self._refused),
            open_objects=len(self._objects),
            open_bytes=self._open_bytes,
            store_trouble=self._trouble,
            **self._counts,
        )

    # Private

    def _admit(self, frame: Frame) -> OpenObject | None:
        """Open an object for a frame of an unknown one, if it may be."""
        handle = frame.handle
        if handle in self._used_commands or self._is_complete(handle):
            self._num_surplus += 1
            self._note_complete(handle)  # somebody still sends it: tell them first
            return None
        if not can_solve(frame.kind):
            self._refuse("kind")
            return None
        shape = ObjectShape(
            handle=handle, kind=frame.kind, num_symbols=frame.num_symbols, symbol_size=len(frame.payload)
        )
        try:
            layout = block_layout(shape.num_symbols, shape.symbol_size)
        except DecodeError:
            self._refuse("layout")
            return None
        if frame.block >= layout.num_blocks:
            self._refuse("layout")
            return None
        if self._is_paused_for(object_cost(shape)):
            self._refuse("store")
            return None
        if not self._make_room(shape):
            self._refuse("quota")
            return None
        entry = self._objects[handle] = OpenObject(shape)
        self._open_bytes += entry.cost
        return entry

    def _accept(self, entry: OpenObject, block: Block, esi: int) -> ObjectShape | None:
        key = esi if entry.kind is FrameKind.RAPTORQ else esi % block.needed
        if self._trouble is not Reason.NONE and self._is_paused_for(entry.cost):
            self._refuse("store")
            return None
        if not block.symbols.add(key):
            self._num_duplicate += 1
            return None
        self._num_accepted += 1
        entry.num_foreign = 0
        if not block.is_dirty:
            self._note_dirty(block)
            self._objects.move_to_end(entry.shape.handle)
        if block.symbols.num >= block.needed:
            self._ask_if_ready(entry, block)
        return entry.shape

    def _is_paused_for(self, cost: int) -> bool:
        if self._trouble is Reason.DISK_FULL:
            return cost > _SMALL_COST_MAX
        return self._trouble is not Reason.NONE

    def _takes_more(self, block: Block) -> bool:
        return block.stage is BlockStage.SOLVING and block.symbols.num < block.asked + SOLVING_EXTRA

    def _refuse(self, cause: str) -> None:
        self._refused[cause] = self._refused.get(cause, 0) + 1

    def _refuse_foreign(self, entry: OpenObject) -> None:
        """Two senders disagree about an object's shape. The first is right, until it has fallen silent."""
        if entry.stage is ObjectStage.KEPT:  # it came as a file, perhaps, and whoever sends it has not heard yet
            self._num_surplus += 1
            self._note_complete(entry.shape.handle)
            return
        self._refuse("layout")
        entry.num_foreign += 1
        if entry.num_foreign >= FOREIGN_MAX and entry.stage is ObjectStage.COLLECTING and not entry.is_busy:
            self._counts["objects_dropped"] += 1
            self._drop(entry)

    def _make_room(self, shape: ObjectShape, *, may_push: bool = True) -> bool:
        """Drop the least recently active objects that nobody wants until this one fits; whether it does."""
        cost, options = object_cost(shape), self._options
        bytes_max, num_max = options.inbox_bytes_max, options.open_objects_max
        if cost > _SMALL_COST_MAX:
            bytes_max -= bytes_max // _SMALL_SHARE
            num_max -= num_max // _SMALL_SHARE
        if cost > bytes_max:
            return False
        num_over, bytes_over = len(self._objects) + 1 - num_max, self._open_bytes + cost - bytes_max
        if num_over <= 0 and bytes_over <= 0:
            return True
        if not may_push:
            return False
        victims = []
        for entry in self._objects.values():
            if num_over <= 0 and bytes_over <= 0:
                break
            if not entry.is_busy and not self._is_wanted(entry.shape.handle):
                victims.append(entry)
                num_over, bytes_over = num_over - 1, bytes_over - entry.cost
        if num_over > 0 or bytes_over > 0:
            return False
        for entry in victims:
            self._counts["objects_dropped"] += 1
            self._drop(entry)
        return True

    def _job_done(self, entry: OpenObject) -> None:
        entry.num_jobs -= 1
        if entry.is_poisoned and not entry.is_busy:
            self._throw_away(entry)

    def _throw_away(self, entry: OpenObject) -> None:
        self._counts["objects_poisoned"] += 1
        self._drop(entry)

    def _drop(self, entry: OpenObject, *, forget: bool = True) -> None:
        handle = entry.shape.handle
        del self._objects[handle]
        self._open_bytes -= entry.cost
        gone = set(map(id, entry.blocks.values()))
        self._dirty = [block for block in self._dirty if id(block) not in gone]
        if forget:
            self._complete.pop(handle, None)
            for number in entry.blocks:
                self._forget(handle, number)
        self._events.append(ObjectDropped(shape=entry.shape))

    def _note_dirty(self, block: Block) -> None:
        if not block.is_dirty:
            block.is_dirty = True
            self._dirty.append(block)

    def _note_complete(self, handle: bytes) -> None:
        _remember(self._complete, handle, _COMPLETE_MAX)
        self._timer.note_news()

    def _forget(self, handle: bytes, number: int) -> None:
        """Un-say what earlier reports may have said of a block."""
        self._forgotten[handle, number] = _FORGOTTEN_REPORTS
        self._forgotten.move_to_end((handle, number))
        while len(self._forgotten) > _FORGOTTEN_MAX:
            self._forgotten.popitem(last=False)
        self._timer.note_news(is_urgent=True)

    def _ask_if_ready(self, entry: OpenObject, block: Block) -> None:
        if entry.is_poisoned or entry.stage is not ObjectStage.COLLECTING or self._is_paused_for(entry.cost):
            return
        if block.is_ready:
            block.stage, block.asked = BlockStage.SOLVING, block.symbols.num
            entry.num_jobs += 1
            event = BlockReady(shape=entry.shape, block=block.number, num_symbols=block.asked)
            self._events.append(event)

    def _check_if_solved(self, entry: OpenObject) -> None:
        is_solved = entry.num_solved == entry.layout.num_blocks
        if is_solved and entry.stage is ObjectStage.COLLECTING and not entry.is_poisoned:
            entry.stage = ObjectStage.CHECKING
            self._events.append(ObjectSolved(shape=entry.shape))

    def _report(self, status: ReportStatus) -> Report:
        is_settled = not self._dirty and not self._num_rebuilt and self._syncing is None
        handle, block, esi = self._echo if is_settled else self._echo_durable
        return Report(
            echo_handle=handle,
            echo_block=block,
            echo_esi=esi,
            frames_received=self._num_frames,
            frames_rejected=sum(self._rejected.values()),
            serving=status.serving,
            accepted=status.accepted,
            boot_count=status.boot_count,
            free_mib=status.free_mib,
            updates=status.updates,
            complete=tuple(self._complete_handles()),
            open_blocks=tuple(self._open_blocks()),
        )

    def _complete_handles(self) -> Iterable[bytes]:
        for handle in reversed(self._complete):
            entry = self._objects.get(handle)
            is_kept = entry is not None and entry.stage is ObjectStage.KEPT
            if is_kept or handle in self._used_commands or self._is_complete(handle):
                yield handle

    def _open_blocks(self) -> Iterable[OpenBlock]:
        for handle, entry in reversed(self._objects.items()):
            if entry.stage is ObjectStage.KEPT:
                continue
            for block in entry.blocks.values():
                is_solved = block.stage is BlockStage.SOLVED
                have = SOLVED if is_solved else block.durable
                if have or (handle, block.number) in self._forgotten:
                    yield OpenBlock(handle=handle, block=block.number, have=have)
        for (handle, number), num_left in list(self._forgotten.items()):
            if num_left <= 1:
                del self._forgotten[handle, number]
            else:
                self._forgotten[handle, number] = num_left - 1
            if handle not in self._objects:
                yield OpenBlock(handle=handle, block=number, have=0)


_COUNTED = (
    "reports_received",
    "reports_sent",
    "blocks_solved",
    "solves_failed",
    "objects_completed",
    "objects_poisoned",
    "objects_refused",
    "objects_dropped",
    "bytes_completed",
    "files_taken",
    "syncs",
)


def _remember(known: OrderedDict[bytes, None], handle: bytes, length_max: int) -> None:
    known[handle] = None
    known.move_to_end(handle)
    while len(known) > length_max:
        known.popitem(last=False)
