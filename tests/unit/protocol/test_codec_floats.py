"""FLOATS and FLOATS_DELTA: every bit pattern comes back, and contexts are used where they pay."""

import numpy as np
import pytest

from protocol.codec import floats
from protocol.codec.contexts.contextual import Context
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.values import fold, unfold
from protocol.errors import DecodeError

RNG = np.random.default_rng(5)


def every_pattern(format_):
    """All bits of 8 and 16 bits; for 32 the special ones and noise."""
    if format_.size < 4:
        return np.arange(2 ** (8 * format_.size)).astype(f"<u{format_.size}")
    special = [0, 0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC12345, 0x7FFFFFFF, 0xFFFFFFFF]
    return np.concatenate([np.array(special, "<u4"), RNG.integers(0, 2**32, 5000, np.uint32)])


def weights(format_, rows=96, columns=160):
    """A matrix with loud rows and quiet columns, as bits of a format."""
    scale = np.exp2(RNG.normal(0, 1, (rows, 1)) + RNG.normal(0, 1, (1, columns)))
    values = (RNG.standard_normal((rows, columns)) * scale * 0.02).astype(np.float32)
    return {
        FloatFormat.BF16: lambda: (values.view(np.uint32) >> 16).astype(np.uint16),
        FloatFormat.FP16: lambda: values.astype(np.float16).view(np.uint16),
        FloatFormat.FP32: lambda: values.view(np.uint32),
        # Upper byte of fp16 is e5m2; e4m3 has one exponent bit less, which does not matter here.
        FloatFormat.FP8_E5M2: lambda: (values.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8),
        FloatFormat.FP8_E4M3: lambda: (values.astype(np.float16).view(np.uint16) >> 7).astype(np.uint8),
    }[format_]()


def as_bytes(values):
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def through(format_, new, old=None, columns=0):
    """Encode, decode, compare; return (context, coded size)."""
    news, olds = [as_bytes(new)], None if old is None else [as_bytes(old)]
    parameters, coded = floats.encode(news, olds, FloatLayout(format=format_, columns=columns))
    back = floats.decode(parameters, coded, [news[0].size], olds)
    assert back[0].tobytes() == news[0].tobytes()
    return Context(parameters[1] & 0x7F), len(parameters) + sum(len(stream.data) + 9 for stream in coded)


@pytest.mark.parametrize("format_", FloatFormat)
def test_every_bit_pattern_comes_back(format_):
    values = every_pattern(format_)
    through(format_, values)
    through(format_, values, columns=32)
    through(format_, values, RNG.permutation(values))


@pytest.mark.parametrize("format_", FloatFormat)
def test_integers_of_floats_rise_with_the_floats(format_):
    values = every_pattern(format_)
    # bf16 is the upper half of fp32. Both kinds of fp8 rise like fp16 of the same bits and zeros after them.
    shift = {FloatFormat.BF16: 16, FloatFormat.FP8_E4M3: 8, FloatFormat.FP8_E5M2: 8}.get(format_, 0)
    wide = np.uint32 if format_ in {FloatFormat.BF16, FloatFormat.FP32} else np.uint16
    numbers = (values.astype(wide) << shift).view(np.float32 if wide is np.uint32 else np.float16)
    known = np.isfinite(numbers)
    order = np.argsort(floats.to_rising(values[known]).view(f"i{values.itemsize}"), kind="stable")
    assert (np.diff(numbers[known][order].astype(np.float64)) >= 0).all()
    assert (floats.to_rising(floats.to_rising(values)) == values).all()


def test_a_difference_folds_small_numbers_to_small_ones():
    differences = np.array([0, -1, 1, -2, 2, 127, -128], np.int8).view(np.uint8)
    assert fold(differences).tolist() == [0, 1, 2, 3, 4, 254, 255]
    assert (unfold(fold(differences)) == differences).all()


@pytest.mark.parametrize("format_", FloatFormat)
def test_loud_rows_and_quiet_columns_make_a_grid_that_pays(format_):
    values = weights(format_, 256, 512)
    context, size = through(format_, values, columns=512)
    assert context is Context.GRID
    assert size < through(format_, values)[1] * 0.99


def stepped(format_, old):
    """Return what a step as large for all weights makes of them."""
    noise = RNG.standard_normal(old.shape).astype(np.float32) * np.float32(1e-4)
    if format_ is FloatFormat.BF16:
        return (((old.astype(np.uint32) << 16).view(np.float32) + noise).view(np.uint32) >> 16).astype(np.uint16)
    if format_ is FloatFormat.FP32:
        return (old.view(np.float32) + noise).view(np.uint32)
    if format_ is FloatFormat.FP16:
        return (old.view(np.float16) + noise).astype(np.float16).view(np.uint16)
    return old + (np.abs(noise) * 1e4 > (old & 0x7F) / 12).astype(np.uint8)


@pytest.mark.parametrize("format_", FloatFormat)
def test_a_delta_is_told_apart_by_the_old_exponent(format_):
    old = weights(format_, 256, 512)
    new = stepped(format_, old)
    context, size = through(format_, new, old)
    assert context is Context.KEY
    assert size < through(format_, new)[1] * 0.8


@pytest.mark.parametrize("format_", FloatFormat)
def test_rows_that_did_not_change_cost_a_bit(format_):
    old = weights(format_, 256, 512)
    new = old.copy()
    new[100:164] = stepped(format_, old[100:164])
    assert through(format_, new, old, 512)[1] < through(format_, new[100:164], old[100:164], 512)[1] + 60


@pytest.mark.parametrize("moved", [0, 1])
def test_all_rows_or_none_may_be_still(moved):
    old = weights(FloatFormat.BF16)
    through(FloatFormat.BF16, old + np.uint16(moved), old, 160)
    new = old.copy()
    new[95, 159] += 1
    assert through(FloatFormat.BF16, new, old, 160)[1] < 100


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parameters, coded: (parameters[:5], coded),
        lambda parameters, coded: (parameters[:2] + b"\0\0\0\0" + parameters[6:], coded),
        lambda parameters, coded: (parameters[:2] + b"\0\0\0\7" + parameters[6:], coded),
        lambda parameters, coded: (parameters[:1] + b"\x80" + parameters[2:], coded),
        lambda parameters, coded: (parameters, coded[1:]),
        lambda parameters, coded: (parameters, ()),
    ],
)
def test_odd_words_about_still_rows_are_refused(spoil):
    old = weights(FloatFormat.BF16, 256, 512)
    new = old.copy()
    new[100:164] = stepped(FloatFormat.BF16, old[100:164])
    layout = FloatLayout(format=FloatFormat.BF16, columns=512)
    parameters, coded = floats.encode([as_bytes(new)], [as_bytes(old)], layout)
    assert parameters[1] == 0x80 | Context.KEY
    with pytest.raises(DecodeError):
        floats.decode(*spoil(parameters, coded), [old.nbytes], [as_bytes(old)])


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_tiny_tensors_come_back(size):
    values = weights(FloatFormat.BF16).ravel()[:size]
    for columns in (0, 1, size, size + 1):
        through(FloatFormat.BF16, values, columns=columns)
        through(FloatFormat.BF16, values, values[::-1], columns=columns)


def test_several_extents_are_one_run_of_values():
    values = weights(FloatFormat.BF16)
    news = [as_bytes(values[:10]), as_bytes(values[10:11]), as_bytes(values[11:])]
    parameters, coded = floats.encode(news, None, FloatLayout(format=FloatFormat.BF16, columns=160))
    back = floats.decode(parameters, coded, [new.size for new in news], None)
    assert [part.tobytes() for part in back] == [new.tobytes() for new in news]


@pytest.mark.parametrize(
    ("spoil", "with_base"),
    [
        (lambda parameters, coded: (parameters[:1], coded), False),
        (lambda parameters, coded: (b"\x09" + parameters[1:], coded), False),
        (lambda parameters, coded: (parameters[:1] + b"\x03" + parameters[2:], coded), False),
        (lambda parameters, coded: (parameters[:1] + b"\x02" + parameters[2:], coded), False),
        (lambda parameters, coded: (parameters[:1] + b"\x00" + parameters[2:], coded), False),
        (lambda parameters, coded: (parameters + b"\x00", coded), False),
        (lambda parameters, coded: (parameters[:-1], coded), False),
        (lambda parameters, coded: (parameters, coded[:-1]), False),
        (lambda parameters, coded: (parameters, coded[:2] + coded[3:] + coded[2:3]), False),
        (lambda parameters, coded: (parameters[:2] + b"\x00\x00" + parameters[4:], coded), True),
        (lambda parameters, coded: (parameters[:2] + b"\x01" + parameters[3:], coded), True),
        (lambda parameters, coded: (parameters, coded[1:] + coded[:1]), True),
    ],
)
def test_odd_parameters_and_streams_are_refused(spoil, with_base):
    new = weights(FloatFormat.BF16, 256, 512)
    base = stepped(FloatFormat.BF16, new)
    olds = [as_bytes(base)] if with_base else None
    parameters, coded = floats.encode([as_bytes(new)], olds, FloatLayout(format=FloatFormat.BF16, columns=512))
    with pytest.raises(DecodeError):
        floats.decode(*spoil(parameters, coded), [as_bytes(new).size], olds)


def test_a_base_with_other_exponents_is_refused():
    old = weights(FloatFormat.BF16, 256, 512)
    parameters, coded = floats.encode(
        [as_bytes(stepped(FloatFormat.BF16, old))], [as_bytes(old)], FloatLayout(format=FloatFormat.BF16)
    )
    with pytest.raises(DecodeError, match="class"):
        floats.decode(parameters, coded, [2 * old.size], [as_bytes(old + np.uint16(256))])


def test_extents_of_half_a_value_are_refused():
    parameters, coded = floats.encode([as_bytes(weights(FloatFormat.FP32))], None, FloatLayout(format=FloatFormat.FP32))
    with pytest.raises(DecodeError, match="extents"):
        floats.decode(parameters, coded, [96 * 160 * 4 - 1, 1], None)
