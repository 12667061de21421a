"""`skyload station run`: the agent of one ground station."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json
from groundsegment.console.station_sync import AsJson, Contacts, Epoch, Profile, chosen_plan

if TYPE_CHECKING:
    from groundsegment.planner.contact_plan import ContactPlan
    from groundsegment.stations.agent_records import AgentPlan, AgentSummary
    from groundsegment.stations.directory import StationDirectory

_StationDir = Annotated[Path, typer.Option("--station-dir", help="The directory that `station export` made.")]


@command
def run(
    station_dir: _StationDir,
    depot: Annotated[
        Path | None,
        typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="Where home can be reached: its depot, or a mirror."),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option("--link", envvar="SKYLOAD_LINK", help="HOST:PORT of the modem. Default: as home says."),
    ] = None,
    contacts: Contacts = None,
    profile: Profile = None,
    epoch: Epoch = None,
    rate: Annotated[
        str | None, typer.Option("--rate", help="2Mbit/s, or max: as fast as reports allow. Default: as contacts say.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Fly one contact only.")] = False,
    until: Annotated[str | None, typer.Option("--until", help="Stop at this time (ISO 8601, UTC).")] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Stop once all that was ordered is decided, and home was told.")
    ] = False,
    silence_s: Annotated[
        float, typer.Option("--silence", min=0.0, help="Seconds without a report after which to send on blindly.")
    ] = 2.0,
    sync_every: Annotated[
        str, typer.Option("--sync-every", help="How often to look at home between contacts.")
    ] = "60s",
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No display.")] = False,
) -> None:
    """Fly from a ground station: in its own contacts, in its own lane.

    Waits for contacts, sends what home ordered, brings home what it heard. It needs its directory and, now and then, a
    way home; in a pass it talks to the satellite alone. Killed or interrupted, the same command goes on where it was.

    Exit codes:
    ```
    0 all that was asked is done    1 an update was rejected or cancelled (--until-decided)
    6 no contact is left    7 another process flies this station
    ```

    Examples:
    ```
    skyload station run --station-dir svalbard-kit --depot /mnt/home/depot
    skyload station run --station-dir svalbard-kit --link modem:7001 --contacts today.yaml --once --json
    ```
    """
    import asyncio
    import functools
    import signal

    from groundsegment.planner.quantities import parse_duration, parse_rate, parse_utc
    from groundsegment.stations.agent_records import AgentPlan
    from groundsegment.stations.directory import StationDirectory
    from groundsegment.stations.shell import StationAgent
    from groundsegment.uplink.screen.display import FlightDisplay
    from groundsegment.uplink.wire.link_socket import Endpoint

    chosen = chosen_plan(contacts, profile, epoch)
    with StationDirectory.open(station_dir) as opened:
        plan = AgentPlan(
            root=depot,
            endpoint=None if link is None else Endpoint.parse(link),
            contacts=None if chosen is None else _own(chosen, opened.identity.name),
            rate_bps=None if rate is None else 0.0 if rate == "max" else parse_rate(rate),
            silence_s=silence_s,
            once=once,
            until_decided=until_decided,
            until_s=float("inf") if until is None else parse_utc(until, option="--until").timestamp(),
            sync_period_s=parse_duration(sync_every, option="--sync-every"),
        )
        if depot is None:
            err.print("no --depot: flying with what is here, and telling nobody", markup=False)

        async def fly() -> "AgentSummary":
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            display = functools.partial(FlightDisplay, err, is_quiet=quiet, is_numbered=False)
            return await StationAgent(opened, plan, display=display, tell=_tell).run(stop)

        summary = asyncio.run(fly())
        values = _as_json(opened, summary)
    if as_json:
        print_json(values)
    else:
        _print_summary(values)
    _finish(opened.identity.name, plan, summary)


def _own(plan: "ContactPlan", name: str) -> "ContactPlan":
    from groundsegment.errors import InputError

    if plan.stations and name not in plan.stations:
        hint = f"stations of this plan: {', '.join(plan.stations)}"
        raise InputError(f"{name} has no contact in this plan", hint=hint)
    return plan.for_station(name) if plan.stations else plan


def _tell(text: str) -> None:
    from groundsegment.planner.quantities import format_utc

    err.print(f"{format_utc(datetime.now(tz=UTC).timestamp())} {text}", markup=False)


def _as_json(directory: "StationDirectory", summary: "AgentSummary") -> dict[str, Any]:
    return {
        "satellite": directory.identity.satellite,
        "station": directory.identity.id,
        "name": directory.identity.name,
        "updates": [
            {
                "update": entry.handle.hex(),
                "release": entry.release_name,
                "state": entry.state.value,
                "reason": entry.reason,
                "payload_bytes": entry.payload_bytes,
                "brought_bytes": entry.brought_bytes,
            }
            for entry in summary.updates
        ],
        "contacts_used": summary.contacts,
        "frames_sent": summary.frames_sent,
        "bytes_sent": summary.bytes_sent,
        "frames_lost": summary.frames_lost,
        "syncs": summary.syncs,
        "is_decided": summary.is_decided,
    }


def _print_summary(values: dict[str, Any]) -> None:
    from groundsegment.planner.quantities import format_bytes

    for entry in values["updates"]:
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        out.print(f"{entry['release']}  {entry['update']}  {entry['state']}{reason}", markup=False)
    contacts = f"{values['contacts_used']} contact{'s' if values['contacts_used'] != 1 else ''}"
    lost = "loss unknown" if values["frames_lost"] is None else f"about {values['frames_lost']} frames lost"
    out.print(
        f"{values['name']}: {contacts}, {values['frames_sent']} frames, "
        f"{format_bytes(values['bytes_sent'])} sent, {lost}",
        markup=False,
    )


def _finish(name: str, plan: "AgentPlan", summary: "AgentSummary") -> None:
    """Turn how it ended into an exit code."""
    from groundsegment.depot.records import FlightState
    from groundsegment.errors import LinkError

    if summary.is_interrupted:
        raise KeyboardInterrupt
    if summary.is_exhausted and not summary.is_decided:
        raise LinkError(f"{name}: no contact is left", hint="run it again with later contacts; what was sent counts")
    if plan.until_decided and any(
        not entry.state.is_open and entry.state is not FlightState.CONFIRMED for entry in summary.updates
    ):
        raise typer.Exit(1)
