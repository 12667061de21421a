"""`skyload uplink`: fly what is staged for a satellite, contact after contact, until the satellite has decided."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.planner.contact_plan import ContactPlan
    from groundsegment.uplink.flight_records import FlightPlan, FlightSummary, UpdateSummary


@command
def uplink(
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[
        str, typer.Option("--link", envvar="SKYLOAD_LINK", help="HOST:PORT of modem, emulator, satellite.")
    ],
    contacts: Annotated[Path | None, typer.Option("--contacts", help="A contact plan (YAML).")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Contacts and rate of an emulator profile.")] = None,
    epoch: Annotated[
        float | None, typer.Option("--epoch", help="Unix seconds of the profile's link time 0; now if left out.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="2Mbit/s, or max: as fast as reports allow. Default: as contacts say.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Fly one contact only.")] = False,
    until: Annotated[str | None, typer.Option("--until", help="Stop at this time (ISO 8601, UTC).")] = None,
    silence_s: Annotated[
        float, typer.Option("--silence", min=0.0, help="Seconds without a report after which to send on blindly.")
    ] = 2.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No display.")] = False,
) -> None:
    """Send all staged updates of a satellite, inside contacts only, until it has confirmed or rejected them.

    Run it again after an interruption, a reboot, a power cut: it goes on where it was; the summary counts what the
    last run did. Without a contact plan the link counts as always there. Without a rate it is found from reports.

    Exit codes:
    ```
    0 confirmed    1 rejected or cancelled    5 nothing staged
    6 the plan ended before a decision    7 another uplink flies this satellite
    ```

    Examples:
    ```
    skyload uplink --for SAT-1 --link 127.0.0.1:7001 --profile demo
    skyload uplink --for SAT-1 --link modem:7001 --contacts today.yaml --rate 2Mbit/s
    skyload uplink --for SAT-1 --link modem:7001 --rate 2Mbit/s --until 2026-11-23T00:00:00Z --json
    ```
    """
    import asyncio
    import signal

    from groundsegment.depot.depot import Depot
    from groundsegment.planner.quantities import parse_rate, parse_utc
    from groundsegment.uplink.display import FlightDisplay
    from groundsegment.uplink.flight_records import FlightPlan
    from groundsegment.uplink.link_socket import Endpoint
    from groundsegment.uplink.shell import UplinkShell

    plan = FlightPlan(
        satellite=satellite,
        endpoint=Endpoint.parse(link),
        contacts=chosen_contacts(contacts, profile, epoch),
        rate_bps=None if rate is None else 0.0 if rate == "max" else parse_rate(rate),
        once=once,
        until_s=float("inf") if until is None else parse_utc(until, option="--until").timestamp(),
        silence_s=silence_s,
    )

    async def fly(opened: "Depot", display: FlightDisplay) -> "FlightSummary":
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await UplinkShell(opened, plan, on_tick=display.show).run(stop)

    with Depot.open(depot) as opened:
        with FlightDisplay(err, is_quiet=quiet) as display:
            summary = asyncio.run(fly(opened, display))
        values = _as_json(opened, plan, summary)
    if as_json:
        print_json(values)
    else:
        _print_summary(values)
    _finish(plan, summary)


def chosen_contacts(contacts: Path | None, profile: str | None, epoch: float | None) -> "ContactPlan":
    """The contact plan that the options mean."""
    from groundsegment.emulator.profile import load_profile
    from groundsegment.errors import InputError
    from groundsegment.planner.contact_plan import always, from_profile, load_contact_plan
    from groundsegment.planner.quantities import check_epoch

    now_s = datetime.now(tz=UTC).timestamp()
    if contacts is not None and profile is not None:
        raise InputError("--contacts and --profile are two answers to one question", hint="give one of them")
    if epoch is not None and profile is None:
        raise InputError("--epoch belongs to --profile", hint="a contact plan says its epoch itself")
    check_epoch(epoch)
    if contacts is not None:
        return load_contact_plan(contacts, now_s=now_s)
    if profile is not None:
        return from_profile(load_profile(profile), epoch_s=now_s if epoch is None else epoch)
    return always()


OPEN_STATES = ("staged", "flying", "complete")


def _finish(plan: "FlightPlan", summary: "FlightSummary") -> None:
    """Turn how it ended into an exit code."""
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import LinkError

    if summary.is_interrupted:
        raise KeyboardInterrupt
    if summary.is_exhausted:
        once = "that contact was not enough" if plan.once else "no contact is left"
        raise LinkError(
            f"{plan.satellite} has not decided yet: {once}{_standing(summary)}",
            hint="run it again with later contacts; what was sent counts. `skyload plan --for` says how many it takes",
        )
    if any(entry.state is not FlightState.CONFIRMED for entry in summary.updates):
        reasons = ", ".join(entry.reason for entry in summary.updates if entry.reason)
        err.print(f"error: {plan.satellite} did not confirm{f' ({reasons})' if reasons else ''}", markup=False)
        err.print(
            "hint: it serves what it served before; docs/runbook.md says what to do for each reason", markup=False
        )
        raise typer.Exit(1)


def _standing(summary: "FlightSummary") -> str:
    reasons = ", ".join(entry.reason for entry in summary.updates if entry.reason)
    return f"; on board it stands still ({reasons}), docs/runbook.md says what to do" if reasons else ""


def _as_json(depot: "Depot", plan: "FlightPlan", summary: "FlightSummary") -> dict[str, Any]:
    from groundsegment.uplink.update_flight import serving_of

    payload = sum(entry.payload_bytes for entry in summary.updates)
    # All figures are of this run; an update that an earlier one began counts with what this one has brought.
    brought = sum(entry.brought_bytes for entry in summary.updates)
    last = max(depot.updates(plan.satellite), key=lambda entry: entry.sequence, default=None)
    return {
        "satellite": plan.satellite,
        "updates": [_update_json(entry) for entry in summary.updates],
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
        "serving": "" if summary.report is None else serving_of(depot, summary.report),
    }


def _swap_ms(summary: "FlightSummary") -> float | None:
    """How long the flip to the new model took, if the last receipt says so."""
    for entry in reversed(summary.updates):
        if entry.receipt is not None:
            body = entry.receipt.body
            found = body.get("swap_ms", dict(body.get("canary") or {}).get("swap_ms"))
            return None if found is None else float(found)
    return None


def _update_json(entry: "UpdateSummary") -> dict[str, Any]:
    return {
        "update": entry.handle.hex(),
        "release": entry.release_name,
        "digest": entry.release_digest.hex(),
        "state": entry.state.value,
        "reason": entry.reason,
        "payload_bytes": entry.payload_bytes,
        "receipt": None if entry.receipt is None else entry.receipt.body,
    }


def _print_summary(values: dict[str, Any]) -> None:
    from groundsegment.planner.quantities import format_bytes, format_duration

    for entry in values["updates"]:
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        out.print(f"{entry['release']}  {entry['update']}  {entry['state']}{reason}", markup=False)
    if values["payload_bytes"]:
        ratio = f" ({values['link_ratio']:.3f} x the limit)" if values["link_ratio"] else ""
        brought = f"{format_bytes(values['brought_bytes'])} of updates brought"
        contacts = f"{values['contacts_used']} contact{'s' if values['contacts_used'] != 1 else ''}"
        out.print(
            f"{brought}, {format_bytes(values['bytes_sent'])} on the link"
            f"{ratio}, {values['frames_sent']} frames,\n"
            f"about {values['frames_lost']} lost, {contacts}, {format_duration(values['duration_s'])}",
            markup=False,
        )
    if not values["updates"] and values["state"] not in OPEN_STATES:
        out.print(f"nothing left to fly: the last update is {values['state']}", markup=False)
    if values["serving"]:
        out.print(f"serving {values['serving']}", markup=False)
