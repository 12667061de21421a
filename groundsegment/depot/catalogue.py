"""The depot's catalogue: satellites, their stations and link keys, releases. A part of `depot.Depot`.

A depot at home holds each satellite's link key, from which the key of every station follows. The depot of a ground
station holds none, only what that station needs for its letters and its next contacts: a stolen one says
nothing of the others, nor of what comes later.

    keys/links/NAME.key               the link key of a satellite, 64 hex digits
    keys/stations/NAME@ID.key         where that is not: the key of a station's letters
    keys/stations/NAME@ID.contacts    and those of its next contacts: a batch's number and key a line

How often a station's key was withdrawn, and the numbers of its contacts, are counters of the journal.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from groundsegment.depot import tables
from groundsegment.depot.journal import Journal
from groundsegment.depot.records import HOME_STATION, RegisteredRelease, Satellite, Station
from groundsegment.depot.upsert import upsert
from groundsegment.errors import InputError, KeyStoreError, UnknownError
from protocol.contacts import first_found
from protocol.limits import STATIONS_MAX
from protocol.link_keys import (
    CONTACTS_PER_BATCH,
    LINK_KEY_SIZE,
    contact_key_of_batch,
    derive_contact_key,
    derive_letters_key,
    derive_station_key,
)

_BACKUP_HINT = "restore it from a backup of the depot; the satellite's kit holds a copy as keys/link.key"
_BATCHES_HINT = "home gives more with its orders: skyload station sync, there and here; or a new export"
_STATION_HINT = "copy it anew from the home depot: `skyload station --help`"


class Catalogue:
    """Satellites, stations, keys and releases of one depot."""

    path: Path
    journal: Journal
    _engine: Engine

    @property
    def keys_path(self) -> Path:
        """Where the keys are."""
        return self.path / "keys"

    # Keys

    def link_key(self, satellite: str) -> bytes:
        """Return the key of the link to a satellite, 32 bytes.

        Raises:
            UnknownError: no such satellite.
            KeyStoreError: its key file is missing or damaged.
        """
        self.satellite(satellite)
        return _read_key(self.link_key_path(satellite), _BACKUP_HINT)

    def station_key(self, satellite: str, station: int) -> bytes:
        """Return a station's own key of the link to a satellite, 32 bytes, from which all its others follow.

        Raises:
            UnknownError: no such satellite.
            KeyStoreError: the link key is not here, or its file is damaged.
        """
        return derive_station_key(self.link_key(satellite), station, self.station_generation(satellite, station))

    def letters_key(self, satellite: str, station: int) -> bytes:
        """Return the key of the letters between home and a station, 32 bytes.

        Raises:
            UnknownError: no such satellite.
            KeyStoreError: neither the link key nor this one is here, or its file is damaged.
        """
        if self._is_station(satellite, station):
            return _read_key(self.station_key_path(satellite, station), _STATION_HINT)
        return derive_letters_key(self.station_key(satellite, station))

    def _is_station(self, satellite: str, station: int) -> bool:
        self.satellite(satellite)
        return self.station_key_path(satellite, station).exists() and not self.link_key_path(satellite).exists()

    def station_generation(self, satellite: str, station: int) -> int:
        """How often the key of a station was withdrawn; it outlives the station, as its number does."""
        return self.journal.allocated(_generation_name(satellite, station))

    def raise_station_generation(self, satellite: str, station: int, generation: int = 0) -> int:
        """A station's key was withdrawn on board: from now on it has that of a generation, the next one if left out."""
        name = _generation_name(satellite, station)
        if not generation:
            return self.journal.allocate(name)
        self.journal.raise_counter(name, generation)
        return self.journal.allocated(name)

    # Contacts, see `protocol.contacts`

    def contact(self, satellite: str, station: int) -> int:
        """The number of a station's last contact; 0 if there was none."""
        return self.journal.allocated(self._contact_name(satellite, station))

    def raise_contact(self, satellite: str, station: int, number: int) -> int:
        """Begin a contact with a number, or a higher one if that was used; durable, and no other contact has it."""
        return self.journal.allocate(self._contact_name(satellite, station), above=number - 1)

    def contact_heard(self, satellite: str, station: int) -> int:
        """The newest contact in which the satellite answered a station; 0 if it did in none."""
        return self.journal.allocated(f"heard {self._contact_name(satellite, station)}")

    def note_contact_heard(self, satellite: str, station: int, number: int) -> None:
        """The satellite answered in a contact; one that another process heard meanwhile, and is newer, stays."""
        self.journal.raise_counter(f"heard {self._contact_name(satellite, station)}", number)

    def contact_key(self, satellite: str, station: int, number: int) -> bytes:
        """Return the key of a contact, 32 bytes: all that its frames need.

        Raises:
            UnknownError: no such satellite.
            KeyStoreError: it is not here, nor one from which it follows.
        """
        if not self._is_station(satellite, station):
            return derive_contact_key(self.station_key(satellite, station), number)
        batch_key = self.batches(satellite, station).get(number // CONTACTS_PER_BATCH)
        if batch_key is None:
            raise KeyStoreError(f"station {station}: no key for contact {number} of {satellite}", hint=_BATCHES_HINT)
        return contact_key_of_batch(batch_key, number)

    def usable_contact(self, satellite: str, station: int, number: int, heard: int) -> int:
        """Return the first number from one on that may be used here: with a key, and given to no station's directory.

        Args:
            satellite: its name.
            station: whose contact it is.
            number: the first one that will do.
            heard: the satellite is known to have been at this one: behind what directories have, it must find it.

        Raises:
            KeyStoreError: the keys that home gave are used up, or the satellite finds no number behind them.
        """
        batch = number // CONTACTS_PER_BATCH
        if self._is_station(satellite, station):
            batches = sorted(held for held in self.batches(satellite, station) if held >= batch)
            if not batches:
                raise KeyStoreError(
                    f"station {station} has used up the keys of contacts that home gave it", hint=_BATCHES_HINT
                )
            first = batches[0]
        else:
            given = self.journal.allocated(self._batch_name(satellite, station))
            first = self._found_batch(satellite, station, given + 1, heard) if given >= batch and given else batch
        return number if first == batch else first * CONTACTS_PER_BATCH

    def give_batches(self, satellite: str, station: int, count: int, heard: int = 0) -> tuple[int, ...]:
        """Give the next contacts to a station's directory, for good: numbers of batches that nobody else uses.

        The satellite finds the first one from wherever it may be, and each other one from the one before. So what was
        given and never flown costs numbers, and not the link: the next ones begin where the satellite looks further.

        Args:
            satellite: its name.
            station: whose directory it is.
            count: how many.
            heard: the newest contact in which the satellite answered, as the station says itself.

        Raises:
            KeyStoreError: there is no such number left.
        """
        used = self.contact(satellite, station) // CONTACTS_PER_BATCH
        name = self._batch_name(satellite, station)
        given = self.journal.allocated(name)
        heard = max(min(heard, (given + 1) * CONTACTS_PER_BATCH - 1), self.contact_heard(satellite, station))
        first = self._found_batch(satellite, station, max(used, given) + 1, heard)
        return tuple(self.journal.allocate(name, above=first - 1) for _ in range(count))

    def _found_batch(self, satellite: str, station: int, batch: int, heard: int) -> int:
        number = first_found(batch * CONTACTS_PER_BATCH, heard)
        if number is None:
            raise KeyStoreError(
                f"station {station}: {satellite} would find none of the contacts that are left, so many were given to "
                "directories and never flown",
                hint=f"`skyload station rotate` gives it a new key, whose contacts begin at 0 (for {satellite})",
            )
        return number // CONTACTS_PER_BATCH

    def _batch_name(self, satellite: str, station: int) -> str:
        return f"batch {self._contact_name(satellite, station)}"

    def batches(self, satellite: str, station: int) -> dict[int, bytes]:
        """The batch keys in a depot without the link key, by number.

        Raises:
            KeyStoreError: the file is damaged.
        """
        path = self.batches_path(satellite, station)
        try:
            lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
            keys = {int(number): bytes.fromhex(key) for number, key in lines}
        except FileNotFoundError:
            return {}
        except (ValueError, IsADirectoryError):
            raise KeyStoreError(f"{path}: not a file of keys of contacts", hint=_STATION_HINT) from None
        if any(len(key) != LINK_KEY_SIZE or number < 0 for number, key in keys.items()):
            raise KeyStoreError(f"{path}: not a file of keys of contacts", hint=_STATION_HINT)
        return keys

    def _contact_name(self, satellite: str, station: int) -> str:
        return f"contact {satellite}@{station} {self.station_generation(satellite, station)}"

    def link_key_path(self, satellite: str) -> Path:
        """Where the link key of a satellite is."""
        return self.keys_path / "links" / f"{satellite}.key"

    def station_key_path(self, satellite: str, station: int) -> Path:
        """Where the key of a station's letters is, in a depot without the link key."""
        return self.keys_path / "stations" / f"{satellite}@{station}.key"

    def batches_path(self, satellite: str, station: int) -> Path:
        """Where the keys of a station's next contacts are, in a depot without the link key."""
        return self.keys_path / "stations" / f"{satellite}@{station}.contacts"

    # Satellites

    def add_satellite(self, satellite: Satellite) -> None:
        """Register a satellite.

        Raises:
            InputError: there is one of that name.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.satellites).values(asdict(satellite)))
        except IntegrityError:
            hint = "choose another name; a satellite's kit is made once and never again"
            raise InputError(f"{satellite.name}: there is already a satellite of that name", hint=hint) from None

    def satellites(self) -> tuple[Satellite, ...]:
        """All satellites, by name."""
        query = select(tables.satellites).order_by(tables.satellites.c.name)
        return tuple(Satellite(**row._mapping) for row in self._rows(query))

    def satellite(self, name: str) -> Satellite:
        """Return one satellite.

        Raises:
            UnknownError: no such satellite; the hint lists those there are.
        """
        known = self.satellites()
        for satellite in known:
            if satellite.name == name:
                return satellite
        names = ", ".join(satellite.name for satellite in known)
        hint = f"known satellites: {names}" if names else "add one: skyload keys add-satellite NAME --kit DIR"
        raise UnknownError(f"{name}: no such satellite in {self.path}", hint=hint)

    def set_symbol_size(self, satellite: str, symbol_size: int) -> None:
        """Let updates of a satellite that are staged from now on have symbols of so many bytes."""
        table = tables.satellites
        with self._engine.begin() as connection:
            connection.execute(table.update().where(table.c.name == satellite).values(symbol_size=symbol_size))

    # Stations

    def add_station(self, satellite: str, name: str, *, added_utc: datetime, station: int | None = None) -> Station:
        """Register a ground station of a satellite; its number is the first free one unless it is given.

        Updates that are staged from now on have a lane for it; those that are staged already have not.

        Raises:
            UnknownError: no such satellite.
            InputError: there is one of that name or number, or there are STATIONS_MAX.
        """
        self.satellite(satellite)
        taken = {entry.id for entry in self.stations(satellite)} | {HOME_STATION}
        free = next((number for number in range(STATIONS_MAX) if number not in taken), None)
        number = free if station is None else station
        if number is None:
            hint = f"a satellite has at most {STATIONS_MAX} stations, the home ground among them"
            raise InputError(f"{satellite}: no room for another station", hint=hint)
        if not HOME_STATION < number < STATIONS_MAX:
            raise InputError(
                f"{number} is no station's number", hint=f"give 1 to {STATIONS_MAX - 1}; 0 is the home ground"
            )
        entry = Station(satellite=satellite, id=number, name=name, added_utc=added_utc)
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.stations).values(asdict(entry)))
        except IntegrityError:
            is_name_taken = any(known.name == name for known in self.stations(satellite))
            there_is = f"a station {name}" if is_name_taken else f"a station with the number {number}"
            hint = (
                f"choose another {'name' if is_name_taken else 'number'}; `skyload station list` shows those there are"
            )
            raise InputError(f"{satellite}: there is already {there_is}", hint=hint) from None
        return entry

    def stations(self, satellite: str) -> tuple[Station, ...]:
        """The registered stations of a satellite, by number; the home ground is not listed."""
        table = tables.stations
        rows = self._rows(select(table).where(table.c.satellite == satellite).order_by(table.c.id))
        return tuple(Station(**row._mapping) for row in rows)

    def station(self, satellite: str, name: str) -> Station:
        """Return one station.

        Raises:
            UnknownError: no such satellite, or no such station of it.
        """
        self.satellite(satellite)
        known = self.stations(satellite)
        for entry in known:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in known)
        hint = f"stations of {satellite}: {names}" if names else f"add it: skyload station add {name} --for {satellite}"
        raise UnknownError(f"{name}: no such station of {satellite}", hint=hint)

    def remove_station(self, satellite: str, name: str) -> Station:
        """Forget a station, and all that it said of the satellite; what it sent stays in the log of contacts.

        Raises:
            UnknownError: no such satellite, or no such station of it.
        """
        entry = self.station(satellite, name)
        with self._engine.begin() as connection:
            for table, column in tables.OF_A_STATION:
                connection.execute(delete(table).where(table.c.satellite == satellite, column == entry.id))
        return entry

    def num_lanes(self, satellite: str) -> int:
        """How many ESI lanes an update needs that is staged now: one for each station number up to the highest."""
        return 1 + max((entry.id for entry in self.stations(satellite)), default=HOME_STATION)

    # Releases

    def register_release(self, release: RegisteredRelease) -> None:
        """Remember where the files of a release are; the newest place wins."""
        values = {**asdict(release), "path": str(release.path)}
        with self._engine.begin() as connection:
            upsert(connection, tables.releases, [values], keys=("digest",))

    def releases(self) -> tuple[RegisteredRelease, ...]:
        """All releases, newest first."""
        rows = self._rows(select(tables.releases).order_by(tables.releases.c.registered_utc.desc()))
        return tuple(_release(row) for row in rows)

    def find_release(self, digest_start: bytes) -> RegisteredRelease | None:
        """Return the release whose digest starts so (reports carry 6 bytes of it), if it is registered."""
        return next((entry for entry in self.releases() if entry.digest.startswith(digest_start)), None)

    def _rows(self, query: Any) -> Sequence[Row[Any]]:  # noqa: ANN401 - Select of any row
        with self._engine.connect() as connection:
            return connection.execute(query).all()


def _generation_name(satellite: str, station: int) -> str:
    return f"station key {satellite}@{station}"


def _read_key(path: Path, hint: str) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise KeyStoreError(f"{path}: the link key is missing", hint=hint) from None
    except (ValueError, IsADirectoryError):
        raise KeyStoreError(f"{path}: not a key file (64 hex digits)", hint=hint) from None
    if len(key) != LINK_KEY_SIZE:
        raise KeyStoreError(f"{path}: {len(key)} bytes, a link key has {LINK_KEY_SIZE}", hint=hint)
    return key


def _release(row: Row[Any]) -> RegisteredRelease:
    values = dict(row._mapping)
    return RegisteredRelease(**{**values, "path": Path(values["path"])})
