"""Home's side of the exchange: write orders for every station, take in what they brought. A shell.

Run by `skyload station sync --for`, and by whatever changes or shows what stations know. One process at a time, for
each satellite. Nothing here opens a socket: letters and files lie where stations can reach them.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import BlockProgress, CommandState, Station, Update
from groundsegment.errors import DiskError, GroundError
from groundsegment.stations.batches import top_up, wrapped
from groundsegment.stations.collecting import Collected, collect, last_logbook
from groundsegment.stations.copying import fetch_file
from groundsegment.stations.letters import LetterError, LetterKind
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.ordered_update import OrderedFile, OrderedUpdate
from groundsegment.stations.orders import (
    BLOCKS_LISTED_MAX,
    COMMANDS_MAX,
    UPDATES_MAX,
    Ended,
    Orders,
)
from groundsegment.stations.post import letter_path, make_directory, read_letter, write_letter
from groundsegment.stations.rotation import rotation_of
from protocol.command import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class StationExchange:
    """What came of one station.

    Attributes:
        station: which one.
        has_new_orders: whether its orders were written anew.
        collected: what its logbook said; None without a new one.
        problem: why its logbook was refused, or its orders could not be written; empty if all is well.
    """

    station: Station
    has_new_orders: bool = False
    collected: Collected | None = None
    problem: str = ""


def exchange(depot: Depot, satellite: str, *, utc: datetime, via: Path | None = None) -> tuple[StationExchange, ...]:
    """Take in all logbooks, then write all orders; what goes wrong at one station is told, and stops no other.

    Args:
        depot: the home depot.
        satellite: whose stations.
        utc: now.
        via: a directory that is carried to the stations; the depot itself if left out.

    Raises:
        BusyError: another process does the same.
        KeyStoreError: this is no home: the satellite's link key is not here.
    """
    depot.link_key(satellite)
    root = via or depot.path
    with depot.lock(f"exchange-{satellite}"):
        stations = depot.stations(satellite)
        results = [_collect(depot, station, root, utc) for station in stations]
        if via is not None and stations:
            _carry(depot, satellite, via)
        return tuple(_order(depot, result, root, utc) for result in results)


def exchange_if_free(depot: Depot, satellite: str, *, utc: datetime) -> None:
    """Exchange letters by the way, if there are stations: what goes wrong is for `skyload station sync` to tell."""
    if depot.stations(satellite):
        with contextlib.suppress(GroundError, OSError):
            exchange(depot, satellite, utc=utc)


def make_orders(depot: Depot, station: Station, *, utc: datetime) -> Orders:
    """Return what a station should know now; its serial number is not given yet."""
    notes, satellite = StationNotes(depot, station).read(), station.satellite
    last = last_logbook(depot, station)
    is_current = last is not None and last.instance == notes.instance
    rotation = rotation_of(depot, station)
    contact = last.contact if last is not None and is_current else 0
    if rotation is None or not rotation.is_open:  # else who stole it would be given more
        notes = top_up(depot, station, notes, contact, 0 if last is None else last.heard)
    flown = [entry for entry in depot.open_updates(satellite) if entry.lanes > station.id][:UPDATES_MAX]
    updates = tuple(_ordered(depot, entry) for entry in flown)
    report = depot.journal.last_report(satellite)
    handles = {handle for entry in updates for handle in _handles(entry)}
    on_board = depot.journal.on_board(satellite)
    queued = depot.journal.commands(satellite, CommandState.QUEUED)
    ended = [entry for entry in depot.updates(satellite) if not entry.state.is_open]
    ended.sort(key=lambda entry: entry.created_utc)
    return Orders(
        satellite=satellite,
        station=station.id,
        name=station.name,
        instance=notes.instance,
        serial=0,
        written_utc=utc,
        endpoint=notes.endpoint,
        contacts=notes.contacts,
        updates=updates,
        ended=tuple(
            Ended(handle=entry.handle, state=entry.state, reason=entry.reason) for entry in ended[-UPDATES_MAX:]
        ),
        on_board=tuple(
            BlockProgress(handle=handle, block=block, next_esi=0, have=have)
            for (handle, block), have in sorted(on_board.items())
            if handle in handles and have
        )[:BLOCKS_LISTED_MAX],
        on_board_utc=None if report is None else report.received_utc,
        batches=wrapped(depot, station, notes.batches),
        commands=tuple(entry for entry in queued if entry.operation != Operation.ASK)[:COMMANDS_MAX],
    )


def _collect(depot: Depot, station: Station, root: Path, utc: datetime) -> StationExchange:
    try:
        rotation_of(depot, station)  # the satellite may have said that its key is void
        data = read_letter(letter_path(root, station.satellite, station.name, LetterKind.LOGBOOK))
        collected = None if data is None else collect(depot, station, data, utc=utc)
        return StationExchange(station=station, collected=collected)
    except (LetterError, DiskError) as error:
        return StationExchange(station=station, problem=str(error))


def _order(depot: Depot, result: StationExchange, root: Path, utc: datetime) -> StationExchange:
    station = result.station
    path = letter_path(root, station.satellite, station.name, LetterKind.ORDERS)
    try:
        key = depot.letters_key(station.satellite, station.id)
        orders = make_orders(depot, station, utc=utc)
        if _says_the_same(path, key, orders):
            return result
        name = f"orders {station.satellite} {station.id}"
        # A depot that was restored from a backup must not number below what stations have seen.
        serial = depot.journal.allocate(name, above=int(utc.timestamp() * 1000))
        write_letter(path, replace(orders, serial=serial).seal(key))
        return replace(result, has_new_orders=True)
    except (GroundError, OSError) as error:
        return replace(result, problem="; ".join(filter(None, (result.problem, str(error)))))


def _says_the_same(path: Path, key: bytes, orders: Orders) -> bool:
    try:
        data = read_letter(path)
        there = None if data is None else Orders.open(data, key)
    except LetterError:
        return False
    return there is not None and replace(there, serial=0, written_utc=orders.written_utc).as_json() == orders.as_json()


def _ordered(depot: Depot, entry: Update) -> OrderedUpdate:
    """An update as a station may know it: named by its handle, for what it brings is none of a station's business."""
    metadata = entry.metadata_path.read_bytes()
    return OrderedUpdate(
        update=replace(entry, release_name=entry.handle.hex()),
        metadata=OrderedFile(
            path=_below(depot, entry.metadata_path),
            size_bytes=len(metadata),
            sha256=hashlib.sha256(metadata).digest(),
        ),
        bundles=tuple(replace(bundle, path=Path(_below(depot, bundle.path))) for bundle in depot.bundles(entry.handle)),
    )


def _below(depot: Depot, path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(depot.path))


def _handles(entry: OrderedUpdate) -> Iterable[bytes]:
    return (entry.update.handle, *(bundle.handle for bundle in entry.bundles))


def _carry(depot: Depot, satellite: str, via: Path) -> None:
    """Put what stations fetch into a directory that is carried there, and take out what flies no more."""
    for entry in depot.updates(satellite):
        directory = via / _below(depot, entry.directory)
        if not entry.state.is_open:
            shutil.rmtree(directory, ignore_errors=True)
            continue
        make_directory(directory)
        for file in _ordered(depot, entry).files():
            fetch_file(depot.path / file.path, via / file.path, size_bytes=file.size_bytes, sha256=file.sha256)
