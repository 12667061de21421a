"""Values split by key come back in order, many of them 0 or few, and a part too long or too short is refused."""

import numpy as np
import pytest

from protocol.codec.contexts.partition import CHUNK_SIZE, merge, partition, unpartition
from protocol.errors import DecodeError

FIRSTS = (0, 3, 4, 9)


def sample(density, size, dtype=np.uint8):
    rng = np.random.default_rng(size)
    values = rng.integers(1, 200, size).astype(dtype)
    values[rng.random(size) >= density] = 0
    return values, rng.integers(0, 12, size, np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.15, 0.18, 0.6, 1.0])
def test_values_come_back_however_many_of_them_are_0(density, dtype):
    values, keys = sample(density, 2 * CHUNK_SIZE + 77, dtype)
    parts = partition(values, keys, FIRSTS)
    assert (unpartition(parts, keys, FIRSTS) == values).all()


def test_where_most_are_0_only_the_others_are_put_back():
    values, keys = sample(0.01, CHUNK_SIZE + 1000)
    found = list(merge(partition(values, keys, FIRSTS), [keys[:CHUNK_SIZE], keys[CHUNK_SIZE:]], FIRSTS))
    assert sorted(np.concatenate([places for places, _ in found])) == np.flatnonzero(values).tolist()


@pytest.mark.parametrize("density", [0.01, 1.0])
@pytest.mark.parametrize("change", [1, -1])
def test_a_part_of_another_length_is_refused(density, change):
    values, keys = sample(density, CHUNK_SIZE + 10)
    parts = partition(values, keys, FIRSTS)
    parts[1] = np.resize(parts[1], parts[1].size + change)
    with pytest.raises(DecodeError):
        unpartition(parts, keys, FIRSTS)
