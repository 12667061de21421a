"""Export a station: make the directory it begins with, at home. A shell.

The directory holds what `directory` says and nothing else: no signing key, no link key but those of the station's next
contacts, no release key, no file of any release.
"""

import json
import secrets
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Station
from groundsegment.errors import InputError
from groundsegment.stations.batches import keep_batches, new_batches, wrapped
from groundsegment.stations.collecting import last_logbook
from groundsegment.stations.directory import FORMAT, ORDERS_NAME, STATION_NAME, StationIdentity
from groundsegment.stations.home import make_orders
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.post import sync_directory, write_letter, write_whole
from groundsegment.stations.reading import utc_text
from groundsegment.stations.rotation import end_rotation, rotation_of


def export_station(depot: Depot, station: Station, path: Path, *, utc: datetime) -> StationIdentity:
    """Make a station's directory. One that was exported before must not fly any more, and will not once it syncs.

    Raises:
        InputError: something is there already, or depot and directory would lie in one another.
        KeyStoreError: the link key is not here.
    """
    whole, home = path.resolve(), depot.path.resolve()
    if whole == home or home in whole.parents or whole in home.parents:
        hint = "give another directory"
        raise InputError(f"{path}: a station's directory leaves home, the depot {depot.path} stays", hint=hint)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: is there already and is never overwritten", hint="give another directory")
    notes = StationNotes(depot, station)
    identity = StationIdentity(
        satellite=station.satellite, id=station.id, name=station.name, instance=secrets.token_hex(8)
    )
    part = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    rotation = rotation_of(depot, station)
    depot.letters_key(station.satellite, station.id)  # without the link key, no batch is used up
    try:
        last = last_logbook(depot, station)
        heard = max(depot.contact_heard(station.satellite, station.id), 0 if last is None else last.heard)
        batches = new_batches(depot, station, heard)
        _fill(part, depot, station, identity, batches, heard, utc)
        notes.write(replace(notes.read(), instance=identity.instance, exported_utc=utc, batches=batches))
        if path.exists():
            path.rmdir()
        part.rename(whole)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_directory(whole.parent)
    if rotation is not None and not rotation.is_open:
        end_rotation(depot, station)
    return identity


def _fill(
    path: Path,
    depot: Depot,
    station: Station,
    identity: StationIdentity,
    batches: tuple[int, ...],
    heard: int,
    utc: datetime,
) -> None:
    satellite = depot.satellite(station.satellite)
    key = depot.letters_key(satellite.name, station.id)
    with Depot.create(path) as made:
        # Release keys are wrapped for the satellite, and no station wraps any.
        made.add_satellite(replace(satellite, release_public=b""))
        made.add_station(satellite.name, station.name, added_utc=station.added_utc, station=station.id)
        key_path = made.station_key_path(satellite.name, station.id)
        key_path.parent.mkdir(parents=True, mode=0o700)
        write_whole(key_path, key.hex().encode() + b"\n", mode=0o600)
        keep_batches(made, satellite.name, station.id, key, wrapped(depot, station, batches))
        made.note_contact_heard(satellite.name, station.id, heard)  # from there on it is found
        # Where a station's directory is lost, the next one goes on in its lane behind what home knows it has sent.
        made.journal.save_progress(
            satellite.name, depot.journal.progress(satellite.name, station=station.id), station=station.id
        )
        # What was heard before is a replay there too.
        sessions = depot.journal.report_sessions(satellite.name, station=station.id)
        made.journal.keep_sessions(satellite.name, sessions, station=station.id, utc=utc)
    orders = make_orders(depot, station, utc=utc)
    orders = replace(orders, instance=identity.instance, batches=wrapped(depot, station, batches))
    write_letter(path / ORDERS_NAME, orders.seal(key))
    values = {
        "format": FORMAT,
        "satellite": identity.satellite,
        "station": identity.id,
        "name": identity.name,
        "instance": identity.instance,
        "exported_utc": utc_text(utc),
    }
    write_whole(path / STATION_NAME, json.dumps(values, indent=1, sort_keys=True).encode() + b"\n")
