"""`skyload status`: what the depot knows of satellites: updates, the last word heard, messages, contacts."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import ContactLog, ReceivedMessage, Update

MESSAGES_SHOWN = 8
CONTACTS_SHOWN = 6
WATCH_PERIOD_S = 1.0


@command
def status(
    satellite: Annotated[str | None, typer.Option("--for", help="One satellite only.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every second until interrupted.")] = False,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show what is staged and flying, how lossy each link is, what the satellite serves, and what it said last.

    Asks the depot, not the satellite: it works between contacts too.

    Examples:
    ```
    skyload status
    skyload status --for SAT-1 --watch
    skyload status --for SAT-1 --json
    ```
    """
    from groundsegment.depot.depot import Depot

    with Depot.open(depot) as opened:
        if watch and not as_json:
            _watch(opened, satellite)
            return
        values = _gather(opened, satellite)
    if as_json:
        print_json({"satellites": values})
        return
    from groundsegment.console.status_tables import render

    for renderable in render(values):
        out.print(renderable, soft_wrap=False)


def _watch(depot: "Depot", satellite: str | None) -> None:
    from rich.console import Group
    from rich.live import Live

    from groundsegment.console.status_tables import render

    with Live(console=out, auto_refresh=False) as live:
        try:
            while True:
                live.update(Group(*render(_gather(depot, satellite))), refresh=True)
                time.sleep(WATCH_PERIOD_S)
        except KeyboardInterrupt:
            return


def _gather(depot: "Depot", satellite: str | None) -> list[dict[str, Any]]:
    from groundsegment.stations.home import exchange_if_free

    names = [satellite] if satellite else [entry.name for entry in depot.satellites()]
    if not names:
        err.print("no satellite yet; `skyload keys init --satellite NAME --kit DIR` adds one")
    for name in names:
        exchange_if_free(depot, depot.satellite(name).name, utc=datetime.now(UTC))
    return [_gather_one(depot, depot.satellite(name).name) for name in names]


def _gather_one(depot: "Depot", name: str) -> dict[str, Any]:
    from groundsegment.console.status_word import last_word
    from groundsegment.depot.records import CommandState
    from groundsegment.staging.behind import what_is_behind

    report = depot.journal.last_report(name)
    return {
        "satellite": name,
        "report": None if report is None else last_word(depot, report),
        "links": _links(depot, name),
        "updates": [_update(depot, entry) for entry in depot.updates(name)],
        "damage": _damage(depot, name),
        "behind": list(what_is_behind(depot, name)),
        "commands_waiting": len(depot.journal.commands(name, CommandState.QUEUED)),
        "messages": [_message(entry) for entry in depot.journal.messages(name, newest=MESSAGES_SHOWN)],
        "contacts": [_contact(entry) for entry in depot.journal.contacts(name, newest=CONTACTS_SHOWN)],
    }


def _damage(depot: "Depot", name: str) -> list[dict[str, Any]]:
    """What it lost of its releases and asked for."""
    from groundsegment.damage import damage_of

    return [
        {
            "release": known.report.release.hex(),
            "name": known.name,
            "num_bytes": known.report.num_bytes,
            "lost": [{"file": lost.file, "offset": lost.offset, "size": lost.size} for lost in known.report.lost],
            "is_all": known.report.is_all,
            "received_utc": _utc(known.received_utc),
        }
        for known in damage_of(depot, name)
    ]


def _update(depot: "Depot", entry: "Update") -> dict[str, Any]:
    from groundsegment.console.progress import on_board

    there = on_board(depot, entry)
    return {
        "update": entry.handle.hex(),
        "sequence": entry.sequence,
        "release": entry.release_name,
        "digest": entry.release_digest.hex(),
        "state": entry.state.value,
        "reason": entry.reason,
        "priority": entry.priority,
        "weight": entry.weight,
        "beside": entry.beside,
        "lanes": entry.lanes,
        "symbol_size": entry.symbol_size,
        "bundles": len(depot.bundles(entry.handle)),
        "blocks_solved": there.blocks_solved,
        "blocks_begun": there.blocks_begun,
        "blocks": there.blocks,
        "share_on_board": round(there.share, 6),
        "payload_bytes": entry.payload_bytes,
        "created_utc": _utc(entry.created_utc),
        "expires_utc": None if entry.expires_utc is None else _utc(entry.expires_utc),
        "quality": _quality(entry),
    }


def _quality(entry: "Update") -> dict[str, Any] | None:
    """What the manifest that was signed says of it; None if that is lost or says nothing."""
    from groundsegment.console.stage_quality import quality_as_json
    from protocol.errors import DecodeError
    from protocol.manifest import Manifest

    try:
        return quality_as_json(Manifest.decode(entry.manifest_path.read_bytes()).quality)
    except (OSError, DecodeError):
        return None


def _links(depot: "Depot", name: str) -> list[dict[str, Any]]:
    """What is believed of the link of each station, the home ground's first."""
    from groundsegment.depot.records import HOME_STATION

    stations = [(HOME_STATION, ""), *((entry.id, entry.name) for entry in depot.stations(name))]
    return [
        {
            "station": station,
            "id": number,
            "up": _loss(depot, name, number, "up"),
            "down": _loss(depot, name, number, "down"),
        }
        for number, station in stations
    ]


def _loss(depot: "Depot", name: str, station: int, direction: str) -> dict[str, float] | None:
    from groundsegment.uplink.sender.loss import LossEstimate
    from protocol.link_keys import Direction

    state = depot.journal.loss(name, station, Direction(direction))
    if state is None:
        return None
    estimate = LossEstimate.from_dict(state)
    return {"loss": round(estimate.mean, 6), "deviation": round(estimate.deviation, 6)}


def _message(entry: "ReceivedMessage") -> dict[str, Any]:
    return {
        "counter": entry.counter,
        "kind": entry.kind,
        "re": entry.re.hex() if any(entry.re) else "",
        "body": dict(entry.body),
        "received_utc": _utc(entry.received_utc),
    }


def _contact(entry: "ContactLog") -> dict[str, Any]:
    values: dict[str, Any] = asdict(entry)
    del values["id"], values["satellite"]
    values["start_utc"] = _utc(entry.start_utc)
    values["end_utc"] = _utc(entry.end_utc) if entry.end_utc else None
    return values


def _utc(value: Any) -> str:  # noqa: ANN401 - a datetime
    from groundsegment.planner.quantities import format_utc

    return format_utc(value.timestamp())
