"""The station's side of the exchange: follow new orders, fetch what they name, write home. A shell.

Run between contacts, or whenever home can be reached; a station that was offline for days catches up with one call.
An update flies once all of its files are here and checked, and never half of one. What cannot be reached, or is not
what it should be, is told and tried again next time: the station flies on with what it has.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from groundsegment.depot.records import CommandState, FlightState, Update
from groundsegment.errors import DiskError, KeyStoreError, UnknownError
from groundsegment.stations.batches import keep_batches
from groundsegment.stations.copying import fetch_file
from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.letters import LetterError, LetterKind
from groundsegment.stations.ordered_update import OrderedUpdate
from groundsegment.stations.orders import Orders
from groundsegment.stations.post import letter_path, read_letter, write_letter
from groundsegment.stations.writing import write_logbook
from protocol.errors import VerificationError

_NOT_ORDERED = "home does not order it any more"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOutcome:
    """What came of one sync.

    Attributes:
        has_new_orders: there were some.
        updates_added: that can fly now and could not before.
        updates_ended: that fly no more.
        is_complete: all that is ordered can fly.
        has_written: home finds a new logbook.
        problems: what went wrong, one line each.
    """

    has_new_orders: bool
    updates_added: int
    updates_ended: int
    is_complete: bool
    has_written: bool
    problems: tuple[str, ...]


def sync_station(
    directory: StationDirectory, root: Path, *, utc: datetime, should_stop: Callable[[], bool] = lambda: False
) -> SyncOutcome:
    """Exchange letters and files with home.

    Args:
        directory: the station's.
        root: the home depot, or a directory that is kept alike.
        utc: now.
        should_stop: asked between steps of a copy: a contact begins. The next sync goes on there.

    Raises:
        InputError: this directory must not fly any more.
        BusyError: another process syncs it.
    """
    with directory.lock():
        return _Sync(directory, root, utc, should_stop).run()


class _Sync:
    def __init__(self, directory: StationDirectory, root: Path, utc: datetime, should_stop: Callable[[], bool]) -> None:
        self._directory, self._depot, self._root = directory, directory.depot, root
        self._satellite, self._station = directory.identity.satellite, directory.identity.id
        self._utc, self._should_stop = utc, should_stop
        self._problems: list[str] = []
        self._added = self._ended = 0

    def run(self) -> SyncOutcome:
        has_new_orders, has_written, is_complete = False, False, False
        with self._telling():
            has_new_orders = self._fetch_orders()
        orders = self._directory.orders()
        if orders is not None:
            self._end_updates(orders)
            with self._telling():
                self._take_commands(orders)
                self._take_batches(orders)
            fetched = [self._fetch_update(entry) for entry in orders.updates]
            is_complete = all(fetched)
            self._take_on_board(orders)
            self._clean(orders)
        with self._telling():
            serial = 0 if orders is None else orders.serial
            has_written = write_logbook(
                self._directory, self._root, orders=serial, is_complete=is_complete, utc=self._utc
            )
        return SyncOutcome(
            has_new_orders=has_new_orders,
            updates_added=self._added,
            updates_ended=self._ended,
            is_complete=is_complete,
            has_written=has_written,
            problems=tuple(self._problems),
        )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What goes wrong in here is told, and the rest goes on."""
        try:
            yield
        except (LetterError, DiskError) as error:
            self._problems.append(str(error))
        except OSError as error:
            self._problems.append(f"{error.filename or self._root}: {error.strerror or error}")

    # Orders

    def _fetch_orders(self) -> bool:
        identity = self._directory.identity
        path = letter_path(self._root, identity.satellite, identity.name, LetterKind.ORDERS)
        data = read_letter(path)
        if data is None:
            where = "no orders there yet" if self._root.is_dir() else "home cannot be reached"
            raise LetterError(f"{path}: {where}")
        orders = Orders.open(data, self._directory.key)
        if (orders.satellite, orders.station, orders.name) != (identity.satellite, identity.id, identity.name):
            raise LetterError(f"{path}: for station {orders.station} of {orders.satellite}")
        known = self._directory.orders()
        if known is not None and orders.serial < known.serial:
            raise LetterError(f"{path}: older than the orders here ({orders.written_utc:%Y-%m-%d %H:%M} UTC)")
        if known is not None and orders.serial == known.serial:
            return False
        write_letter(self._directory.orders_path, data)
        return True

    def _end_updates(self, orders: Orders) -> None:
        """What home has ended, or does not order any more, must not fly."""
        ordered = {entry.update.handle for entry in orders.updates}
        ended = {entry.handle: entry for entry in orders.ended}
        for update in self._depot.open_updates(self._satellite):
            if update.handle not in ordered:
                end = ended.get(update.handle)
                state, reason = (FlightState.CANCELLED, _NOT_ORDERED) if end is None else (end.state, end.reason)
                self._depot.set_update_state(update.handle, state, reason=reason)
                self._ended += 1

    def _take_commands(self, orders: Orders) -> None:
        journal = self._depot.journal
        known = {entry.handle: entry for entry in journal.commands(self._satellite)}
        ordered = {entry.handle for entry in orders.commands}
        for entry in orders.commands:
            if entry.handle not in known:
                journal.add_command(replace(entry, satellite=self._satellite))
        for handle, entry in known.items():
            if entry.state is CommandState.QUEUED and handle not in ordered:
                journal.set_command_state(handle, CommandState.DROPPED)

    def _take_batches(self, orders: Orders) -> None:
        try:
            keep_batches(self._depot, self._satellite, self._station, self._directory.key, orders.batches)
        except (VerificationError, KeyStoreError) as error:
            raise LetterError(str(error)) from error

    # Updates

    def _fetch_update(self, entry: OrderedUpdate) -> bool:
        """Fetch what is missing of an update, and let it fly; returns whether all of it is here."""
        update = self._known(entry)
        if update is None:
            with self._telling():
                if self._fetch_files(entry):
                    self._add_update(entry)
            return self._known(entry) is not None
        ordered = entry.update
        if (update.priority, update.weight) != (ordered.priority, ordered.weight):
            self._depot.set_update_share(update.handle, priority=ordered.priority, weight=ordered.weight)
        return True

    def _known(self, entry: OrderedUpdate) -> Update | None:
        try:
            return self._depot.update(entry.update.handle)
        except UnknownError:
            return None

    def _fetch_files(self, entry: OrderedUpdate) -> bool:
        directory = self._place(entry)
        directory.mkdir(parents=True, exist_ok=True)
        for file in entry.files():
            is_there = fetch_file(
                self._root / file.path,
                directory / file.path.name,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                should_stop=self._should_stop,
            )
            if not is_there:
                if not self._should_stop():
                    self._problems.append(f"{self._root / file.path}: not there, or not all of it yet")
                return False
        return True

    def _add_update(self, entry: OrderedUpdate) -> None:
        directory = self._place(entry)
        update = replace(entry.update, satellite=self._satellite, directory=directory)
        if update.metadata_path.name != entry.metadata.path.name:
            raise LetterError(f"{entry.metadata.path}: a metadata file is called {update.metadata_path.name}")
        self._depot.add_update(update, [replace(bundle, path=directory / bundle.path.name) for bundle in entry.bundles])
        self._added += 1

    def _place(self, entry: OrderedUpdate) -> Path:
        return self._depot.updates_path / entry.update.handle.hex()

    def _take_on_board(self, orders: Orders) -> None:
        """What others brought on board need not be sent, as far as home knows more than we heard ourselves."""
        journal = self._depot.journal
        heard = journal.last_report(self._satellite)
        if orders.on_board_utc is None or (heard is not None and heard.received_utc >= orders.on_board_utc):
            return
        known = {
            (entry.handle, entry.block): entry for entry in journal.progress(self._satellite, station=self._station)
        }
        told = []
        for entry in orders.on_board:
            own = known.get((entry.handle, entry.block), replace(entry, have=0))
            if own.have != entry.have:
                told.append(replace(own, have=entry.have))
        journal.save_progress(self._satellite, told, station=self._station)

    def _clean(self, orders: Orders) -> None:
        """Drop the files of what flies no more, and halves of what was never finished."""
        kept = {entry.update.handle.hex() for entry in orders.updates}
        kept |= {entry.handle.hex() for entry in self._depot.open_updates(self._satellite)}
        for path in self._depot.updates_path.glob("*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
