"""What `skyload station` says of one station, for people and for scripts."""

import math
from datetime import datetime
from typing import Any

from groundsegment.console.output import out
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Station
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.planner.quantities import format_utc
from groundsegment.stations.collecting import last_logbook
from groundsegment.stations.notes import StationNotes
from groundsegment.stations.rotation import RotationState, rotation_of


def print_station(row: dict[str, Any]) -> None:
    """A station for people."""
    out.print(f"{row['name']}: station {row['station']} of {row['satellite']}, added {row['added_utc']}", markup=False)
    out.print(f"  link {row['endpoint'] or 'not said'}, exported {row['exported_utc'] or 'never'}", markup=False)
    if row["rotation"] is not None:
        out.print(f"  {rotation_words(row)}", markup=False)
    if row["contacts"] is None:
        out.print("  no contact plan: the station brings its own", markup=False)
    for contact in (row["contacts"] or [])[:8]:
        rate = f", {contact['rate_bit_per_s']:.0f} bit/s" if contact["rate_bit_per_s"] else ""
        out.print(f"  contact {contact['start_utc']} to {contact['end_utc'] or 'no end'}{rate}", markup=False)
    for handle in row["without_lane"]:
        out.print(f"  {handle}: staged before it was added, so it cannot fly it", markup=False)
    logbook = row["logbook"]
    if logbook is None:
        out.print("  nothing brought home yet", markup=False)
        return
    files = "has all files" if logbook["is_complete"] else "lacks files"
    out.print(f"  letter of {logbook['written_utc']}: follows orders {logbook['orders']}, {files}", markup=False)
    for claim in logbook["claims"]:
        reason = f" ({claim['reason']})" if claim["reason"] else ""
        out.print(f"  {claim['update']}: {claim['state']}{reason}, as it says", markup=False)


def rotation_words(row: dict[str, Any]) -> str:
    """Where the rotation of its key stands, and what to do about it."""
    rotation = row["rotation"]
    return {
        RotationState.BEGUN: "its key is being replaced: the same `skyload station rotate` goes on",
        RotationState.QUEUED: f"its key is being replaced, blind: no answer of {row['satellite']} yet; "
        "`skyload station rotate --done` where none can come",
        RotationState.REFUSED: f"its key is as it was: {row['satellite']} refused ({rotation['text']})",
        RotationState.DONE: "its key was replaced: export it again, or remove it",
    }[RotationState(rotation["state"])]


def station_json(depot: Depot, entry: Station) -> dict[str, Any]:
    """A station as JSON values."""
    rotation = rotation_of(depot, entry)  # before its logbook is read: an answer may have made that void
    notes, logbook = StationNotes(depot, entry).read(), last_logbook(depot, entry)
    return {
        "satellite": entry.satellite,
        "station": entry.id,
        "name": entry.name,
        "added_utc": _utc(entry.added_utc),
        "generation": depot.station_generation(entry.satellite, entry.id),
        "rotation": None
        if rotation is None
        else {"generation": rotation.generation, "state": str(rotation.state), "text": rotation.text},
        "endpoint": notes.endpoint,
        "exported_utc": None if notes.exported_utc is None else _utc(notes.exported_utc),
        "contacts": None if notes.contacts is None else [_contact(contact) for contact in notes.contacts],
        "without_lane": [
            update.handle.hex() for update in depot.open_updates(entry.satellite) if update.lanes <= entry.id
        ],
        "logbook": None
        if logbook is None
        else {
            "written_utc": _utc(logbook.written_utc),
            "orders": logbook.orders,
            "is_complete": logbook.is_complete,
            "claims": [
                {"update": claim.handle.hex(), "state": str(claim.state), "reason": claim.reason}
                for claim in logbook.claims
            ],
        },
    }


def _contact(contact: PlannedContact) -> dict[str, Any]:
    return {
        "start_utc": None if math.isinf(contact.start_s) else format_utc(contact.start_s),
        "end_utc": None if math.isinf(contact.end_s) else format_utc(contact.end_s),
        "rate_bit_per_s": contact.rate_bps,
        "loss": contact.loss,
    }


def _utc(value: datetime) -> str:
    return format_utc(value.timestamp())
