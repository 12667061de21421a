"""Rounding to nearest, thinned out: fewer moves, each as much longer. numpy.

A small change of a weight moves its code by one step or not at all: the moves of rounding to nearest are a sample of
the change, true on average along every direction, those that no local measure of loss knows of included. One move in
m, m steps long, is a sample as true and takes little more than an m-th of the bits. What it adds is noise, in
proportion to m, and to how much the weight matters. Noise and bits together are least with m as the square root of
price * bits / weight: long and rare where little depends on it, each step by itself where much does.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from groundsegment.requantize.rates import Codes

_BITS_OF_A_MOVE = 12.0
_LONGEST = {8: 32, 4: 2}
_SHARE_MIN = 0.01  # of the mean weight: what was not seen in calibration may matter all the same


def thin(
    rounded: Codes,
    base: Codes,
    *,
    inputs: NDArray[np.float32],
    outputs: NDArray[np.float32],
    steps: NDArray[np.float32],
    price: float,
    num_bits: int,
    seed: str,
) -> Codes:
    """Return codes with fewer and longer moves.

    Args:
        rounded: the new model rounded to nearest on the base's grid, (R, C).
        base: the base's codes.
        inputs: mean squares of the inputs, (C,).
        outputs: sensitivity of the outputs, (R,).
        steps: between two codes, (R, C).
        price: nats a token for a bit.
        num_bits: of a code.
        seed: decides which moves are made; the same with a higher price are fewer.
    """
    weight = _floored(outputs)[:, None] * _floored(inputs) * np.square(steps)
    length = np.sqrt(np.float32(2 * price * _BITS_OF_A_MOVE) / np.maximum(weight, np.float32(1e-30)))
    length = np.clip(np.rint(length), 1, _LONGEST[num_bits])
    chance = np.random.default_rng(zlib.crc32(seed.encode())).random(base.shape, dtype=np.float32)
    moves = np.where(chance * length < 1, (rounded.astype(np.float32) - base) * length, 0)
    half = 1 << (num_bits - 1)
    return np.clip(base + moves, -half, half - 1).astype(np.int8)


def _floored(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(values, max(float(values.mean()) * _SHARE_MIN, 1e-30)).astype(np.float32)
