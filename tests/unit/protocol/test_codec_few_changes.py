"""Few changes among four-bit codes: gaps and codes come back, contexts cost next to nothing, and spoiled bytes are a
DecodeError in bounded memory."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import gaps
from protocol.codec.fourbit import cells, choosing_lots, coded_rows, few_changes
from protocol.codec.fourbit.coded_rows import Contexts, Plan
from protocol.codec.fourbit.few_changes import NUM_LOTS, Lots
from protocol.codec.fourbit.grouped import StreamReader
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError
from protocol.limits import MIB

LOTS = Lots(np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 2, 2, 1, 1, 0, 0], np.uint8), np.arange(16, dtype=np.uint8) // 8)


def entropy(size, changes):
    """Bytes that tell which of so many changed."""
    share = changes / size
    return -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8


def light_update(num_groups, width, seed, *, rate=0.003):
    """Predicted codes, differences of +-1 mostly in the middle, and classes of which one changes ten times as often."""
    rng = np.random.default_rng(seed)
    codes = np.clip(rng.normal(7.5, 2.5, 2 * num_groups * width).round(), 0, 15).astype(np.uint8)
    classes = (rng.random(num_groups) < 0.05).astype(np.uint8) * np.uint8(9)
    chance = rate * np.where(np.abs(codes - 7.5) < 3, 1, 0.1) * np.repeat(np.where(classes, 10, 1), 2 * width)
    said = np.where(rng.random(codes.size) < chance, np.where(rng.random(codes.size) < 0.5, 1, 15), 0).astype(np.uint8)
    shape = (num_groups, width)
    return cells.bytes_of(codes).reshape(shape), cells.bytes_of(said).reshape(shape), classes


def encode(predicted, differences, classes):
    known = Contexts(predicted=predicted.copy(), classes=lambda: classes, classes_of_few=lambda: classes)
    new = predicted.copy()
    cells.add(new, differences.copy())
    return coded_rows.encode(new, known, code_max=15, is_packed=True, levels=1, level=8)


def decode(plan, coded, predicted, classes):
    known = Contexts(predicted=predicted.copy(), classes=lambda: classes, classes_of_few=lambda: classes)
    source = StreamReader(coded)
    rows = coded_rows.decode(source, known, plan, width=predicted.shape[1], code_max=15, is_packed=True)
    source.finish()
    return rows


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([0.0, 0.001, 0.1, 0.6, 1.0])), max_size=5), st.integers(0)
)
def test_places_come_back(sequences, seed):
    rng = np.random.default_rng(seed)
    lengths = [length for length, _ in sequences]
    places = [np.flatnonzero(rng.random(length) < rate) for length, rate in sequences]
    packed = gaps.encode(places, lengths)
    found = gaps.decode(packed, lengths, sum(lengths))
    assert [each.tolist() for each in found] == [each.tolist() for each in places]


@pytest.mark.parametrize("rate", [0.0011, 0.0016, 0.0021, 0.004, 0.03])
def test_gaps_take_little_more_than_their_entropy(rate):
    places = np.flatnonzero(np.random.default_rng(3).random(300_000) < rate)
    assert len(gaps.encode([places], [300_000])) < 1.025 * entropy(300_000, places.size) + 4


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends at"),
        (b"\x05\xff", "at most"),
        (b"\x02\x80", "bytes of gaps, 2"),
        (b"\x02\x80\x00\x00", "gaps in"),
        (b"\x02\xc0\x00\x00\x00", "gaps in unary for 2"),
        (b"\x02\x0c\x00\x00", "a rare thing"),
        (b"\x02\xc0\x00\x01", "surplus"),
    ],
)
def test_bytes_that_are_no_gaps_are_refused(data, match):
    with pytest.raises(DecodeError, match=match):
        gaps.decode(data, [200], 4)


def test_more_bytes_than_so_few_gaps_could_have_get_no_memory():
    data = b"\x02" + b"\xff" * MIB
    tracemalloc.start()
    with pytest.raises(DecodeError, match="for 2 things"):
        gaps.decode(data, [200], 4)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * MIB


@pytest.mark.parametrize("width", [1, 3, 8, 16, 17, 64, 120, 127])
def test_codes_come_back_at_any_width(width):
    predicted, differences, classes = light_update(3000 // width, width, width, rate=0.002)
    differences[0, 0] = 0x77  # both codes of a byte, and not by one
    plan, coded = encode(predicted, differences, classes)
    assert plan.lots is not None
    again, rest = Plan.decode(plan.encode() + b"rest")
    assert rest == b"rest"
    rows = decode(again, coded, predicted, classes)
    expected = predicted.copy()
    cells.add(expected, differences.copy())
    assert rows.tobytes() == expected.tobytes()


def test_what_is_known_of_codes_and_groups_saves_bytes():
    predicted, differences, classes = light_update(20_000, 16, 1)
    plan, coded = encode(predicted, differences, classes)
    assert len(plan.cuts) == 1
    number = int(np.count_nonzero(cells.nibbles_of(differences.reshape(-1))))
    unknowing = entropy(2 * predicted.size, number) + number / 8
    assert sum(stream.stored_size for stream in coded) < 0.95 * unknowing


def test_many_changes_and_wide_rows_travel_as_streams():
    predicted, differences, classes = light_update(300, 16, 2, rate=0.1)
    assert choosing_lots.choose(differences, predicted, classes) is None
    assert choosing_lots.choose(np.zeros((10, 128), np.uint8), np.zeros((10, 128), np.uint8), classes[:10]) is None


def test_a_difference_is_turned_round_where_codes_are_high():
    """So that moves to the middle are one symbol, and cost less than their sign."""
    predicted, differences, classes = light_update(4000, 16, 3)
    codes = cells.nibbles_of(predicted.reshape(-1))
    inward = np.where(codes < 8, 1, 15).astype(np.uint8)
    said = np.where(cells.nibbles_of(differences.reshape(-1)) > 0, inward, 0)
    _, coded = encode(predicted, cells.bytes_of(said).reshape(differences.shape), classes)
    assert coded[1].coder is Coder.CONSTANT


@pytest.mark.parametrize("spoil", ["head", "bits", "cut"])
def test_spoiled_streams_are_a_decode_error_or_codes(spoil):
    predicted, differences, classes = light_update(500, 16, 4)
    plan, coded = encode(predicted, differences, classes)
    rng = np.random.default_rng(5)
    for _ in range(60):
        data = bytearray(coded[0].data)
        if spoil == "cut":
            data = data[: rng.integers(len(data))]
        else:
            data[rng.integers(min(len(data), 8 if spoil == "head" else len(data)))] ^= int(rng.integers(1, 256))
        stream = Stream(coder=Coder.RAW, count=len(data), data=bytes(data))
        with contextlib.suppress(DecodeError):
            assert decode(plan, [stream, coded[1]], predicted, classes).shape == predicted.shape


@pytest.mark.parametrize(
    "stream",
    [
        Stream(coder=Coder.ZSTD, count=3, data=b"abc"),
        Stream(coder=Coder.RAW, count=4, data=b"abc"),
        Stream(coder=Coder.RAW, count=9, data=b"\xff\xff\x01" * 3),
    ],
)
def test_a_stream_that_is_none_is_refused(stream):
    predicted, _, _ = light_update(50, 16, 6)
    values = Stream(coder=Coder.CONSTANT, count=1, data=b"\1")
    with pytest.raises(DecodeError):
        few_changes.decode(stream, values, predicted, [np.arange(50)], LOTS)


def test_differences_of_more_than_four_bits_are_refused():
    predicted = np.zeros((64, 16), np.uint8)
    packed = gaps.encode([np.array([3]), *[np.empty(0, np.int64)] * (NUM_LOTS - 1)], [2048, 0, 0, 0])
    coded = [
        Stream(coder=Coder.RAW, count=len(packed), data=packed),
        Stream(coder=Coder.CONSTANT, count=1, data=b"\x10"),
    ]
    with pytest.raises(DecodeError, match="four bits"):
        few_changes.decode(*coded, predicted, [np.arange(64)], LOTS)


def test_the_most_changes_that_are_let_through_take_bounded_memory():
    predicted = np.zeros((MIB // 16, 16), np.uint8)
    places = [np.arange(0, 2 * predicted.size, 16), *[np.empty(0, np.int64)] * (NUM_LOTS - 1)]
    packed = gaps.encode(places, [2 * predicted.size, 0, 0, 0])
    coded = [Stream(coder=Coder.RAW, count=len(packed), data=packed)]
    coded.append(Stream(coder=Coder.CONSTANT, count=places[0].size, data=b"\1"))
    tracemalloc.start()
    few_changes.decode(*coded, predicted, [np.arange(predicted.shape[0])], LOTS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * MIB
    assert np.count_nonzero(predicted) == places[0].size
