"""The grid that a quantized release stands on: its scales, kept as they are, and its codes.

Read from a release in the compressed-tensors layout that `skyload model quantize` writes. A code q in a group with
scale s stands for q * s. The grid is what both ends have: a release on the same grid differs from the base in codes
alone, and few different codes make a small delta. Pure but for the reading; it does not know how codes are chosen.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import from_bfloat16
from groundsegment.models.quantize import Format, QuantizePlan, plan_quantize
from groundsegment.models.release import ReleaseSource
from groundsegment.models.rounding import unpack_nibbles
from groundsegment.models.tensor_info import TensorInfo

Codes = NDArray[np.int8]
Scales = NDArray[np.uint16]

_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I8": "i1", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is kept of a quantized release.

    Attributes:
        num_bits: of a code.
        scales: bfloat16 bits (R, G) of each quantized matrix, by the name of its weight.
    """

    num_bits: int
    scales: Mapping[str, Scales]

    @property
    def low(self) -> int:
        """Return the smallest code."""
        return -(1 << (self.num_bits - 1))

    @property
    def high(self) -> int:
        """Return the largest code."""
        return (1 << (self.num_bits - 1)) - 1

    def steps(self, name: str, columns: int) -> NDArray[np.float32]:
        """Return the step between two codes of every weight, (R, C)."""
        scales = from_bfloat16(self.scales[name])
        return np.repeat(scales, columns // scales.shape[1], axis=1)


def plan_on_grid(new: ReleaseSource, base: ReleaseSource) -> QuantizePlan:
    """Decide how the new model is laid out: exactly as the base.

    Raises:
        InputError: the base is not quantized by `skyload model quantize`, or is not a release of the same shape.
    """
    if base.kind != "huggingface":
        raise InputError(f"{base.path}: a GGUF file", hint="the base must be a quantized model directory")
    settings = _settings(base)
    format_name, group_columns = _format(base.path, settings)
    plan = plan_quantize(new, format_name=format_name, group_columns=group_columns)
    there = {tensor.name: tensor for tensor in base.tensors()}
    for spec in plan.specs:
        tensor = there.get(spec.name)
        if tensor is None or (tensor.dtype, tensor.shape) != (spec.dtype, spec.shape):
            have = "not there" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            hint = "the base must be a quantized release of a model of the same shape"
            raise InputError(f"{base.path}: {spec.name} is {have}, needed {spec.dtype} {list(spec.shape)}", hint=hint)
    return plan


def read_grid(plan: QuantizePlan, base: ReleaseSource) -> tuple[Grid, dict[str, Codes]]:
    """Return the base's grid and its codes, int8 (R, C), of every matrix of the plan."""
    there = {tensor.name: tensor for tensor in base.tensors()}
    scales, codes = {}, {}
    for matrix in plan.matrices:
        scales[matrix.name] = read_tensor(base, there[f"{matrix.name}_scale"])
        if plan.format == "int8":
            codes[matrix.name] = read_tensor(base, there[matrix.name])
        else:
            words = read_tensor(base, there[f"{matrix.name}_packed"])
            codes[matrix.name] = unpack_nibbles(words, matrix.shape[1])
    return Grid(num_bits=8 if plan.format == "int8" else 4, scales=scales), codes


def read_tensor(source: ReleaseSource, info: TensorInfo) -> NDArray[Any]:
    """Return a tensor's stored values; bfloat16 as uint16 bits."""
    with source.path_of(info.file).open("rb") as file:
        file.seek(info.offset)
        raw = file.read(info.size_bytes)
    if len(raw) != info.size_bytes:
        raise InputError(f"{info.file}: became shorter while it was read", hint="run the command again")
    return np.frombuffer(raw, _NUMPY[info.dtype]).reshape(info.shape)


def as_float32(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Widen stored values of a float tensor."""
    return from_bfloat16(values) if dtype == "BF16" else values.astype(np.float32)


def _settings(base: ReleaseSource) -> dict[str, Any]:
    config = json.loads(base.path_of("config.json").read_bytes())
    settings = config.get("quantization_config")
    if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
        hint = "make one of the model on board: skyload model quantize DIR --out OUT --format int4"
        raise InputError(f"{base.path}: not a release in the compressed-tensors layout", hint=hint)
    return settings


def _format(path: Path, settings: dict[str, Any]) -> tuple[Format, int | None]:
    try:
        weights = settings["config_groups"]["group_0"]["weights"]
        kind = (weights["num_bits"], weights["strategy"], bool(weights["symmetric"]))
        group = weights["group_size"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: quantization_config says no {error}", hint="quantize with skyload") from error
    if kind == (8, "channel", True):
        return "int8", None
    if kind == (4, "group", True) and isinstance(group, int):
        return "int4", group
    hint = "int8 with one scale a row and int4 with one scale a group are known, both symmetric"
    raise InputError(f"{path}: {kind[0]} bits by {kind[1]} are not known here", hint=hint)
