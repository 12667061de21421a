"""int4 releases calibrated by GPTQ, with the code that Skyload itself calibrates with; torch."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.codec.samples import Matrix
from groundsegment.models.quantize import plan_quantize
from groundsegment.models.release import scan_release
from groundsegment.models.rounding import quantize_rows
from groundsegment.models.safetensors_file import read_header
from groundsegment.models.tensor_info import TensorInfo

_TOKENS, _LENGTH = 8192, 256


def write(source: Path, calibration: Path, out: Path) -> None:
    """Write a model as int4, in the widest groups that fit, each rounding's error fed forward into later columns."""
    from groundsegment.requantize.grid import Grid, as_float32, read_tensor
    from groundsegment.requantize.language_model import LanguageModel
    from groundsegment.requantize.moving import calibrate
    from groundsegment.requantize.text import read_sequences
    from groundsegment.requantize.workpiece import Candidate
    from groundsegment.requantize.writing import write_release

    release = scan_release(source)
    plan = plan_quantize(release, format_name="int4")
    matrices = {info.name: info for info in plan.matrices}

    def weights(name: str) -> NDArray[np.float32]:
        return as_float32(read_tensor(release, matrices[name]), matrices[name].dtype)

    scales = {
        name: quantize_rows(weights(name), num_bits=4, group_columns=plan.group_columns).scales for name in matrices
    }
    grid = Grid(num_bits=4, scales=scales)
    sequences = read_sequences(calibration, source, num_tokens=_TOKENS, length=_LENGTH)
    statistics = LanguageModel(source, plan.matrices).statistics(sequences)
    codes = calibrate(grid, weights, statistics)
    others = {info.name: read_tensor(release, info) for info in plan.others}
    write_release(plan, out, Candidate(grid=grid, codes=codes, others=others), report={"calibration_tokens": _TOKENS})


def read(release: Path, names: list[str]) -> list[Matrix]:
    """Return matrices of such a release."""
    settings = json.loads((release / "config.json").read_text())["quantization_config"]
    group: int = settings["config_groups"]["group_0"]["weights"]["group_size"]
    path = release / "model.safetensors"
    infos = {info.name: info for info in read_header(path)[0]}
    matrices = []
    for name in names:
        packed, scale = infos[f"{name}_packed"], infos[f"{name}_scale"]
        matrices.append(
            Matrix(
                name=name,
                kind="int4",
                rows=packed.shape[0],
                columns=packed.shape[1] * 8,
                group_columns=group,
                parts={"codes": _bytes(path, packed), "scales": _bytes(path, scale)},
            )
        )
    return matrices


def _bytes(path: Path, info: TensorInfo) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        file.seek(info.offset)
        return np.frombuffer(file.read(info.size_bytes), np.uint8)
