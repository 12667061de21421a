"""Whoever owns the receiver, in a simulation: takes updates apart as far as the link can see it, and installs nothing.

The metadata of a simulated update is its list of bundles: `SKM1` prefix, number of bundles (4, big-endian), their
handles, then filling up to the size of real metadata. What was consumed survives a power cut, as with the real trust
record. It does not check trust, and never rejects.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onboard.receiver.status import ReportStatus, Verdict
from protocol.errors import DecodeError
from protocol.frame import HANDLE_SIZE
from protocol.objects import PREFIX_SIZE, ObjectKind
from protocol.report import UPDATES_MAX, UpdateState, UpdateStatus

_COUNT_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """An object that was consumed.

    Attributes:
        handle: of the object.
        sha256: of its bytes, as read back.
        size_bytes: of the object.
        at_s: virtual time.
    """

    handle: bytes
    sha256: bytes
    size_bytes: int
    at_s: float


@dataclass(slots=True)
class _Update:
    handle: bytes
    bundles: tuple[bytes, ...]
    missing: set[bytes] = field(default_factory=set)
    confirmed_s: float = 0.0
    state: UpdateState = UpdateState.RECEIVING


class SimulatedOwner:
    """See the module.

    Attributes:
        arrivals: all objects consumed, in order.
        boot_count: starts so far.
        num_whole: updates of which everything is there.
    """

    def __init__(self, install_s: float) -> None:
        """`install_s` passes from the last bundle to CONFIRMED."""
        self._install_s = install_s
        self._updates: dict[bytes, _Update] = {}  # oldest first
        self._consumed: set[bytes] = set()
        self.arrivals: list[Arrival] = []
        self.boot_count = 1
        self.num_whole = 0

    def is_complete(self, handle: bytes) -> bool:
        """See `ObjectSink`."""
        return handle in self._consumed

    def is_wanted(self, handle: bytes) -> bool:
        """Whether a known update waits for it."""
        return any(handle in update.missing for update in self._updates.values())

    def judge(self, handle: bytes, kind: ObjectKind, path: Path, sha256: bytes, now: float) -> Verdict:
        """Take a whole object."""
        if handle in self._consumed:
            return Verdict.CONSUMED
        if kind is ObjectKind.METADATA:
            try:
                bundles = tuple(_bundles_of(path.read_bytes()))
            except DecodeError:
                return Verdict.REFUSED
            self._updates[handle] = _Update(handle, bundles, set(bundles) - self._consumed)
        elif not self.is_wanted(handle):
            return Verdict.KEPT
        self._consumed.add(handle)
        self.arrivals.append(Arrival(handle=handle, sha256=sha256, size_bytes=path.stat().st_size, at_s=now))
        for update in self._updates.values():
            update.missing.discard(handle)
            if not update.missing and update.state is UpdateState.RECEIVING:
                update.state, update.confirmed_s = UpdateState.VERIFIED, now + self._install_s
                self.num_whole += 1
        return Verdict.CONSUMED

    def next_deadline(self) -> float | None:
        """When an update that is there will be confirmed."""
        return min(
            (update.confirmed_s for update in self._updates.values() if update.state is UpdateState.VERIFIED),
            default=None,
        )

    def advance(self, now: float) -> bool:
        """Confirm what is due; whether anything changed."""
        due = [
            update
            for update in self._updates.values()
            if update.state is UpdateState.VERIFIED and update.confirmed_s <= now
        ]
        for update in due:
            update.state = UpdateState.CONFIRMED
        return bool(due)

    def report_status(self) -> ReportStatus:
        """See `StatusSource`: newest first, what is still open before what is decided."""
        newest = list(reversed(self._updates.values()))
        newest.sort(key=lambda update: update.state is UpdateState.CONFIRMED)
        return ReportStatus(
            updates=tuple(
                UpdateStatus(handle=update.handle, state=update.state, bundle_ranges=tuple(self._ranges(update)))
                for update in newest[:UPDATES_MAX]
            ),
            accepted=len(self._updates),
            boot_count=self.boot_count,
            free_mib=1024,
        )

    def confirmed(self) -> list[bytes]:
        """Handles of the updates that are done."""
        return [update.handle for update in self._updates.values() if update.state is UpdateState.CONFIRMED]

    def _ranges(self, update: _Update) -> Iterator[tuple[int, int]]:
        if update.state is not UpdateState.RECEIVING:
            return
        first: int | None = None
        for number, handle in enumerate((*update.bundles, b"")):
            is_there = handle in self._consumed
            if is_there and first is None:
                first = number
            elif not is_there and first is not None:
                yield first, number - 1
                first = None


def _bundles_of(metadata: bytes) -> Iterator[bytes]:
    start = PREFIX_SIZE + _COUNT_SIZE
    count = int.from_bytes(metadata[PREFIX_SIZE:start], "big")
    if len(metadata) < start + count * HANDLE_SIZE:
        raise DecodeError(f"simulated metadata: {count} bundles do not fit {len(metadata)} bytes")
    for number in range(count):
        yield metadata[start + number * HANDLE_SIZE :][:HANDLE_SIZE]
