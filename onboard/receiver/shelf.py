"""The shelf: all objects being received or kept, and who gives way when there is no room. Pure.

What is on it never exceeds the quota. Shares of the quota keep apart what must not starve each other:

- small objects (metadata, commands) have an eighth that large ones cannot take;
- large objects that no trusted update has named ("unsigned") have half, and where that half is less than the largest
  object needs, as much as that;
- the objects of one update have three quarters, so that an urgent update finds room beside a big one.

Only what is unsigned gives way, the least recently active first, unfinished before finished. What an update is waiting
for is never dropped for another object: a newcomer that finds no room is refused, and asked for again later.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from onboard.receiver.objects import ObjectStage, OpenObject, object_cost
from onboard.store.shape import ObjectShape
from protocol.limits import BLOCK_SIZE_MAX, METADATA_SIZE_MAX, OBJECT_SIZE_MAX, SYMBOL_SIZE_MAX

SMALL_COST_MAX = 2 * METADATA_SIZE_MAX + 64 * 1024
_SMALL_SHARE = 8  # one part in so many of the quota is for small objects alone
_LARGEST_COST = OBJECT_SIZE_MAX + SYMBOL_SIZE_MAX + BLOCK_SIZE_MAX

OwnerOf = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class _Limit:
    """What some of the objects may take together, the newcomer included."""

    cause: str
    entries: list[OpenObject]
    num_max: int
    bytes_max: int


class Shelf:
    """See the module.

    Args:
        bytes_max: of the disk, for all of them.
        num_max: how many.
        owner_of: the trusted update that waits for an object, None if there is none.
    """

    def __init__(self, *, bytes_max: int, num_max: int, owner_of: OwnerOf) -> None:
        self._bytes_max, self._num_max, self._owner_of = bytes_max, num_max, owner_of
        self._objects: OrderedDict[bytes, OpenObject] = OrderedDict()  # least recently active first
        self.open_bytes = 0

    def get(self, handle: bytes) -> OpenObject | None:
        """The object with that handle."""
        return self._objects.get(handle)

    def __getitem__(self, handle: bytes) -> OpenObject:
        return self._objects[handle]

    def __contains__(self, handle: bytes) -> bool:
        return handle in self._objects

    def __iter__(self) -> Iterator[OpenObject]:
        return iter(list(self._objects.values()))

    def __reversed__(self) -> Iterator[OpenObject]:
        return iter(list(reversed(self._objects.values())))

    def __len__(self) -> int:
        return len(self._objects)

    def owner_of(self, handle: bytes) -> bytes | None:
        """The trusted update that waits for an object."""
        return self._owner_of(handle)

    def put(self, entry: OpenObject) -> None:
        """Take an object up."""
        self._objects[entry.shape.handle] = entry
        self.open_bytes += entry.cost

    def remove(self, entry: OpenObject) -> None:
        """Let go of an object."""
        del self._objects[entry.shape.handle]
        self.open_bytes -= entry.cost

    def touch(self, entry: OpenObject) -> None:
        """Something came of it."""
        self._objects.move_to_end(entry.shape.handle)

    def make_room(self, shape: ObjectShape, *, may_push: bool = True) -> list[OpenObject] | str:
        """Say which objects have to give way for a new one, or why there is no room for it.

        Returns:
            The objects to remove, or "unsigned", "update" or "quota" for whose share is spent.
        """
        cost = object_cost(shape)
        owners = {handle: self._owner_of(handle) for handle in self._objects}
        leaving: dict[bytes, OpenObject] = {}
        for limit in self._limits(shape.handle, cost, owners):
            staying = [entry for entry in limit.entries if entry.shape.handle not in leaving]
            num_over = len(staying) + 1 - limit.num_max
            bytes_over = sum(entry.cost for entry in staying) + cost - limit.bytes_max
            for entry in self._who_gives_way(staying, owners, cost):
                if not may_push or (num_over <= 0 and bytes_over <= 0):
                    break
                leaving[entry.shape.handle] = entry
                num_over, bytes_over = num_over - 1, bytes_over - entry.cost
            if num_over > 0 or bytes_over > 0:
                return limit.cause
        return list(leaving.values())

    def _limits(self, handle: bytes, cost: int, owners: dict[bytes, bytes | None]) -> Iterable[_Limit]:
        entries = list(self._objects.values())
        if cost > SMALL_COST_MAX:
            large = [entry for entry in entries if entry.cost > SMALL_COST_MAX]
            owner = self._owner_of(handle)
            same = [entry for entry in large if owners[entry.shape.handle] == owner]
            num_max = max(1, self._num_max - self._num_max // _SMALL_SHARE)
            bytes_max = self._bytes_max - self._bytes_max // _SMALL_SHARE
            share = (1, 2) if owner is None else (3, 4)
            share_bytes = max(self._bytes_max * share[0] // share[1], _LARGEST_COST)
            share_num = max(1, self._num_max * share[0] // share[1])
            cause = "unsigned" if owner is None else "update"
            yield _Limit(cause, same, min(num_max, share_num), min(bytes_max, share_bytes))
            yield _Limit("quota", large, num_max, bytes_max)
        yield _Limit("quota", entries, self._num_max, self._bytes_max)

    def _who_gives_way(
        self, entries: list[OpenObject], owners: dict[bytes, bytes | None], cost: int
    ) -> list[OpenObject]:
        """Those that may be dropped, first to go first."""
        unsigned = [entry for entry in entries if owners[entry.shape.handle] is None and not entry.is_busy]
        is_crowd = 2 * sum(entry.cost <= SMALL_COST_MAX for entry in entries) > self._num_max
        is_small_first = is_crowd and cost <= SMALL_COST_MAX  # many small ones must not push out a large one

        def order(entry: OpenObject) -> tuple[bool, bool]:
            return is_small_first and entry.cost > SMALL_COST_MAX, entry.stage is ObjectStage.KEPT

        return sorted(unsigned, key=order)
