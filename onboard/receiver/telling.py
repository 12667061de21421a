"""What reports say of objects: what is complete, how far open blocks are, what is gone. Pure.

A report is one frame, however much is open. Most urgent first: what the station it is for sends now, what earlier
reports said that is no longer true, what is nearly complete. The rest takes turns, report by report, so that all of it
gets told.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from onboard.receiver.ledger import Ledger
from onboard.receiver.objects import BlockStage, ObjectStage, OpenObject
from onboard.receiver.peers import Peer
from onboard.receiver.shelf import Shelf
from onboard.receiver.status import ReportStatus
from protocol.limits import REPORT_SIZE_MAX
from protocol.report import SOLVED, OpenBlock, Report

_COMPLETE_MAX = 128  # handles remembered for reports
_NEWEST_COMPLETE = 32  # of them in every report; the others take turns
_USED_COMMANDS_MAX = 1024
_FORGOTTEN_MAX = 64
_FORGOTTEN_REPORTS = 20  # reports that say a block is gone: some of them will be lost
_NEARLY = 0.9  # of its symbols: a block that a few more complete


class Telling:
    """See the module.

    Args:
        shelf: the objects.
        ledger: whether all that came is durable.
        is_complete: whether the owner needs no frame of an object any more.
    """

    def __init__(self, shelf: Shelf, ledger: Ledger, is_complete: Callable[[bytes], bool]) -> None:
        self._shelf, self._ledger, self._is_complete = shelf, ledger, is_complete
        self._complete: OrderedDict[bytes, None] = OrderedDict()
        self._used_commands: OrderedDict[bytes, None] = OrderedDict()
        self._forgotten: OrderedDict[tuple[bytes, int], int] = OrderedDict()

    def is_complete(self, handle: bytes) -> bool:
        """Whether no frame of an object is needed any more."""
        return handle in self._used_commands or self._is_complete(handle)

    def note_complete(self, handle: bytes) -> None:
        """An object is complete, or somebody still sends it though it is: tell that first."""
        _remember(self._complete, handle, _COMPLETE_MAX)

    def note_used_command(self, handle: bytes) -> None:
        """A command was obeyed: its owner remembers that, but not under which handle."""
        _remember(self._used_commands, handle, _USED_COMMANDS_MAX)

    def unsay(self, handle: bytes, number: int) -> None:
        """What earlier reports may have said of a block is true no more."""
        self._forgotten[handle, number] = _FORGOTTEN_REPORTS
        self._forgotten.move_to_end((handle, number))
        while len(self._forgotten) > _FORGOTTEN_MAX:
            self._forgotten.popitem(last=False)

    def unsay_object(self, entry: OpenObject) -> None:
        """The same, of all that is known of an object."""
        self._complete.pop(entry.shape.handle, None)
        for number in entry.blocks:
            self.unsay(entry.shape.handle, number)

    def payload(self, status: ReportStatus, peer: Peer, num_rejected: int) -> bytes:
        """Make the next report for a station."""
        handle, block, esi = peer.echo if self._ledger.is_settled else peer.echo_durable
        urgent, others = self._objects_for(peer)
        turn = peer.cursor % len(others) if others else 0
        told = [*urgent, *others[turn:], *others[:turn]]
        report = Report(
            echo_handle=handle,
            echo_block=block,
            echo_esi=esi,
            frames_received=peer.num_frames,
            frames_rejected=num_rejected,
            serving=status.serving,
            accepted=status.accepted,
            root_version=status.root_version,
            epoch=status.epoch,
            nonce=status.nonce,
            commands=status.commands,
            boot_count=status.boot_count,
            free_mib=status.free_mib,
            updates=status.updates,
            complete=self._complete_for(peer),
            open_blocks=tuple(entry for group in told for entry in group),
        )
        payload = report.encode()
        _take_turns(peer, payload, num_urgent=len(urgent))
        self._count_down()
        return payload

    def _complete_for(self, peer: Peer) -> tuple[bytes, ...]:
        handles = [handle for handle in reversed(self._complete) if self._is_still_complete(handle)]
        newest, others = handles[:_NEWEST_COMPLETE], handles[_NEWEST_COMPLETE:]
        turn = peer.cursor % len(others) if others else 0
        return (*newest, *others[turn:], *others[:turn])

    def _is_still_complete(self, handle: bytes) -> bool:
        entry = self._shelf.get(handle)
        is_kept = entry is not None and entry.stage is ObjectStage.KEPT
        return is_kept or self.is_complete(handle)

    def _objects_for(self, peer: Peer) -> tuple[list[list[OpenBlock]], list[list[OpenBlock]]]:
        """What to say of each object: those that are urgent for the station, and the others."""
        gone: dict[bytes, list[OpenBlock]] = {}
        for handle, number in self._forgotten:
            if handle not in self._shelf:
                gone.setdefault(handle, []).append(OpenBlock(handle=handle, block=number, have=0))
        current: list[list[OpenBlock]] = []
        nearly: list[list[OpenBlock]] = []
        others: list[list[OpenBlock]] = []
        newest = {handle: rank for rank, handle in enumerate(reversed(peer.recent))}
        for entry in sorted(self._shelf, key=lambda entry: newest.get(entry.shape.handle, len(newest))):
            blocks = [] if entry.stage is ObjectStage.KEPT else list(self._blocks_of(entry))
            if not blocks:
                continue
            if entry.shape.handle in newest:
                current.append(blocks)
            elif _is_nearly_complete(entry):
                nearly.append(blocks)
            else:
                others.append(blocks)
        others.sort(key=lambda blocks: blocks[0].handle)  # taking turns needs an order that stays
        return [*current, *gone.values(), *nearly], others

    def _blocks_of(self, entry: OpenObject) -> Iterator[OpenBlock]:
        handle = entry.shape.handle
        for block in entry.blocks.values():
            have = SOLVED if block.stage is BlockStage.SOLVED else block.durable
            if have or (handle, block.number) in self._forgotten:
                yield OpenBlock(handle=handle, block=block.number, have=have)

    def _count_down(self) -> None:
        for key, num_left in list(self._forgotten.items()):
            if num_left <= 1:
                del self._forgotten[key]
            else:
                self._forgotten[key] = num_left - 1


def _take_turns(peer: Peer, payload: bytes, *, num_urgent: int) -> None:
    """Begin the next report to the station with what this one had no room for."""
    if len(payload) < REPORT_SIZE_MAX // 2:
        return
    told = Report.decode(payload)
    if told.is_full:
        peer.cursor += max(1, len({entry.handle for entry in told.open_blocks}) - num_urgent)


def _is_nearly_complete(entry: OpenObject) -> bool:
    """Whether every block of it that has begun is solved, or soon will be."""
    return entry.num_solved + 1 >= entry.layout.num_blocks and all(
        block.stage is not BlockStage.OPEN or block.symbols.num >= _NEARLY * block.needed
        for block in entry.blocks.values()
    )


def _remember(known: OrderedDict[bytes, None], handle: bytes, length_max: int) -> None:
    known[handle] = None
    known.move_to_end(handle)
    while len(known) > length_max:
        known.popitem(last=False)
