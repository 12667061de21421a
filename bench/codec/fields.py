"""Stored bytes of a matrix as its fields: codes, scales, zero points. Written apart from the codec, to judge it by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.codec.q4_k import BLOCK_BYTES, unpack_six
from bench.codec.samples import Matrix
from groundsegment.models.bfloat16 import from_bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A quantized matrix: R rows, C columns, G groups of columns a row.

    Attributes:
        codes: (R, C), int16.
        steps: float32 (R, G): what one code is worth.
        zeros: float32 (R, G): the code that stands for zero, not rounded; None if it is the same everywhere.
        stored: every other stored field by name, each an integer array of (R, ...), as it is stored.
    """

    codes: NDArray[np.int16]
    steps: NDArray[np.float32]
    zeros: NDArray[np.float32] | None
    stored: dict[str, NDArray[np.integer]]

    @property
    def group_columns(self) -> int:
        """Columns that share a step."""
        return self.codes.shape[1] // self.steps.shape[1]


def fields_of(matrix: Matrix) -> Fields:
    """Take a quantized matrix apart."""
    return _READERS[matrix.kind](matrix)


def _int8(matrix: Matrix) -> Fields:
    scales = matrix.parts["scales"].view("<u2").reshape(matrix.rows, -1)
    codes = matrix.parts["codes"].view(np.int8).reshape(matrix.rows, matrix.columns).astype(np.int16)
    return Fields(codes=codes, steps=from_bfloat16(scales), zeros=None, stored={"scales": scales})


def _int4(matrix: Matrix) -> Fields:
    scales = matrix.parts["scales"].view("<u2").reshape(matrix.rows, -1)
    packed = matrix.parts["codes"].reshape(matrix.rows, -1)
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(matrix.rows, matrix.columns).astype(np.int16)
    stored: dict[str, NDArray[np.integer]] = {"scales": scales}
    zeros = None
    if "zeros" in matrix.parts:
        words = matrix.parts["zeros"].view("<u4").reshape(matrix.rows // 8, 1, -1)
        nibbles = (words >> (4 * np.arange(8, dtype=np.uint32))[None, :, None]) & 15
        stored["zeros"] = nibbles.reshape(matrix.rows, -1)
        zeros = stored["zeros"].astype(np.float32)
    return Fields(codes=codes, steps=from_bfloat16(scales), zeros=zeros, stored=stored)


def _q8_0(matrix: Matrix) -> Fields:
    blocks = matrix.parts["blocks"].reshape(matrix.rows, -1, 34)
    d = np.ascontiguousarray(blocks[:, :, :2]).view("<u2")[:, :, 0]
    codes = blocks[:, :, 2:].view(np.int8).reshape(matrix.rows, -1).astype(np.int16)
    return Fields(codes=codes, steps=_half(d), zeros=None, stored={"d": d})


def _q4_1(matrix: Matrix) -> Fields:
    blocks = matrix.parts["blocks"].reshape(matrix.rows, -1, 20)
    head = np.ascontiguousarray(blocks[:, :, :4]).view("<u2")
    d, m = head[:, :, 0], head[:, :, 1]
    packed = blocks[:, :, 4:]
    codes = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(matrix.rows, -1).astype(np.int16)
    return Fields(codes=codes, steps=_half(d), zeros=_ratio(-_half(m), _half(d)), stored={"d": d, "m": m})


def _q4_k(matrix: Matrix) -> Fields:
    blocks = matrix.parts["blocks"].reshape(-1, BLOCK_BYTES)
    head = np.ascontiguousarray(blocks[:, :4]).view("<u2")
    scales, minima = unpack_six(blocks[:, 4:16])
    steps, low = _half(head[:, :1]) * scales, _half(head[:, 1:]) * minima
    pairs = blocks[:, 16:].reshape(-1, 4, 1, 32)
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(matrix.rows, -1).astype(np.int16)
    rows = matrix.rows
    stored: dict[str, NDArray[np.integer]] = {
        "d": head[:, 0].reshape(rows, -1),
        "dmin": head[:, 1].reshape(rows, -1),
        "scales": scales.reshape(rows, -1),
        "minima": minima.reshape(rows, -1),
    }
    zeros = _ratio(low, steps).reshape(rows, -1)
    return Fields(codes=codes, steps=steps.reshape(rows, -1), zeros=zeros, stored=stored)


def _half(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return np.ascontiguousarray(bits).view("<f2").astype(np.float32)


def _ratio(low: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(low, steps, out=np.zeros_like(low), where=steps != 0)


_READERS = {"int8": _int8, "int4": _int4, "int4_asym": _int4, "q8_0": _q8_0, "q4_1": _q4_1, "q4_k": _q4_k}
