"""Small objects in memory, both ways: commands and acknowledgements up, answers and receipts down.

`Outbox` sends each object until the other end reports it complete; `Inbox` collects symbols of small objects and
solves them. Both are bounded, take `now`, and know no socket. Large objects (bundles) go another way: they are
logged to disk symbol by symbol.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.blocks import block_layout, symbols_needed
from protocol.errors import ProtocolError
from protocol.fec import BlockEncoder, best_kind, can_solve, solve
from protocol.frame import Frame, FrameKind
from protocol.limits import MESSAGE_SIZE_MAX, SYMBOL_ALIGNMENT, SYMBOL_SIZE_DEFAULT
from protocol.objects import object_handle, strip_padding

_OPEN_MAX = 64  # objects being collected at once
_COMPLETE_MAX = 64  # handles remembered as complete
_REPAIR_SHARE = 4  # one repair symbol for so many source symbols in the first round
_BACKOFF = 1.6
_BACKOFF_S_MAX = 60.0


@dataclass(slots=True)
class _Outgoing:
    data: bytes
    symbol_size: int
    num_symbols: int
    next_esi: int = 0
    due: float = 0.0
    pause_s: float = 0.0


class Outbox:
    """Sends small objects until they are reported complete.

    Args:
        retry_s: pause after the first round of an object; it grows by 1.6 up to a minute.
        length_max: the oldest object is dropped when one more comes.
    """

    def __init__(self, *, retry_s: float, length_max: int = 64) -> None:
        self._retry_s, self._length_max = retry_s, length_max
        self._objects: OrderedDict[bytes, _Outgoing] = OrderedDict()

    def put(self, data: bytes, now: float) -> bytes:
        """Queue an object of at most 64 KiB; returns its handle."""
        assert len(data) <= MESSAGE_SIZE_MAX
        handle = object_handle(data)
        if handle in self._objects:
            self._objects[handle].due = now
            return handle
        size = min(SYMBOL_SIZE_DEFAULT, -(-len(data) // SYMBOL_ALIGNMENT) * SYMBOL_ALIGNMENT)
        num_symbols = symbols_needed(len(data), size)
        self._objects[handle] = _Outgoing(data, size, num_symbols, due=now, pause_s=self._retry_s)
        while len(self._objects) > self._length_max:
            self.drop(next(iter(self._objects)))
        return handle

    def drop(self, handle: bytes) -> None:
        """Send an object no more."""
        self._objects.pop(handle, None)

    def _in_turn(self) -> Iterable[bytes]:
        """Handles in the order in which what is due is sent: the oldest first."""
        return self._objects

    def acknowledge(self, handle: bytes) -> None:
        """The other end has it: stop sending."""
        self.drop(handle)

    def frames_to_send(self, now: float) -> list[Frame]:
        """Frames of all objects that are due."""
        frames: list[Frame] = []
        for handle in self._in_turn():
            entry = self._objects[handle]
            if entry.due <= now:
                frames += _round(handle, entry)
                entry.due = now + entry.pause_s
                entry.pause_s = min(entry.pause_s * _BACKOFF, _BACKOFF_S_MAX)
        return frames

    def hurry(self, now: float) -> None:
        """The other end is heard again after a silence: all is due now, and pauses start over."""
        for entry in self._objects.values():
            entry.due, entry.pause_s = now, self._retry_s

    def next_deadline(self) -> float | None:
        """When something is due next."""
        return min((entry.due for entry in self._objects.values()), default=None)

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, handle: bytes) -> bool:
        return handle in self._objects


def _round(handle: bytes, entry: _Outgoing) -> list[Frame]:
    count = entry.num_symbols + 1 + entry.num_symbols // _REPAIR_SHARE
    padded = entry.data.ljust(entry.num_symbols * entry.symbol_size, b"\0")
    kind = best_kind()
    if entry.next_esi > 8 * entry.num_symbols + 64:
        entry.next_esi = 0  # start over: making symbols costs more the further the ESI
    symbols = BlockEncoder(kind, padded, entry.symbol_size).symbols(entry.next_esi, count)
    first = entry.next_esi
    entry.next_esi += count
    return [
        Frame(kind=kind, handle=handle, num_symbols=entry.num_symbols, block=0, esi=first + i, payload=symbol)
        for i, symbol in enumerate(symbols)
    ]


@dataclass(slots=True)
class _Incoming:
    kind: FrameKind
    num_symbols: int
    symbol_size: int
    symbols: dict[int, bytes] = field(default_factory=dict)


class Inbox:
    """Collects and solves small objects; the oldest unfinished one gives way when there are too many."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, _Incoming] = OrderedDict()
        self._complete: OrderedDict[bytes, None] = OrderedDict()
        self.num_refused = 0

    def receive(self, frame: Frame) -> bytes | None:
        """Take an authentic symbol frame; returns the whole object when this symbol completed it.

        Frames of large or impossible objects are counted and dropped.
        """
        if frame.handle in self._complete:
            return None
        size = len(frame.payload)
        entry = self._open.get(frame.handle)
        if entry is None:
            entry = self._admit(frame, size)
        if entry is None or (entry.kind, entry.num_symbols, entry.symbol_size) != (
            frame.kind,
            frame.num_symbols,
            size,
        ):
            self.num_refused += 1
            return None
        entry.symbols.setdefault(frame.esi, frame.payload)
        if len(entry.symbols) < entry.num_symbols:
            return None
        return self._finish(frame.handle, entry)

    def complete(self) -> tuple[bytes, ...]:
        """Handles of the newest complete objects, newest first: for the next report."""
        return tuple(reversed(self._complete))

    def _admit(self, frame: Frame, size: int) -> _Incoming | None:
        if not can_solve(frame.kind) or frame.block or frame.num_symbols * size > MESSAGE_SIZE_MAX + size:
            return None
        try:
            block_layout(frame.num_symbols, size)
        except ProtocolError:
            return None
        entry = _Incoming(frame.kind, frame.num_symbols, size)
        self._open[frame.handle] = entry
        while len(self._open) > _OPEN_MAX:
            self._open.popitem(last=False)
        return entry

    def _finish(self, handle: bytes, entry: _Incoming) -> bytes | None:
        try:
            padded = solve(entry.kind, entry.num_symbols, entry.symbol_size, entry.symbols)
            if padded is None:
                return None
            _, data = strip_padding(padded, handle)
        except ProtocolError:
            self._open.pop(handle, None)  # poisoned: thrown away once, collected again
            self.num_refused += 1
            return None
        self._open.pop(handle, None)
        self._complete[handle] = None
        while len(self._complete) > _COMPLETE_MAX:
            self._complete.popitem(last=False)
        return data
