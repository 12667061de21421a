"""Seeded noise on weights: off the grid that a GGUF file left them on, or as a stand-in for a fine-tune."""

import zlib

import numpy as np
from numpy.typing import NDArray

from bench.codec.checkpoints import Weights

_GROUP = 32  # of Q4_1 and Q8_0
_EMBEDDING = "embed_tokens.weight"


def leave_grid(weights: Weights, *, seed: int) -> Weights:
    """Add to every matrix the rounding that quantization took: uniform over one local step.

    Steps are read off the values: a Q4_1 group spans 15 steps, a Q8_0 group (the embedding) reaches 127 on one side.
    """
    return {
        name: values + _rng(seed, name).uniform(-0.5, 0.5, values.shape).astype(np.float32) * _steps(name, values)
        if values.ndim == 2
        else values
        for name, values in weights.items()
    }


def drift(weights: Weights, *, relative_rms: float, seed: int) -> Weights:
    """Add normal noise, as large as `relative_rms` times each tensor's rms; what is zero throughout stays zero."""
    return {
        name: values
        + _rng(seed, name).standard_normal(values.shape, np.float32)
        * np.float32(relative_rms * np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        for name, values in weights.items()
    }


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _steps(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    groups = values.reshape(len(values), -1, _GROUP)
    if name.endswith(_EMBEDDING):
        steps = np.abs(groups).max(axis=2) / np.float32(127)
    else:
        steps = (groups.max(axis=2) - groups.min(axis=2)) / np.float32(15)
    return np.repeat(steps, _GROUP, axis=1)
