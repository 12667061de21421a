"""bf16 checkpoints as float32 arrays and back. The bench's models are small: they are held whole."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16
from groundsegment.models.safetensors_file import CheckpointWriter, TensorSpec, read_header

WEIGHTS = "model.safetensors"

Weights = dict[str, NDArray[np.float32]]


def load(directory: Path) -> Weights:
    """Return every BF16 or F32 tensor of `model.safetensors` as float32, in order of their data."""
    path = directory / WEIGHTS
    tensors, _ = read_header(path)
    raw = np.memmap(path, np.uint8, "r")
    weights = {}
    for info in tensors:
        part = np.array(raw[info.offset : info.offset + info.size_bytes])
        values = from_bfloat16(part.view("<u2")) if info.dtype == "BF16" else part.view("<f4")
        weights[info.name] = values.reshape(info.shape)
    return weights


def save(directory: Path, weights: Mapping[str, NDArray[np.float32]], like: Path) -> None:
    """Write weights as bf16 beside copies of everything else that `like` holds; the directory appears whole."""
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in like.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, part / file.name)
    specs = [TensorSpec(name=name, dtype="BF16", shape=values.shape) for name, values in weights.items()]
    with CheckpointWriter(part, specs, shard_bytes=4 << 30) as writer:
        for name, values in weights.items():
            writer.write(name, to_bfloat16(values).tobytes())
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)
