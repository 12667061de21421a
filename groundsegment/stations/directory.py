"""A station's directory: a depot without keys of home, whose station it is, and the orders it follows.

    station.json                    whose: satellite, station, instance
    keys/stations/SAT@ID.key        the key of its letters, mode 0600
    keys/stations/SAT@ID.contacts   keys of its next contacts, a few hundred, mode 0600; no other key of anything
    orders.letter                   the newest orders; those of another instance mean: this directory flies no more
    logbook.letter                  what was brought home last
    depot.db, updates/              as in any depot: signed metadata, ciphertext, how far they are

What a thief finds in it: docs/security.md.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION
from groundsegment.errors import InputError
from groundsegment.stations.letters import LetterError
from groundsegment.stations.orders import Orders
from groundsegment.stations.post import read_letter
from groundsegment.stations.reading import Reader
from protocol.limits import STATIONS_MAX

STATION_NAME = "station.json"
ORDERS_NAME = "orders.letter"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StationIdentity:
    """Whose directory it is.

    Attributes:
        satellite: whom it flies.
        id: the station's number: its lane.
        name: the station's.
        instance: of this directory, no other has it.
    """

    satellite: str
    id: int
    name: str
    instance: str


class StationDirectory:
    """An open station directory. Use it in a `with`."""

    def __init__(self, path: Path, identity: StationIdentity, depot: Depot) -> None:
        self.path, self.identity, self.depot = path, identity, depot
        self.key = depot.letters_key(identity.satellite, identity.id)
        self._read: tuple[tuple[int, int, int] | None, Orders | None] = (None, None)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open one.

        Raises:
            InputError: there is none.
        """
        hint = "`skyload station export` makes one, at home"
        try:
            reader = Reader(json.loads((path / STATION_NAME).read_bytes()), str(path / STATION_NAME))
            if reader.integer("format") != FORMAT:
                raise InputError(f"{path}: a station directory of another version", hint="install the skyload of home")
            identity = StationIdentity(
                satellite=reader.text("satellite"),
                id=reader.integer("station", lowest=HOME_STATION + 1, highest=STATIONS_MAX - 1),
                name=reader.text("name"),
                instance=reader.text("instance"),
            )
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path}: no station directory there", hint=hint) from None
        except LetterError as error:
            raise InputError(str(error), hint=hint) from None
        except ValueError as error:
            raise InputError(f"{path / STATION_NAME}: not JSON ({error})", hint=hint) from None
        depot = Depot.open(path)
        try:
            return cls(path, identity, depot)
        except BaseException:
            depot.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depot.close()

    @property
    def orders_path(self) -> Path:
        """The newest orders."""
        return self.path / ORDERS_NAME

    @property
    def logbook_path(self) -> Path:
        """The newest logbook."""
        return self.path / "logbook.letter"

    def orders(self) -> Orders | None:
        """The newest orders; None if there are none, or they are damaged.

        Raises:
            InputError: they are for another directory of this station: this one must not fly.
        """
        stamp = _stamp(self.orders_path)
        if stamp != self._read[0]:
            self._read = (stamp, self._read_orders())
        orders = self._read[1]
        if orders is not None and orders.instance != self.identity.instance:
            raise InputError(
                f"{self.path}: home has exported {self.identity.name} anew; this directory must not fly any more",
                hint="use the new directory and delete this one: two that fly one lane send everything twice",
            )
        return orders

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory: one sync at a time.

        Raises:
            BusyError: another process syncs.
        """
        with self.depot.lock("sync"):
            yield

    def _read_orders(self) -> Orders | None:
        try:
            data = read_letter(self.orders_path)
            return None if data is None else Orders.open(data, self.key)
        except LetterError:
            return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced: orders are asked for several times a second."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
