"""ggml's blocks: fields as ggml lays them out, any bytes come back, contexts and predictions do what they promise."""

import gguf as ggml
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import gguf
from protocol.codec.gguf import BlockType, GgufLayout
from protocol.codec.gguf_blocks import FORMATS, Fields, join_blocks, split_blocks

LEVEL = 8


def random_blocks(block_type: BlockType, num_blocks: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, num_blocks * FORMATS[block_type].size, np.uint8)


def come_back(new: np.ndarray, old: np.ndarray | None, layout: GgufLayout) -> int:
    """Check that the blocks survive, and return the bytes that they took."""
    olds = None if old is None else [old]
    parameters, streams = gguf.encode([new], olds, layout, level=LEVEL)
    (rebuilt,) = gguf.decode(parameters, streams, [new.size], olds)
    assert rebuilt.tobytes() == new.tobytes()
    return len(parameters) + sum(9 + len(stream.data) for stream in streams)


@given(block_type=st.sampled_from(BlockType), num_blocks=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_any_blocks_come_back(block_type: BlockType, num_blocks: int, seed: int) -> None:
    blocks = random_blocks(block_type, num_blocks, np.random.default_rng(seed))
    come_back(blocks, None, GgufLayout(block_type=block_type))
    come_back(blocks, None, GgufLayout(block_type=block_type, columns=FORMATS[block_type].num_values))


@given(
    block_type=st.sampled_from(BlockType),
    num_blocks=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.01, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_any_blocks_come_back_from_any_base(block_type: BlockType, num_blocks: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    old, other = (random_blocks(block_type, num_blocks, rng) for _ in range(2))
    come_back(np.where(rng.random(old.size) < share, other, old), old, GgufLayout(block_type=block_type))


def weights_of(fields: Fields, block_type: BlockType) -> np.ndarray:
    """Say what the fields mean, from the words of `Fields` alone: (groups, weights), in the order of the groups."""
    facts = FORMATS[block_type]
    codes = np.hstack([fields.rows & 15, fields.rows >> 4]) if facts.is_packed else fields.rows
    scale = facts.spread(fields.scales.view(np.float16).astype(np.float32))
    if facts.has_factors:
        scale = scale * (fields.factors if facts.has_minima else fields.factors.view(np.int8))
    if not facts.has_minima:
        return scale[:, None] * (codes.astype(np.float32) - facts.middle)
    minimum = facts.spread(fields.minima.view(np.float16).astype(np.float32))
    minimum = -minimum * fields.min_factors if facts.has_min_factors else minimum
    return scale[:, None] * codes + minimum[:, None]


def in_order(weights: np.ndarray, block_type: BlockType) -> np.ndarray:
    """Return the weights of groups in the order of the tensor."""
    facts = FORMATS[block_type]
    table = weights.reshape(facts.outer, -1, facts.inner, facts.num_values // facts.num_groups)
    if block_type in {BlockType.Q4_K, BlockType.Q5_K}:
        table = table[[0, 4, 1, 5, 2, 6, 3, 7]]
    return table.transpose(1, 0, 2, 3).reshape(-1)


@pytest.mark.parametrize("block_type", BlockType)
def test_fields_mean_what_ggml_says(block_type: BlockType) -> None:
    facts, rng = FORMATS[block_type], np.random.default_rng(block_type)
    fields = split_blocks(random_blocks(block_type, 7, rng), block_type)
    fields.scales[:] = rng.normal(size=7).astype(np.float16).view(np.uint16)
    if facts.has_minima:
        fields.minima[:] = rng.normal(size=7).astype(np.float16).view(np.uint16)
    meant = in_order(weights_of(fields, block_type), block_type)
    blocks = join_blocks(fields, block_type)
    said = ggml.quants.dequantize(blocks, ggml.GGMLQuantizationType(block_type))
    np.testing.assert_allclose(meant, said.reshape(-1), rtol=1e-5, atol=1e-5)
