"""Take in a station's logbook. All of it is hostile until checked: whoever stole the station can write one. A shell.

Believed, for they only cost efficiency if they are lies, and are dropped with the station:
    how far its own lane is, what it says is on board, its newest report, contacts and losses, that an update flies.
Believed only because the satellite signed it:
    messages, and with a receipt what an update came to.
Not believed: that an update is confirmed, rejected or cancelled; a report that tells of more than home ever ordered.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import (
    BlockProgress,
    ContactLog,
    FlightState,
    ReceivedReport,
    Station,
)
from groundsegment.stations.letters import LetterError
from groundsegment.stations.logbook import Claim, Logbook
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.post import write_letter
from groundsegment.stations.receipts import keep_message
from groundsegment.uplink.wire.numbers import is_behind
from protocol.blocks import BlockLayout, block_layout, symbols_needed
from protocol.errors import ProtocolError
from protocol.report import SOLVED, Report

_SPARE_SYMBOLS = 1000  # an honest block is solved long before
_CONTACTS_KEPT_MAX = 20_000  # of one station: a dozen passes a day for four years
_SESSIONS_KEPT_MAX = 1000  # of one station: each is a start of the satellite's daemon


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a logbook brought.

    Attributes:
        logbook: what it says.
        messages: new ones, verified.
        contacts: new ones, or changed.
        refused: entries that were not believed.
    """

    logbook: Logbook
    messages: int
    contacts: int
    refused: int


def last_logbook(depot: Depot, station: Station) -> Logbook | None:
    """The last one that was taken in."""
    try:
        data = StationNotes(depot, station).logbook_path.read_bytes()
        return Logbook.open(data, depot.letters_key(station.satellite, station.id))
    except (FileNotFoundError, LetterError):
        return None


def collect(depot: Depot, station: Station, data: bytes, *, utc: datetime) -> Collected | None:
    """Take in a logbook; None if it was taken in before.

    Raises:
        LetterError: it is none, not of this station, or of a directory that must not fly any more.
    """
    notes = StationNotes(depot, station)
    if _is_kept(notes, data):
        return None  # the usual case, told without reading it
    logbook = Logbook.open(data, depot.letters_key(station.satellite, station.id))
    if (logbook.satellite, logbook.station) != (station.satellite, station.id):
        raise LetterError(f"logbook of station {logbook.station} of {logbook.satellite}, not of {station.name}")
    if logbook.instance != notes.read().instance:
        raise LetterError(
            f"logbook of an older directory of {station.name}: it was exported anew since, and this one must not fly"
        )
    last = last_logbook(depot, station)
    if last is not None and last.instance == logbook.instance and logbook.serial <= last.serial:
        return None
    taken = _Taking(depot, station, utc).take(logbook)
    write_letter(notes.logbook_path, data)
    return taken


def _is_kept(notes: StationNotes, data: bytes) -> bool:
    try:
        return notes.logbook_path.read_bytes() == data
    except FileNotFoundError:
        return False


class _Taking:
    """One logbook."""

    def __init__(self, depot: Depot, station: Station, utc: datetime) -> None:
        self._depot, self._station, self._utc = depot, station, utc
        self._refused = 0

    def take(self, logbook: Logbook) -> Collected:
        self._take_progress(logbook.progress)
        self._take_report(logbook)
        messages = sum(self._take_message(data) for data in logbook.messages)
        for claim in logbook.claims:
            self._take_claim(claim)
        contacts = self._take_contacts(logbook.contacts)
        for loss in logbook.losses:
            self._depot.journal.save_loss(
                self._station.satellite, self._station.id, loss.direction, loss.state, utc=self._utc
            )
        return Collected(logbook=logbook, messages=messages, contacts=contacts, refused=self._refused)

    def _take_progress(self, entries: Iterable[BlockProgress]) -> None:
        journal, satellite, station = self._depot.journal, self._station.satellite, self._station.id
        layouts = self._layouts()
        sent = {(entry.handle, entry.block): entry.next_esi for entry in journal.progress(satellite, station=station)}
        kept = []
        for entry in entries:
            layout = layouts.get(entry.handle)
            if layout is None or not _is_possible(entry, layout):
                self._refused += layout is not None  # of an update that has ended: no news
                continue
            # What was sent stays sent, also if this directory was made anew.
            kept.append(replace(entry, next_esi=max(entry.next_esi, sent.get((entry.handle, entry.block), 0))))
        journal.save_progress(satellite, kept, station=station)

    def _layouts(self) -> dict[bytes, BlockLayout]:
        """How the objects of open updates are cut."""
        layouts = {}
        for update in self._depot.open_updates(self._station.satellite):
            sizes = {bundle.handle: bundle.size_bytes for bundle in self._depot.bundles(update.handle)}
            sizes[update.handle] = update.metadata_path.stat().st_size
            for handle, size in sizes.items():
                layouts[handle] = block_layout(symbols_needed(size, update.symbol_size), update.symbol_size)
        return layouts

    def _take_report(self, logbook: Logbook) -> None:
        heard, satellite = logbook.report, self._station.satellite
        if heard is None:
            return
        try:
            report = Report.decode(heard.data)
        except ProtocolError:
            self._refused += 1
            return
        ordered = max((entry.sequence for entry in self._depot.updates(satellite)), default=0)
        if report.accepted > ordered or is_behind(self._depot, satellite, report):
            # Else a lie would set all later numbers, or keep home from giving commands. That a depot was restored from
            # a backup is believed of reports that home hears itself.
            self._refused += 1
            return
        sessions = self._depot.journal.report_sessions(satellite, station=self._station.id)
        if heard.session not in sessions and len(sessions) >= _SESSIONS_KEPT_MAX:
            self._refused += 1
            return
        received_utc = min(heard.received_utc, self._utc)  # its clock may be ahead of ours
        last = self._depot.journal.last_report(satellite)
        if last is not None and last.received_utc >= received_utc:
            return
        self._depot.journal.record_report(
            ReceivedReport(
                satellite=satellite,
                session=heard.session,
                sequence=heard.sequence,
                station=self._station.name,
                station_id=self._station.id,
                received_utc=received_utc,
                report=report,
            )
        )

    def _take_message(self, data: bytes) -> bool:
        try:
            return keep_message(self._depot, self._station.satellite, data)
        except ProtocolError:
            self._refused += 1
            return False

    def _take_claim(self, claim: Claim) -> None:
        known = {entry.handle: entry for entry in self._depot.open_updates(self._station.satellite)}
        update = known.get(claim.handle)
        if update is None or claim.state is FlightState.STAGED:
            return
        if not claim.state.is_open:
            return  # perhaps so: the receipt will tell
        if update.state is FlightState.STAGED:
            self._depot.set_update_state(update.handle, FlightState.FLYING, reason=update.reason)

    def _take_contacts(self, entries: Iterable[ContactLog]) -> int:
        """Keep logs of contacts, new or changed; returns how many those are."""
        journal, station = self._depot.journal, self._station
        listed = [log for log in journal.contacts(station.satellite) if log.station_id == station.id]
        known = {log.start_utc: log for log in listed}
        count = 0
        for entry in entries:
            log = known.get(entry.start_utc)
            if log is None and len(known) >= _CONTACTS_KEPT_MAX:
                self._refused += 1
                continue
            is_new = log is None
            if log is None:
                log = journal.begin_contact(station.satellite, station.name, entry.start_utc, station_id=station.id)
            changed = replace(entry, id=log.id, station=station.name)
            known[entry.start_utc] = changed
            if changed != log:
                journal.save_contact(changed)
            count += is_new or changed != log
        return count


def _is_possible(entry: BlockProgress, layout: BlockLayout) -> bool:
    if entry.block >= layout.num_blocks:
        return False
    return entry.have == SOLVED or entry.have <= layout.symbols_of(entry.block) + _SPARE_SYMBOLS
