"""A model quantized with no regard to what is on board: what a delta is compared with, and what a first release is.

Scales are those of rounding to nearest. GPTQ chooses codes in one go, column after column; descent then moves single
codes as long as that makes a layer's output error smaller, which GPTQ, never looking back, leaves much of undone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundsegment.models.output_directory import check_output
from groundsegment.models.quantize import QuantizePlan
from groundsegment.models.rounding import quantize_rows
from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.grid import Codes, Grid, as_float32, read_tensor
from groundsegment.requantize.language_model import LanguageModel, Statistics
from groundsegment.requantize.moving import OnMatrix, Situation, calibrate, move_by_layer
from groundsegment.requantize.options import Effort, OnPhase
from groundsegment.requantize.text import read_sequences
from groundsegment.requantize.writing import write_release

PASSES = 2


class FloatModel:
    """The matrices of a float model, read one by one.

    Args:
        plan: names them.
    """

    def __init__(self, plan: QuantizePlan) -> None:
        self._plan = plan
        self._matrices = {matrix.name: matrix for matrix in plan.matrices}
        self.num_bits = 8 if plan.format == "int8" else 4

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a matrix."""
        info = self._matrices[name]
        return as_float32(read_tensor(self._plan.source, info), info.dtype)

    def others(self) -> dict[str, NDArray[Any]]:
        """Return the stored values of everything else."""
        return {info.name: read_tensor(self._plan.source, info) for info in self._plan.others}

    def rounded(self) -> tuple[Grid, dict[str, Codes]]:
        """Round to nearest, each group with a scale of its own, as `skyload model quantize` does."""
        codes, scales = {}, {}
        for name, matrix in self._matrices.items():
            columns = self._plan.group_columns or matrix.shape[1]
            block = quantize_rows(self.weight(name), num_bits=self.num_bits, group_columns=columns)
            codes[name], scales[name] = block.codes, block.scales
        return Grid(num_bits=self.num_bits, scales=scales), codes


def polished(
    model: FloatModel,
    grid: Grid,
    codes: Mapping[str, Codes],
    statistics: Statistics,
    on_matrix: OnMatrix | None = None,
    num_passes: int = PASSES,
) -> dict[str, Codes]:
    """Move single codes as long as a layer's output error falls."""
    situation = Situation(grid=grid, base=codes, statistics=statistics, new=model.weight)
    for _ in range(num_passes):
        codes = move_by_layer(situation, codes, 0.0, on_matrix=on_matrix)
    return dict(codes)


def quantize_calibrated(
    plan: QuantizePlan,
    out: Path,
    calibration: Path,
    *,
    effort: Effort | None = None,
    num_passes: int = PASSES,
    force: bool = False,
    on_phase: OnPhase | None = None,
) -> None:
    """Write a model quantized by calibration, in the layout of `skyload model quantize`.

    Args:
        plan: what is quantized and how.
        out: the directory that appears when all is done.
        calibration: text like what the model is for.
        effort: how much of it is looked at.
        num_passes: of polishing; 0 is plain GPTQ.
        force: replace a model that is there already.
        on_phase: told what is being done, how much of it is done, of how much.
    """
    check_output(out, force=force)
    effort, tell, done = effort or Effort(), on_phase or (lambda _what, _done, _total: None), 0
    sequences = read_sequences(
        calibration, plan.source.path, num_tokens=effort.num_calibration_tokens, length=effort.length
    )
    if effort.num_threads:
        torch.set_num_threads(effort.num_threads)

    def count(what: str, total: int, amount: int) -> None:
        nonlocal done
        done += amount
        tell(what, min(done, total), total)

    network = LanguageModel(plan.source.path, plan.matrices)
    statistics = network.statistics(
        sequences, seed=effort.seed, on_tokens=lambda amount: count("calibrating", sequences.size, amount)
    )
    del network
    done, model = 0, FloatModel(plan)
    passes = len(plan.matrices) * (1 + num_passes)
    grid, _ = model.rounded()
    codes = calibrate(grid, model.weight, statistics, lambda _name: count("choosing codes", passes, 1))
    codes = polished(model, grid, codes, statistics, lambda _name: count("choosing codes", passes, 1), num_passes)
    report = {"method": "calibrated", "num_calibration_tokens": int(sequences.size), "format": plan.format}
    write_release(plan, out, Candidate(grid=grid, codes=codes, others=model.others()), report=report, force=force)
