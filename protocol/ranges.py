"""RangeSet: a set of non-negative integers kept as sorted, disjoint, non-adjacent ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """Which numbers are in, as half-open ranges. Adding is O(log n + ranges merged)."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int | None = None) -> None:
        """Add `start`, or all of start .. stop - 1."""
        stop = start + 1 if stop is None else stop
        assert 0 <= start <= stop
        if start == stop:
            return
        left = bisect_left(self._stops, start)  # first range that touches or follows
        right = bisect_right(self._starts, stop)  # first range that starts beyond
        if left < right:
            start = min(start, self._starts[left])
            stop = max(stop, self._stops[right - 1])
        self._starts[left:right] = [start]
        self._stops[left:right] = [stop]

    def missing(self, stop: int) -> "RangeSet":
        """Return the numbers below `stop` that are not in the set."""
        result, at = RangeSet(), 0
        for first, last in self:
            if first >= stop:
                break
            result.add(at, first)
            at = last
        if at < stop:
            result.add(at, stop)
        return result

    def numbers(self) -> Iterator[int]:
        """Every number, rising."""
        for start, stop in self:
            yield from range(start, stop)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"
