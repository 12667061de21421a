"""Exact arithmetic on the bits of floats: where a scale and an offset put a code, in integers only.

A group of codes q stands for weights scale * q + offset. When scale or offset change, the old code of a weight lands
elsewhere on the new grid; `Shift.apply` says where, in 16.16 fixed point, the same on every machine. Infinities and
NaNs are taken for large numbers: a prediction may be poor, never undefined.

Pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 16
_HALF = 1 << (FRACTION_BITS - 1)
_LIMIT = 2**24  # |ratio| < 256 in 16.16: more leaves every code at the rim anyway
_SHIFT_MAX = 30  # to the left: a mantissa of 30 bits stays below 2**60
_ALIGN_MAX = 12  # bits that the larger side of a subtraction may be shifted

Bits = NDArray[np.uint16] | NDArray[np.uint32]
Integers = NDArray[np.int64]


class Float(IntEnum):
    """How a scale is written."""

    F16 = 1
    BF16 = 2
    F32 = 3

    @property
    def size(self) -> int:
        """Bytes."""
        return 4 if self is Float.F32 else 2

    @property
    def mantissa_bits(self) -> int:
        """Bits below the exponent."""
        return _MANTISSA_BITS[self]


_MANTISSA_BITS = {Float.F16: 10, Float.BF16: 7, Float.F32: 23}
_EXPONENT_MASK = {Float.F16: 0x1F, Float.BF16: 0xFF, Float.F32: 0xFF}
_EXPONENT_ZERO = {Float.F16: 25, Float.BF16: 134, Float.F32: 150}  # exponent field of a mantissa of units


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers mantissa * 2**exponent.

    Attributes:
        mantissa: signed, below 2**30.
        exponent: small.
    """

    mantissa: Integers
    exponent: Integers

    @classmethod
    def of(cls, bits: Bits, kind: Float) -> Self:
        """Take floats apart; exact for all that are finite."""
        one, shift = bits.dtype.type(1), bits.dtype.type(_MANTISSA_BITS[kind])
        field = (bits >> shift) & bits.dtype.type(_EXPONENT_MASK[kind])
        narrow = np.minimum(field, one) << shift  # the bit that is not written, of normal numbers
        narrow |= bits & bits.dtype.type((1 << _MANTISSA_BITS[kind]) - 1)
        signs = (bits >> bits.dtype.type(8 * kind.size - 1)).astype(np.int64)
        signs *= -2
        signs += 1
        signs *= narrow
        exponent = np.maximum(field, one).astype(np.int64)
        exponent -= _EXPONENT_ZERO[kind]
        return cls(signs, exponent)

    def take(self, places: NDArray[np.intp]) -> "Number":
        """Return those at some places."""
        return Number(self.mantissa[places], self.exponent[places])

    def times(self, factor: Integers) -> "Number":
        """Multiply by small integers."""
        return Number(self.mantissa * factor, self.exponent)

    def minus(self, other: "Number") -> "Number":
        """Subtract; what is too small beside the other side is cut off."""
        lower, upper = np.minimum(self.exponent, other.exponent), np.maximum(self.exponent, other.exponent)
        exponent = np.maximum(lower, upper - _ALIGN_MAX)
        mantissa = _scale(self.mantissa, self.exponent - exponent) - _scale(other.mantissa, other.exponent - exponent)
        return Number(mantissa, exponent)

    def over(self, other: "Number") -> Integers:
        """Divide: the ratio in 16.16, rounded down and limited to +-256; by zero it is that of the numerator by 1."""
        numerator = _scale(self.mantissa, self.exponent - other.exponent + FRACTION_BITS)
        numerator //= np.where(other.mantissa == 0, 1, other.mantissa)
        return _limit(numerator, -_LIMIT, _LIMIT)


@dataclass(frozen=True, slots=True)
class Shift:
    """Where old codes land on a new grid: (factor * code + offset), one of each for a group.

    Attributes:
        factor: old scale over new scale, 16.16.
        offset: 16.16.
    """

    factor: Integers
    offset: Integers

    def apply(self, codes: NDArray[np.uint8], code_max: int) -> NDArray[np.uint8]:
        """Return the predicted codes of groups, 0 .. code_max.

        Args:
            codes: (groups, codes of a group).
            code_max: highest code.
        """
        codes_there: NDArray[np.uint8] = _limit(self._land(codes), 0, code_max).astype(np.uint8)
        return codes_there

    def is_moving(self, code_max: int) -> NDArray[np.bool_]:
        """Tell which groups have codes that land elsewhere, beyond the rim included. It is linear: the ends tell."""
        start = self.offset + _HALF
        moving: NDArray[np.bool_] = (start >> FRACTION_BITS) != 0
        start += self.factor * code_max
        moving |= (start >> FRACTION_BITS) != code_max
        return moving

    def _land(self, codes: NDArray[np.uint8]) -> Integers:
        return (self.factor[:, None] * codes + (self.offset + _HALF)[:, None]) >> FRACTION_BITS

    def take(self, groups: NDArray[np.intp] | slice) -> "Shift":
        """Return those of some groups."""
        return Shift(self.factor[groups], self.offset[groups])


def _scale(mantissa: Integers, exponent: Integers) -> Integers:
    """Return mantissa * 2**exponent, rounded down."""
    lowest, highest = (exponent.min(), exponent.max()) if exponent.size else (0, 0)
    if lowest >= 0 and highest <= _SHIFT_MAX:  # the usual case
        return mantissa << exponent
    shifted = mantissa << _limit(exponent.copy(), 0, _SHIFT_MAX)
    shifted >>= _limit(-exponent, 0, 62)
    return shifted


def _limit(values: Integers, lowest: int, highest: int) -> Integers:
    """Limit values, in their place. What np.clip does for numbers of Python before it begins takes longer."""
    np.maximum(values, lowest, out=values)
    np.minimum(values, highest, out=values)
    return values
