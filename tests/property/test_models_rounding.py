"""Rounding and packing of weights: nothing is further off than half a step, and packing loses nothing."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16
from groundsegment.models.gguf_file import read_gguf
from groundsegment.models.rounding import dequantize, pack_nibbles, quantize_rows, unpack_nibbles
from groundsegment.models.safetensors_file import read_header
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2

WEIGHTS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def matrices(draw):
    group = draw(st.sampled_from([2, 8, 32]))
    shape = (draw(st.integers(1, 5)), group * draw(st.integers(1, 4)))
    return draw(arrays.arrays(np.float32, shape, elements=WEIGHTS)), group


@given(matrices(), st.sampled_from([4, 8]))
@settings(max_examples=100, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(matrix, num_bits):
    values, group = matrix
    block = quantize_rows(values, num_bits=num_bits, group_columns=group)
    step = np.repeat(from_bfloat16(block.scales), group, axis=1)
    # The scale itself is rounded to 8 bits of mantissa: the outermost codes may be off by that much more.
    reach = np.abs(values).reshape(len(values), -1, group).max(axis=2).repeat(group, axis=1)
    assert (np.abs(dequantize(block) - values) <= step / 2 + reach / 256 + 1e-30).all()
    assert block.codes.min() >= -(1 << (num_bits - 1))
    assert block.codes.max() < 1 << (num_bits - 1)


@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=st.integers(-8, 7)))
@settings(max_examples=100, deadline=None)
def test_unpack_undoes_pack(codes):
    words = pack_nibbles(codes)
    assert words.shape == (codes.shape[0], -(-codes.shape[1] // 8))
    assert np.array_equal(unpack_nibbles(words, codes.shape[1]), codes)


@given(st.integers(0, 0xFFFF))
@settings(max_examples=300, deadline=None)
def test_bfloat16_survives_float32(bits):
    there = from_bfloat16(np.array([bits], np.uint16))
    back = to_bfloat16(there)
    if np.isnan(there[0]):
        assert np.isnan(from_bfloat16(back)[0])
    else:
        assert back[0] == bits


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
def test_a_nan_is_never_rounded_into_a_number(bits):
    value = np.array([bits], np.uint32).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(value))[0])


@given(st.floats(width=32, allow_nan=False))
@settings(max_examples=300, deadline=None)
def test_rounding_to_bfloat16_takes_the_nearest(value):
    x = np.float32(value)
    bits = to_bfloat16(np.array([x]))
    near = float(from_bfloat16(bits)[0])
    if not np.isfinite(near):
        assert abs(float(x)) > 3.38e38
        return
    for neighbour in (int(bits[0]) - 1, int(bits[0]) + 1):
        other = float(from_bfloat16(np.array([neighbour & 0xFFFF], np.uint16))[0])
        if np.isfinite(other):
            assert abs(near - float(x)) <= abs(other - float(x))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    directory = tmp_path_factory.mktemp("samples")
    make_tiny_gguf(directory / "m.gguf", seed=1)
    make_tiny_qwen2(directory / "m", seed=1)
    gguf = (directory / "m.gguf").read_bytes()
    return directory, gguf, (directory / "m/model.safetensors").read_bytes()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_byte_of_a_header_is_read_or_refused(samples, data):
    directory, gguf, safetensors = samples
    raw, reader = data.draw(st.sampled_from([(gguf, read_gguf), (safetensors, read_header)]))
    place = data.draw(st.integers(0, 2500))
    value = data.draw(st.integers(0, 255))
    path = directory / "flipped"
    path.write_bytes(raw[:place] + bytes([value]) + raw[place + 1 :])
    with contextlib.suppress(InputError):
        reader(path)
