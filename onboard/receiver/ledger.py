"""What of the symbols that came a power cut cannot take back: which blocks have to be synced, and what a sync made so.

Pure. Driven by the core; it promises that a block's `durable` counts only symbols that had come when a sync began which
has ended well.
"""

from onboard.receiver.objects import OpenBlock, OpenObject
from onboard.receiver.peers import Peers


class Ledger:
    """See the module.

    Args:
        peers: whose echoes follow the syncs.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._dirty: list[OpenBlock] = []
        self._syncing: list[tuple[OpenBlock, int]] | None = None
        self._num_rebuilt = 0  # blocks in the data file that are not marked yet

    @property
    def is_dirty(self) -> bool:
        """Whether symbols came that are not on their way to the medium."""
        return bool(self._dirty)

    @property
    def is_settled(self) -> bool:
        """Whether all that came is durable."""
        return not self._dirty and not self._num_rebuilt and self._syncing is None

    def note_dirty(self, block: OpenBlock) -> None:
        """Symbols of the block came."""
        if not block.is_dirty:
            block.is_dirty = True
            self._dirty.append(block)

    def begin_sync(self) -> None:
        """A sync begins that covers every symbol accepted so far."""
        assert self._syncing is None
        self._syncing = [(block, block.symbols.num) for block in self._dirty]
        for block in self._dirty:
            block.is_dirty = False
        self._dirty = []
        for peer in self._peers:
            peer.sync_begun(is_held=self._num_rebuilt > 0)

    def symbols_stored(self) -> None:
        """That sync is through."""
        assert self._syncing is not None
        for block, num_symbols in self._syncing:
            block.durable = max(block.durable, num_symbols)
        self._syncing = None
        for peer in self._peers:
            peer.sync_done()

    def sync_failed(self) -> None:
        """That sync, or writing before it, did not come through."""
        for block, _ in self._syncing or ():
            self.note_dirty(block)
        self._syncing = None

    def block_rebuilt(self, block: OpenBlock) -> None:
        """It is in the data file. What of its log was not written never will be.

        So no sync may count it, nor an echo pass it, until it is marked.
        """
        self.forget(block)
        self._num_rebuilt += 1

    def rebuilt_ended(self) -> None:
        """A block that was rebuilt is marked as solved, or could not be."""
        self._num_rebuilt -= 1

    def forget(self, block: OpenBlock) -> None:
        """No sync is wanted for a block."""
        self._dirty = [dirty for dirty in self._dirty if dirty is not block]

    def forget_object(self, entry: OpenObject) -> None:
        """No sync is wanted for an object."""
        gone = set(map(id, entry.blocks.values()))
        self._dirty = [block for block in self._dirty if id(block) not in gone]
