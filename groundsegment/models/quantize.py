"""A model directory quantized into another one, in the compressed-tensors layout that engines load.

- int8: one byte per weight, one scale per row ("int-quantized": `weight` I8, `weight_scale` BF16 (R, 1)).
- int4: eight weights in an int32, one scale per group of columns ("pack-quantized": `weight_packed` I32,
  `weight_scale` BF16 (R, G), `weight_shape` I64 (2)).

Grids are symmetric: transformers cannot load the packed zero points of asymmetric int4 (compressed-
tensors 0.20 expects them unpacked). Only the matrices of the decoder layers are quantized; embeddings,
head, norms and biases are copied byte for byte. Rows are read, rounded and written a block at a time:
memory does not grow with the model. Driven by `skyload model quantize`; the rounding itself is in
rounding.py.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import from_bfloat16
from groundsegment.models.output_directory import check_output, check_space, whole_directory
from groundsegment.models.release import INDEX_NAME, ReleaseSource
from groundsegment.models.rounding import QuantizedBlock, pack_nibbles, quantize_rows
from groundsegment.models.safetensors_file import CheckpointWriter, TensorSpec
from groundsegment.models.tensor_info import TensorInfo

SHARD_BYTES = 4 << 30
GROUP_COLUMNS_CHOICES = (128, 64, 32)
_BLOCK_VALUES = 2 << 20
_COPY_BYTES = 4 << 20
_MATRIX = re.compile(r"(.*\.)?layers\.\d+\..*\.weight")
# A router is a small linear layer whose choice between experts does not bear rounding.
_ROUTER = re.compile(r".*\.(mlp\.gate|router|block_sparse_moe\.gate|shared_expert_gate)\.weight")
_FLOATS = {"BF16", "F16", "F32"}

Format = Literal["int8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizePlan:
    """What will be quantized, how, and what comes out.

    Attributes:
        source: the model.
        format: of the codes.
        group_columns: columns that share a scale; 0 means a whole row.
        config: config.json of the result.
        matrices: what is quantized.
        others: what is copied.
    """

    source: ReleaseSource
    format: Format
    group_columns: int
    config: dict[str, Any]
    matrices: tuple[TensorInfo, ...]
    others: tuple[TensorInfo, ...]

    @property
    def specs(self) -> list[TensorSpec]:
        """Return all tensors of the result, those of one matrix side by side."""
        copied = [TensorSpec(name=info.name, dtype=info.dtype, shape=info.shape) for info in self.others]
        return copied + [spec for matrix in self.matrices for spec in self._matrix_specs(matrix)]

    @property
    def input_bytes(self) -> int:
        """Return how many bytes of weights will be read."""
        return sum(info.size_bytes for info in (*self.matrices, *self.others))

    @property
    def output_bytes(self) -> int:
        """Return how many bytes of weights will be written."""
        return sum(spec.size_bytes for spec in self.specs)

    def _matrix_specs(self, matrix: TensorInfo) -> list[TensorSpec]:
        rows, columns = matrix.shape
        groups = columns // (self.group_columns or columns)
        scale = TensorSpec(name=f"{matrix.name}_scale", dtype="BF16", shape=(rows, groups))
        if self.format == "int8":
            return [TensorSpec(name=matrix.name, dtype="I8", shape=(rows, columns)), scale]
        packed = TensorSpec(name=f"{matrix.name}_packed", dtype="I32", shape=(rows, -(-columns // 8)))
        return [packed, scale, TensorSpec(name=f"{matrix.name}_shape", dtype="I64", shape=(2,))]


def plan_quantize(source: ReleaseSource, *, format_name: Format, group_columns: int | None = None) -> QuantizePlan:
    """Decide what is quantized and how.

    Args:
        source: a model directory of BF16, F16 or F32 weights.
        format_name: int8 or int4.
        group_columns: for int4; None takes the widest of 128, 64, 32 that fits all matrices.

    Raises:
        InputError: nothing to quantize, quantized already, or the group does not fit.
    """
    if source.kind != "huggingface":
        hint = f"make a model directory of it first: skyload model import {source.path} --out DIR"
        raise InputError(f"{source.path}: a GGUF file", hint=hint)
    config = json.loads(source.path_of("config.json").read_bytes())
    if "quantization_config" in config:
        raise InputError(f"{source.path}: quantized already", hint="start from the bf16 model it was made of")
    tensors = tuple(source.tensors())
    matrices = tuple(info for info in tensors if _is_matrix(info))
    if not matrices:
        hint = "only the layers' weight matrices of BF16, F16 or F32 are quantized"
        raise InputError(f"{source.path}: no matrix to quantize", hint=hint)
    columns = 0 if format_name == "int8" else _choose_group(matrices, group_columns)
    others = tuple(info for info in tensors if not _is_matrix(info))
    settings = _quantization_config(format_name, columns, others)
    return QuantizePlan(
        source=source,
        format=format_name,
        group_columns=columns,
        config=config | {"quantization_config": settings},
        matrices=matrices,
        others=others,
    )


def quantize(
    plan: QuantizePlan, out: Path, *, force: bool = False, progress: Callable[[int], None] | None = None
) -> None:
    """Write the quantized model.

    Args:
        plan: what to write.
        out: the directory that appears when all is done.
        force: replace a model that is there already.
        progress: called with the number of weight bytes just read.
    """
    check_output(out, force=force)
    check_space(out, plan.output_bytes)
    report = progress or (lambda _: None)
    with whole_directory(out, force=force) as directory:
        copy_other_files(plan, directory)
        with CheckpointWriter(directory, plan.specs, shard_bytes=SHARD_BYTES) as writer:
            for info in plan.others:
                for raw in _raw_blocks(plan.source, info):
                    writer.write(info.name, raw)
                    report(len(raw))
            for matrix in plan.matrices:
                if plan.format == "int4":
                    writer.write(f"{matrix.name}_shape", np.array(matrix.shape, "<i8").tobytes())
                for values, num_read in _row_blocks(plan.source, matrix):
                    _write_block(plan, writer, matrix.name, _round(plan, values))
                    report(num_read)


def _round(plan: QuantizePlan, values: NDArray[np.float32]) -> QuantizedBlock:
    num_bits = 8 if plan.format == "int8" else 4
    return quantize_rows(values, num_bits=num_bits, group_columns=plan.group_columns or values.shape[1])


def _write_block(plan: QuantizePlan, writer: CheckpointWriter, name: str, block: QuantizedBlock) -> None:
    writer.write(f"{name}_scale", block.scales.tobytes())
    if plan.format == "int8":
        writer.write(name, block.codes.tobytes())
        return
    writer.write(f"{name}_packed", pack_nibbles(block.codes).tobytes())


def _row_blocks(source: ReleaseSource, info: TensorInfo) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield a matrix as float32 blocks of rows, with the bytes read for each."""
    rows, columns = info.shape
    step = max(1, _BLOCK_VALUES // columns)
    row_bytes = info.size_bytes // rows
    with source.path_of(info.file).open("rb") as file:
        file.seek(info.offset)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            raw = _read_exactly(file, count * row_bytes, info)
            yield _as_float32(raw, info.dtype).reshape(count, columns), len(raw)


def _raw_blocks(source: ReleaseSource, info: TensorInfo) -> Iterator[bytes]:
    with source.path_of(info.file).open("rb") as file:
        file.seek(info.offset)
        for first in range(0, info.size_bytes, _COPY_BYTES):
            yield _read_exactly(file, min(_COPY_BYTES, info.size_bytes - first), info)


def _read_exactly(file: BinaryIO, count: int, info: TensorInfo) -> bytes:
    raw = file.read(count)
    if len(raw) != count:
        raise InputError(f"{info.file}: became shorter while it was read", hint="run the command again")
    return raw


def _as_float32(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return from_bfloat16(np.frombuffer(raw, "<u2"))
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float32)


def _is_matrix(info: TensorInfo) -> bool:
    is_weight = _MATRIX.fullmatch(info.name) is not None and _ROUTER.fullmatch(info.name) is None
    return is_weight and len(info.shape) == 2 and info.dtype in _FLOATS and info.size_bytes > 0


def _choose_group(matrices: tuple[TensorInfo, ...], wanted: int | None) -> int:
    widths = {matrix.shape[1] for matrix in matrices}
    fitting = [size for size in GROUP_COLUMNS_CHOICES if all(width % size == 0 for width in widths)]
    if wanted is None:
        if fitting:
            return fitting[0]
        raise InputError(f"no group of {GROUP_COLUMNS_CHOICES} divides all of {sorted(widths)}", hint="use int8")
    misfit = [width for width in sorted(widths) if wanted <= 0 or width % wanted]
    if misfit:
        options = " or ".join(str(size) for size in fitting)
        hint = f"use --group-size {options}" if options else "use --format int8"
        raise InputError(f"groups of {wanted} do not divide the {misfit[0]} columns of a matrix", hint=hint)
    return wanted


def _quantization_config(format_name: Format, group_columns: int, others: tuple[TensorInfo, ...]) -> dict[str, Any]:
    routers = [info.name.removesuffix(".weight") for info in others if _ROUTER.fullmatch(info.name)]
    weights: dict[str, Any] = {
        "num_bits": 8 if format_name == "int8" else 4,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if format_name == "int8" else "group",
        "group_size": group_columns or None,
        "dynamic": False,
    }
    layout = "int-quantized" if format_name == "int8" else "pack-quantized"
    # The format stands in the group too: compressed-tensors would infer "pack-quantized" for weight-only
    # int8.
    group = {
        "targets": ["Linear"],
        "format": layout,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layout,
        "ignore": ["lm_head", *routers],
        "config_groups": {"group_0": group},
    }


def copy_other_files(plan: QuantizePlan, directory: Path) -> None:
    """Write config.json and copy tokenizer files: all of a release but its weights."""
    for file in plan.source.files:
        if not file.name.endswith(".safetensors") and file.name not in {"config.json", INDEX_NAME}:
            shutil.copyfile(file.path, directory / file.name)
    text = json.dumps(plan.config, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
