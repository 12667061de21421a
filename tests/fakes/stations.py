"""A home depot with stations, each with a directory of its own: for tests of what they give each other."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from groundsegment.stations.directory import StationDirectory
from groundsegment.stations.export import export_station
from groundsegment.stations.home import exchange
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.station_sync import sync_station
from protocol.message import Message, MessageKind
from tests.fakes.depots import IDENTITY, NOW, make_depot


class Homestead:
    """Home and its stations. Close it, or use it in a `with`.

    Args:
        path: of all directories.
        names: of the stations, added in this order: numbers 1, 2, ...
    """

    def __init__(self, path: Path, *names: str):
        self.path, self.now = path, NOW
        self.depot = make_depot(path / "home")
        for name in names:
            self.depot.add_station("SAT-1", name, added_utc=NOW)
        self.opened = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for directory in self.opened:
            directory.depot.close()
        self.depot.close()

    def station(self, name):
        return self.depot.station("SAT-1", name)

    def export(self, name, to=None):
        """Make and open a station's directory."""
        path = self.path / (to or name)
        export_station(self.depot, self.station(name), path, utc=self.now)
        directory = StationDirectory.open(path)
        self.opened.append(directory)
        return directory

    def later(self, seconds=60):
        """Time passes."""
        self.now += timedelta(seconds=seconds)
        return self.now

    def exchange(self, via=None):
        """Home's side; returns what came of each station, by name."""
        self.later()
        return {result.station.name: result for result in exchange(self.depot, "SAT-1", utc=self.now, via=via)}

    def sync(self, directory, root=None, **options):
        """A station's side."""
        self.later()
        return sync_station(directory, root or self.depot.path, utc=self.now, **options)

    def note(self, name, **values):
        """Change what home remembers of a station."""
        notes = StationNotes(self.depot, self.station(name))
        notes.write(replace(notes.read(), **values))


def sealed_message(kind, re, body, *, counter=1, satellite="SAT-1", key=IDENTITY):
    """A message as a satellite signs it."""
    message = Message(satellite=satellite, counter=counter, kind=kind, re=re, body=body)
    return message.seal(public_key=key.public_key().public_bytes_raw(), sign=key.sign)


def sealed_receipt(update, state="CONFIRMED", **options):
    """A receipt as a satellite signs it."""
    body = {"state": state, "reason": "NONE", "release": bytes(32), "sequence": 1, "canary": {}, "text": ""}
    return sealed_message(MessageKind.RECEIPT, update, body, **options)
