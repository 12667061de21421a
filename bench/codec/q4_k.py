"""A small Q4_K quantizer, because the gguf package only reads that type. Good enough for a bench, not for release.

A block of 256 values in 144 bytes (ggml's block_q4_K):

    offset  size  field
    0       2     d        float16, of the eight scales
    2       2     dmin     float16, of the eight minima
    4       12    scales and minima of eight sub-blocks of 32, six bits each
    16      128   codes: each 32 bytes hold two sub-blocks, the first in the low nibbles

A value is d * scale * code - dmin * minimum. Each sub-block's scale and minimum are fitted by trying a few ranges and
solving the weighted least squares for the codes of each; large values weigh more.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES, BLOCK_BYTES, SUB_VALUES = 256, 144, 32
_SHRINKS = np.linspace(0.90, 1.06, 9, dtype=np.float32)


def quantize(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return uint8 (R, C / 256 * 144) of float32 (R, C); C is a multiple of 256."""
    rows, columns = values.shape
    subs = values.reshape(-1, BLOCK_VALUES // SUB_VALUES, SUB_VALUES)
    scales, minima = _fit(subs)
    d = (scales.max(axis=1) / 63).astype(np.float16)
    dmin = (minima.max(axis=1) / 63).astype(np.float16)
    six_scales, six_minima = _six_bits(scales, d), _six_bits(minima, dmin)
    step = d.astype(np.float32)[:, None] * six_scales
    low = dmin.astype(np.float32)[:, None] * six_minima
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(step[:, :, None] > 0, np.rint((subs + low[:, :, None]) / step[:, :, None]), 0)
    codes = np.clip(codes, 0, 15).astype(np.uint8)
    blocks = np.empty((len(subs), BLOCK_BYTES), np.uint8)
    blocks[:, 0:2] = d.astype("<f2").view(np.uint8).reshape(-1, 2)
    blocks[:, 2:4] = dmin.astype("<f2").view(np.uint8).reshape(-1, 2)
    blocks[:, 4:16] = _pack_six(six_scales, six_minima)
    pairs = codes.reshape(-1, 4, 2, SUB_VALUES)
    blocks[:, 16:] = (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128)
    return blocks.reshape(rows, columns // BLOCK_VALUES * BLOCK_BYTES)


def _fit(subs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and minimum (as a positive number) of every sub-block, float32 (B, 8)."""
    weights = np.abs(subs) + np.sqrt(np.square(subs).mean(axis=2, keepdims=True))
    low = np.minimum(subs.min(axis=2), 0)
    span = np.maximum(subs.max(axis=2) - low, 0)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_scale, best_low = span / np.float32(15), low
    total, first = weights.sum(axis=2), (weights * subs).sum(axis=2)
    for shrink in _SHRINKS:
        step = np.maximum(span * shrink / np.float32(15), np.float32(1e-20))
        codes = np.clip(np.rint((subs - low[:, :, None]) / step[:, :, None]), 0, 15)
        sum_c, sum_cc = (weights * codes).sum(axis=2), (weights * codes * codes).sum(axis=2)
        sum_cx = (weights * codes * subs).sum(axis=2)
        determinant = total * sum_cc - sum_c * sum_c
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = (total * sum_cx - first * sum_c) / determinant
            offset = np.minimum((sum_cc * first - sum_c * sum_cx) / determinant, 0)
        usable = (determinant > 0) & (scale > 0)
        scale, offset = np.where(usable, scale, step), np.where(usable, offset, low)
        error = (weights * np.square(scale[:, :, None] * codes + offset[:, :, None] - subs)).sum(axis=2)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, offset, best_low)
    return best_scale.astype(np.float32), -best_low.astype(np.float32)


def _six_bits(values: NDArray[np.float32], unit: NDArray[np.float16]) -> NDArray[np.uint8]:
    units = unit.astype(np.float32)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rounded = np.where(units > 0, np.rint(values / units), 0)
    return np.clip(rounded, 0, 63).astype(np.uint8)


def _pack_six(scales: NDArray[np.uint8], minima: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack eight scales and eight minima: the last four of each lend their top two bits to the first four's bytes."""
    packed = np.empty((len(scales), 12), np.uint8)
    packed[:, 0:4] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    packed[:, 4:8] = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    packed[:, 8:12] = (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4
    return packed


def unpack_six(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Undo the packing of (B, 12): scales and minima, (B, 8) each."""
    scales = np.concatenate([packed[:, 0:4] & 63, (packed[:, 8:12] & 15) | (packed[:, 0:4] >> 6) << 4], axis=1)
    minima = np.concatenate([packed[:, 4:8] & 63, (packed[:, 8:12] >> 4) | (packed[:, 4:8] >> 6) << 4], axis=1)
    return scales, minima
