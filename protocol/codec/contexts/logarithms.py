"""Logarithms of small floats by table, in 1/256 of an octave, made with integers: the same on every machine.

For contexts, which compare scales and minima by their ratio and need no division.

Pure.
"""

import numpy as np
from numpy.typing import NDArray

OCTAVE = 256
_FRACTION_BITS = 8
_LOWEST = -32 * OCTAVE  # of zero
_UNITS_OF_ONE = 25  # bits of 1.0 in units of the smallest float16

Logarithms = NDArray[np.int16]


def _log2(values: NDArray[np.int64]) -> Logarithms:
    """Return the logarithm of positive integers, digit by digit: squaring doubles it."""
    whole = np.zeros(values.size, np.int64)
    for shift in (32, 16, 8, 4, 2, 1):
        whole += np.where(values >> whole >= 1 << shift, shift, 0)
    fraction = (values << np.maximum(30 - whole, 0)) >> np.maximum(whole - 30, 0)  # 1 .. 2, times 2**30
    digits = np.zeros(values.size, np.int64)
    for _ in range(_FRACTION_BITS):
        fraction = fraction * fraction >> 30
        carry = fraction >> 31
        digits, fraction = 2 * digits + carry, fraction >> carry
    logarithms: Logarithms = (whole * OCTAVE + digits).astype(np.int16)
    return logarithms


def _log2_or_lowest(values: NDArray[np.int64]) -> Logarithms:
    logarithms = _log2(np.maximum(values, 1))
    logarithms[values == 0] = _LOWEST
    return logarithms


def _float16_units() -> NDArray[np.int64]:
    """Return every positive float16 in units of the smallest; infinities and NaNs go on as large numbers."""
    bits = np.arange(2**15, dtype=np.int64)
    exponent, mantissa = bits >> 10, bits & 0x3FF
    units: NDArray[np.int64] = (mantissa + np.where(exponent > 0, 1024, 0)) << np.maximum(exponent - 1, 0)
    return units


_OF_FLOAT16 = _log2_or_lowest(_float16_units()) - np.int16((_UNITS_OF_ONE - 1) * OCTAVE)
_OF_BYTE = _log2_or_lowest(np.arange(256, dtype=np.int64))


def of_float16(bits: NDArray[np.uint16]) -> Logarithms:
    """Return 256 * log2 |x|, rounded down; very low for zero."""
    logarithms: Logarithms = np.take(_OF_FLOAT16, bits & np.uint16(0x7FFF))
    return logarithms


def of_byte(values: NDArray[np.uint8]) -> Logarithms:
    """Return 256 * log2 x, rounded down; very low for zero."""
    logarithms: Logarithms = np.take(_OF_BYTE, values)
    return logarithms


def nearest_halves(highest: int) -> NDArray[np.uint8]:
    """Return the number of halves that is nearest to 2**(x / 256), or next to it, for each x from 0 to `highest`."""
    # n halves begin at (2 n - 1) / 4.
    odd = np.arange(1, 4 << highest // OCTAVE, 2, dtype=np.int64)
    starts = _log2(odd) - np.int16(2 * OCTAVE)
    return np.searchsorted(starts, np.arange(highest + 1), side="right").astype(np.uint8)
