"""Slabs of four-bit codes: any bytes in any packing come back, contexts and predictions do what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import nibbles
from protocol.codec.affine import Float
from protocol.codec.nibbles import NibbleLayout, Packing, Zeros
from protocol.codec.payload import Stream

LEVEL = 8


def coded_size(parameters: bytes, streams: tuple[Stream, ...]) -> int:
    return len(parameters) + sum(9 + len(stream.data) for stream in streams)


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
@settings(max_examples=60, deadline=None)
def test_any_bytes_of_any_packing_come_back(layout: NibbleLayout, seed: int) -> None:
    come_back(random_extents(layout, np.random.default_rng(seed)), None, layout)


@given(layout=layouts(), seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.01, 1.0]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_come_back_from_any_base(layout: NibbleLayout, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    olds = random_extents(layout, rng)
    news = [np.where(rng.random(old.size) < share, rng.integers(0, 256, old.size, np.uint8), old) for old in olds]
    come_back(news, olds, layout)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
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
