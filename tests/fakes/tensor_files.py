"""Small safetensors and GGUF files of any layout, with values that tell tensors apart, as quantizers write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundsegment.models.safetensors_file import DTYPE_BITS

Tensor = tuple[str, tuple[int, ...], bytes]
"""dtype, shape, bytes."""


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a file of these tensors, in this order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        assert len(raw) * 8 == int(np.prod(shape, dtype=object)) * DTYPE_BITS[dtype], name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    raw_header = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw_header).to_bytes(8, "little") + raw_header)
        for _, _, raw in tensors.values():
            file.write(raw)
    return path


def sparse_safetensors(path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    """Write a file of tensors of zeros that takes no room on the disk, whatever their size."""
    header, at = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape, dtype=object)) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw_header = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw_header).to_bytes(8, "little") + raw_header)
        file.truncate(8 + len(raw_header) + at)
    return path


def bf16(shape: tuple[int, ...], seed: int, *, drift: float = 0.0) -> Tensor:
    """Weights; the same seed with a drift is the tensor after a fine-tune."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.02
    if drift:
        values += drift * np.random.default_rng(seed + 1000).normal(size=shape).astype(np.float32) * 0.02
    return "BF16", shape, (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def f16(shape: tuple[int, ...], seed: int) -> Tensor:
    """Scales."""
    return "F16", shape, np.random.default_rng(seed).uniform(0.001, 0.1, shape).astype("<f2").tobytes()


def words(shape: tuple[int, ...], seed: int) -> Tensor:
    """Packed codes."""
    return "I32", shape, np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32).astype("<u4").tobytes()


def int8(shape: tuple[int, ...], seed: int) -> Tensor:
    """Codes of a byte each."""
    codes: NDArray[np.int64] = np.random.default_rng(seed).normal(0, 30, shape).round().astype(np.int64)
    return "I8", shape, codes.clip(-128, 127).astype(np.int8).tobytes()


def int64(*values: int) -> Tensor:
    """A list of numbers: compressed-tensors' weight_shape."""
    return "I64", (len(values),), np.array(values, "<i8").tobytes()


def gptq(stem: str, *, inputs: int, outputs: int, group: int, seed: int, num_bits: int = 4) -> dict[str, Tensor]:
    """A matrix as GPTQModel and AutoGPTQ write it."""
    groups, per_word = inputs // group, 32 // num_bits
    order = (np.arange(inputs) // group).astype("<i4")
    return {
        f"{stem}.qweight": words((inputs // per_word, outputs), seed),
        f"{stem}.qzeros": words((groups, outputs // per_word), seed + 1),
        f"{stem}.scales": f16((groups, outputs), seed + 2),
        f"{stem}.g_idx": ("I32", (inputs,), order.tobytes()),
    }


def awq(stem: str, *, inputs: int, outputs: int, group: int, seed: int) -> dict[str, Tensor]:
    """A matrix as AutoAWQ's GEMM version writes it."""
    groups = inputs // group
    return {
        f"{stem}.qweight": words((inputs, outputs // 8), seed),
        f"{stem}.qzeros": words((groups, outputs // 8), seed + 1),
        f"{stem}.scales": f16((groups, outputs), seed + 2),
    }


def pack_quantized(
    stem: str, *, rows: int, columns: int, group: int, seed: int, num_bits: int = 4, zeros: bool = False
) -> dict[str, Tensor]:
    """A matrix as compressed-tensors' pack-quantized writes it."""
    groups = columns // group
    tensors = {
        f"{stem}.weight_packed": words((rows, -(-columns * num_bits // 32)), seed),
        f"{stem}.weight_scale": bf16((rows, groups), seed + 1),
        f"{stem}.weight_shape": int64(rows, columns),
    }
    if zeros:
        tensors[f"{stem}.weight_zero_point"] = words((-(-rows * num_bits // 32), groups), seed + 2)
    return tensors
