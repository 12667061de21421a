"""What `skyload uplink` says at its end: the summary, for people and for scripts, and the exit code."""

from typing import Any

import typer

from groundsegment.console.output import err, out
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from groundsegment.errors import InputError, LinkError
from groundsegment.planner.quantities import format_bytes, format_duration
from groundsegment.uplink.flight.flight_records import FlightPlan, FlightSummary, UpdateSummary
from groundsegment.uplink.flight.outcome import serving_of
from protocol.report import Reason

OPEN_STATES = ("staged", "flying", "complete")


def finish(plan: FlightPlan, summary: FlightSummary) -> None:
    """Turn how it ended into an exit code."""
    if summary.is_interrupted:
        raise KeyboardInterrupt
    if summary.damage:
        raise summary.damage[0]
    if summary.is_exhausted:
        once = "that contact was not enough" if plan.once else "no contact is left"
        raise LinkError(
            f"{plan.satellite} has not decided yet: {once}{_standing(summary)}",
            hint="run it again with later contacts; what was sent counts. `skyload plan --for` says how many it takes",
        )
    if summary.waiting and not summary.updates:
        update, why = summary.waiting[0]
        raise InputError(f"update {update.handle.hex()} does not fly: {why}", hint="stage it again")
    for update in summary.expired:
        err.print(f"error: update {update.handle.hex()} ({update.release_name}): {update.reason}", markup=False)
        err.print("hint: stage it again: it is signed anew", markup=False)
    if summary.expired and not summary.updates:
        raise typer.Exit(1)
    held = [entry for entry in summary.updates if _is_held(entry)]
    for entry in held:
        err.print(f"{entry.release_name} is on board, verified, and waits", markup=False)
        err.print(f"hint: skyload activate {entry.handle.hex()} --for {plan.satellite}", markup=False)
    if any(entry.state is not FlightState.CONFIRMED for entry in summary.updates if entry not in held):
        reasons = ", ".join(entry.reason for entry in summary.updates if entry.reason)
        err.print(f"error: {plan.satellite} did not confirm{f' ({reasons})' if reasons else ''}", markup=False)
        err.print(
            "hint: it serves what it served before; docs/runbook.md says what to do for each reason", markup=False
        )
        raise typer.Exit(1)
    if summary.expired:
        raise typer.Exit(1)


def _is_held(entry: UpdateSummary) -> bool:
    return entry.state is FlightState.COMPLETE and entry.reason == Reason.HELD.name


def _standing(summary: FlightSummary) -> str:
    reasons = ", ".join(entry.reason for entry in summary.updates if entry.reason)
    if reasons:
        return f"; on board it stands still ({reasons}), docs/runbook.md says what to do"
    is_open = [entry for entry in summary.updates if entry.state.is_open]
    # Where reports come they say what is there; where none did, only what was sent does.
    guesses = [f"{_probably(entry.p_complete)} of {entry.release_name}" for entry in is_open]
    return f"; by what was sent it has {', '.join(guesses)}" if guesses and summary.report is None else ""


def _probably(share: float) -> str:
    return f"all with a probability of {100 * share:.{1 if share < 0.999 else 3}f} %"


def summary_json(depot: Depot, plan: FlightPlan, summary: FlightSummary) -> dict[str, Any]:
    """What a run did, as JSON values."""
    payload = sum(entry.payload_bytes for entry in summary.updates)
    # All figures are of this run; an update that an earlier one began counts with what this one has brought.
    brought = sum(entry.brought_bytes for entry in summary.updates)
    last = max(depot.updates(plan.satellite), key=lambda entry: entry.sequence, default=None)
    return {
        "satellite": plan.satellite,
        "station": plan.station,
        "updates": [_update_json(entry) for entry in summary.updates],
        "waiting": [{"update": update.handle.hex(), "why": why} for update, why in summary.waiting],
        "expired": [update.handle.hex() for update in summary.expired],
        "state": last.state.value if last else "",
        "frames_sent": summary.frames_sent,
        "bytes_sent": summary.bytes_sent,
        "payload_bytes": payload,
        "brought_bytes": brought,
        "link_ratio": round(summary.bytes_sent * (1 - (summary.loss or 0.0)) / brought, 4) if brought else None,
        "loss": None if summary.loss is None else round(summary.loss, 5),
        "frames_lost": summary.frames_lost,
        "contacts_used": summary.contacts,
        "duration_s": round(summary.duration_s, 3),
        "transfer_s": round(summary.transfer_s, 3),
        "swap_ms": _swap_ms(summary),
        **_serving(depot, summary),
    }


def _serving(depot: Depot, summary: FlightSummary) -> dict[str, str]:
    serving = "" if summary.report is None else serving_of(depot, summary.report)
    known = depot.find_release(bytes.fromhex(serving)) if serving else None
    return {"serving": serving, "serving_name": known.name if known else ""}


def _swap_ms(summary: FlightSummary) -> float | None:
    """How long the flip to the new model took, if the last receipt says so."""
    for entry in reversed(summary.updates):
        if entry.receipt is not None:
            body = entry.receipt.body
            found = body.get("swap_ms", dict(body.get("canary") or {}).get("swap_ms"))
            return None if found is None else float(found)
    return None


def _update_json(entry: UpdateSummary) -> dict[str, Any]:
    return {
        "update": entry.handle.hex(),
        "release": entry.release_name,
        "digest": entry.release_digest.hex(),
        "state": entry.state.value,
        "reason": entry.reason,
        "payload_bytes": entry.payload_bytes,
        "brought_bytes": entry.brought_bytes,
        "p_complete": round(entry.p_complete, 6),
        "receipt": None if entry.receipt is None else entry.receipt.body,
    }


def print_summary(values: dict[str, Any]) -> None:
    """The same for people."""
    for entry in values["updates"]:
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        out.print(f"{entry['release']}  {entry['update']}  {entry['state']}{reason}", markup=False)
    if values["payload_bytes"]:
        ratio = f" ({values['link_ratio']:.3f} x the limit)" if values["link_ratio"] else ""
        brought = f"{format_bytes(values['brought_bytes'])} of updates brought"
        contacts = f"{values['contacts_used']} contact{'s' if values['contacts_used'] != 1 else ''}"
        lost = "loss unknown" if values["frames_lost"] is None else f"about {values['frames_lost']} lost"
        out.print(
            f"{brought}, {format_bytes(values['bytes_sent'])} on the link"
            f"{ratio}, {values['frames_sent']} frames,\n"
            f"{lost}, {contacts}, {format_duration(values['duration_s'])}",
            markup=False,
        )
    if not values["updates"] and values["state"] not in OPEN_STATES:
        standing = f"the last update is {values['state']}" if values["state"] else "no update is staged"
        out.print(f"nothing left to fly: {standing}", markup=False)
    if values["serving"]:
        words = filter(None, ("serving", values["serving_name"], values["serving"][:16]))
        out.print(" ".join(words), markup=False)
