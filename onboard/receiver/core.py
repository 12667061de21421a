"""The receiver's core: frames in; what to store, solve, offer, drop and report out. Pure; the shell brings the rest.

Driven by four kinds of input, each of which may queue events (`next_event`):

- authentic frames                station_heard with receive_symbols; receive_symbol, receive_report for one frame
- what the store has done         begin_sync, symbols_stored, block_rebuilt, block_solved, ...
- what the owner has decided      object_judged, offer_again, begin_file, file_placed
- time                            next_deadline, frames_to_send

It promises: a report counts a symbol only after `symbols_stored` for a sync that began after the symbol came, and
calls a block solved only after `block_solved`; the echo in a report to a station names the last frame of that station
that had come when that sync began, so echo and counts go together; what is open never exceeds the quota; an object
that somebody works on is never dropped.

It does not know what is in an object, whom to trust, or where the symbols lie. What it is made of: `peers` (stations),
`shelf` (objects and quotas), `ledger` (what is durable), `telling` (what reports say).
"""

from collections import deque
from collections.abc import Callable, Iterable

from onboard.receiver.counters import Counters
from onboard.receiver.intake import SymbolRun, run_of
from onboard.receiver.ledger import Ledger
from onboard.receiver.objects import BlockStage, ObjectStage, OpenObject, object_cost
from onboard.receiver.objects import OpenBlock as Block
from onboard.receiver.orders import (
    Accepted,
    BlockReady,
    CoreOptions,
    Event,
    ObjectDropped,
    ObjectReady,
    ObjectSolved,
)
from onboard.receiver.peers import Peers, Position
from onboard.receiver.shelf import SMALL_COST_MAX, PushAllowance, Shelf
from onboard.receiver.status import FileVerdict, ReceiverStatistics, ReportStatus, Verdict
from onboard.receiver.telling import Telling
from onboard.store.shape import ObjectShape, SymbolSet
from protocol.blocks import block_layout
from protocol.errors import DecodeError
from protocol.fec import can_solve
from protocol.frame import HEADER_SIZE, SEQUENCE_MAX, TAG_SIZE, Frame, FrameKind
from protocol.objects import ObjectKind
from protocol.report import Reason, Report

__all__ = [
    "FOREIGN_MAX",
    "SOLVING_EXTRA",
    "Accepted",
    "BlockReady",
    "CoreOptions",
    "Event",
    "ObjectDropped",
    "ObjectReady",
    "ObjectSolved",
    "ReceiverCore",
]

SOLVING_EXTRA = 16  # symbols still taken while the solver tries: one in a hundred tries needs one more
FOREIGN_MAX = 1024  # frames of another shape, none of its own between: the ground has changed its mind


class ReceiverCore:
    """See the module.

    Args:
        session: 6 random bytes, new at each start; reports carry it.
        options: limits.
        is_complete: whether the owner needs no frame of an object any more.
        is_wanted: whether the owner is waiting for an object; such a one is not dropped for one that is not.
        update_of: the handle of the trusted update that is waiting for an object, None if none is. Tells updates apart
            where `is_wanted` does not, and replaces it.
    """

    def __init__(
        self,
        *,
        session: bytes,
        options: CoreOptions,
        is_complete: Callable[[bytes], bool],
        is_wanted: Callable[[bytes], bool] = lambda _: False,
        update_of: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        self._session = session
        self._shelf = Shelf(
            bytes_max=options.inbox_bytes_max,
            num_max=options.open_objects_max,
            owner_of=update_of or (lambda handle: b"" if is_wanted(handle) else None),
        )
        self._peers = Peers(options.report)
        self._ledger = Ledger(self._peers)
        self._telling = Telling(self._shelf, self._ledger, is_complete)
        self._events: deque[Event] = deque()
        self._trouble = Reason.NONE
        self._pushes = PushAllowance()
        self._counters = Counters()

    def restore(
        self, shape: ObjectShape, symbols: dict[int, SymbolSet], solved: Iterable[int], *, is_whole: bool
    ) -> None:
        """Take over an object found at start; all of it is durable."""
        entry = OpenObject(shape)
        self._shelf.put(entry)
        if self._telling.is_complete(shape.handle):
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
        self.station_heard(frame.station, 1, (frame.handle, frame.block, frame.esi), now)
        accepted = self.receive_symbols(run_of(frame))
        return accepted.shape if accepted else None

    def station_heard(self, station: int, num_frames: int, echo: Position | None, now: float) -> None:
        """So many authentic frames of a station came; the last symbol among them was that one, if any was.

        Belongs with `receive_symbols`, and between the same two syncs.
        """
        self._pushes.note_time(now)
        self._peers.peer(station).heard(num_frames, echo, now)

    def receive_symbols(self, run: SymbolRun) -> Accepted | None:
        """Take symbols of one block; returns those that are new and must be stored."""
        entry = self._shelf.get(run.handle)
        if entry is None:
            entry = self._admit(run)
            if entry is None:
                return None
        elif entry.num_symbols != run.num_symbols or entry.kind is not run.kind or entry.symbol_size != run.symbol_size:
            self._refuse_foreign(entry, len(run.esis))
            return None
        block = entry.blocks.get(run.block) or entry.block(run.block)
        if block is None:
            self._counters.refuse_symbols("layout", len(run.esis))
            return None
        if block.stage is not BlockStage.OPEN and not self._takes_more(block):
            self._counters.add("symbols_surplus", len(run.esis))
            if entry.stage is ObjectStage.KEPT:
                self._note_complete(run.handle)
            return None
        return self._accept(entry, block, run)

    def receive_report(self, frame: Frame, now: float) -> tuple[bytes, ...]:
        """Take a report of the ground; returns the handles that it has complete."""
        self.station_heard(frame.station, 1, None, now)
        return self.read_report(frame)

    def read_report(self, frame: Frame) -> tuple[bytes, ...]:
        """The same, of a frame that `station_heard` has counted."""
        try:
            report = Report.decode(frame.payload)
        except DecodeError:
            self.reject_frame("malformed")
            return ()
        self._counters.add("reports_received")
        return report.complete

    def reject_frame(self, cause: str, num: int = 1) -> None:
        """Count datagrams that were no authentic frames. They have no station that could be believed."""
        self._counters.reject_frames(cause, num)

    # The store

    @property
    def is_dirty(self) -> bool:
        """Whether symbols came that are not on their way to the medium."""
        return self._ledger.is_dirty

    def begin_sync(self) -> None:
        """A sync begins that covers every symbol accepted so far."""
        self._ledger.begin_sync()

    def symbols_stored(self) -> None:
        """That sync is through: what it covered is durable."""
        self._ledger.symbols_stored()
        self._counters.add("syncs")
        self._peers.note_news()

    def sync_failed(self) -> None:
        """That sync, or writing before it, did not come through."""
        self._ledger.sync_failed()

    def block_rebuilt(self, shape: ObjectShape, number: int) -> None:
        """The solver has it, durably, in the data file: its log needs no more."""
        block = self._shelf[shape.handle].blocks[number]
        block.stage = BlockStage.REBUILT
        self._ledger.block_rebuilt(block)

    def block_solved(self, shape: ObjectShape, number: int) -> None:
        """It is marked so, durably."""
        entry = self._shelf[shape.handle]
        entry.note_solved(number)
        self._ledger.rebuilt_ended()
        self._counters.add("blocks_solved")
        self._peers.note_news(is_urgent=True)
        self._job_done(entry)
        self._check_if_solved(entry)

    def block_short(self, shape: ObjectShape, number: int, *, has_died: bool = False) -> None:
        """The solver could not do it with what there was. `has_died`: it died trying."""
        entry = self._shelf[shape.handle]
        self._counters.add("solves_failed")
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
        entry = self._shelf[shape.handle]
        entry.blocks[number].stage = BlockStage.OPEN
        entry.is_poisoned = True
        self._job_done(entry)

    def block_postponed(self, shape: ObjectShape, number: int) -> None:
        """The disk had no room for it, or failed: ask again when there is no trouble any more."""
        entry = self._shelf[shape.handle]
        block = entry.blocks[number]
        if block.stage is BlockStage.REBUILT:
            self._ledger.rebuilt_ended()
        block.stage, block.asked = BlockStage.OPEN, 0
        self._job_done(entry)

    def block_reloaded(self, shape: ObjectShape, number: int, symbols: SymbolSet) -> None:
        """Its log holds less than was counted: this is what there is, all of it durable."""
        entry = self._shelf.get(shape.handle)
        old = entry.blocks.get(number) if entry else None
        if entry is None or old is None or old.stage is BlockStage.SOLVED:
            return
        block = entry.blocks[number] = Block(number, old.needed, symbols)
        block.num_deaths, block.stage = old.num_deaths, old.stage
        self._ledger.forget(old)
        self._unsay(shape.handle, number)
        self._ask_if_ready(entry, block)

    def object_checked(self, shape: ObjectShape, size_bytes: int) -> None:
        """Its bytes are what its handle says, and sealed."""
        entry = self._shelf[shape.handle]
        entry.stage, entry.size = ObjectStage.OFFERED, size_bytes
        self._peers.note_news(is_urgent=True)
        self._events.append(ObjectReady(shape=shape))

    def object_poisoned(self, shape: ObjectShape) -> None:
        """Its bytes are not what its handle says: throw it away, collect it again."""
        entry = self._shelf[shape.handle]
        entry.stage = ObjectStage.COLLECTING
        self._throw_away(entry)

    def object_postponed(self, shape: ObjectShape) -> None:
        """It could not be checked or sealed because of the disk: ask again when there is no trouble any more."""
        self._shelf[shape.handle].stage = ObjectStage.COLLECTING

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
        for entry in self._shelf:
            for block in list(entry.blocks.values()):
                self._ask_if_ready(entry, block)
            self._check_if_solved(entry)

    # The owner

    def object_judged(self, shape: ObjectShape, verdict: Verdict, kind: ObjectKind) -> None:
        """Take the owner's verdict on an object that was offered."""
        entry = self._shelf[shape.handle]
        if verdict is Verdict.KEPT:
            entry.stage = ObjectStage.KEPT
            self._note_complete(shape.handle)
            return
        entry.stage = ObjectStage.COLLECTING
        if verdict is not Verdict.CONSUMED:
            self._counters.add(f"objects_{verdict.value}")
            self._drop(entry)
            return
        self._counters.add("objects_completed")
        self._counters.add("bytes_completed", entry.size)
        if kind is ObjectKind.COMMAND:  # an owner remembers what it obeyed, but not under which handle
            self._telling.note_used_command(shape.handle)
        self._drop(entry, forget=False)
        self._note_complete(shape.handle)

    def offer_again(self) -> None:
        """The owner may want what it kept, or need no more of what is being collected."""
        self._shelf.refresh_owners()
        for entry in self._shelf:
            if not entry.is_busy and self._telling.is_complete(entry.shape.handle):
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
        handle, entry = shape.handle, self._shelf.get(shape.handle)
        if self._telling.is_complete(handle):
            self._note_complete(handle)
            return FileVerdict.COMPLETE
        if entry is None:
            if self._is_paused_for(object_cost(shape)):
                return FileVerdict.NOT_STORED
            may_push = object_cost(shape) <= SMALL_COST_MAX or self._shelf.owner_of(handle) is not None
            if self._make_room(shape, may_push=may_push):
                return FileVerdict.NO_ROOM
            entry = OpenObject(shape)
            self._shelf.put(entry)
        elif entry.stage is ObjectStage.KEPT:
            return FileVerdict.KEPT
        elif entry.is_busy or entry.is_poisoned:
            return FileVerdict.BUSY
        entry.stage = ObjectStage.CHECKING
        return entry.shape

    def file_placed(self, shape: ObjectShape) -> None:
        """That file is the object, durably: its symbols are needed no more. Check it."""
        entry = self._shelf[shape.handle]
        self._ledger.forget_object(entry)
        for number in range(entry.layout.num_blocks):
            entry.note_solved(number)
        self._counters.add("files_taken")
        self._peers.note_news(is_urgent=True)
        self._events.append(ObjectSolved(shape=shape))

    def file_failed(self, shape: ObjectShape) -> None:
        """It could not be placed: go on with symbols, if any came."""
        entry = self._shelf[shape.handle]
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
        self._peers.note_news(is_urgent=True)

    def is_heard(self, now: float) -> bool:
        """Whether it is worth sending anything down."""
        return self._peers.is_heard(now)

    def next_deadline(self) -> float | None:
        """When `frames_to_send` has something."""
        return self._peers.next_deadline()

    def frames_to_send(self, status: ReportStatus, now: float) -> list[Frame]:
        """The reports that are due, each for the station that its frame names."""
        frames = []
        while (peer := self._peers.next_due(now)) is not None:
            frame = self.report_frame(status, peer.station)
            self._counters.add("reports_sent")
            peer.timer.report_sent(HEADER_SIZE + len(frame.payload) + TAG_SIZE, now)
            frames.append(frame)
        return frames

    def report_frame(self, status: ReportStatus, station: int = 0) -> Frame:
        """A report, due or not: for whoever carries it by other means than the link."""
        peer = self._peers.peer(station)
        frame = Frame(
            kind=FrameKind.REPORT,
            handle=self._session,
            sequence=peer.next_sequence & SEQUENCE_MAX,
            payload=self._telling.payload(status, peer, self._counters.num_rejected),
            station=station,
        )
        peer.next_sequence += 1
        return frame

    def message_due(self, now: float) -> float | None:
        """When the budget leaves room for a message to `message_station`, None if nobody is there to take it."""
        return max(now, self._peers.budget.affordable_at) if self._peers.is_heard(now) else None

    def message_station(self, now: float) -> int | None:
        """The station to send messages to, None if none is heard."""
        peer = self._peers.nearest(now)
        return None if peer is None else peer.station

    def message_sent(self, size_bytes: int, now: float) -> None:
        """A frame of a message of that many bytes goes out."""
        self._peers.budget.spend(size_bytes, now)

    def statistics(self) -> ReceiverStatistics:
        """A snapshot of all counters."""
        return self._counters.statistics(
            received_of={peer.station: peer.num_frames for peer in self._peers},
            open_objects=len(self._shelf),
            open_bytes=self._shelf.open_bytes,
            trouble=self._trouble,
        )

    # Private

    def _admit(self, run: SymbolRun) -> OpenObject | None:
        """Open an object for symbols of an unknown one, if it may be."""
        handle, num = run.handle, len(run.esis)
        if self._telling.is_complete(handle):
            self._counters.add("symbols_surplus", num)
            self._note_complete(handle)  # somebody still sends it: tell them first
            return None
        if not can_solve(run.kind):
            self._counters.refuse_symbols("kind", num)
            return None
        shape = ObjectShape(handle=handle, kind=run.kind, num_symbols=run.num_symbols, symbol_size=run.symbol_size)
        try:
            layout = block_layout(shape.num_symbols, shape.symbol_size)
        except DecodeError:
            self._counters.refuse_symbols("layout", num)
            return None
        if run.block >= layout.num_blocks:
            self._counters.refuse_symbols("layout", num)
            return None
        if self._is_paused_for(object_cost(shape)):
            self._counters.refuse_symbols("store", num)
            return None
        cause = self._make_room(shape, may_push=self._pushes.is_left or self._shelf.owner_of(handle) is not None)
        if cause:
            self._counters.refuse_symbols(cause, num)
            return None
        entry = OpenObject(shape)
        self._shelf.put(entry)
        return entry

    def _accept(self, entry: OpenObject, block: Block, run: SymbolRun) -> Accepted | None:
        num = len(run.esis)
        if self._trouble is not Reason.NONE and self._is_paused_for(entry.cost):
            self._counters.refuse_symbols("store", num)
            return None
        keys = run.esis if entry.kind is FrameKind.RAPTORQ else [esi % block.needed for esi in run.esis]
        fresh = block.symbols.add_all(keys)
        self._counters.add("symbols_accepted", len(fresh))
        self._counters.add("symbols_duplicate", num - len(fresh))
        if not fresh:
            return None
        entry.num_foreign = 0
        self._ledger.note_dirty(block)
        self._shelf.touch(entry)
        if block.symbols.num >= block.needed:
            self._ask_if_ready(entry, block)
        if len(fresh) == num:
            return Accepted(entry.shape, run.esis, run.symbols)
        return Accepted(entry.shape, [run.esis[i] for i in fresh], [run.symbols[i] for i in fresh])

    def _is_paused_for(self, cost: int) -> bool:
        if self._trouble is Reason.DISK_FULL:
            return cost > SMALL_COST_MAX
        return self._trouble is not Reason.NONE

    def _takes_more(self, block: Block) -> bool:
        return block.stage is BlockStage.SOLVING and block.symbols.num < block.asked + SOLVING_EXTRA

    def _refuse_foreign(self, entry: OpenObject, num: int) -> None:
        """Two senders disagree about an object's shape. The first is right, until it has fallen silent."""
        if entry.stage is ObjectStage.KEPT:  # it came as a file, perhaps, and whoever sends it has not heard yet
            self._counters.add("symbols_surplus", num)
            self._note_complete(entry.shape.handle)
            return
        self._counters.refuse_symbols("layout", num)
        entry.num_foreign += num
        if entry.num_foreign >= FOREIGN_MAX and entry.stage is ObjectStage.COLLECTING and not entry.is_busy:
            self._give_up(entry, "foreign")

    def _make_room(self, shape: ObjectShape, *, may_push: bool = True) -> str:
        """Drop what has to give way for a new object; the cause if there is no room for it."""
        leaving = self._shelf.make_room(shape, may_push=may_push)
        if isinstance(leaving, str):
            return leaving
        for entry in leaving:
            self._pushes.spend()
            self._give_up(entry, "kept" if entry.stage is ObjectStage.KEPT else "unsigned")
        return ""

    def _give_up(self, entry: OpenObject, cause: str) -> None:
        self._counters.drop_object(cause)
        self._drop(entry)

    def _job_done(self, entry: OpenObject) -> None:
        entry.num_jobs -= 1
        if entry.is_poisoned and not entry.is_busy:
            self._throw_away(entry)

    def _throw_away(self, entry: OpenObject) -> None:
        self._counters.add("objects_poisoned")
        self._drop(entry)

    def _drop(self, entry: OpenObject, *, forget: bool = True) -> None:
        self._shelf.remove(entry)
        self._ledger.forget_object(entry)
        if forget:
            self._telling.unsay_object(entry)
            self._peers.note_news(is_urgent=True)
        self._events.append(ObjectDropped(shape=entry.shape))

    def _note_complete(self, handle: bytes) -> None:
        self._telling.note_complete(handle)
        self._peers.note_news()

    def _unsay(self, handle: bytes, number: int) -> None:
        """Un-say what earlier reports may have said of a block."""
        self._telling.unsay(handle, number)
        self._peers.note_news(is_urgent=True)

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
