"""`skyload stage`: pack a release for a satellite, rehearse it on the twin, sign it. Nothing is sent."""

import os
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command
from groundsegment.console.progress_lines import packing_progress
from groundsegment.console.stage_fit import Fit, Fitting
from groundsegment.console.stage_quality import judging_of
from groundsegment.console.stage_words import Explaining, tell_choice, tell_estimate, tell_staged

if TYPE_CHECKING:
    pass

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "kb": 1000, "mb": 1000**2}
_WORKERS_MAX = 8  # unless asked for: with them the packer stays below 1 GB
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")

_FLIGHT, _TRIAL, _PACKING = "In flight and on board", "Trial and quality", "Packing"
_EXPLAIN, _FIT = "What is said", "Made to fit: lossy, by --fit"


@command
def stage(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model directory, one GGUF file, or a LoRA adapter's.")],
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="What it builds on: auto (the best of what should be on board, else a full update), current (what "
            "the satellite reported serving, or an error), none, or the directory of a release that is on board.",
        ),
    ] = "auto",
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            help="What becomes of a LoRA adapter on board: beside (served with its base, which stays; the default) or "
            "merge (into a copy of its base).",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The release's name; the directory's if left out.")] = None,
    canary: Annotated[
        Path | None,
        typer.Option(
            "--canary", rich_help_panel=_TRIAL, help="A JSON file with a list of questions for the trial on board."
        ),
    ] = None,
    no_canary: Annotated[
        bool, typer.Option("--no-canary", rich_help_panel=_TRIAL, help="No questions: loading is the whole trial.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", rich_help_panel=_TRIAL, min=1, max=256, help="Of one canary answer.")
    ] = 16,
    twin: Annotated[
        str | None,
        typer.Option(
            "--twin", rich_help_panel=_TRIAL, envvar="SKYLOAD_TWIN", help="A command in place of `skyloadd rehearse`."
        ),
    ] = None,
    bundle_size: Annotated[
        str | None,
        typer.Option(
            "--bundle-size",
            rich_help_panel=_PACKING,
            help="64KiB to 64MiB; 20MB, two full blocks, unless the release is huge.",
        ),
    ] = None,
    level: Annotated[
        int,
        typer.Option(
            "--level",
            rich_help_panel=_PACKING,
            min=3,
            max=19,
            help="How hard the coders try, as a zstd level; 19 is slow.",
        ),
    ] = 15,
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            rich_help_panel=_FLIGHT,
            min=-1000,
            max=1000,
            help="Higher flies first, strictly, even in mid-flight.",
        ),
    ] = 0,
    weight: Annotated[
        float,
        typer.Option(
            "--weight",
            rich_help_panel=_FLIGHT,
            min=0.01,
            max=1000.0,
            help="Share of the link among updates of one priority.",
        ),
    ] = 1.0,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            rich_help_panel=_FLIGHT,
            help="Updates under way go on beside it; without this it ends them on arrival.",
        ),
    ] = False,
    hold: Annotated[
        bool,
        typer.Option(
            "--hold", rich_help_panel=_FLIGHT, help="On board its trial waits, verified, for `skyload activate`."
        ),
    ] = False,
    symbol_size: Annotated[
        int | None,
        typer.Option(
            "--symbol-size",
            rich_help_panel=_PACKING,
            min=8,
            max=8192,
            help="Bytes of a symbol: a frame is 20 more. Multiple of 8.",
        ),
    ] = None,
    floor: Annotated[
        int,
        typer.Option(
            "--floor",
            rich_help_panel=_FLIGHT,
            min=0,
            max=2**53,
            help="Once confirmed, no release of a smaller sequence may serve again.",
        ),
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", rich_help_panel=_PACKING, min=1, help="Packing processes, 0.1 GB each; one per CPU, at most 8."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            rich_help_panel=_PACKING,
            help="Pack on a Dask cluster: tcp://HOST:8786. Its machines need the files under the same path.",
        ),
    ] = None,
    forbid_full_fallback: Annotated[
        bool, typer.Option("--forbid-full-fallback", help="No base to be had is an error, not a full update.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", rich_help_panel=_EXPLAIN, help="Print for every tensor how it is sent, why, and what it costs."
        ),
    ] = False,
    explain_plot: Annotated[
        Path | None,
        typer.Option(
            "--explain-plot", rich_help_panel=_EXPLAIN, help="Draw that by layer and use: a file .png or .svg."
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            rich_help_panel=_FIT,
            help="Lossy: quantize the model on --base's grid, to fit into 3-passes or 5MB; see `model requantize`.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", rich_help_panel=_FIT, help="--fit: text like what the model is for.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            rich_help_panel=_TRIAL,
            help="Text that what the twin rebuilt is judged by; the figures are signed. --fit uses it too.",
        ),
    ] = None,
    held_out_tokens: Annotated[
        int, typer.Option("--held-out-tokens", rich_help_panel=_TRIAL, min=256, help="Of it, at most.")
    ] = 4096,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            rich_help_panel=_TRIAL,
            help="The model it is compared with; with --fit, the one that is fitted.",
        ),
    ] = None,
    max_perplexity_loss: Annotated[
        str | None,
        typer.Option(
            "--max-perplexity-loss",
            rich_help_panel=_TRIAL,
            help="Sign nothing whose perplexity is this much above the reference's.",
        ),
    ] = None,
    old: Annotated[
        Path | None, typer.Option("--old", rich_help_panel=_FIT, help="--fit: the float model that --base was made of.")
    ] = None,
    fit_out: Annotated[
        Path | None,
        typer.Option(
            "--fit-out", rich_help_panel=_FIT, help="--fit: directory of the release; beside the model if left out."
        ),
    ] = None,
    contacts: Annotated[
        Path | None, typer.Option("--contacts", rich_help_panel=_FIT, help="--fit: contact plan of the passes.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", rich_help_panel=_FIT, help="--fit: emulator profile of the passes.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", rich_help_panel=_FIT, help="--fit: rate of the link, as 2Mbit/s.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Send only what the satellite said that it lost of this very release.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=_EXPLAIN, help="Print sizes from a sample; write nothing.")
    ] = False,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Pack a release for a satellite, rehearse it on a twin, sign and register it. Nothing is sent.

    The twin is skyloadd itself, run here: it rebuilds the release from the bundles as it will be on board, and its
    answers to the canary's questions are what the satellite must answer before the release may serve. With
    --held-out it also says how good that release is; the figures are signed, and refused if they are too bad.
    Interrupted, the same command goes on where it was.

    Examples:
    ```
    skyload stage models/v2 --for SAT-1 --dry-run
    skyload stage models/v2 --for SAT-1 --dry-run --explain --explain-plot update.png
    skyload stage models/v2 --for SAT-1
    skyload stage models/v2 --for SAT-1 --base models/v1 --canary questions.json
    skyload stage models/v2-int8 --for SAT-1 --held-out questions.txt --reference models/v2 --max-perplexity-loss 1%
    skyload stage adapters/flood --for SAT-1 --priority 10 --beside
    skyload stage adapters/flood --for SAT-1 --base models/v1 --adapter merge
    skyload stage model.gguf --for SAT-1 --no-canary --bundle-size 8MiB
    skyload stage models/v2 --for SAT-1 --base models/v1-int4 --fit 3-passes --calibration manuals.txt
    skyload stage models/v1 --for SAT-1 --repair
    skyload stage models/500GB --for SAT-1 --forbid-full-fallback --executor tcp://scheduler:8786
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.packer.workers import Workers
    from groundsegment.staging.canary import read_prompts
    from groundsegment.staging.checks import TooLargeError
    from groundsegment.staging.records import StageOptions
    from groundsegment.staging.staging import prepare
    from groundsegment.staging.staging import stage as run_stage
    from groundsegment.stations.home import exchange_if_free

    if canary is not None and no_canary:
        raise InputError("--canary and --no-canary exclude each other", hint="leave one out")
    if base == "none" and forbid_full_fallback:
        raise InputError("--base none and --forbid-full-fallback exclude each other", hint="leave one out")
    if explain_plot is not None:
        from groundsegment.packer.explain_plot import check_plot

        check_plot(explain_plot)
    if repair and (base != "auto" or canary or fit or adapter or held_out):
        raise InputError("--repair goes with no other base, canary, fit or judging", hint="leave them out")
    fitting = Fit(
        wanted=fit or "",
        calibration=calibration,
        held_out=held_out if fit is not None else None,
        old=old,
        out=fit_out,
        contacts=contacts,
        profile=profile,
        rate=rate,
    )
    if fit is not None and adapter is not None:
        raise InputError("--fit and --adapter exclude each other", hint="--fit is for whole models: leave one out")
    if fit is None and fitting != Fit(wanted=""):
        raise InputError("--calibration, --old, --fit-out and passes belong to --fit", hint="add --fit 3-passes")
    wanted = Explaining(is_printed=explain, plot=explain_plot)
    options = StageOptions(
        satellite=satellite,
        base=base,
        name=name,
        prompts=() if no_canary or repair else read_prompts(canary),
        max_tokens=max_tokens,
        twin=twin,
        bundle_size_bytes=None if bundle_size is None else _parse_bundle_size(bundle_size),
        level=level,
        priority=priority,
        weight=weight,
        beside=beside,
        hold=hold,
        is_repair=repair,
        symbol_size=symbol_size,
        floor=floor,
        workers=Workers(count=workers or min(os.cpu_count() or 1, _WORKERS_MAX)),
        forbid_full_fallback=forbid_full_fallback,
        adapter=None if adapter is None else _parse_adapter_use(adapter),
        judging=judging_of(
            held_out,
            reference or (model if fit is not None and held_out is not None else None),
            max_tokens=held_out_tokens,
            max_loss=max_perplexity_loss,
        ),
    )
    with ExitStack() as stack:
        opened = stack.enter_context(Depot.open(depot))
        fitter: Fitting | None = None
        if fit is not None:
            fitter = Fitting(opened, satellite, model, base, fitting)
            options = replace(options, payload_bytes_max=fitter.payload_bytes_max)
            model = fitter.release()
            stack.enter_context(fitter.explaining())
        if executor is not None:
            from groundsegment.packer.cluster import cluster_workers

            options = replace(options, workers=stack.enter_context(cluster_workers(executor)))
        on_progress = stack.enter_context(packing_progress())
        if dry_run:
            prepared = prepare(opened, model, options, on_progress)
            tell_estimate(prepared, options, wanted, on_progress, as_json=as_json)
            return
        with opened.lock("stage"):
            while True:
                prepared = prepare(opened, model, options, on_progress)
                tell_choice(prepared)
                try:
                    staged = run_stage(opened, prepared, options, utc=_now(), on_progress=on_progress)
                    break
                except TooLargeError as error:
                    if fitter is None:
                        raise
                    model = fitter.tighter(error.payload_bytes)
        exchange_if_free(opened, satellite, utc=_now())
    tell_staged(prepared, staged, options, wanted, as_json=as_json)


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


def _parse_adapter_use(text: str) -> Any:  # noqa: ANN401 - AdapterUse, imported late
    from groundsegment.errors import InputError
    from protocol.manifest import AdapterUse

    try:
        return AdapterUse(text)
    except ValueError:
        raise InputError(f"--adapter: {text!r} is neither beside nor merge", hint="write --adapter merge") from None
