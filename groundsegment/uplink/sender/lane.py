"""A station's lane: which encoding symbols of every block are its own, so that stations need not talk. Pure.

ESIs are cut into stripes of 64. With n lanes, lane i owns every stripe whose number is i modulo n: lanes are disjoint,
together they are all ESIs, and one lane alone is all of them in order.

Making a repair symbol costs time and memory that rise with its ESI, so lanes end: where each has three times the block
to itself, enough for a link that loses two in three, or where one lane alone would end, whichever is later, since a
station that nobody answers goes on for contacts. Then it starts over: a repeated symbol helps a receiver that lacks it.
"""

from dataclasses import dataclass

from protocol.limits import ESI_MAX, STATIONS_MAX

STRIPE = 64
_SPARE_ALONE = 60_000  # repair symbols of all lanes together: 75 MB, made in a quarter of a second
_BLOCKS_PER_LANE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One of several lanes.

    Attributes:
        index: which one: the station's number.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count <= STATIONS_MAX

    @property
    def first_esi(self) -> int:
        """The lowest ESI of the lane."""
        return self.index * STRIPE

    def end_esi(self, num_source: int) -> int:
        """Where the lanes of a block of so many source symbols end: ESIs are below."""
        if self.count == 1:
            return min(num_source + _SPARE_ALONE, ESI_MAX + 1)
        turn = self.count * STRIPE
        stripes = max(-(-_BLOCKS_PER_LANE * num_source // STRIPE), (num_source + _SPARE_ALONE) // turn)
        return min(stripes * turn, (ESI_MAX + 1) // turn * turn)

    def owns(self, esi: int) -> bool:
        """Whether an ESI is of this lane."""
        return esi // STRIPE % self.count == self.index

    def num_below(self, esi: int) -> int:
        """How many ESIs of the lane are lower than this one."""
        turns, rest = divmod(esi, self.count * STRIPE)
        return turns * STRIPE + min(max(rest - self.first_esi, 0), STRIPE)

    def nth(self, number: int) -> int:
        """The ESI of the lane that has so many of the lane below it."""
        return number // STRIPE * self.count * STRIPE + self.first_esi + number % STRIPE

    def at_or_after(self, esi: int) -> int:
        """The lowest ESI of the lane that is not lower than this one."""
        return esi if self.count == 1 else self.nth(self.num_below(esi))

    def run(self, esi: int, count: int) -> tuple[int, int]:
        """Return the next own ESIs without a gap, at most `count` > 0, as (first, how many)."""
        first = self.at_or_after(esi)
        return first, count if self.count == 1 else min(count, STRIPE - first % STRIPE)
