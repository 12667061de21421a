"""int4 releases calibrated by GPTQ, with the code that Skyload itself calibrates with; torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.codec.samples import Matrix
from groundsegment.models.quantize import QuantizePlan, plan_quantize, quantize
from groundsegment.models.release import scan_release
from groundsegment.models.safetensors_file import read_header
from groundsegment.models.tensor_info import TensorInfo

if TYPE_CHECKING:
    from groundsegment.requantize.language_model import Statistics

_TOKENS, _LENGTH = 8192, 256  # of calibration text


def release(directory: Path, model: str, form: str, how: str, out: Path | None = None) -> None:
    """Write one of the bench's models quantized.

    Args:
        directory: of the models and of the text.
        model: its name.
        form: int8 or int4, in the widest groups that fit.
        how: "rounded" to nearest; "gptq", each rounding's error fed forward into later columns; or that, "polished".
        out: where to; by its model's name and format if left out.
    """
    from groundsegment.requantize.afresh import FloatModel, polished
    from groundsegment.requantize.candidate import Candidate
    from groundsegment.requantize.moving import calibrate
    from groundsegment.requantize.writing import write_release

    suffix = "-polished" if how.endswith("polished") else ""
    out = out or directory / f"{model}-{form}{suffix}"
    plan = plan_quantize(scan_release(directory / model), format_name="int8" if form == "int8" else "int4")
    if how == "rounded":
        quantize(plan, out)
        return
    floats = FloatModel(plan)
    statistics = statistics_of(directory, model, plan)
    grid, _ = floats.rounded()
    codes = calibrate(grid, floats.weight, statistics)
    if suffix:
        codes = polished(floats, grid, codes, statistics)
    candidate = Candidate(grid=grid, codes=codes, others=floats.others())
    write_release(plan, out, candidate, report={"calibration_tokens": _TOKENS, "how": how})


def statistics_of(directory: Path, model: str, plan: QuantizePlan) -> "Statistics":
    """Return what calibration text says about a model, from where it was kept: whatever format it is asked for."""
    import torch

    from groundsegment.requantize.language_model import LanguageModel, Statistics
    from groundsegment.requantize.text import read_sequences

    path = directory / f"{model}.statistics.npz"
    if not path.exists():
        torch.set_num_threads(1)
        source = plan.source.path
        sequences = read_sequences(directory / "train.txt", source, num_tokens=_TOKENS, length=_LENGTH)
        found = LanguageModel(source, plan.matrices).statistics(sequences)
        part = path.with_suffix(".part.npz")
        with part.open("wb") as file:
            np.savez(file, **found.as_arrays())  # type: ignore[arg-type]
        part.replace(path)
        return found
    with np.load(path, allow_pickle=False) as kept:
        return Statistics.from_arrays({key: kept[key] for key in kept.files})


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
