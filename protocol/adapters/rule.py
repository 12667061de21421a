"""The merge rule, version 1 (`names.RULE`): what W + scale * B A is, to the bit, on every machine. Pure, on arrays.

    b[i,k] = rint(B[i,k] * 2^(22 - e_i)) * 2^(e_i - 22)    e_i: smallest with |B[i,k]| < 2^e_i for all k
    a[k,j] = rint(A[k,j] * 2^(22 - f_j)) * 2^(f_j - 22)    f_j: smallest with |A[k,j]| < 2^f_j for all k
    t[i,j] = scale * (sum over k of b[i,k] * a[k,j])
    floats W'[i,j] = round(W[i,j] + t[i,j])            int8 q'[i,j] = clip(rint(q[i,j] + t[i,j] / scale_i), -128, 127)

Everything is IEEE 754 double, rounded to nearest even. In units of 2^(e_i + f_j - 44) the sum is one of integers below
2^44, at most 256 of them: it and all its partial sums are exact. So the order of summation, fused operations and the
matrix library do not matter, and it may be computed by any of them. All else is one operation an element: product with
the scale, division, sum. `round` goes to the weight's own type in one rounding, also into its subnormal numbers. Where
t is zero, and where W is not finite, the bits stay what they were. What would become infinite is refused.

Against exact arithmetic a factor is off by at most 2^-23 of the largest in its row of B or column of A: far below what
bfloat16 can hold.
"""

import numpy as np
from numpy.typing import NDArray

from protocol.adapters.config import RANK_MAX
from protocol.adapters.errors import AdapterError

_BITS = 22
assert RANK_MAX << (2 * _BITS) <= 1 << 52
_PRODUCT_SIZE = 1 << 18  # multiplications at once: OpenBLAS wakes threads for more, which here cost more than they give

Doubles = NDArray[np.float64]
_Bits = NDArray[np.unsignedinteger]

FLOATS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
"""Types of weights, factors and scales, with how their bits are read."""
_EXPONENTS = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}


def widen(raw: bytes, dtype: str) -> Doubles:
    """Return floats of a file as doubles, exactly."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float64)


def fixed_rows(values: Doubles) -> Doubles:
    """Make b of a block of B, in the same array.

    Raises:
        AdapterError: a value is not finite.
    """
    top = np.abs(values).max(axis=1, initial=0.0)
    if not np.isfinite(top).all():
        raise AdapterError("the adapter holds values that are not finite", hint="its training has failed")
    exponents = np.frexp(top)[1].astype(np.int32)[:, None] - np.int32(_BITS)
    np.ldexp(values, -exponents, out=values)
    np.rint(values, out=values)
    np.ldexp(values, exponents, out=values)
    return values


def fixed_columns(values: Doubles) -> Doubles:
    """Make a of A, in the same array. See `fixed_rows`."""
    return fixed_rows(values.T).T


def change(left: Doubles, right: Doubles, scale: float) -> Doubles:
    """Return t for b, as `fixed_rows` made it, and a, as `fixed_columns` did."""
    rows, columns, rank = len(left), right.shape[1], right.shape[0]
    t = np.empty((rows, columns))
    width = min(columns, max(1, _PRODUCT_SIZE // (2 * rank)))
    height = max(2, _PRODUCT_SIZE // (rank * width))
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            np.matmul(left[i : i + height], right[:, j : j + width], out=t[i : i + height, j : j + width])
    return np.multiply(t, scale, out=t)


def merge_floats(raw: bytes, dtype: str, t: Doubles) -> bytes:
    """Return the bytes of W' for those of W, little-endian floats in t's order; t is used up.

    Raises:
        AdapterError: a weight would become infinite.
    """
    old, sums = np.frombuffer(raw, FLOATS[dtype]), t.reshape(-1)
    is_kept = sums == 0
    is_kept |= ~_are_finite(old, dtype)
    with np.errstate(all="ignore"):
        sums += widen(raw, dtype)
        new = _rounded(sums, dtype)
    np.copyto(new, old, where=is_kept)
    if not (_are_finite(new, dtype) | is_kept).all():
        raise AdapterError("a merged weight would be infinite", hint="the adapter is not of this base")
    return new.tobytes()


def merge_codes(raw: bytes, scales: Doubles, t: Doubles) -> bytes:
    """Return the bytes of q' for those of q, with one scale for each row of t.

    Raises:
        AdapterError: a scale is zero, negative or not finite.
    """
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise AdapterError("the base has a scale that is no positive number", hint="quantize the base again")
    old = np.frombuffer(raw, np.int8).reshape(t.shape)
    new = np.clip(np.rint(old + t / scales[:, None]), -128, 127).astype(np.int8)
    return np.where(t == 0, old, new).tobytes()


def _are_finite(bits: _Bits, dtype: str) -> NDArray[np.bool_]:
    exponent = bits.dtype.type(_EXPONENTS[dtype])
    return np.asarray((bits & exponent) != exponent)


def _rounded(values: Doubles, dtype: str) -> _Bits:
    """Round doubles to the nearest float of a type, ties to even; returns its bits."""
    if dtype == "F32":
        return values.astype("<f4").view("<u4")
    if dtype == "F16":
        return _to_odd(values).view(np.float32).astype("<f2").view("<u2")
    single = values.astype(np.float32).view(np.uint32)
    # Rounding twice differs from rounding once only where the first one ended right between two results.
    ties = np.flatnonzero((single & np.uint32(0xFFFF)) == np.uint32(0x8000))
    single[ties] = _to_odd(values[ties])
    odd_bit = (single >> np.uint32(16)) & np.uint32(1)
    single += odd_bit
    single += np.uint32(0x7FFF)
    single >>= np.uint32(16)
    return single.astype("<u2")


def _to_odd(values: Doubles) -> NDArray[np.uint32]:
    """Cut doubles to single bits, the last one set if anything was lost: rounding that again rounds only once."""
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32) - (np.abs(back) > np.abs(values))
    return np.asarray((bits | (back != values)).astype(np.uint32))
