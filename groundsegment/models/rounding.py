"""Round-to-nearest quantization of weight matrices, and the bit packing of the compressed-tensors layout. Pure.

R rows, C columns, G groups of S columns (C = G * S). A code q stands for q * scale. Scales are
rounded to bfloat16 before codes are chosen, so the codes are nearest for the scales that are stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16

# The smallest normal bfloat16: an all-zero row gets it, and codes 0.
_SCALE_MIN = np.float32(2.0**-126)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedBlock:
    """Some rows of one quantized matrix.

    Attributes:
        codes: int8 (R, C).
        scales: bfloat16 bits (R, G).
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.uint16]


def quantize_rows(values: NDArray[np.float32], *, num_bits: int, group_columns: int) -> QuantizedBlock:
    """Round float32 (R, C) to codes in [-2^(b-1), 2^(b-1) - 1] around 0, one scale per group.

    The scale reaches the largest magnitude at 2^(b-1) - 0.5: half a step more than the largest positive code, which
    costs that one value at most half a step and gives every other one a finer grid.
    """
    grouped = _grouped(values, group_columns)
    high = (1 << (num_bits - 1)) - 1
    scales = _stored_scales(np.abs(grouped).max(axis=2) / np.float32(high + 0.5))
    codes = np.rint(grouped / from_bfloat16(scales)[:, :, None])
    np.clip(codes, -high - 1, high, out=codes)
    return QuantizedBlock(codes=codes.astype(np.int8).reshape(values.shape), scales=scales)


def dequantize(block: QuantizedBlock) -> NDArray[np.float32]:
    """Return what the codes stand for, float32 (R, C)."""
    rows, columns = block.codes.shape
    groups = block.scales.shape[1]
    codes = block.codes.reshape(rows, groups, columns // groups).astype(np.float32)
    return (codes * from_bfloat16(block.scales)[:, :, None]).reshape(rows, columns)


def pack_nibbles(codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Pack 4-bit codes (R, C) into int32 (R, ceil(C / 8)): code + 8, the first code in the lowest bits."""
    rows, columns = codes.shape
    words = -(-columns // 8)
    nibbles = np.zeros((rows, words * 8), np.uint8)
    nibbles[:, :columns] = (codes + np.int8(8)).view(np.uint8)
    packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << np.uint8(4))
    return np.ascontiguousarray(packed).view("<i4")


def unpack_nibbles(words: NDArray[np.int32], columns: int) -> NDArray[np.int8]:
    """Undo `pack_nibbles`."""
    packed = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    nibbles = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(len(words), -1)
    return (nibbles[:, :columns].view(np.int8) - np.int8(8)).astype(np.int8)


def _grouped(values: NDArray[np.float32], group_columns: int) -> NDArray[np.float32]:
    rows, columns = values.shape
    assert columns % group_columns == 0, (columns, group_columns)
    return values.reshape(rows, columns // group_columns, group_columns)


def _stored_scales(scales: NDArray[np.float32]) -> NDArray[np.uint16]:
    return to_bfloat16(np.maximum(scales, _SCALE_MIN))
