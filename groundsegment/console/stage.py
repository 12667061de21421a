"""`skyload stage`: pack a release for a satellite, rehearse it on the twin, sign it. Nothing is sent."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.packer.estimating import Estimate
    from groundsegment.packer.tally import Totals
    from groundsegment.staging.records import Prepared, Staged, StageOptions
    from groundsegment.staging.staging import OnProgress
    from protocol.codec.kinds import TransformKind

_AIRTIME_RATES_BPS = (256e3, 1e6, 10e6)  # S-band, fast S-band, X-band uplinks
_DATAGRAM_OVERHEAD = 48  # bytes of frame, UDP and IPv4 around a symbol
_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "kb": 1000, "mb": 1000**2}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


@command
def stage(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model directory, or one GGUF file.")],
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="What it builds on: auto (what the satellite reported serving, else a full update), current (that, "
            "or an error), none, or the directory of a release that is on board.",
        ),
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="The release's name; the directory's if left out.")] = None,
    canary: Annotated[
        Path | None, typer.Option("--canary", help="A JSON file with a list of questions for the trial on board.")
    ] = None,
    no_canary: Annotated[bool, typer.Option("--no-canary", help="No questions: loading is the whole trial.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=256, help="Of one canary answer.")] = 16,
    twin: Annotated[
        str | None, typer.Option("--twin", envvar="SKYLOAD_TWIN", help="A command in place of `skyloadd rehearse`.")
    ] = None,
    bundle_size: Annotated[
        str | None,
        typer.Option("--bundle-size", help="64KiB to 64MiB; 20MB, two full blocks, unless the release is huge."),
    ] = None,
    level: Annotated[
        int, typer.Option("--level", min=3, max=19, help="zstd level for what compresses well; 19 is slow.")
    ] = 15,
    priority: Annotated[
        int,
        typer.Option("--priority", min=-1000, max=1000, help="Higher flies first, strictly, even in mid-flight."),
    ] = 0,
    weight: Annotated[
        float, typer.Option("--weight", min=0.01, max=1000.0, help="Share of the link among updates of one priority.")
    ] = 1.0,
    beside: Annotated[
        bool, typer.Option("--beside", help="Updates under way go on beside it; without this it ends them on arrival.")
    ] = False,
    symbol_size: Annotated[
        int | None,
        typer.Option("--symbol-size", min=8, max=8192, help="Bytes of a symbol: a frame is 20 more. Multiple of 8."),
    ] = None,
    floor: Annotated[
        int,
        typer.Option(
            "--floor", min=0, max=2**53, help="Once confirmed, no release of a smaller sequence may serve again."
        ),
    ] = 0,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Packing processes; one per CPU.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print sizes from a sample; write nothing.")] = False,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Pack a release for a satellite, rehearse it on a twin, sign and register it. Nothing is sent.

    The twin is skyloadd itself, run here: it rebuilds the release from the bundles as it will be on board, and its
    answers to the canary's questions are what the satellite must answer before the release may serve.
    Interrupted, the same command goes on where it was.

    Examples:
    ```
    skyload stage models/v2 --for SAT-1 --dry-run
    skyload stage models/v2 --for SAT-1
    skyload stage models/v2 --for SAT-1 --base models/v1 --canary questions.json
    skyload stage models/adapter --for SAT-1 --priority 10 --beside
    skyload stage model.gguf --for SAT-1 --no-canary --bundle-size 8MiB
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.packer.workers import Workers
    from groundsegment.staging.canary import read_prompts
    from groundsegment.staging.records import StageOptions
    from groundsegment.staging.staging import prepare
    from groundsegment.staging.staging import stage as run_stage
    from groundsegment.stations.home import exchange_if_free

    if canary is not None and no_canary:
        raise InputError("--canary and --no-canary exclude each other", hint="leave one out")
    options = StageOptions(
        satellite=satellite,
        base=base,
        name=name,
        prompts=() if no_canary else read_prompts(canary),
        max_tokens=max_tokens,
        twin=twin,
        bundle_size_bytes=None if bundle_size is None else _parse_bundle_size(bundle_size),
        level=level,
        priority=priority,
        weight=weight,
        beside=beside,
        symbol_size=symbol_size,
        floor=floor,
        workers=Workers(count=workers or os.cpu_count() or 1),
    )
    with Depot.open(depot) as opened, _progress() as on_progress:
        if dry_run:
            prepared = prepare(opened, model, options, on_progress)
            _tell_estimate(prepared, options, as_json=as_json)
            return
        with opened.lock("stage"):
            prepared = prepare(opened, model, options, on_progress)
            _tell_choice(prepared)
            staged = run_stage(opened, prepared, options, utc=_now(), on_progress=on_progress)
        exchange_if_free(opened, satellite, utc=_now())
    _tell_staged(prepared, staged, options, as_json=as_json)


def _now() -> Any:  # noqa: ANN401 - datetime, imported late
    from datetime import UTC, datetime

    return datetime.now(UTC)


def _parse_bundle_size(text: str) -> int:
    from groundsegment.errors import InputError
    from protocol.limits import KIB, OBJECT_SIZE_MAX

    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    size = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if not 64 * KIB <= size <= OBJECT_SIZE_MAX:
        raise InputError(f"--bundle-size: {text!r} is not a size from 64KiB to 64MiB", hint="write 20MB or 500kB")
    return size


@contextmanager
def _progress() -> Iterator["OnProgress"]:
    """Show what is being done: a bar on a terminal, nothing in a log."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from groundsegment.planner.quantities import format_bytes

    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            amount = f"{format_bytes(done)} of {format_bytes(total)}" if total else format_bytes(done) if done else ""
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=None, amount=amount)
            progress.update(tasks[phase], completed=done, total=total or None, amount=amount)

        yield show


def _tell_choice(prepared: "Prepared") -> None:
    err.print(prepared.base.reason, markup=False)
    for warning in prepared.warnings:
        err.print(f"warning: {warning}", markup=False)


def _tell_estimate(prepared: "Prepared", options: "StageOptions", *, as_json: bool) -> None:
    from groundsegment.packer.estimating import estimate

    guess = estimate(prepared.plan, prepared.sources, workers=options.workers)
    if as_json:
        print_json(
            {
                **_facts(prepared),
                "dry_run": True,
                "payload_bytes": guess.payload_bytes,
                "num_bundles": guess.num_bundles,
                "num_segments": guess.num_segments,
                "num_sampled": guess.num_sampled,
                "error_bytes": guess.error_bytes,
                "by_transform": _transforms_as_json(guess.tally.by_transform),
            }
        )
        return
    _tell_choice(prepared)
    out.print(f"{prepared.name} for {prepared.satellite.name}, release {prepared.release.digest.hex()[:16]}")
    _print_sizes(prepared, guess.payload_bytes, guess.num_bundles, guess.tally.by_transform)
    _print_how_sure(guess)


def _print_how_sure(guess: "Estimate") -> None:
    share = f"{guess.num_sampled} of {guess.num_segments} segments"
    exact = guess.num_sampled == guess.num_segments
    err.print(f"nothing was written; {'exact' if exact else 'estimated'} from {share}", markup=False)


def _tell_staged(prepared: "Prepared", staged: "Staged", options: "StageOptions", *, as_json: bool) -> None:
    update, packed = staged.update, staged.packed
    if as_json:
        print_json(
            {
                **_facts(prepared),
                "update": update.handle.hex(),
                "sequence": update.sequence,
                "priority": update.priority,
                "weight": update.weight,
                "beside": update.beside,
                "lanes": update.lanes,
                "symbol_size": update.symbol_size,
                "payload_bytes": update.payload_bytes,
                "num_bundles": len(packed.bundles),
                "num_bundles_reused": packed.num_reused,
                "num_segments": staged.manifest.num_segments,
                "by_transform": _transforms_as_json(packed.tally.by_transform),
                "directory": str(update.directory),
                "canary": [
                    {"prompt": prompt, "text": answer.text, "tokens": list(answer.tokens)}
                    for prompt, answer in zip(options.prompts, staged.answers, strict=True)
                ],
            }
        )
        return
    if packed.num_reused:
        err.print(f"{packed.num_reused} bundles of an interrupted run were used again", markup=False)
    out.print(f"update {update.handle.hex()}: {update.release_name} for {update.satellite}, sequence {update.sequence}")
    _print_sizes(prepared, update.payload_bytes, len(packed.bundles), packed.tally.by_transform)
    for prompt, answer in zip(options.prompts, staged.answers, strict=True):
        out.print(f"  canary: {_short(prompt)} -> {_short(answer.text)}", markup=False)
    if not options.prompts:
        err.print("no canary: once it loads on board it is taken for good", markup=False)
    err.print(
        f"next: skyload plan --for {update.satellite}, then skyload uplink --for {update.satellite}", markup=False
    )


def _facts(prepared: "Prepared") -> dict[str, Any]:
    base = prepared.base.release
    return {
        "satellite": prepared.satellite.name,
        "release_name": prepared.name,
        "release_digest": prepared.release.digest.hex(),
        "installed_bytes": prepared.release.size_bytes,
        "base_digest": base.digest.hex() if base else None,
        "base_reason": prepared.base.reason,
        "bundle_size_bytes": prepared.plan.bundle_size_bytes,
        "warnings": list(prepared.warnings),
    }


def _transforms_as_json(by_transform: dict["TransformKind", "Totals"]) -> dict[str, Any]:
    import dataclasses

    return {transform.name.lower(): dataclasses.asdict(totals) for transform, totals in by_transform.items()}


def _print_sizes(
    prepared: "Prepared", payload_bytes: int, num_bundles: int, by_transform: dict["TransformKind", "Totals"]
) -> None:
    from groundsegment.console.stage_words import TRANSFORM_WORDS
    from groundsegment.planner.quantities import format_bytes, format_duration, format_rate

    installed = prepared.release.size_bytes
    percent = 100 * payload_bytes / max(1, installed)
    out.print(
        f"  {format_bytes(installed)} on board, {format_bytes(payload_bytes)} to send ({percent:.1f} %), "
        f"{num_bundles} bundle{'s' * (num_bundles != 1)}",
        markup=False,
    )
    for transform, totals in by_transform.items():
        sizes = f"{format_bytes(totals.raw_bytes)} -> {format_bytes(totals.coded_bytes)}"
        out.print(f"  {TRANSFORM_WORDS[transform]:26} {sizes}", markup=False)
    share = 1 + _DATAGRAM_OVERHEAD / prepared.symbol_size
    airtimes = [
        f"{format_duration(payload_bytes * share * 8 / rate)} at {format_rate(rate)}" for rate in _AIRTIME_RATES_BPS
    ]
    out.print(f"  airtime without loss: {', '.join(airtimes)}", markup=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
