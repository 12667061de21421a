"""A station's key on its way to being replaced: what home remembers from before the first step to the next export.

    DEPOT/stations/SATELLITE/STATION/rotation.json     the generation to come, and the command that nobody waited for

The satellite is first. Home goes on under the old key until the satellite has signed that it obeyed: a rotation that
was queued blind may come late, or be refused, and until then the station flies and is written to as ever, which may be
how the command gets up. It is given no more keys of contacts, though. Whoever is cut off finds the note, and the same
command goes on.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Station
from groundsegment.errors import DiskError
from groundsegment.stations.letters import LetterError
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.post import make_directory, write_whole
from groundsegment.stations.reading import Reader
from protocol.message import MessageKind


class RotationState(StrEnum):
    """Where it stands."""

    BEGUN = "begun"  # somebody waited for the answer, and was cut off
    QUEUED = "queued"  # blind: an uplink brings it, and no answer came
    REFUSED = "refused"  # by the satellite: the key is as it was
    DONE = "done"  # the new key is in force, and the station has not got it yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One rotation.

    Attributes:
        generation: of the new key.
        state: where it stands.
        text: what the satellite said when it refused.
    """

    generation: int
    state: RotationState
    text: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the satellite may obey it at any time."""
        return self.state in {RotationState.BEGUN, RotationState.QUEUED}


def begin_rotation(depot: Depot, station: Station, generation: int, *, fire: int = 0) -> None:
    """Note it: before the first step, and again once it is queued.

    Args:
        depot: home.
        station: whose key.
        generation: of the new one.
        fire: number of the command that was queued blind.
    """
    path = _path(depot, station)
    make_directory(path.parent)
    write_whole(path, json.dumps({"generation": generation, "fire": fire}).encode() + b"\n")


def end_rotation(depot: Depot, station: Station) -> None:
    """The satellite refused it, or the new key has been exported."""
    _path(depot, station).unlink(missing_ok=True)


def rotation_of(depot: Depot, station: Station) -> Rotation | None:
    """Where the rotation of a key stands, which begins the new one at home if the satellite has signed that it obeyed.

    Raises:
        DiskError: the note is damaged.
    """
    path = _path(depot, station)
    try:
        reader = Reader(json.loads(path.read_bytes()), str(path))
        generation, fire = reader.integer("generation", lowest=1), reader.integer("fire")
    except FileNotFoundError:
        return None
    except (ValueError, LetterError) as error:
        raise DiskError(f"{path}: {error}", hint="remove the file, then rotate the key again") from error
    answer = _answer(depot, station, fire)
    if answer is not None and answer.get("ok") is True:
        depot.raise_station_generation(station.satellite, station.id, generation)
    state, text = RotationState.QUEUED if fire else RotationState.BEGUN, ""
    if depot.station_generation(station.satellite, station.id) >= generation:
        state = RotationState.DONE
    elif answer is not None:
        state, text = RotationState.REFUSED, str(answer.get("text", ""))
    return Rotation(generation=generation, state=state, text=text)


def _answer(depot: Depot, station: Station, fire: int) -> dict[str, object] | None:
    """What the satellite answered to the command of a number; it signed it."""
    if not fire:
        return None
    for command in depot.journal.commands(station.satellite):
        if command.counter == fire:
            found = depot.journal.messages(station.satellite, kind=str(MessageKind.RESULT), re=command.handle)
            return dict(found[-1].body) if found else None
    return None


def _path(depot: Depot, station: Station) -> Path:
    return StationNotes(depot, station).path / "rotation.json"
