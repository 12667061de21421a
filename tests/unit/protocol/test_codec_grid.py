"""A grid splits a matrix into contexts of rows and columns and joins them again; heads without sense are refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from protocol.codec import floats, streams
from protocol.codec.contexts.choosing import choose_firsts, choose_grid
from protocol.codec.contexts.grid import Grid
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.codec.values import from_bytes, to_bytes
from protocol.errors import DecodeError

RNG = np.random.default_rng(3)
ROWS, COLUMNS = 6, 8
GRID = Grid(
    row_classes=np.array([2, 0, 1, 0, 2, 1], np.uint8),
    column_classes=np.array([1, 0, 0, 3, 1, 2, 2, 0], np.uint8),
    contexts=np.array([[0, 1, 1, 2], [3, 3, 3, 3], [4, 0, 2, 2]], np.uint8),
)
MATRIX = np.arange(ROWS * COLUMNS, dtype=np.uint16)


def coded():
    """Return what Grid.decode is given for MATRIX."""
    head, tables = GRID.encode(8)
    return head, (*tables, *(streams.encode(part) for part in GRID.split(MATRIX)))


def test_values_of_a_context_come_by_row_class_and_runs_of_columns():
    parts = GRID.split(MATRIX)
    # Rows 1 and 3 are of class 0; columns 0, 4, 5, 6 of classes 1 and 2 have context 1 there.
    assert parts[1].tolist() == [8 + 0, 8 + 4, 8 + 5, 8 + 6, 24 + 0, 24 + 4, 24 + 5, 24 + 6]
    # Rows 2 and 5 are of class 1, which has one context for all columns, sorted by their classes.
    order = [1, 2, 7, 0, 4, 5, 6, 3]
    assert parts[3].tolist() == [16 + column for column in order] + [40 + column for column in order]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 1), (1, 16), (16, 1), (5, 7), (16, 16)])
def test_joining_undoes_splitting(dtype, num_rows, num_columns):
    grid = Grid(
        row_classes=RNG.integers(0, num_rows, 37).astype(np.uint8),
        column_classes=RNG.integers(0, num_columns, 53).astype(np.uint8),
        contexts=np.unique(RNG.integers(0, 9, num_rows * num_columns), return_inverse=True)[1]
        .reshape(num_rows, num_columns)
        .astype(np.uint8),
    )
    values = RNG.integers(0, 200, 37 * 53).astype(dtype)
    joined = grid.join(grid.split(values))
    assert joined.dtype == dtype
    assert joined.tolist() == values.tolist()


def test_a_grid_decodes_to_what_was_encoded():
    head, parts = coded()
    grid = Grid.decode(head, parts, MATRIX.size)
    for name in ("row_classes", "column_classes", "contexts"):
        assert getattr(grid, name).tolist() == getattr(GRID, name).tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head, parts: (head[:6], parts), "head of 6"),
        (lambda head, parts: (head[:-1], parts), "head of 18"),
        (lambda head, parts: (b"\0\0\0\0" + head[4:], parts), "columns"),
        (lambda head, parts: (b"\0\0\0\7" + head[4:], parts), "columns"),
        (lambda head, parts: (head[:4] + b"\x00" + head[5:], parts), "row classes"),
        (lambda head, parts: (head[:4] + b"\x11" + head[5:], parts), "row classes"),
        (lambda head, parts: (head[:6] + b"\x04" + head[7:], parts), "streams"),
        (lambda head, parts: (head[:-1] + b"\x06", parts), "contexts"),
        (lambda head, parts: (head, parts[:-1]), "streams"),
        (lambda head, parts: (head, (parts[1], parts[0], *parts[2:])), "values where"),
        (lambda head, parts: (head, (constant(3, ROWS), *parts[1:])), "unknown class"),
        (lambda head, parts: (head, (parts[0], constant(4, COLUMNS), *parts[2:])), "unknown class"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(change, reason):
    head, parts = change(*coded())
    with pytest.raises(DecodeError, match=reason):
        Grid.decode(head, parts, MATRIX.size)


def constant(value, count):
    return Stream(coder=Coder.CONSTANT, count=count, data=bytes([value]))


def test_contexts_of_other_sizes_than_the_grid_gives_them_are_refused():
    parts = GRID.split(MATRIX)
    with pytest.raises(DecodeError, match="has only"):
        GRID.join([parts[0][:-1], *parts[1:]])
    with pytest.raises(DecodeError, match="belong"):
        GRID.join([*parts[:-1], np.concatenate([parts[-1], parts[-1]])])


def test_a_matrix_without_loud_rows_or_columns_gets_no_grid():
    values = RNG.normal(0, 10, (200, 300))
    symbols = np.abs(values).astype(np.uint8)
    assert choose_grid(symbols, np.abs(values))[0] is None
    assert choose_grid(symbols[:1], np.abs(values[:1]))[0] is None


def test_rows_alone_are_classed_where_columns_are_alike():
    values = RNG.normal(0, 3, (400, 300)) * np.exp2(RNG.normal(0, 1, (400, 1)))
    grid, _ = choose_grid(np.minimum(np.abs(values), 255).astype(np.uint8), np.log2(np.abs(values) + 0.1))
    assert grid is not None
    assert grid.contexts.shape[1] == 1
    loud = np.abs(values).mean(axis=1)
    assert loud[grid.row_classes == 15].mean() > 4 * loud[grid.row_classes == 0].mean()


def test_keys_whose_values_are_alike_share_a_class():
    keys = RNG.integers(10, 20, 20_000).astype(np.uint8)
    assert choose_firsts(keys, RNG.integers(0, 8, 20_000))[0] == (0,)
    magnitudes = np.where(keys < 14, RNG.integers(0, 2, 20_000), RNG.integers(0, 30, 20_000))
    firsts, bits, plain_bits = choose_firsts(keys, magnitudes)
    assert firsts == (0, 14)
    assert bits < plain_bits


def test_bytes_are_little_endian_values():
    raw = np.array([1, 2, 3, 4, 5, 6, 7, 8], np.uint8)
    assert from_bytes([raw], 2).tolist() == [0x0201, 0x0403, 0x0605, 0x0807]
    assert from_bytes([raw[:3], raw[3:]], 4).tolist() == [0x04030201, 0x08070605]
    assert [part.tolist() for part in to_bytes(from_bytes([raw], 4), [3, 5])] == [[1, 2, 3], [4, 5, 6, 7, 8]]
    for coder in (Coder.RAW, Coder.CONSTANT):
        stream = Stream(coder=coder, count=1, data=b"\x01\x02\x03\x04")
        assert streams.decode(stream, np.uint32, 1).tolist() == [0x04030201]


@pytest.mark.parametrize("size", [2, 4])
def test_values_that_begin_anywhere_are_aligned(size):
    raw = np.arange(44, dtype=np.uint8)
    for start in range(size):
        values = from_bytes([raw[start : start + 40]], size)
        assert values.flags.aligned
        assert values.tobytes() == raw[start : start + 40].tobytes()


def test_decoding_takes_a_few_times_the_memory_of_what_it_makes():
    old = RNG.normal(0, 0.02, 2**18).astype(np.float32).view(np.uint32)
    old = (old >> 16).astype(np.uint16)
    new = old + RNG.integers(0, 3, old.size).astype(np.uint16)
    for olds in (None, [old.view(np.uint8)]):
        parameters, parts = floats.encode([new.view(np.uint8)], olds, FloatLayout(format=FloatFormat.BF16, columns=512))
        tracemalloc.start()
        floats.decode(parameters, parts, [new.nbytes], olds)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * new.nbytes


def test_a_stream_in_a_mode_that_is_not_used_never_reaches_pcodec():
    stream = streams.encode(RNG.binomial(20, 0.3, 1000).astype(np.uint8))
    assert stream.coder is Coder.PCO
    assert stream.data[0] == 0
    for first in (0x01, 0x10, 0x20, 0xFF):
        with pytest.raises(DecodeError, match="not used"):
            streams.decode(replace(stream, data=bytes([first]) + stream.data[1:]), np.uint8, 1000)


def test_bytes_after_a_stream_are_noticed():
    stream = streams.encode(RNG.binomial(20, 0.3, 1000).astype(np.uint8))
    with pytest.raises(DecodeError):
        streams.decode(replace(stream, data=stream.data + b"\0"), np.uint8, 1000)
