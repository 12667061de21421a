"""A new model requantized on the grid of the release on board: few bytes as a delta, little lost.

Reads model, base and texts, lets the job be done, writes the release with its report. Driven by `skyload model
requantize` and by staging, which asks for what fits into the passes there are (`fit`). Interrupted, the same call goes
on after the last stage that it finished.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.models.output_directory import check_output
from groundsegment.models.release import ReleaseSource, scan_release
from groundsegment.requantize.grid import plan_on_grid, read_grid
from groundsegment.requantize.job import Job
from groundsegment.requantize.keeping import Keeper
from groundsegment.requantize.options import Effort, Goal, OnPhase, Options
from groundsegment.requantize.report import REPORT_NAME, Report
from groundsegment.requantize.text import read_sequences
from groundsegment.requantize.workpiece import Workpiece
from groundsegment.requantize.writing import write_release

_KEPT_OUT = 8  # one sequence in so many of the calibration text, where there is no other


def requantize(
    new: Path, base: Path, out: Path, options: Options, on_phase: OnPhase | None = None, *, reuse: bool = False
) -> Report:
    """Write a release of the new model on the base's grid.

    Args:
        new: a float model's directory.
        base: the quantized release on board.
        out: the directory that appears when all is done.
        options: what is asked for.
        on_phase: told what is being done, how much of it is done, of how much.
        reuse: take what is there already, if just this was asked for.

    Raises:
        InputError: what was given does not fit together, or nothing within the goal was found.
    """
    new_source, base_source = scan_release(new), scan_release(base)
    key = _key(new_source, base_source, options)
    there = _report_of(out, key) if reuse else None
    if there is not None:
        return there
    check_output(out, force=options.force)
    plan = plan_on_grid(new_source, base_source)
    calibration, held_out = _read_texts(new, options)
    if options.effort.num_threads:
        torch.set_num_threads(options.effort.num_threads)
    with Keeper(out, key) as keeper, tempfile.TemporaryDirectory(dir=keeper.directory) as scratch:
        old = None if options.old is None else plan_on_grid(scan_release(options.old), base_source)
        work = Workpiece(plan, base_source, read_grid(plan, base_source), old)
        job = Job(work, plan, options, (calibration, held_out), keeper, Path(scratch), on_phase)
        report, chosen = job.run(base=str(base), new=str(new))
        write_release(plan, out, chosen, report=report.as_json() | {"key": key}, force=options.force)
    return report


def fit(
    new: Path,
    base: Path,
    out: Path,
    budget_bytes: int,
    *,
    calibration: Path,
    held_out: Path | None = None,
    old: Path | None = None,
    effort: Effort | None = None,
    on_phase: OnPhase | None = None,
    force: bool = False,
) -> Report:
    """Write the best release of the new model whose delta to the base takes at most so many bytes.

    Asked for the same again, it takes what is there.

    Args:
        new: a float model's directory.
        base: the quantized release on board.
        out: the directory that appears, with the release and its report.
        budget_bytes: what the passes hold.
        calibration: text that codes are chosen on.
        held_out: text that figures are taken from.
        old: the float model that the base was made of.
        effort: how hard to try.
        on_phase: told what is being done, how much of it is done, of how much.
        force: replace a release that is there already.

    Raises:
        InputError: what was given does not fit together.
    """
    options = Options(
        goal=Goal(budget_bytes=budget_bytes),
        calibration=calibration,
        held_out=held_out,
        old=old,
        effort=effort or Effort(),
        force=force,
    )
    return requantize(new, base, out, options, on_phase, reuse=True)


def _read_texts(new: Path, options: Options) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    effort = options.effort
    calibration = read_sequences(
        options.calibration, new, num_tokens=effort.num_calibration_tokens, length=effort.length
    )
    if options.held_out is not None:
        return calibration, read_sequences(
            options.held_out, new, num_tokens=effort.num_held_out_tokens, length=effort.length
        )
    if len(calibration) < _KEPT_OUT:
        raise InputError(f"{options.calibration}: too short to keep some of it out", hint="give --held-out text too")
    kept = np.arange(len(calibration)) % _KEPT_OUT == 1
    return calibration[~kept], calibration[kept]


def _key(new: ReleaseSource, base: ReleaseSource, options: Options) -> str:
    """Return what decides the result, as hexadecimal digits."""
    texts = [_stamp_file(path) for path in (options.calibration, options.held_out) if path]
    old = [] if options.old is None else _stamp(scan_release(options.old))
    facts = [repr(options.goal), repr(options.effort), _stamp(new), _stamp(base), old, texts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _report_of(out: Path, key: str) -> Report | None:
    try:
        saved = json.loads((out / REPORT_NAME).read_bytes())
        return Report.from_json(saved) if saved["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(source: ReleaseSource) -> list[tuple[str, int, int]]:
    return [_stamp_file(file.path) for file in source.files]


def _stamp_file(path: Path) -> tuple[str, int, int]:
    facts = path.stat()
    return str(path.absolute()), facts.st_size, facts.st_mtime_ns
