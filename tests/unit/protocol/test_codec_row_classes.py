"""Rows that moved far are coded apart from those that did not, where that saves bytes; and what is no such delta."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import floats, numbers, row_classes
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

ROWS, COLUMNS = 256, 128
LAYOUT = FloatLayout(format=FloatFormat.BF16, columns=COLUMNS)


def update(*, spread, still=0, rows=ROWS, seed=1):
    """Bytes of bf16 weights, and of the same with steps whose size differs from row to row by so many octaves."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 0.03, (rows, COLUMNS)).astype(np.float32)
    steps = rng.normal(0, 2e-4, (rows, COLUMNS)) * 2.0 ** rng.normal(0, spread, (rows, 1))
    steps[:still] = 0
    return [
        (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8)
        for values in (weights, weights + steps)
    ]


def come_back(old, new, layout=LAYOUT):
    """Check that an update survives; returns its parameters and the bytes that it took."""
    parameters, coded = floats.encode([new], [old], layout)
    (made,) = floats.decode(parameters, coded, [new.size], [old])
    assert made.tobytes() == new.tobytes()
    return parameters, len(parameters) + sum(stream.stored_size for stream in coded)


def test_rows_that_moved_far_are_coded_apart():
    old, new = update(spread=2)
    parameters, size = come_back(old, new)
    assert row_classes.is_there(parameters[1:])
    _, size_without = come_back(old, new, replace(LAYOUT, columns=0))
    assert size < 0.93 * size_without


def test_rows_that_moved_alike_are_not():
    assert not row_classes.is_there(come_back(*update(spread=0))[0][1:])
    assert not row_classes.is_there(come_back(*update(spread=2, rows=32))[0][1:])


def test_rows_that_did_not_move_come_before_classes():
    parameters, _ = come_back(*update(spread=2, still=100, rows=400))
    assert parameters[1] == 0xC0


@settings(max_examples=10, deadline=None)
@given(kind=st.sampled_from(FloatFormat), seed=st.integers(0, 2**32 - 1), spread=st.integers(0, 12))
def test_any_bits_come_back(kind, seed, spread):
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, 80 * 16 * kind.size, np.uint8)
    step = (rng.random((80, 16)) < 2.0 ** -rng.integers(0, spread + 1, (80, 1))).astype(np.uint8)
    come_back(old, old + np.repeat(step.reshape(-1), kind.size), FloatLayout(format=kind, columns=16))


def coded_update():
    old, new = update(spread=2, rows=64)
    moved = np.arange(64, dtype=np.uint8) % 2
    values, base = (array.view("<u2").astype(np.uint16) for array in (new, old))
    folded = floats.fold(floats.to_rising(values) - floats.to_rising(base))
    parts = [floats.contextual.encode(folded.reshape(64, -1)[moved == own].reshape(-1), None, 8) for own in range(2)]
    return old, new, row_classes.encode(moved, COLUMNS, parts, 8)


def test_a_hand_made_delta_comes_back():
    old, new, (parameters, coded) = coded_update()
    (made,) = floats.decode(b"\0" + parameters, coded, [new.size], [old])
    assert made.tobytes() == new.tobytes()


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        (b"\x40", "ends at"),
        (b"\x40" + numbers.pack(0, 2, 1, 1, 1, 1) + b"\0\0", "0 columns"),
        (b"\x40" + numbers.pack(127, 2, 1, 1, 1, 1) + b"\0\0", "127 columns"),
        (b"\x40" + numbers.pack(128, 9, *[1] * 18), "not in 0"),
        (b"\x40" + numbers.pack(128, 1, 1, 2) + b"\0", "class 1 of 1"),
        (b"\x40" + numbers.pack(128, 2, 1, 1, 1, 0) + b"\0\0", "streams"),
        (b"\x40" + numbers.pack(128, 2, 1, 1, 1, 1) + b"\0\0\0", "too many"),
        (b"\x40" + numbers.pack(128, 2, 1, 1, 1, 1) + b"\0\x40", "within a class"),
        (b"\x40" + numbers.pack(128, 2, 1, 1, 1, 1) + b"\x80\0", "within a class"),
        (b"\x40" + numbers.pack(128, 2, 1, 1, 0, 1) + b"\0", "within a class"),
    ],
)
def test_what_is_no_such_delta_is_refused(parameters, match):
    old, new, (_, coded) = coded_update()
    with pytest.raises(DecodeError, match=match):
        floats.decode(b"\0" + parameters, coded, [new.size], [old])


def test_streams_that_are_missing_or_too_many_are_refused():
    old, new, (parameters, coded) = coded_update()
    surplus = Stream(coder=Coder.CONSTANT, count=1, data=b"\0\0")
    for wrong in (coded[:-1], (*coded, surplus), ()):
        with pytest.raises(DecodeError):
            floats.decode(b"\0" + parameters, wrong, [new.size], [old])


def test_spoiled_parameters_are_a_decode_error_or_values():
    old, new, (parameters, coded) = coded_update()
    rng = np.random.default_rng(3)
    for _ in range(200):
        spoiled = bytearray(b"\0" + parameters)
        spoiled[rng.integers(len(spoiled))] ^= int(rng.integers(1, 256))
        with contextlib.suppress(DecodeError):
            assert floats.decode(bytes(spoiled), coded, [new.size], [old])[0].size == new.size
