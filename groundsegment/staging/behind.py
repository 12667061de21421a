"""Whether a depot is behind its satellites: it was restored from a backup, and has forgotten what it did since.

Reports tell what a satellite has seen: the highest number of a command, the version accepted last, the root it follows.
What the depot has given of these is compared. Commands and versions go on above what was heard, by themselves; a root
that is not here cannot be made again, and a new one beside it would be followed by nobody.
"""

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION
from groundsegment.errors import KeyStoreError
from groundsegment.signer.key_store import KeyStore
from groundsegment.uplink.wire.numbers import is_behind
from protocol.roots import read_root

_ROOTS_HINT = "restore keys/ from a newer backup: what this depot signs, that satellite refuses"


def what_is_behind(depot: Depot, satellite: str) -> tuple[str, ...]:
    """Say, for people, what the satellite has seen and this depot does not know; nothing if it knows all."""
    heard = depot.journal.last_report(satellite)
    if heard is None:
        return ()
    report, told = heard.report, []
    try:
        root = read_root(KeyStore(depot.keys_path).root())
    except KeyStoreError:
        return ()  # there are no keys here: who needs them says so
    if is_behind(depot, satellite, report):
        told.append(
            f"command {report.commands} was seen there and not given here: commands that wait are refused as replayed; "
            "give them again, new ones are numbered above"
        )
    if report.epoch == root.epoch and report.accepted > depot.last_sequence():
        told.append(
            f"version {report.accepted} was accepted there and not staged here: what was staged before this was heard "
            "is refused as REPLAYED; stage it again, new ones are numbered above"
        )
    if report.root_version > root.version:
        told.append(f"root {report.root_version} is followed there, {root.version} is the newest here: {_ROOTS_HINT}")
    return tuple(told)


def refuse_roots_behind(depot: Depot) -> None:
    """Refuse to make a root where a satellite follows one that is not here.

    Only what home heard itself is believed: whoever stole a station could keep its keys from being revoked otherwise.

    Raises:
        KeyStoreError: there is such a satellite.
    """
    newest = read_root(KeyStore(depot.keys_path).root()).version
    for satellite in depot.satellites():
        heard = depot.journal.last_report(satellite.name)
        if heard is None or heard.station_id != HOME_STATION:
            continue
        if heard.report.root_version > newest:
            problem = f"{satellite.name} follows root {heard.report.root_version}, {newest} is the newest here"
            raise KeyStoreError(f"{problem}: was this depot restored from a backup?", hint=_ROOTS_HINT)
