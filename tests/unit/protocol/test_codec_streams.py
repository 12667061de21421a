"""Sparse streams: where few values are not 0, they come back from as few bytes, and spoiled ones are a DecodeError."""

import contextlib
import tracemalloc

import numpy as np
import pytest

from protocol.codec import gaps, numbers, streams
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError
from protocol.limits import MIB


def few(count, others, dtype=np.uint8, seed=1):
    """Values of which so many are not 0."""
    rng = np.random.default_rng(seed)
    values = np.zeros(count, dtype)
    values[rng.choice(count, others, replace=False)] = rng.choice(np.array([1, 2, 16, 17], dtype), others)
    return values


def sparse(count, places, others, *, surplus=b""):
    """A stream made by hand, of the stream `others`."""
    packed = gaps.encode([np.array(places)], [count])
    data = numbers.pack(len(packed)) + packed + others.head + others.data + surplus
    return Stream(coder=Coder.SPARSE, count=count, data=data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize(("count", "others"), [(4096, 1), (4096, 128), (100_000, 40), (300_000, 3000)])
def test_few_values_that_are_not_zero_come_back_from_few_bytes(dtype, count, others):
    values = few(count, others, dtype)
    stream = streams.encode(values)
    assert stream.coder is Coder.SPARSE or others * 32 > count // 2
    assert (streams.decode(stream, dtype, count) == values).all()
    share = others / count
    bits = -count * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) + 2 * others
    assert len(stream.data) < 1.1 * bits / 8 + 60


@pytest.mark.parametrize(("count", "others"), [(4095, 10), (8192, 300)])
def test_few_values_or_many_others_are_no_sparse_stream(count, others):
    assert streams.encode(few(count, others)).coder is Coder.PCO


def test_a_sparse_stream_in_a_sparse_stream_or_of_other_sizes_is_refused():
    ones = streams.encode(np.ones(3, np.uint8))
    good = sparse(4096, [1, 5, 4095], ones)
    assert np.flatnonzero(streams.decode(good, np.uint8, 4096)).tolist() == [1, 5, 4095]
    inner = sparse(4096, [0], streams.encode(np.ones(1, np.uint8)))
    for spoiled in (
        sparse(4096, [1, 5, 4095], ones, surplus=b"\0"),
        sparse(4096, [1, 5], ones),
        sparse(4096, list(range(4096)), inner),
        sparse(4096, list(range(200)), streams.encode(np.ones(200, np.uint8))),
        Stream(coder=Coder.SPARSE, count=4096, data=b""),
    ):
        with pytest.raises(DecodeError):
            streams.decode(spoiled, np.uint8, 4096)


def test_spoiled_sparse_streams_are_a_decode_error_or_values_in_bounded_memory():
    stream = streams.encode(few(100_000, 40))
    assert stream.coder is Coder.SPARSE
    rng = np.random.default_rng(2)
    tracemalloc.start()
    for _ in range(150):
        data = bytearray(stream.data)
        for at in rng.integers(0, min(len(data), 40) if rng.random() < 0.5 else len(data), 2):
            data[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(DecodeError):
            spoiled = Stream(coder=Coder.SPARSE, count=stream.count, data=bytes(data[: rng.integers(1, len(data) + 1)]))
            assert streams.decode(spoiled, np.uint8, stream.count).size == stream.count
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * MIB
