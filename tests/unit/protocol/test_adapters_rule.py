"""The merge rule gives the same bits in any order and by any arithmetic, and they are the exact ones, rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.adapters import rule
from protocol.adapters.errors import AdapterError

_HALF = Fraction(1, 2)


def bf16(values):
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def rounded(value: Fraction, *, mantissa: int, lowest: int) -> Fraction:
    """Round to nearest even with so many bits, none of them below 2^lowest: written from the definition."""
    if value == 0:
        return value
    exponent = 0
    while abs(value) >= Fraction(2) ** exponent:
        exponent += 1
    while abs(value) < Fraction(2) ** (exponent - 1):
        exponent -= 1
    unit = Fraction(2) ** max(exponent - mantissa, lowest)
    whole, rest = divmod(abs(value) / unit, 1)
    whole += rest > _HALF or (rest == _HALF and whole % 2 == 1)
    return whole * unit if value > 0 else -whole * unit


def slow_change(b, a, scale):
    """t by integers of Python, summed from the last rank to the first; no array arithmetic."""
    rows, rank = b.shape
    columns = a.shape[1]
    e = [max((math.frexp(abs(x))[1] for x in row if x), default=0) for row in b.tolist()]
    f = [max((math.frexp(abs(x))[1] for x in column if x), default=0) for column in a.T.tolist()]
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            total = 0
            for k in reversed(range(rank)):
                total += round(math.ldexp(b[i, k], 22 - e[i])) * round(math.ldexp(a[k, j], 22 - f[j]))
            out[i, j] = scale * math.ldexp(total, e[i] + f[j] - 44)
    return out


def fast_change(b, a, scale):
    return rule.change(rule.fixed_rows(b.copy()), rule.fixed_columns(a.copy()), scale)


def random_factors(seed, *, rows=9, columns=13, rank=5, spread=12):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (rng.normal(size=shape) * 2.0 ** rng.integers(-spread, spread, shape)).astype(np.float32).astype(float)

    return draw(rows, rank), draw(rank, columns)


@pytest.mark.parametrize("seed", range(6))
def test_integers_of_python_and_products_of_matrices_give_the_same_bits(seed):
    b, a = random_factors(seed)
    fast, slow = fast_change(b, a, 0.3), slow_change(b, a, 0.3)
    assert fast.tobytes() == slow.tobytes()


def test_the_order_of_the_ranks_and_the_cut_into_rows_do_not_matter():
    b, a = random_factors(7, rows=40, columns=30, rank=256)
    whole = fast_change(b, a, 2.0)
    order = np.random.default_rng(1).permutation(256)
    assert fast_change(b[:, order], a[order], 2.0).tobytes() == whole.tobytes()
    for k in range(0, 40, 7):
        assert fast_change(b[k : k + 7], a, 2.0).tobytes() == whole[k : k + 7].tobytes()
    left, right = rule.fixed_rows(b.copy()), rule.fixed_columns(a.copy())
    assert (left @ right * 2.0).tobytes() == np.einsum("ik,kj->ij", left, right, optimize=False).dot(2.0).tobytes()


def test_the_largest_factors_of_the_largest_rank_are_summed_exactly():
    b, a = np.full((1, 256), 1 - 2.0**-24), np.full((256, 1), 1 - 2.0**-24)
    left, right = rule.fixed_rows(b), rule.fixed_columns(a)
    assert float((left @ right)[0, 0]) == 256
    assert float(left[0, 0]) == 1, "rounded up to the next power of two"


def test_the_change_is_near_that_of_exact_arithmetic():
    b, a = random_factors(3, spread=2)
    limit = 2.0**-21 * np.abs(b).max(axis=1)[:, None] * np.abs(a).max(axis=0)[None, :] * b.shape[1]
    assert (np.abs(fast_change(b, a, 1.0) - b @ a) <= limit).all()


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(-1e30, 1e30))
def test_a_sum_is_rounded_once_to_bfloat16(weight, t):
    old = bf16([weight]).tobytes()
    exact = float(rule.widen(old, "BF16")[0])
    if not math.isfinite(exact) or t == 0 or abs(exact + t) > 3.38e38:
        return
    total = Fraction(exact + t)  # the sum itself is one rounding of IEEE double
    got = rule.widen(rule.merge_floats(old, "BF16", np.array([[t]])), "BF16")[0]
    assert Fraction(got) == rounded(total, mantissa=8, lowest=-133)


@pytest.mark.parametrize(("dtype", "mantissa", "lowest"), [("F16", 11, -24), ("F32", 24, -149), ("BF16", 8, -133)])
def test_ties_and_subnormals_are_rounded_once(dtype, mantissa, lowest):
    zero = bytes(4 if dtype == "F32" else 2)
    ulp = 2.0**lowest
    near = [1 + 2.0**-mantissa, 1 + 3 * 2.0**-mantissa, 1 + 2.0**-mantissa + 2.0**-40, 1 + 2.0**-mantissa - 2.0**-40]
    for value in [*near, ulp / 2, ulp * 1.5, ulp * 0.5000001, ulp * 2.5, -ulp * 3.5, 2.0**-200]:
        got = rule.widen(rule.merge_floats(zero, dtype, np.array([[value]])), dtype)[0]
        assert Fraction(float(got)) == rounded(Fraction(value), mantissa=mantissa, lowest=lowest), value


def test_what_a_change_of_zero_meets_and_what_is_not_finite_keeps_its_bits():
    old = np.array([0x8000, 0x7FC1, 0xFF80, 0x7F80, 0x3F80], "<u2")
    t = np.array([[0.0, 1.0, 1.0, -1.0, 0.0]])
    assert rule.merge_floats(old.tobytes(), "BF16", t) == old.tobytes()


@pytest.mark.parametrize(("dtype", "t"), [("BF16", 3.4e38), ("F16", 65520.0), ("F32", 1e39)])
def test_a_weight_that_would_be_infinite_is_refused(dtype, t):
    with pytest.raises(AdapterError, match="infinite"):
        rule.merge_floats(bytes(4 if dtype == "F32" else 2), dtype, np.array([[t]]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_factors_that_are_not_finite_are_refused(value):
    with pytest.raises(AdapterError, match="not finite"):
        rule.fixed_rows(np.array([[1.0, value]]))


def test_codes_move_on_the_grid_of_the_base_and_stop_at_its_ends():
    old = np.array([[0, 5, -7, 127, -128, 3]], np.int8)
    t = np.array([[0.25, 0.76, -0.24, 9.0, -9.0, 0.0]])
    merged = rule.merge_codes(old.tobytes(), np.array([0.5]), t)
    assert np.frombuffer(merged, np.int8).tolist() == [0, 7, -7, 127, -128, 3]  # 0.5 and -0.48: ties go to even


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scales_that_are_no_positive_numbers_are_refused(scale):
    with pytest.raises(AdapterError, match="scale"):
        rule.merge_codes(b"\x01", np.array([scale]), np.array([[1.0]]))
