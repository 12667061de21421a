"""INTEGERS and INTEGERS_DELTA: codes of int8 above all come back, and contexts are used where they pay."""

import numpy as np
import pytest

from protocol.codec import integers
from protocol.codec.contexts.contextual import Context
from protocol.codec.integers import IntegerLayout
from protocol.errors import DecodeError

RNG = np.random.default_rng(6)
INT8 = IntegerLayout(bits=8, is_signed=True)


def codes(rows=256, columns=512, loudness=0.0):
    width = 25 * np.exp2(RNG.normal(0, 1, (rows, 1)) * loudness)
    return np.clip(np.rint(RNG.standard_normal((rows, columns)) * width), -127, 127).astype(np.int8)


def stepped(old, share):
    """Return codes of which some moved by one, those far from 0 less often."""
    moves = RNG.random(old.shape) < share * np.exp2(-np.abs(old.astype(int)) / 12)
    return np.clip(old + moves * RNG.choice([-1, 1], old.shape), -127, 127).astype(np.int8)


def as_bytes(values):
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def through(new, old=None, layout=INT8):
    """Encode, decode, compare; return (context, coded size)."""
    news, olds = [as_bytes(new)], None if old is None else [as_bytes(old)]
    parameters, coded = integers.encode(news, olds, layout)
    back = integers.decode(parameters, coded, [news[0].size], olds)
    assert back[0].tobytes() == news[0].tobytes()
    return Context(parameters[1] & 0x7F), len(parameters) + sum(len(stream.data) + 9 for stream in coded)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_any_values_come_back(bits, is_signed):
    layout = IntegerLayout(bits=bits, is_signed=is_signed, columns=50)
    new = RNG.integers(0, 2**bits, 5000, f"u{bits // 8}")
    new[:4] = [0, 1, 2 ** (bits - 1), 2**bits - 1]
    through(new, layout=layout)
    through(new, RNG.permutation(new), layout)


def test_signed_numbers_near_zero_are_cheap():
    values = RNG.integers(-3, 4, 4000).astype("<i4")
    assert through(values, layout=IntegerLayout(bits=32, is_signed=True))[1] < 4000 * 3 / 8 + 100


def test_loud_rows_make_a_grid_that_pays():
    values = codes(loudness=1)
    context, size = through(values, layout=IntegerLayout(bits=8, is_signed=True, columns=512))
    assert context is Context.GRID
    assert size < through(values)[1] * 0.97


def test_evenly_loud_rows_need_no_grid():
    assert through(codes(), layout=IntegerLayout(bits=8, is_signed=True, columns=512))[0] is Context.NONE


@pytest.mark.parametrize("is_signed", [False, True])
def test_codes_that_stay_where_they_are_large_are_told_apart(is_signed):
    layout = IntegerLayout(bits=8, is_signed=is_signed)
    old = codes()
    new = stepped(old, 0.3)
    if not is_signed:
        old, new = (values.view(np.uint8) ^ 128 for values in (old, new))
    context, size = through(new, old, layout)
    assert context is Context.KEY
    assert size < 0.97 * through(new.view(np.uint8) - old.view(np.uint8))[1]


def test_rows_that_change_more_than_others_make_a_grid():
    old = codes()
    new = stepped(old, 0.02)
    new[::3] = stepped(old[::3], 1)
    assert through(new, old, IntegerLayout(bits=8, is_signed=True, columns=512))[0] is Context.GRID


def test_rows_that_did_not_change_cost_a_bit():
    old = codes()
    new = old.copy()
    new[:64] = stepped(old[:64], 0.5)
    layout = IntegerLayout(bits=8, is_signed=True, columns=512)
    assert through(new, old, layout)[1] < through(new[:64], old[:64], layout)[1] + 60
    assert through(new, old)[1] > through(new[:64], old[:64])[1] * 1.05


def test_a_few_changes_cost_a_few_bytes():
    old = codes()
    new = old.copy()
    new[100, 200] += 1
    assert through(new, old)[1] < 120
    assert through(old, old)[1] < 20


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_tiny_tensors_come_back(size):
    values = codes().ravel()[:size]
    for columns in (0, 1, size, size + 1):
        through(values, layout=IntegerLayout(bits=8, is_signed=True, columns=columns))
        through(values, values[::-1], IntegerLayout(bits=8, is_signed=True, columns=columns))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parameters, coded: (b"", coded),
        lambda parameters, coded: (parameters[:1], coded),
        lambda parameters, coded: (b"\x07" + parameters[1:], coded),
        lambda parameters, coded: (b"\x20" + parameters[1:], coded),
        lambda parameters, coded: (b"\x10" + parameters[1:], coded),
        lambda parameters, coded: (parameters[:1] + b"\x00", coded),
        lambda parameters, coded: (parameters[:1] + b"\x03" + parameters[2:], coded),
        lambda parameters, coded: (parameters[:-1], coded),
        lambda parameters, coded: (parameters, coded[1:]),
        lambda parameters, coded: (parameters, coded[1:] + coded[:1]),
    ],
)
def test_odd_parameters_and_streams_are_refused(spoil):
    old = codes()
    parameters, coded = integers.encode([as_bytes(stepped(old, 0.3))], [as_bytes(old)], INT8)
    assert parameters[1] == Context.KEY
    with pytest.raises(DecodeError):
        integers.decode(*spoil(parameters, coded), [old.size], [as_bytes(old)])


def test_keys_need_a_base():
    old = codes()
    parameters, coded = integers.encode([as_bytes(stepped(old, 0.3))], [as_bytes(old)], INT8)
    with pytest.raises(DecodeError, match="context"):
        integers.decode(parameters, coded, [old.size], None)
