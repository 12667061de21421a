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
_PUSHES_MAX, _PUSHES_PER_S = 64, 50.0
_SMALL_SHARE = 8  # one part in so many of the quota is for small objects alone
_LARGEST_COST = OBJECT_SIZE_MAX + SYMBOL_SIZE_MAX + BLOCK_SIZE_MAX

OwnerOf = Callable[[bytes], bytes | None]


@dataclass(slots=True)
class _Use:
    """What some objects take together."""

    num: int = 0
    num_bytes: int = 0

    def add(self, num: int, num_bytes: int) -> None:
        self.num, self.num_bytes = self.num + num, self.num_bytes + num_bytes


@dataclass(frozen=True, slots=True)
class _Limit:
    """What objects of a sort may take together, a newcomer included."""

    cause: str
    is_of: Callable[[OpenObject], bool]
    use: _Use
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
        self._bytes_max, self._num_max, self.owner_of = bytes_max, num_max, owner_of
        self._objects: OrderedDict[bytes, OpenObject] = OrderedDict()  # least recently active first
        self._uses: dict[tuple[bool, bytes | None], _Use] = {}  # by size (large?) and owner

    @property
    def open_bytes(self) -> int:
        """What all take of the quota."""
        return self._use().num_bytes

    def get(self, handle: bytes) -> OpenObject | None:
        """The object with that handle."""
        return self._objects.get(handle)

    def __getitem__(self, handle: bytes) -> OpenObject:
        return self._objects[handle]

    def __contains__(self, handle: bytes) -> bool:
        return handle in self._objects

    def __iter__(self) -> Iterator[OpenObject]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, entry: OpenObject) -> None:
        """Take an object up."""
        entry.owner = self.owner_of(entry.shape.handle)
        self._objects[entry.shape.handle] = entry
        self._count(entry, 1)

    def remove(self, entry: OpenObject) -> None:
        """Let go of an object."""
        del self._objects[entry.shape.handle]
        self._count(entry, -1)

    def touch(self, entry: OpenObject) -> None:
        """Something came of it."""
        self._objects.move_to_end(entry.shape.handle)

    def refresh_owners(self) -> None:
        """Updates have been accepted, or have ended."""
        for entry in self._objects.values():
            self._count(entry, -1)
            entry.owner = self.owner_of(entry.shape.handle)
            self._count(entry, 1)

    def make_room(self, shape: ObjectShape, *, may_push: bool = True) -> list[OpenObject] | str:
        """Say which objects have to give way for a new one, or why there is no room for it.

        Returns:
            The objects to remove, or "unsigned", "update" or "quota" for whose share is spent.
        """
        cost, owner = object_cost(shape), self.owner_of(shape.handle)
        leaving: list[OpenObject] = []
        for limit in self._limits(cost, owner):
            gone = [entry.cost for entry in leaving if limit.is_of(entry)]
            num_over = limit.use.num + 1 - len(gone) - limit.num_max
            bytes_over = limit.use.num_bytes + cost - sum(gone) - limit.bytes_max
            if num_over <= 0 and bytes_over <= 0:
                continue
            for entry in self._who_gives_way(limit, cost, leaving) if may_push else ():
                leaving.append(entry)
                num_over, bytes_over = num_over - 1, bytes_over - entry.cost
                if num_over <= 0 and bytes_over <= 0:
                    break
            else:
                return limit.cause
        return leaving

    def _limits(self, cost: int, owner: bytes | None) -> Iterable[_Limit]:
        if cost > SMALL_COST_MAX:
            num_max = max(1, self._num_max - self._num_max // _SMALL_SHARE)
            bytes_max = self._bytes_max - self._bytes_max // _SMALL_SHARE
            share = (1, 2) if owner is None else (3, 4)
            yield _Limit(
                "unsigned" if owner is None else "update",
                lambda entry: _is_large(entry) and entry.owner == owner,
                self._uses.get((True, owner), _Use()),
                min(num_max, max(1, self._num_max * share[0] // share[1])),
                min(bytes_max, max(self._bytes_max * share[0] // share[1], _LARGEST_COST)),
            )
            yield _Limit("quota", _is_large, self._use(is_large=True), num_max, bytes_max)
        yield _Limit("quota", lambda _: True, self._use(), self._num_max, self._bytes_max)

    def _who_gives_way(self, limit: _Limit, cost: int, leaving: list[OpenObject]) -> list[OpenObject]:
        """Those that may be dropped to keep a limit, first to go first."""
        unsigned = [entry for entry in self._objects.values() if entry.owner is None and not entry.is_busy]
        is_crowd = 2 * self._use(is_large=False).num > self._num_max
        is_small_first = is_crowd and cost <= SMALL_COST_MAX  # many small ones must not push out a large one

        def order(entry: OpenObject) -> tuple[bool, bool]:
            return is_small_first and _is_large(entry), entry.stage is ObjectStage.KEPT

        return sorted((entry for entry in unsigned if limit.is_of(entry) and entry not in leaving), key=order)

    def _use(self, *, is_large: bool | None = None) -> _Use:
        total = _Use()
        for (size, _), use in self._uses.items():
            if is_large in {None, size}:
                total.add(use.num, use.num_bytes)
        return total

    def _count(self, entry: OpenObject, sign: int) -> None:
        key = _is_large(entry), entry.owner
        use = self._uses.setdefault(key, _Use())
        use.add(sign, sign * entry.cost)
        if not use.num:
            del self._uses[key]


class PushAllowance:
    """How many objects may still give way to newcomers that no update waits for.

    A flood of new objects then costs no more than refusing them, and one whose symbols keep coming is never the oldest.
    """

    def __init__(self) -> None:
        self._num_left = float(_PUSHES_MAX)
        self._now: float | None = None

    @property
    def is_left(self) -> bool:
        """Whether one more may."""
        return self._num_left >= 1

    def spend(self) -> None:
        """One did."""
        self._num_left -= 1

    def note_time(self, now: float) -> None:
        """It is so late."""
        if self._now is not None:
            self._num_left = min(_PUSHES_MAX, self._num_left + (now - self._now) * _PUSHES_PER_S)
        self._now = now


def _is_large(entry: OpenObject) -> bool:
    return entry.cost > SMALL_COST_MAX
