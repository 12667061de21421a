"""The tables of `skyload status`: what was gathered, in as many columns as there are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_SEVERITY_WORDS = {"warning_lo": "warning: ", "warning_hi": "WARNING: ", "fatal": "FATAL: "}
MESSAGE_LENGTH_MAX = 160  # the whole text is in --json
_DEVIATION_SHOWN_MAX = 0.15  # of a contact's loss: beyond, the figure would mislead
_DIGEST_DIGITS = 8  # enough for `skyload revert`; all of them are in --json


def render(values: list[dict[str, Any]]) -> list["RenderableType"]:
    """All of it, satellite after satellite."""
    from rich.text import Text

    result: list[RenderableType] = []
    for entry in values:
        result.append(Text(entry["satellite"], style="bold"))
        result.append(Text(_report_text(entry["report"])))
        result.append(_updates_table(entry["updates"]))
        result += [Text(_quality_text(update)) for update in entry["updates"] if update["quality"]]
        result += [Text(_damage_text(damage), style="red") for damage in entry["damage"]]
        if entry["behind"]:
            result.append(Text("  this depot is behind; was it restored from a backup?", style="red"))
        result += [Text(f"    {words}", style="red") for words in entry["behind"]]
        if waiting := entry["commands_waiting"]:
            result.append(Text(f"  {waiting} command{'s' * (waiting != 1)} to be told at the next contact"))
        if any(link["up"] or link["down"] for link in entry["links"]) or len(entry["links"]) > 1:
            result.append(_links_table(entry["links"]))
        if entry["contacts"]:
            result.append(_contacts_table(entry["contacts"]))
        if entry["messages"]:
            result.append(_messages_table(entry["messages"]))
    return result


def _report_text(report: Mapping[str, Any] | None) -> str:
    from groundsegment.planner.quantities import format_duration

    if report is None:
        return "  never heard"
    station = f" by {report['station'].removeprefix('by ')}" if report["station"] else ""  # or by hand
    serving = " ".join(filter(None, (report["serving_name"], report["serving"][:16]))) or "nothing"
    updates = "; ".join(
        f"{_update_name(entry['update'])}: {entry['state']}"
        + (f" ({entry['reason']})" if entry["reason"] else "")
        + (", by its receipt" if entry["said_by"] == "receipt" else "")
        for entry in report["updates"]
    )
    return (
        f"  heard {format_duration(report['age_s'])} ago{station}, {report['received_utc']}\n"
        f"  serving {serving}; {updates or 'no update under way'}\n"
        f"  root {report['root_version']}, boots {report['boot_count']}, {report['free_mib']} MiB free, "
        f"frames {report['frames_received']} received, {report['frames_rejected']} rejected"
    )


def _update_name(handle: str) -> str:
    """The zero handle stands for whatever may come: a medium that takes no writes says so of it."""
    return f"update {handle}" if int(handle, 16) else "every update"


def _damage_text(damage: Mapping[str, Any]) -> str:
    from groundsegment.planner.quantities import format_bytes

    name = " ".join(filter(None, (damage["name"], damage["release"][:16])))
    more = "" if damage["is_all"] else " and more"
    num_whole = sum(each["size"] == 0 for each in damage["lost"])  # how long they are is not known on board
    whole = f"{num_whole} whole file{'s'[: num_whole > 1]} and " if num_whole else ""
    places = len(damage["lost"]) - num_whole
    return (
        f"  damaged: {name} lost {whole}{format_bytes(damage['num_bytes'])} in {places} places{more},"
        f" said {damage['received_utc']}: send it again with `skyload stage --repair`"
    )


def _updates_table(updates: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Column, Table
    from rich.text import Text

    from groundsegment.planner.quantities import format_bytes

    if not updates:
        return Text("  no updates")
    # What is typed again keeps its width; the rest gives way on a narrow terminal.
    update, state = Column("update", no_wrap=True), Column("state", min_width=9)
    digest, share = Column("digest", no_wrap=True), Column("there", justify="right", no_wrap=True)
    is_weighted = any(entry["weight"] != 1 for entry in updates)
    priority = Column("prio*weight" if is_weighted else "prio", justify="right", no_wrap=True)
    table = Table(update, priority, "release", digest, state, share, "blocks", "payload", box=None, pad_edge=True)
    for entry in updates:
        standing = entry["state"] + (f" ({entry['reason']})" if entry["reason"] else "")
        table.add_row(
            entry["update"],
            _priority_words(entry),
            entry["release"],
            entry["digest"][:_DIGEST_DIGITS],
            standing,
            f"{entry['share_on_board']:.1%}",
            f"{entry['blocks_solved']}/{entry['blocks']}",
            format_bytes(entry["payload_bytes"]),
        )
    return table


def _quality_text(update: Mapping[str, Any]) -> str:
    quality = update["quality"]
    words = f"  {update['update']}: perplexity {quality['perplexity']:.3f} as rebuilt, {quality['num_tokens']} tokens"
    if quality["reference"] is None:
        return words
    loss, divergence = quality["loss"], quality["reference"]["divergence"]
    return f"{words}, {loss:+.2%} against its reference, divergence {divergence:.4f}"


def _priority_words(entry: Mapping[str, Any]) -> str:
    weight = "" if entry["weight"] == 1 else f"*{entry['weight']:g}"
    return f"{entry['priority']}{weight}"


def _links_table(links: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    table = Table("link", "id", "loss up", "loss down", box=None, pad_edge=True)
    for link in links:
        table.add_row(link["station"] or "home", str(link["id"]), _loss_words(link["up"]), _loss_words(link["down"]))
    return table


def _loss_words(loss: Mapping[str, float] | None) -> str:
    return "unknown" if loss is None else f"{loss['loss']:.1%} ± {loss['deviation']:.1%}"


def _contacts_table(contacts: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    from groundsegment.planner.quantities import format_bytes

    table = Table("contact", "until", "station", "frames", "sent", "loss up", "loss down", box=None, pad_edge=True)
    for entry in sorted(contacts, key=lambda entry: str(entry["start_utc"])):
        table.add_row(
            entry["start_utc"],
            entry["end_utc"] or "",
            entry["station"] or "-",
            str(entry["frames_sent"]),
            format_bytes(entry["bytes_sent"]),
            _contact_loss_words(entry),
            _share_words(entry["loss_down"]),
        )
    return table


def _contact_loss_words(entry: Mapping[str, Any]) -> str:
    loss, deviation = entry["loss"], entry["loss_deviation"]
    if loss is None or (deviation is not None and deviation > _DEVIATION_SHOWN_MAX):
        return "-"  # a few frames say nothing
    return _share_words(loss) if deviation is None else _loss_words({"loss": loss, "deviation": deviation})


def _share_words(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.1%}"


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
            standing = f"{body.get('state')}{'' if reason in (None, 'none') else f' ({reason})'}"
            about = message["re"] or str(body.get("release") or "")[:_DIGEST_DIGITS]
            text = ": ".join(filter(None, (f"{about} {standing}", str(body.get("text", "")))))
        case "damage":
            lost = body.get("lost") or []
            said = f"lost {sum(size for _, _, size in lost)} bytes in {len(lost)} places" if lost else "is whole again"
            text = f"release {str(body.get('release'))[:16]} {said}"
        case "event":
            severity = _SEVERITY_WORDS.get(str(body.get("severity")), "")
            text = f"{severity}{body.get('name', '')}: {body.get('text', '')}"
        case _:
            text = str(body.get("text", ""))
    words = " ".join(text.split())
    return words if len(words) <= MESSAGE_LENGTH_MAX else f"{words[: MESSAGE_LENGTH_MAX - 3]}..."
