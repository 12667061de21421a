"""Tensors that are not quantized: which of their values are worth sending. Pure.

Embeddings and head stay bfloat16 in a quantized release, and a fine-tune nudges nearly all of them by a few steps of
bfloat16: their delta can be larger than that of all codes. A value keeps what is on board where sending the new one
would lower the divergence by less than its bits cost; what is sent is sent exactly.
"""

import numpy as np
from numpy.typing import NDArray

from groundsegment.models.bfloat16 import from_bfloat16
from groundsegment.requantize.rates import ordered

_REACH = 64  # larger differences cost alike
_ESCAPE_BITS = 10.0
_PASSES = 3


def keep_what_does_not_pay(
    new: NDArray[np.uint16], old: NDArray[np.uint16], *, importance: NDArray[np.float32], price: float
) -> NDArray[np.uint16]:
    """Choose the new or the old value of every entry.

    Args:
        new: bfloat16 bits of the new model.
        old: of the base, the same shape.
        importance: what half of it times a squared error adds to the divergence, nats a token; the same shape.
        price: nats a token that a bit must gain.
    """
    difference = np.clip(ordered(new) - ordered(old), -_REACH, _REACH).astype(np.int64) + _REACH
    gain = 0.5 * importance * np.square(from_bfloat16(new) - from_bfloat16(old))
    is_sent = np.broadcast_to(gain > 0, gain.shape)
    for _ in range(_PASSES):
        bits = _bits(np.where(is_sent, difference, _REACH))
        is_sent = gain > price * (bits[difference] - bits[_REACH])
    return np.where(is_sent, new, old)


def _bits(difference: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(difference.ravel(), minlength=2 * _REACH + 1) + 1e-3
    bits: NDArray[np.float64] = -np.log2(counts / counts.sum())
    bits[[0, -1]] += _ESCAPE_BITS
    return bits
