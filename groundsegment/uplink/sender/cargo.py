"""What is to be carried: the objects of one update, their blocks, and how far each is. Pure.

An update is its metadata and its bundles; a command is an update of one object. `learning` changes it by what reports
say, `schedule` by what it sends. What must outlive the process comes out of
`progress` and goes into the next one's constructor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from groundsegment.uplink.sender.block_sender import BlockSender
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.blocks import BlockLayout, block_layout
from protocol.frame import FrameKind
from protocol.report import SOLVED


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingObject:
    """One object to be sent.

    Attributes:
        handle: of the object.
        num_symbols: source symbols in all.
        symbol_size: T, bytes.
        bundle: its number, or None for the metadata or a command.
    """

    handle: bytes
    num_symbols: int
    symbol_size: int
    bundle: int | None

    @property
    def layout(self) -> BlockLayout:
        """Its blocks."""
        return block_layout(self.num_symbols, self.symbol_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What must be kept of one block across a restart."""

    handle: bytes
    block: int
    next_esi: int
    have: int


@dataclass(slots=True)
class ObjectSender:
    """One object on its way.

    Attributes:
        item: which one.
        blocks: its blocks, in order.
        is_complete: the satellite has said that it has all of it.
    """

    item: OutgoingObject
    blocks: list[BlockSender]
    is_complete: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing of it need be sent."""
        return self.is_complete or all(block.is_solved for block in self.blocks)


class Cargo:
    """All objects of one update.

    Attributes:
        objects: by handle, in order of sending.
        blocks: of all of them.
        metadata: the first object.
        bundles: all others.
        bundle_blocks: the blocks of all bundles, in order.
        lane: whose symbols are ours.
    """

    def __init__(
        self,
        objects: Sequence[OutgoingObject],
        progress: Iterable[Progress],
        *,
        kind: FrameKind,
        loss: LossEstimate,
        lane: Lane,
    ) -> None:
        """Take up what an earlier process left.

        Args:
            objects: the metadata object first, then the bundles in order.
            progress: what an earlier process kept.
            kind: how symbols are made.
            loss: believed of the link while that process sent.
            lane: whose symbols are ours.
        """
        assert objects
        assert objects[0].bundle is None
        kept: dict[bytes, dict[int, Progress]] = {}
        for entry in progress:
            kept.setdefault(entry.handle, {})[entry.block] = entry
        # A carousel has no symbols to spare: each of its stations needs all of them.
        self.lane = lane if kind is not FrameKind.PLAIN else Lane()
        self.objects = {
            item.handle: ObjectSender(item, _blocks(item, kept.get(item.handle, {}), kind, loss, self.lane))
            for item in objects
        }
        self.blocks = {block.key: block for sending in self.objects.values() for block in sending.blocks}
        self.metadata = self.objects[objects[0].handle]
        self.bundles = [self.objects[item.handle] for item in objects[1:]]
        self.bundle_blocks = [block for sending in self.bundles for block in sending.blocks]
        self._by_number = {sending.item.bundle: sending for sending in self.bundles}

    @property
    def handle(self) -> bytes:
        """The update's name: the handle of its metadata."""
        return self.metadata.item.handle

    def numbered(self, first: int, last: int) -> list[ObjectSender]:
        """The bundles of these numbers, both inclusive."""
        if first == 0 and last >= len(self.bundles):
            return self.bundles
        return [self._by_number[number] for number in range(first, last + 1) if number in self._by_number]

    @property
    def is_done(self) -> bool:
        """Whether nothing of it need be sent."""
        return all(sending.is_done for sending in self.objects.values())

    def progress(self, *, exact: bool) -> list[Progress]:
        """What to keep for the next process; see `Uplink.progress`."""
        if exact:
            # What was reserved and not used is free again: should we go on ourselves, it has to be written down anew.
            for block in self.blocks.values():
                block.reserved_esi = block.next_esi
        return [
            Progress(
                handle=block.key[0],
                block=block.key[1],
                next_esi=block.next_esi if exact else block.reserved_esi,
                have=SOLVED if block.is_solved else block.have,
            )
            for block in self.blocks.values()
            if not block.is_untouched or block.is_solved
        ]


def _blocks(
    item: OutgoingObject, kept: Mapping[int, Progress], kind: FrameKind, loss: LossEstimate, lane: Lane
) -> list[BlockSender]:
    layout = item.layout
    blocks = []
    for number in range(layout.num_blocks):
        block = BlockSender((item.handle, number), layout.symbols_of(number), kind, lane)
        entry = kept.get(number)
        if entry is None:
            block.mark = (0, 0, 0)
        else:
            block.next_esi = block.reserved_esi = entry.next_esi
            block.is_solved = entry.have == SOLVED
            block.have = block.num_source if block.is_solved else entry.have
            block.prior_sent = lane.num_below(entry.next_esi)
            block.learn_prior(loss, is_settled=False)
        blocks.append(block)
    return blocks
