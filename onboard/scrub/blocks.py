"""Which block of a release is where, and which blocks share a parity block. Pure.

The files of a release are cut into blocks of LEAF_SIZE, numbered through all files in order; each file begins a new
block, and its last one may be short. Blocks are gathered in **zones** of at most 64 MiB, which bound how much memory
it takes to work on them. Block i of a zone of n blocks belongs to group i mod g, where g = ceil(n / 32): neighbours
are in different groups, so a burst of up to g blocks (2 MiB in a full zone) costs each group at most one.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from onboard.scrub.core import GROUP_SIZE, LEAF_SIZE

GROUPS_MAX = 512  # of one zone
ZONE_BLOCKS = GROUP_SIZE * GROUPS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes of one file.

    Attributes:
        file: its index.
        offset: where they begin.
        size: how many.
        block: number of the block that they begin with.
    """

    file: int
    offset: int
    size: int
    block: int


class BlockMap:
    """The blocks of files with certain sizes."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = tuple(sizes)
        counts = [-(-size // LEAF_SIZE) for size in self.sizes]
        self._firsts = [0, *accumulate(counts)]

    @property
    def num_blocks(self) -> int:
        """Data blocks of all files."""
        return self._firsts[-1]

    @property
    def num_zones(self) -> int:
        """How many zones there are."""
        return -(-self.num_blocks // ZONE_BLOCKS)

    @property
    def num_parity(self) -> int:
        """Parity blocks of all zones."""
        full, rest = divmod(self.num_blocks, ZONE_BLOCKS)
        return full * GROUPS_MAX + -(-rest // GROUP_SIZE)

    def zone(self, number: int) -> range:
        """The blocks of a zone."""
        return range(number * ZONE_BLOCKS, min((number + 1) * ZONE_BLOCKS, self.num_blocks))

    def num_groups(self, zone: int) -> int:
        """The groups of a zone."""
        return -(-len(self.zone(zone)) // GROUP_SIZE)

    def parity(self, zone: int) -> range:
        """The numbers, among parity blocks, of a zone's."""
        return range(zone * GROUPS_MAX, zone * GROUPS_MAX + self.num_groups(zone))

    def group(self, zone: int, group: int) -> range:
        """The blocks of a group."""
        blocks = self.zone(zone)
        return range(blocks.start + group, blocks.stop, self.num_groups(zone))

    def file_blocks(self, file: int) -> range:
        """The blocks of a file."""
        return range(self._firsts[file], self._firsts[file + 1])

    def where(self, block: int) -> Span:
        """Where a block lies."""
        file = bisect_right(self._firsts, block) - 1
        offset = (block - self._firsts[file]) * LEAF_SIZE
        return Span(file=file, offset=offset, size=min(LEAF_SIZE, self.sizes[file] - offset), block=block)

    def spans(self, blocks: range) -> Iterator[Span]:
        """Consecutive blocks as spans, one for each file that they lie in."""
        at = blocks.start
        while at < blocks.stop:
            first = self.where(at)
            stop = min(blocks.stop, self._firsts[first.file + 1])
            end = min((stop - self._firsts[first.file]) * LEAF_SIZE, self.sizes[first.file])
            yield Span(file=first.file, offset=first.offset, size=end - first.offset, block=at)
            at = stop

    def ranges(self, blocks: Iterable[int]) -> tuple[tuple[int, int, int], ...]:
        """Blocks, rising, as (file, offset, size), neighbours of one file together."""
        found: list[tuple[int, int, int]] = []
        for block in blocks:
            span = self.where(block)
            if found and found[-1][0] == span.file and found[-1][1] + found[-1][2] == span.offset:
                found[-1] = (span.file, found[-1][1], found[-1][2] + span.size)
            else:
                found.append((span.file, span.offset, span.size))
        return tuple(found)
