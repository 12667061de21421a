"""Slabs of four-bit codes: any bytes in any packing come back, contexts and predictions do what they promise."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec.fourbit import nibbles, still_units
from protocol.codec.fourbit.affine import Float
from protocol.codec.fourbit.nibbles import NibbleLayout, Packing, Zeros
from protocol.codec.payload import Stream
from protocol.errors import DecodeError
from protocol.limits import MIB
from tests.fakes.packed_codes import Quantized, damage, entropy_bits, weights

LEVEL = 8


def coded_size(parameters: bytes, streams: tuple[Stream, ...]) -> int:
    return len(parameters) + sum(stream.stored_size for stream in streams)


def random_extents(layout: NibbleLayout, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 256, size, np.uint8) for size in layout.sizes]


def come_back(news: list[np.ndarray], olds: list[np.ndarray] | None, layout: NibbleLayout) -> int:
    """Check that the extents survive, and return the bytes that they took."""
    parameters, streams = nibbles.encode(news, olds, layout, level=LEVEL)
    rebuilt = nibbles.decode(parameters, streams, layout.sizes, olds)
    assert [part.tobytes() for part in rebuilt] == [new.tobytes() for new in news]
    return coded_size(parameters, streams)


@st.composite
def layouts(draw: st.DrawFn) -> NibbleLayout:
    packing = draw(st.sampled_from(Packing))
    step = 8 if packing is Packing.GPTQ else 2
    group = step * draw(st.integers(1, 8))
    along, across = group * draw(st.integers(1, 4)), 8 * draw(st.integers(1, 5))
    rows, columns = (across, along) if packing is Packing.ROW else (along, across)
    scales = draw(st.sampled_from([None, *Float]))
    zeros = draw(st.sampled_from([zeros for zeros in Zeros if scales or zeros is not Zeros.FLOATS]))
    return NibbleLayout(packing=packing, rows=rows, columns=columns, group=group, scales=scales, zeros=zeros)


@given(layout=layouts(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_bytes_of_any_packing_come_back(layout: NibbleLayout, seed: int) -> None:
    come_back(random_extents(layout, np.random.default_rng(seed)), None, layout)


@given(layout=layouts(), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=25, deadline=None)
def test_any_bytes_come_back_from_any_base(layout: NibbleLayout, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    olds = random_extents(layout, rng)
    news = [np.where(rng.random(old.size) < share, rng.integers(0, 256, old.size, np.uint8), old) for old in olds]
    come_back(news, olds, layout)


@st.composite
def stacks(draw: st.DrawFn) -> NibbleLayout:
    """One to four slabs of a packing; rows and columns differ, groups do not."""
    first = draw(layouts())
    slabs = [first]
    for _ in range(draw(st.integers(0, 3))):
        along, across = first.group * draw(st.integers(1, 3)), 8 * draw(st.integers(1, 4))
        rows, columns = (across, along) if first.packing is Packing.ROW else (along, across)
        slabs.append(replace(first, rows=rows, columns=columns))
    return NibbleLayout.stack(slabs)


@given(layout=stacks(), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.003, 1.0]))
@settings(max_examples=25, deadline=None)
def test_any_bytes_of_a_stack_come_back(layout: NibbleLayout, seed: int, share: float) -> None:
    assert NibbleLayout.decode(layout.encode() + b"rest") == (layout, b"rest")
    assert layout.num_groups == sum(slab.num_groups for slab in layout.slabs)
    rng = np.random.default_rng(seed)
    olds = random_extents(layout, rng)
    news = [np.where(rng.random(old.size) < share, rng.integers(0, 256, old.size, np.uint8), old) for old in olds]
    come_back(news, olds, layout)
    come_back(news, None, layout)


def test_a_stack_takes_less_than_its_slabs() -> None:
    rng = np.random.default_rng(1)
    single = together = 0
    news, olds, slabs = [], [], []
    for seed, rows in enumerate((64, 32, 128, 96)):
        extents, layout = Quantized.of(weights(rows, 256, seed), 32).pack(Packing.ROW)
        changed = [extents[0] ^ (rng.random(extents[0].size) < 0.004), *extents[1:]]
        single += come_back(changed, extents, layout)
        news, olds, slabs = [*news, *changed], [*olds, *extents], [*slabs, layout]
    together = come_back(news, olds, NibbleLayout.stack(slabs))
    assert together < single - 3 * 25


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"more": ((8, 64), (8, 0))},
        {"group": 31},
        {"columns": 100},
        {"packing": Packing.GPTQ, "group": 4},
        {"packing": Packing.AWQ, "columns": 12},
        {"rows": 12, "zeros": Zeros.PACKED},
        {"scales": None, "zeros": Zeros.FLOATS},
    ],
)
def test_slabs_that_cannot_be_are_known(wrong: dict[str, object]) -> None:
    slab = {"packing": Packing.ROW, "rows": 8, "columns": 64, "group": 32, "scales": Float.F16, "zeros": Zeros.PACKED}
    assert NibbleLayout(**slab).is_possible  # type: ignore[arg-type]
    assert not NibbleLayout(**(slab | wrong)).is_possible  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", Packing)
def test_zero_points_are_contexts_in_every_packing(packing: Packing) -> None:
    quantized = Quantized.of(weights(128, 512, 1), 32)
    extents, layout = quantized.pack(packing)
    zeros = np.repeat(quantized.zeros[:, :, None], 32, axis=2)
    bound = entropy_bits(quantized.codes, zeros) + entropy_bits(quantized.zeros)
    assert bound < 0.99 * (entropy_bits(quantized.codes) + entropy_bits(quantized.zeros))
    # The slab is small: tables and the tail of the scales' distribution cost their share.
    assert 8 * come_back(extents, None, layout) < 1.01 * bound + 11.5 * quantized.scales.size


@pytest.mark.parametrize("packing", Packing)
def test_a_small_change_costs_little_in_every_packing(packing: Packing) -> None:
    old = weights(128, 512, 1)
    new = old + weights(128, 512, 2) * np.float32(0.001)
    before, after = Quantized.of(old, 32), Quantized.of(new, 32)
    (olds, layout), (news, _) = before.pack(packing), after.pack(packing)
    changed = entropy_bits((after.codes - before.codes) % 16) + entropy_bits(
        after.scales.view(np.uint16) - before.scales.view(np.uint16) + np.uint16(64)
    )
    assert 8 * come_back(news, olds, layout) < 1.05 * changed + 8 * 150


@pytest.mark.parametrize("packing", Packing)
def test_codes_land_where_a_new_grid_puts_them(packing: Packing) -> None:
    matrix = weights(64, 256, 3)
    before = Quantized.of(matrix, 32)
    stretch = np.float32(1.2) + np.arange(64, dtype=np.float32)[:, None] % 5 / 5
    scales = (before.scales.astype(np.float32) * stretch).astype(np.float16)
    zeros = np.clip(before.zeros.astype(np.int64) + 3 - np.arange(64)[:, None] % 4, 0, 15).astype(np.uint8)
    table = matrix.reshape(64, 8, 32) / scales.astype(np.float32)[:, :, None] + zeros[:, :, None]
    after = Quantized(np.clip(np.rint(table), 0, 15).astype(np.uint8), scales, zeros)
    (olds, layout), (news, _) = before.pack(packing), after.pack(packing)
    # Scales and zero points are in the left side, too.
    assert 8 * come_back(news, olds, layout) < 0.5 * entropy_bits((after.codes - before.codes) % 16)


def test_a_slab_that_did_not_change_takes_next_to_nothing() -> None:
    extents, layout = Quantized.of(weights(128, 512, 1), 32).pack(Packing.AWQ)
    assert come_back(extents, extents, layout) < 80


def test_inputs_are_left_alone() -> None:
    for packing in Packing:
        (olds, layout), (news, _) = (Quantized.of(weights(16, 64, seed), 8).pack(packing) for seed in (1, 2))
        kept = [each.tobytes() for each in (*olds, *news)]
        parameters, streams = nibbles.encode(news, olds, layout, level=LEVEL)
        nibbles.decode(parameters, streams, layout.sizes, olds)
        assert [each.tobytes() for each in (*olds, *news)] == kept


@given(data=st.data(), packing=st.sampled_from(Packing), base=st.sampled_from(["none", "other", "much the same"]))
@settings(max_examples=40, deadline=None)
def test_damage_is_a_decode_error_or_other_bytes(data: st.DataObject, packing: Packing, base: str) -> None:
    (others, layout), (news, _) = (Quantized.of(weights(16, 128, seed), 16).pack(packing) for seed in (1, 2))
    same = [np.concatenate([a[: a.size // 2], b[a.size // 2 :]]) for a, b in zip(others, news, strict=True)]
    olds = {"none": None, "other": others, "much the same": same}[base]
    damaged = damage(data, *nibbles.encode(news, olds, layout, level=LEVEL))
    try:
        rebuilt = nibbles.decode(*damaged, layout.sizes, olds)
    except DecodeError:
        return
    assert [part.nbytes for part in rebuilt] == layout.sizes


def test_a_slab_of_another_size_is_refused() -> None:
    extents, layout = Quantized.of(weights(16, 128, 1), 16).pack(Packing.ROW)
    parameters, streams = nibbles.encode(extents, None, layout, level=LEVEL)
    huge = replace(layout, rows=2**32 - 8).encode() + parameters[len(layout.encode()) :]
    for wrong, sizes in ((parameters, [2 * size for size in layout.sizes]), (huge, layout.sizes), (b"", layout.sizes)):
        with pytest.raises(DecodeError):
            nibbles.decode(wrong, streams, sizes, None)


@given(layout=layouts(), share=st.sampled_from([0.0, 0.2, 0.9]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_rows_that_did_not_change_are_left_out_whichever_they_are(
    layout: NibbleLayout, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    olds, others = random_extents(layout, rng), random_extents(layout, rng)
    moved = rng.random((layout.num_units, 1)) < share
    news = [
        np.where(moved, other.reshape(moved.size, -1), old.reshape(moved.size, -1)).reshape(-1)
        for old, other in zip(olds, others, strict=True)
    ]
    come_back(news, olds, layout)


def test_rows_that_did_not_change_cost_a_bit_each() -> None:
    (olds, layout), (others, _) = (Quantized.of(weights(2048, 64, seed), 32).pack(Packing.ROW) for seed in (1, 2))
    moved = np.arange(layout.num_units)[:, None] % 16 == 0
    news = [
        np.where(moved, other.reshape(moved.size, -1), old.reshape(moved.size, -1)).reshape(-1)
        for old, other in zip(olds, others, strict=True)
    ]
    size = come_back(news, olds, layout)
    assert size < 1.05 * sum(new.size for new in news) / 16 + 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(still_units, "find", lambda *_: None)
        assert size < 0.98 * come_back(news, olds, layout)


def test_long_groups_whose_scales_moved_take_as_little_memory_as_short_ones():
    layout = NibbleLayout(packing=Packing.ROW, rows=64, columns=32_768, group=32_768, scales=Float.F16)
    codes = np.random.default_rng(4).integers(0, 256, layout.sizes[0], np.uint8)
    olds = [codes, np.full(layout.num_groups, 0x3C00, "<u2").view(np.uint8)]
    news = [codes, np.full(layout.num_groups, 0x3D00, "<u2").view(np.uint8)]
    parameters, streams = nibbles.encode(news, olds, layout, level=LEVEL)
    tracemalloc.start()
    made = nibbles.decode(parameters, streams, layout.sizes, olds)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [part.tobytes() for part in made] == [new.tobytes() for new in news]
    assert peak_bytes < 8 * MIB
