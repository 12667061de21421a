"""Keys of contacts that home gives a station: a few batches ahead, wrapped in its orders, none of them twice. A shell.

A station cannot make them itself, so a thief of its directory has the keys of its next contacts and, without what home
writes later, of none after them.
"""

from collections.abc import Iterable
from dataclasses import replace

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Station
from groundsegment.errors import KeyStoreError
from groundsegment.stations.notes import Notes, StationNotes
from groundsegment.stations.post import write_whole
from protocol.link_keys import CONTACTS_PER_BATCH, derive_batch_key, unwrap_batch_key, wrap_batch_key

BATCHES_AHEAD = 3  # and the one in use: 256 contacts in all


def new_batches(depot: Depot, station: Station, heard: int) -> tuple[int, ...]:
    """Batches for a new directory: what an older one was given is not given again.

    Raises:
        KeyStoreError: the satellite would find none of those that are left.
    """
    return depot.give_batches(station.satellite, station.id, BATCHES_AHEAD + 1, heard)


def top_up(depot: Depot, station: Station, notes: Notes, contact: int, heard: int) -> Notes:
    """Give a directory more, where it has used some up.

    Args:
        depot: home.
        station: whose.
        notes: of it.
        contact: its last one, as it says itself: a lie costs numbers that it could use as well.
        heard: its last one in which the satellite answered, as it says itself: a lie makes it go unheard.
    """
    if not notes.instance:
        return notes
    left = tuple(batch for batch in notes.batches if batch >= contact // CONTACTS_PER_BATCH)
    missing = BATCHES_AHEAD + 1 - len(left)
    if missing <= 0:
        return notes
    try:
        more = depot.give_batches(station.satellite, station.id, missing, heard)
    except KeyStoreError:
        return notes  # it flies in those that it has; an export says why there are no more
    topped_up = replace(notes, batches=(*left, *more))
    StationNotes(depot, station).write(topped_up)
    return topped_up


def wrapped(depot: Depot, station: Station, batches: Iterable[int]) -> tuple[tuple[int, bytes], ...]:
    """The keys of batches, as orders carry them."""
    letters_key = depot.letters_key(station.satellite, station.id)
    station_key = depot.station_key(station.satellite, station.id)
    return tuple((batch, wrap_batch_key(letters_key, batch, derive_batch_key(station_key, batch))) for batch in batches)


def keep_batches(
    depot: Depot, satellite: str, station: int, letters_key: bytes, batches: Iterable[tuple[int, bytes]]
) -> None:
    """At a station: keep what orders brought, and nothing else; those of contacts that are over are forgotten.

    Raises:
        VerificationError: they are not for this station.
        KeyStoreError: those that are here are damaged.
        OSError: they cannot be written.
    """
    used = depot.contact(satellite, station) // CONTACTS_PER_BATCH
    keys = {batch: unwrap_batch_key(letters_key, batch, data) for batch, data in batches if batch >= used}
    if keys and keys != depot.batches(satellite, station):
        text = "".join(f"{batch} {key.hex()}\n" for batch, key in sorted(keys.items()))
        write_whole(depot.batches_path(satellite, station), text.encode(), mode=0o600)
