"""`skyload model requantize`: a new model on the grid of the one on board, for few bytes. Registered in model.py."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json
from groundsegment.console.progress_lines import ProgressLines

if TYPE_CHECKING:
    from groundsegment.requantize.options import Goal, OnPhase
    from groundsegment.requantize.report import Report

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_MAX_LOSS_DEFAULT = "1%"


@command
def requantize_model(
    new: Annotated[Path, typer.Argument(metavar="DIR", help="The new model: bf16, f16 or f32 weights.")],
    base: Annotated[Path, typer.Option("--base", help="The quantized release that is on board.")],
    directory: Annotated[Path, typer.Option("--out", help="Directory to make.")],
    calibration: Annotated[
        Path, typer.Option("--calibration", help="Text like what the model is for; codes are chosen on it.")
    ],
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", help="Text that figures are from; without it an eighth of --calibration."),
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option("--old", help="The float model that --base was made of: helps where the base was calibrated."),
    ] = None,
    max_loss: Annotated[
        str | None,
        typer.Option("--max-loss", help="Fewest bytes with a perplexity at most this above the best quantized afresh."),
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Best quality in a delta of at most so much.")] = None,
    price: Annotated[
        float | None, typer.Option("--lambda", help="A code changes if it gains so many nats a token for each bit.")
    ] = None,
    curve: Annotated[Path | None, typer.Option("--curve", help="Draw bytes against quality: .png, .svg, .pdf.")] = None,
    calibration_tokens: Annotated[
        int, typer.Option("--calibration-tokens", min=512, help="Of the calibration text, at most.")
    ] = 16384,
    held_out_tokens: Annotated[
        int, typer.Option("--held-out-tokens", min=512, help="Of the held-out text, at most.")
    ] = 8192,
    length: Annotated[int, typer.Option("--length", min=16, max=8192, help="Tokens of a sequence.")] = 256,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", min=0, max=64, help="Of refining by the whole model's gradient, while they help: slow."
        ),
    ] = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of torch.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    r"""Quantize a new model on the grid of the release on board, so that few codes change and little is lost.

    Scales stay; a code changes only where that gains more than its bits cost. This is a lossy choice: what it costs
    and what it is worth is printed and saved in DIR/requantize.json, beside rounding to nearest and a fresh
    calibration (GPTQ). Needs torch, and memory for the model in float32 twice over. Interrupted, the same command
    goes on where it was.

    Examples:
    ```
    skyload model requantize models/v2 --base models/v1-int4 --out models/v2-int4 --calibration manuals.txt
    skyload model requantize models/v2 --base models/v1-int4 --out models/v2-int4 --calibration manuals.txt --budget 2MB
    skyload model requantize models/v2 --base models/v1-int8 --out models/v2-int8 --calibration manuals.txt \
        --old models/v1 --held-out questions.txt --max-loss 0.5% --curve curve.png
    ```
    """
    from groundsegment.requantize.availability import check_torch
    from groundsegment.requantize.curve import check_plots, save_curve

    goal = _goal(max_loss, budget, price)
    check_torch()
    if curve is not None:
        check_plots()
    from groundsegment.requantize.options import Effort, Options
    from groundsegment.requantize.requantize import requantize

    effort = Effort(
        num_calibration_tokens=calibration_tokens,
        num_held_out_tokens=held_out_tokens,
        length=length,
        num_steps=steps,
        num_threads=threads,
    )
    options = Options(goal=goal, calibration=calibration, held_out=held_out, old=old, effort=effort, force=force)
    with phases() as on_phase:
        report = requantize(new, base, directory, options, on_phase)
    if curve is not None:
        save_curve(report, curve)
    if as_json:
        print_json({"out": str(directory), **report.as_json()})
    else:
        _tell(report, directory)


def _goal(max_loss: str | None, budget: str | None, price: float | None) -> "Goal":
    from groundsegment.planner.quantities import parse_share
    from groundsegment.requantize.options import Goal

    if max_loss is None and budget is None and price is None:
        max_loss = _MAX_LOSS_DEFAULT
    return Goal(
        budget_bytes=None if budget is None else parse_size(budget, option="--budget"),
        max_loss=None if max_loss is None else parse_share(max_loss, option="--max-loss"),
        price=price,
    )


def parse_size(text: str, *, option: str) -> int:
    """Read a number of bytes: 5MB, 800kB, 1MiB."""
    from groundsegment.errors import InputError

    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise InputError(f"{option}: {text!r} is not a size", hint="write 5MB or 800kB")
    return int(float(match[1]) * unit)


@contextmanager
def phases() -> "Iterator[OnPhase]":
    """Show what is being done: a bar on a terminal, a line now and then in a log."""
    if not sys.stderr.isatty():
        yield ProgressLines(partial(err.print, markup=False)).show
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield show


def _tell(report: "Report", directory: Path) -> None:
    err.print("lossy by choice; scales are those on board", markup=False)
    rows: list[tuple[str, Any]] = [
        ("nothing sent", report.nothing),
        ("rounded to nearest", report.naive),
        ("GPTQ afresh", report.gptq),
        ("calibrated afresh", report.fresh),
        ("this release", report.chosen),
    ]
    out.print(
        f"{directory}: {report.format}, {100 * report.share:.1f} % of the delta of quantizing afresh, "
        f"perplexity {100 * report.loss:+.2f} %",
        markup=False,
    )
    out.print(f"  {'':20}{'delta':>12}{'perplexity':>12}{'divergence':>12}{'codes changed':>15}", markup=False)
    out.print(f"  {'new, not quantized':20}{'':>12}{report.new_perplexity:12.3f}", markup=False)
    for name, point in rows:
        out.print(
            f"  {name:20}{point.delta_bytes / 1e6:9.2f} MB{point.perplexity:12.3f}{point.divergence:12.4f}"
            f"{100 * point.changed:13.2f} %",
            markup=False,
        )
    err.print(
        f"figures from {report.num_held_out_tokens} held-out tokens; deltas are estimates, "
        f"`skyload stage --dry-run` says what is sent",
        markup=False,
    )
