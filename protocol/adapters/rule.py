"""The merge rule, version 1 (`names.RULE`): what W + scale * B A is, to the bit, on every machine. Pure, on arrays.

    b[i,k] = rint(B[i,k] * 2^(22 - e_i))    e_i: smallest with |B[i,k]| < 2^e_i for all k     |b| <= 2^22
    a[k,j] = rint(A[k,j] * 2^(22 - f_j))    f_j: smallest with |A[k,j]| < 2^f_j for all k     |a| <= 2^22
    s[i,j] = sum over k of b[i,k] * a[k,j]                                                    |s| <= 2^52
    t[i,j] = scale * (s[i,j] * 2^(e_i + f_j - 44))
    floats W'[i,j] = round(W[i,j] + t[i,j])            int8 q'[i,j] = clip(rint(q[i,j] + t[i,j] / scale_i), -128, 127)

Everything is IEEE 754 double, rounded to nearest even. The sum is of integers with at most 256 terms, so it and all
its partial sums are exact: the order of summation, fused operations and the matrix library do not matter, and it may
be computed by any of them. All else is one operation an element: product with the scale, division, sum. `round` goes
to the weight's own type in one rounding, also into its subnormal numbers. Where t is zero, and where W is not finite,
the bits stay what they were. What would become infinite is refused.

Against exact arithmetic a factor is off by at most 2^-23 of the largest in its row of B or column of A: far below what
bfloat16 can hold.
"""

import numpy as np
from numpy.typing import NDArray

from protocol.adapters.config import RANK_MAX
from protocol.adapters.errors import AdapterError

_BITS = 22
assert RANK_MAX << (2 * _BITS) <= 1 << 52

Doubles = NDArray[np.float64]
Exponents = NDArray[np.int32]

FLOATS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
"""Types of weights, factors and scales, with how their bits are read."""


def widen(raw: bytes, dtype: str) -> Doubles:
    """Return floats of a file as doubles, exactly."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float64)


def fixed_rows(values: Doubles) -> tuple[Doubles, Exponents]:
    """Make integers b (as doubles, in the same array) of a block of B; returns them with e: a row shares one.

    Raises:
        AdapterError: a value is not finite.
    """
    top = np.abs(values).max(axis=1, initial=0.0)
    if not np.isfinite(top).all():
        raise AdapterError("the adapter holds values that are not finite", hint="its training has failed")
    exponents = np.frexp(top)[1].astype(np.int32)
    np.ldexp(values, np.int32(_BITS) - exponents[:, None], out=values)
    return np.rint(values, out=values), exponents


def fixed_columns(values: Doubles) -> tuple[Doubles, Exponents]:
    """Make integers a (as doubles, in the same array) of A; returns them with f: a column shares one."""
    codes, exponents = fixed_rows(values.T)
    return codes.T, exponents


def change(left: tuple[Doubles, Exponents], right: tuple[Doubles, Exponents], scale: float) -> Doubles:
    """Return t for rows of B, as `fixed_rows` made them, and A, as `fixed_columns` did."""
    sums = left[0] @ right[0]
    exponents = left[1][:, None] + right[1][None, :] - np.int32(2 * _BITS)
    return np.asarray(np.ldexp(sums, exponents) * scale)


def merge_floats(raw: bytes, dtype: str, t: Doubles) -> bytes:
    """Return the bytes of W' for those of W, little-endian floats in t's order.

    Raises:
        AdapterError: a weight would become infinite.
    """
    old = np.frombuffer(raw, FLOATS[dtype])
    weights = widen(raw, dtype)
    is_kept = (t.reshape(-1) == 0) | ~np.isfinite(weights)
    with np.errstate(all="ignore"):
        sums = np.where(is_kept, 0.0, weights + t.reshape(-1))
        new = _rounded(sums, dtype)
    if not np.isfinite(widen(new.tobytes(), dtype)).all():
        raise AdapterError("a merged weight would be infinite", hint="the adapter is not of this base")
    return np.where(is_kept, old, new).astype(FLOATS[dtype]).tobytes()


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


def _rounded(values: Doubles, dtype: str) -> NDArray[np.unsignedinteger]:
    """Round doubles to the nearest float of a type, ties to even; returns its bits."""
    if dtype == "F32":
        return values.astype("<f4").view("<u4")
    odd = _to_odd(values)
    if dtype == "F16":
        return odd.view(np.float32).astype("<f2").view("<u2")
    return ((odd + np.uint32(0x7FFF) + ((odd >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def _to_odd(values: Doubles) -> NDArray[np.uint32]:
    """Cut doubles to single bits, the last one set if anything was lost: rounding that again rounds only once."""
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32) - (np.abs(back) > np.abs(values))
    return np.asarray((bits | (back != values)).astype(np.uint32))
