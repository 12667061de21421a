"""What home keeps of a station beside the depot's row: its directory's name, its link, its contacts, its last logbook.

    DEPOT/stations/SATELLITE/STATION/notes.json        instance, endpoint
    DEPOT/stations/SATELLITE/STATION/contacts.json     its contact plan, if home has one
    DEPOT/stations/SATELLITE/STATION/logbook.letter    the last one that was taken in
    DEPOT/stations/SATELLITE.json                      all numbers that were ever given

None of it is secret, and only home writes here.
"""

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Station
from groundsegment.errors import DiskError
from groundsegment.planner.contact_plan import ContactPlan, PlannedContact
from groundsegment.stations.letters import LetterError
from groundsegment.stations.orders import BATCHES_MAX, CONTACTS_MAX, contact_json, read_contact
from groundsegment.stations.post import write_whole
from groundsegment.stations.reading import Reader, utc_text

_HINT = "it is of a damaged disk, or was edited: remove the file, then add its endpoint and contacts again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What home remembers of a station.

    Attributes:
        instance: of the directory that was exported last; empty if none was: that one may fly, no other.
        exported_utc: when.
        endpoint: HOST:PORT of the link at the station; empty if nobody said.
        contacts: of the station; None without a plan.
        batches: of contacts whose keys that directory was given, those that are used up left out.
    """

    instance: str = ""
    exported_utc: datetime | None = None
    endpoint: str = ""
    contacts: tuple[PlannedContact, ...] | None = None
    batches: tuple[int, ...] = ()


class StationNotes:
    """The notes of one station."""

    def __init__(self, depot: Depot, station: Station) -> None:
        self.path = depot.path / "stations" / station.satellite / station.name

    @property
    def logbook_path(self) -> Path:
        """Where its last logbook is kept."""
        return self.path / "logbook.letter"

    def read(self) -> Notes:
        """What is known.

        Raises:
            DiskError: the notes are damaged.
        """
        try:
            reader = self._reader("notes.json")
            contacts = self._reader("contacts.json")
            return Notes(
                instance=reader.text("instance") if reader else "",
                exported_utc=reader.optional("exported_utc", reader.utc) if reader else None,
                endpoint=reader.text("endpoint") if reader else "",
                batches=_batches(reader) if reader else (),
                contacts=contacts.items("contacts", read_contact, count_max=CONTACTS_MAX) if contacts else None,
            )
        except LetterError as error:
            raise DiskError(str(error), hint=_HINT) from error

    def write(self, notes: Notes) -> None:
        """Keep notes, contacts apart."""
        self.path.mkdir(parents=True, exist_ok=True)
        exported = None if notes.exported_utc is None else utc_text(notes.exported_utc)
        batches = [{"number": number} for number in notes.batches]
        values = {"instance": notes.instance, "exported_utc": exported, "endpoint": notes.endpoint, "batches": batches}
        write_whole(self.path / "notes.json", _json(values))
        if notes.contacts is not None:
            listed = {"contacts": [contact_json(contact) for contact in notes.contacts]}
            write_whole(self.path / "contacts.json", _json(listed))

    def forget(self) -> None:
        """Drop all of it: the station is removed."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _reader(self, name: str) -> Reader | None:
        path = self.path / name
        try:
            return Reader(json.loads(path.read_bytes()), str(path))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise DiskError(f"{path}: {error}", hint=_HINT) from error


def _batches(reader: Reader) -> tuple[int, ...]:
    if not reader.has("batches"):
        return ()  # exported by an older version
    return reader.items("batches", lambda item: item.integer("number"), count_max=BATCHES_MAX)


def numbers_given(depot: Depot, satellite: str) -> set[int]:
    """The numbers of all stations that a satellite ever had.

    Raises:
        DiskError: the list is damaged.
    """
    path = _numbers_path(depot, satellite)
    try:
        return {int(number) for number in json.loads(path.read_bytes())}
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError) as error:
        raise DiskError(f"{path}: {error}", hint="restore it from a backup of the depot") from error


def note_number(depot: Depot, station: Station) -> None:
    """Remember a station's number for good: whoever stole a station has the key of its number."""
    path = _numbers_path(depot, station.satellite)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _json(sorted(numbers_given(depot, station.satellite) | {station.id})))


def _numbers_path(depot: Depot, satellite: str) -> Path:
    return depot.path / "stations" / f"{satellite}.json"


def contacts_of(plan: ContactPlan, station: str, *, now_s: float) -> tuple[PlannedContact, ...]:
    """What a plan has for a station from now on, its first CONTACTS_MAX; all of a plan that names no station."""
    own = plan.for_station(station) if plan.stations else plan
    return tuple(
        replace(contact, station=station, loss=own.loss if contact.loss is None else contact.loss)
        for contact in islice(own.from_time(now_s), CONTACTS_MAX)
    )


def plan_of(contacts: Iterable[PlannedContact], station: str) -> ContactPlan:
    """The contact plan that such contacts make."""
    named = [replace(contact, station=station) for contact in contacts]
    loss = next((contact.loss for contact in named if contact.loss is not None), None)
    return ContactPlan(named, name=station, loss=loss)


def has_ended(contacts: Iterable[PlannedContact], now_s: float) -> bool:
    """Whether no contact is left."""
    return max((contact.end_s for contact in contacts), default=-math.inf) <= now_s


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
