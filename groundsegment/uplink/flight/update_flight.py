"""One update on its way up: its objects, its files, and where it stands in the depot.

Between the pure core and the depot; `flights` holds all of them. It knows neither sockets nor the display.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, FlightState, Update
from groundsegment.errors import DiskError
from groundsegment.uplink.flight.outcome import FLIGHT_STATES, Receipt, settle
from groundsegment.uplink.sender.cargo import OutgoingObject, Progress
from groundsegment.uplink.sender.completion import SentBlock, probability_complete
from groundsegment.uplink.sender.core import Uplink, UplinkStatistics
from groundsegment.uplink.sender.events import AllBundlesComplete, Event, StateChanged
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.loss import LossEstimate
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.symbols import ObjectFile
from protocol.blocks import symbols_needed
from protocol.report import Reason, Report, UpdateState

_STUCK = {Reason.BASE_MISSING, Reason.BASE_DAMAGED}  # nothing that is sent of this update will help
_HINT = "restore the depot from a backup, or stage the update again"
_READ_BYTES = 1 << 20
CANCELLED_HERE = "cancelled by the operator"  # the reason in the depot


class UpdateFlight:
    """One update of one station's run."""

    def __init__(self, depot: Depot, update: Update, core: Uplink, lane: Lane) -> None:
        """Look at its files; nothing is sent yet.

        Raises:
            DiskError: a file of it is missing or not what was staged.
        """
        self.update, self._depot, self._core, self._lane = update, depot, core, lane
        self.files = {file.item.handle: file for file in _object_files(depot, update)}
        self._digests = {bundle.handle: bundle.sha256 for bundle in depot.bundles(update.handle)}
        _check_digest(update.metadata_path, update.handle)
        self._checked = {update.handle}
        self.receipt: Receipt | None = None
        self.is_superseded = self.was_decided = False
        self.decided_s: float | None = None
        self._share_before = self._share_last = 0.0
        self._last: UplinkStatistics | None = None

    # In and out of the core

    def join(self, progress: Iterable[BlockProgress], now: float) -> None:
        """Be sent from now on."""
        kept = [
            Progress(handle=entry.handle, block=entry.block, next_esi=entry.next_esi, have=entry.have)
            for entry in progress
            if entry.handle in self.files
        ]
        items = [file.item for file in self.files.values()]
        # The core counts symbols, and shares are of bytes.
        priority, weight = self.update.priority, self.update.weight / self.update.symbol_size
        self._core.add_update(items, kept, priority=priority, weight=weight, lane=self._lane, now=now)
        self._share_before = self._share_last = self._core.share_there(self.update.handle)

    def leave(self, now: float) -> None:
        """Be sent no more; its progress was written down."""
        self._share_last = self._core.share_there(self.update.handle)
        self._last = self._core.statistics(now, self.update.handle)
        self.was_decided = self.is_over
        self._core.remove_update(self.update.handle)

    @property
    def is_joined(self) -> bool:
        """Whether the core sends it."""
        return self.update.handle in self._core.updates

    def check(self, handle: bytes) -> None:
        """Compare an object's bytes with what was staged, before its first symbol leaves.

        Raises:
            DiskError: it is damaged.
        """
        if handle not in self._checked:
            _check_digest(self.files[handle].path, self._digests[handle])
            self._checked.add(handle)

    def is_checked(self, handle: bytes) -> bool:
        """Whether that was done."""
        return handle in self._checked

    # Where it stands

    def statistics(self, now: float) -> UplinkStatistics | None:
        """A snapshot, or the last one before it left; None if it never joined."""
        return self._core.statistics(now, self.update.handle) if self.is_joined else self._last

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come of sending."""
        final = self.receipt is not None and self.receipt.flight_state is not None
        if not self.is_joined:
            return self.was_decided or final
        decided = self._core.state(self.update.handle) in _DECIDED
        return decided or self.is_held or self.is_superseded or final or not self.update.state.is_open

    @property
    def is_held(self) -> bool:
        """Whether all of it is on board and verified, and its trial waits to be activated."""
        return is_held(self.update)

    @property
    def is_cancelled_here(self) -> bool:
        """Whether the operator ended it, so that no receipt need come."""
        return self.update.state is FlightState.CANCELLED and self.update.reason.startswith(CANCELLED_HERE)

    @property
    def is_stuck(self) -> bool:
        """Whether it stands still for good, so that a newer update is the cure."""
        if not self.is_joined or self._core.state(self.update.handle) is not UpdateState.BLOCKED:
            return False
        return self._core.reason(self.update.handle) in _STUCK

    @property
    def share_brought(self) -> float:
        """How much of it has come on board since we began, as reports say."""
        share = self._core.share_there(self.update.handle) if self.is_joined else self._share_last
        return max(0.0, share - self._share_before)

    def mark_flying(self, runs: Iterable[SymbolRun]) -> None:
        """These symbols are sent. If bundles of ours are, they are not all on board, whatever was said before."""
        ours = [self.files[run.handle] for run in runs if run.handle in self.files]
        sends_bundles = any(file.item.bundle is not None for file in ours)
        state = self.update.state
        if ours and (state is FlightState.STAGED or (state is FlightState.COMPLETE and sends_bundles)):
            self._set_state(FlightState.FLYING)

    def heard(self, report: Report, newer: Sequence[Update]) -> None:
        """See whether a newer update has ended this one.

        Args:
            report: what was heard.
            newer: all updates of the satellite that are newer, decided or not.
        """
        if self.is_superseded or report.accepted <= self.update.sequence or report.is_full:
            return
        if report.status_of(self.update.handle) is not None:
            return
        accepted = next((entry for entry in newer if entry.sequence == report.accepted), None)
        if accepted is None or not accepted.beside or any(_is_in_force(entry, report) for entry in newer):
            words = f"superseded: the satellite has accepted update {report.accepted} already"
            self._set_state(FlightState.CANCELLED, words)
            self.is_superseded = True

    def record(self, event: Event) -> None:
        """Keep what an event says of the update."""
        if isinstance(event, AllBundlesComplete) and self.update.state is FlightState.FLYING:
            self._set_state(FlightState.COMPLETE)
        elif isinstance(event, StateChanged):
            state = FLIGHT_STATES.get(event.state)
            reason = event.reason.name if event.reason else ""
            if state is not None:
                self._set_state(state, reason)
            elif event.state in {UpdateState.BLOCKED, UpdateState.RECEIVING}:
                self._set_state(self.update.state, reason)

    def take_receipt(self, receipt: Receipt) -> None:
        """Record how it ended, as the satellite signed it."""
        self.receipt = receipt
        self.update = settle(self._depot, receipt) or self.update

    def look(self, update: Update) -> None:
        """Take over what another process has written: it is cancelled, or confirmed through another station."""
        self.update = update

    def probability_complete(self, loss: LossEstimate) -> float:
        """How probable it is that all of it is on board, by what all stations of this depot have sent."""
        satellite, journal = self.update.satellite, self._depot.journal
        there = journal.on_board(satellite)
        sent: dict[tuple[bytes, int], int] = {}
        for index in range(self.update.lanes):
            lane = Lane(index=index, count=self.update.lanes)
            for entry in journal.progress(satellite, station=index):
                key = entry.handle, entry.block
                sent[key] = sent.get(key, 0) + lane.num_below(entry.next_esi)
        blocks = []
        for file in self.files.values():
            layout = file.item.layout
            for number in range(layout.num_blocks):
                key, num_source = (file.item.handle, number), layout.symbols_of(number)
                have = there.get(key, 0)
                unknown = max(0, sent.get(key, 0) - round(have / (1 - loss.mean)))
                blocks.append(SentBlock(num_source=num_source, have=have, sent=unknown))
        return probability_complete(blocks, loss)

    def _set_state(self, state: FlightState, reason: str = "") -> None:
        if not self.update.state.is_open and state.is_open:
            return  # cancelled here, and the satellite does not know yet
        if (self.update.state, self.update.reason) != (state, reason):
            self.update = self._depot.set_update_state(self.update.handle, state, reason=reason)


def is_held(update: Update) -> bool:
    """Whether an update waits on board, verified, to be activated: there is nothing to send of it."""
    return update.state is FlightState.COMPLETE and update.reason == Reason.HELD.name


_DECIDED = {UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED}


def _is_in_force(update: Update, report: Report) -> bool:
    """Whether an update that ends older ones is known to have been accepted."""
    return not update.beside and (update.sequence == report.accepted or report.status_of(update.handle) is not None)


def _object_files(depot: Depot, update: Update) -> list[ObjectFile]:
    result = []
    entries: list[tuple[bytes, Path, int | None, int | None]] = [(update.handle, update.metadata_path, None, None)]
    entries += [(entry.handle, entry.path, entry.size_bytes, entry.number) for entry in depot.bundles(update.handle)]
    for handle, path, expected, number in entries:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DiskError(f"{path}: {error.strerror or error}", hint=_HINT) from error
        if size == 0 or (expected is not None and size != expected):
            raise DiskError(f"{path}: {size} bytes, the depot says {expected}", hint=_HINT)
        num_symbols = symbols_needed(size, update.symbol_size)
        item = OutgoingObject(handle=handle, num_symbols=num_symbols, symbol_size=update.symbol_size, bundle=number)
        result.append(ObjectFile(item=item, path=path))
    return result


def _check_digest(path: Path, expected: bytes) -> None:
    """Compare a file's SHA-256, or the start of it, with what was staged: a satellite would collect it for ever."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                digest.update(data)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}", hint=_HINT) from error
    if not digest.digest().startswith(expected):
        raise DiskError(f"{path}: damaged, it is no longer what was staged", hint=_HINT)
