"""Write a station's logbook: all that home should know, from the station's own depot. A shell."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.letters import LetterError, LetterKind
from groundsegment.stations.logbook import (
    BLOCKS_LISTED_MAX,
    CLAIMS_MAX,
    CONTACTS_MAX,
    MESSAGES_MAX,
    Claim,
    HeardReport,
    Logbook,
    Loss,
)
from groundsegment.stations.post import letter_path, read_letter, write_letter
from protocol.link_keys import Direction


def write_logbook(directory: StationDirectory, root: Path, *, orders: int, is_complete: bool, utc: datetime) -> bool:
    """Bring the logbook home; returns whether there is a new one.

    Args:
        directory: the station's.
        root: where home, or whoever carries it there, finds it.
        orders: serial of the orders that are followed.
        is_complete: whether all that is ordered can fly.
        utc: now.

    Raises:
        DiskError: it cannot be written there.
    """
    identity = directory.identity
    logbook = replace(make_logbook(directory, utc=utc), orders=orders, is_complete=is_complete)
    path = letter_path(root, identity.satellite, identity.name, LetterKind.LOGBOOK)
    last, data = _last(directory)
    if last is None or replace(last, serial=0, written_utc=utc).as_json() != logbook.as_json():
        # A directory that was restored from a backup must not number below what home has seen.
        serial = max(int(utc.timestamp() * 1000), 0 if last is None else last.serial + 1)
        data = replace(logbook, serial=serial).seal(directory.key)
        write_letter(directory.logbook_path, data)
    assert data is not None
    if _is_there(path, data):
        return False
    write_letter(path, data)
    return True


def make_logbook(directory: StationDirectory, *, utc: datetime) -> Logbook:
    """Return what the station knows; its serial number is not given yet."""
    depot, identity = directory.depot, directory.identity
    satellite, journal = identity.satellite, depot.journal
    contacts = [entry for entry in journal.contacts(satellite) if entry.station_id == identity.id]
    signed = [entry.data for entry in journal.messages(satellite, newest=MESSAGES_MAX) if entry.data]
    flown = [entry for entry in depot.updates(satellite) if entry.state is not FlightState.STAGED]
    flown.sort(key=lambda entry: entry.created_utc)
    handles = {handle for entry in depot.open_updates(satellite) for handle in _handles(depot, entry.handle)}
    progress = journal.progress(satellite, station=identity.id)
    return Logbook(
        satellite=satellite,
        station=identity.id,
        instance=identity.instance,
        serial=0,
        orders=0,
        written_utc=utc,
        progress=tuple(entry for entry in progress if entry.handle in handles)[:BLOCKS_LISTED_MAX],
        report=_report(depot, satellite, identity.id),
        messages=tuple(signed),
        contacts=tuple(replace(entry, id=0, station="") for entry in contacts[-CONTACTS_MAX:]),
        contact=depot.contact(satellite, identity.id),
        heard=depot.contact_heard(satellite, identity.id),
        claims=tuple(
            Claim(handle=entry.handle, state=entry.state, reason=entry.reason) for entry in flown[-CLAIMS_MAX:]
        ),
        losses=tuple(
            Loss(direction=direction, state=state)
            for direction in Direction
            if (state := journal.loss(satellite, identity.id, direction)) is not None
        ),
    )


def _handles(depot: Depot, update: bytes) -> list[bytes]:
    return [update, *(bundle.handle for bundle in depot.bundles(update))]


def _report(depot: Depot, satellite: str, station: int) -> HeardReport | None:
    heard = depot.journal.last_report(satellite)
    if heard is None or heard.station_id != station:
        return None
    return HeardReport(
        session=heard.session,
        sequence=heard.sequence,
        received_utc=heard.received_utc,
        data=heard.report.encode(),
    )


def _last(directory: StationDirectory) -> tuple[Logbook | None, bytes | None]:
    try:
        data = read_letter(directory.logbook_path)
        return (None, None) if data is None else (Logbook.open(data, directory.key), data)
    except LetterError:
        return None, None


def _is_there(path: Path, data: bytes) -> bool:
    try:
        return read_letter(path) == data
    except LetterError:
        return False
