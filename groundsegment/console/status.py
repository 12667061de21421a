"""`skyload status`: what the depot knows of satellites: updates, the last word heard, messages, contacts."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import ContactLog, ReceivedMessage, ReceivedReport, Update

MESSAGES_SHOWN = 8
CONTACTS_SHOWN = 6
MESSAGE_LENGTH_MAX = 160  # the whole text is in --json
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
    """Show what is staged and flying, what the satellite serves, and what it said last.

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
    for renderable in _render(values):
        out.print(renderable, soft_wrap=False)


def _watch(depot: "Depot", satellite: str | None) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:
        try:
            while True:
                live.update(Group(*_render(_gather(depot, satellite))), refresh=True)
                time.sleep(WATCH_PERIOD_S)
        except KeyboardInterrupt:
            return


def _gather(depot: "Depot", satellite: str | None) -> list[dict[str, Any]]:
    names = [satellite] if satellite else [entry.name for entry in depot.satellites()]
    if not names:
        err.print("no satellite yet; `skyload keys init --satellite NAME --kit DIR` adds one")
    return [_gather_one(depot, depot.satellite(name).name) for name in names]


def _gather_one(depot: "Depot", name: str) -> dict[str, Any]:
    report = depot.journal.last_report(name)
    return {
        "satellite": name,
        "report": None if report is None else _report(depot, report),
        "updates": [_update(depot, entry) for entry in depot.updates(name)],
        "messages": [_message(entry) for entry in depot.journal.messages(name, newest=MESSAGES_SHOWN)],
        "contacts": [_contact(entry) for entry in depot.journal.contacts(name, newest=CONTACTS_SHOWN)],
    }


def _report(depot: "Depot", received: "ReceivedReport") -> dict[str, Any]:
    from groundsegment.uplink.exchange import seconds_since
    from groundsegment.uplink.update_flight import serving_of

    report = received.report
    serving = serving_of(depot, report)
    known = depot.find_release(report.serving) if serving else None
    return {
        "received_utc": _utc(received.received_utc),
        "age_s": round(seconds_since(received.received_utc), 1),
        "station": received.station,
        "state": report.state.name,
        "reason": report.reason.name if report.reason else "",
        "update": report.update.hex() if any(report.update) else "",
        "serving": serving,
        "serving_name": known.name if known else "",
        "accepted": report.accepted,
        "boot_count": report.boot_count,
        "free_mib": report.free_mib,
        "frames_received": report.frames_received,
        "frames_rejected": report.frames_rejected,
    }


def _update(depot: "Depot", entry: "Update") -> dict[str, Any]:
    from protocol.report import SOLVED

    bundles = depot.bundles(entry.handle)
    handles = {bundle.handle for bundle in bundles}
    blocks = [block for block in depot.journal.progress(entry.satellite) if block.handle in handles]
    return {
        "update": entry.handle.hex(),
        "sequence": entry.sequence,
        "release": entry.release_name,
        "digest": entry.release_digest.hex(),
        "state": entry.state.value,
        "reason": entry.reason,
        "priority": entry.priority,
        "bundles": len(handles),
        "blocks_solved": sum(block.have == SOLVED for block in blocks),
        "blocks_begun": len(blocks),
        "blocks": sum(_num_blocks(bundle.size_bytes) for bundle in bundles),
        "payload_bytes": entry.payload_bytes,
        "created_utc": _utc(entry.created_utc),
    }


def _num_blocks(size_bytes: int) -> int:
    from protocol.blocks import block_layout, symbols_needed
    from protocol.limits import SYMBOL_SIZE_DEFAULT

    return block_layout(symbols_needed(size_bytes, SYMBOL_SIZE_DEFAULT), SYMBOL_SIZE_DEFAULT).num_blocks


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


def _render(values: list[dict[str, Any]]) -> list["RenderableType"]:
    from rich.text import Text

    result: list[RenderableType] = []
    for entry in values:
        result.append(Text(entry["satellite"], style="bold"))
        result.append(Text(_report_text(entry["report"])))
        result.append(_updates_table(entry["updates"]))
        if entry["contacts"]:
            result.append(_contacts_table(entry["contacts"]))
        if entry["messages"]:
            result.append(_messages_table(entry["messages"]))
    return result


def _report_text(report: Mapping[str, Any] | None) -> str:
    from groundsegment.planner.quantities import format_duration

    if report is None:
        return "  never heard"
    station = f" by {report['station']}" if report["station"] else ""
    reason = f" ({report['reason']})" if report["reason"] else ""
    serving = " ".join(filter(None, (report["serving_name"], report["serving"][:16]))) or "nothing"
    return (
        f"  heard {format_duration(report['age_s'])} ago{station}, {report['received_utc']}\n"
        f"  serving {serving}; update {report['update'] or 'none'}: {report['state']}{reason}\n"
        f"  boots {report['boot_count']}, {report['free_mib']} MiB free, "
        f"frames {report['frames_received']} received, {report['frames_rejected']} rejected"
    )


def _updates_table(updates: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Column, Table
    from rich.text import Text

    from groundsegment.planner.quantities import format_bytes

    if not updates:
        return Text("  no updates")
    # What is typed again keeps its width; the rest gives way on a narrow terminal.
    update, state = Column("update", no_wrap=True, min_width=16), Column("state", min_width=9)
    table = Table(update, "seq", "release", "digest", state, "bundles", "blocks", "payload", box=None, pad_edge=True)
    for entry in updates:
        standing = entry["state"] + (f" ({entry['reason']})" if entry["reason"] else "")
        table.add_row(
            entry["update"],
            str(entry["sequence"]),
            entry["release"],
            entry["digest"][:16],
            standing,
            str(entry["bundles"]),
            f"{entry['blocks_solved']}/{entry['blocks']}",
            format_bytes(entry["payload_bytes"]),
        )
    return table


def _contacts_table(contacts: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    from groundsegment.planner.quantities import format_bytes

    table = Table("contact", "until", "station", "frames", "sent", "loss", box=None, pad_edge=True)
    for entry in contacts:
        table.add_row(
            entry["start_utc"],
            entry["end_utc"] or "",
            entry["station"] or "-",
            str(entry["frames_sent"]),
            format_bytes(entry["bytes_sent"]),
            "unknown" if entry["loss"] is None else f"{entry['loss']:.1%}",
        )
    return table


def _messages_table(messages: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("message", no_wrap=True), Column("kind", no_wrap=True), "text", box=None, pad_edge=True)
    for message in messages:
        table.add_row(message["received_utc"], message["kind"], Text(_message_text(message)))
    return table


def _message_text(message: Mapping[str, Any]) -> str:
    body = message["body"]
    match message["kind"]:
        case "answer":
            text = body.get("error") or str(body.get("text", "")).strip()
        case "receipt":
            reason = body.get("reason")
            text = f"{body.get('state')} {reason if reason != 'none' else ''} {body.get('text', '')}"
        case "event":
            text = f"{body.get('name', '')}, {body.get('severity', '')}: {body.get('text', '')}"
        case _:
            text = str(body.get("text", ""))
    words = " ".join(text.split())
    return words if len(words) <= MESSAGE_LENGTH_MAX else f"{words[: MESSAGE_LENGTH_MAX - 3]}..."
