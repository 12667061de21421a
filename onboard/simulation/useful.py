"""How much of what was sent has been of use: symbols that a block still lacked when they came. Pure."""

from collections.abc import Callable, Iterable

from onboard.store.inbox import StoredObject
from onboard.store.shape import ObjectShape


class UsefulSymbols:
    """Symbols held that count, at most K of each block.

    Attributes:
        num_held: now, of all objects.
        by_station: symbols that counted when they came, whatever became of them later, by station.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[bytes, int], int] = {}
        self.num_held = 0
        self.by_station: dict[int, int] = {}

    def add(self, shape: ObjectShape, block: int, count: int, station: int) -> None:
        """New symbols were taken."""
        have = self._blocks.get((shape.handle, block), 0)
        useful = min(count, shape.layout.symbols_of(block) - have)
        self._set(shape, block, have + useful)
        self.by_station[station] = self.by_station.get(station, 0) + useful

    def solved(self, shape: ObjectShape, block: int) -> None:
        """A block is there whole."""
        self._set(shape, block, shape.layout.symbols_of(block))

    def forget(self, shape: ObjectShape) -> None:
        """An object was dropped unfinished."""
        for block in range(shape.layout.num_blocks):
            self._set(shape, block, 0)

    def restore(self, found: Iterable[StoredObject], is_complete: Callable[[bytes], bool]) -> None:
        """After a restart: what was found, and what was consumed before, is all there is."""
        there = {entry.shape.handle: entry for entry in found}
        for handle, block in list(self._blocks):
            if handle not in there and not is_complete(handle):
                self.num_held -= self._blocks.pop((handle, block))
        for entry in there.values():
            if is_complete(entry.shape.handle):
                continue
            for block in range(entry.shape.layout.num_blocks):
                is_solved = entry.is_whole or block in entry.solved
                needed = entry.shape.layout.symbols_of(block)
                have = needed if is_solved else len(entry.symbols.get(block, ()))
                self._set(entry.shape, block, min(have, needed))

    def _set(self, shape: ObjectShape, block: int, have: int) -> None:
        key = shape.handle, block
        self.num_held += have - self._blocks.get(key, 0)
        self._blocks[key] = have
