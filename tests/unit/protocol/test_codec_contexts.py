"""What contexts and predictions of packed codes are made of: exact arithmetic, logarithms, cells, buckets."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import streams
from protocol.codec.contexts import buckets, logarithms, loudness
from protocol.codec.contexts.loudness import LEVELS, Loudness
from protocol.codec.fourbit import cells, coded_rows, grouped, ordering
from protocol.codec.fourbit.affine import FRACTION_BITS, Float, Number, Shift
from protocol.codec.fourbit.coded_rows import Contexts
from protocol.codec.fourbit.grouped import StreamReader
from protocol.codec.fourbit.ordering import Part
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError

DTYPES = {Float.F16: np.uint16, Float.BF16: np.uint16, Float.F32: np.uint32}


def value_of(bits: int, kind: Float) -> Fraction:
    """Return a finite float exactly."""
    if kind is Float.F16:
        return Fraction(float(np.uint16(bits).view(np.float16)))
    return Fraction(float(np.uint32(bits << 16 if kind is Float.BF16 else bits).view(np.float32)))


def number_of(bits: int, kind: Float) -> Number:
    return Number.of(np.array([bits], DTYPES[kind]), kind)


@given(kind=st.sampled_from(Float), data=st.data())
@settings(max_examples=30, deadline=None)
def test_finite_floats_are_taken_apart_exactly(kind: Float, data: st.DataObject) -> None:
    bits = data.draw(st.integers(0, 256**kind.size - 1))
    exponent = bits >> kind.mantissa_bits & (0x1F if kind is Float.F16 else 0xFF)
    number = number_of(bits, kind)
    if exponent not in {0x1F if kind is Float.F16 else 0xFF}:
        assert int(number.mantissa[0]) * Fraction(2) ** int(number.exponent[0]) == value_of(bits, kind)


@given(first=st.integers(0x0400, 0x7BFF), second=st.integers(0x0400, 0x7BFF))
@settings(max_examples=30, deadline=None)
def test_ratios_are_exact_to_the_last_bit(first: int, second: int) -> None:
    ratio = int(number_of(first, Float.F16).over(number_of(second, Float.F16))[0])
    exact = math.floor(value_of(first, Float.F16) / value_of(second, Float.F16) * 2**FRACTION_BITS)
    assert ratio == min(exact, 2**24)


@given(kind=st.sampled_from(Float), data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_bits_give_a_bounded_ratio(kind: Float, data: st.DataObject) -> None:
    first, second, third = (number_of(data.draw(st.integers(0, 256**kind.size - 1)), kind) for _ in range(3))
    assert abs(int(first.over(second)[0])) <= 2**24
    assert abs(int(first.minus(second).over(third)[0])) <= 2**24


@given(first=st.integers(0, 0x7BFF), second=st.integers(0, 0x7BFF))
@settings(max_examples=30, deadline=None)
def test_differences_of_like_numbers_are_exact(first: int, second: int) -> None:
    difference = number_of(first, Float.F16).minus(number_of(second, Float.F16))
    if abs((first >> 10) - (second >> 10)) < 12:
        got = int(difference.mantissa[0]) * Fraction(2) ** int(difference.exponent[0])
        assert got == value_of(first, Float.F16) - value_of(second, Float.F16)


@given(
    factor=st.integers(-(2**24), 2**24), offset=st.integers(-(2**32), 2**32), code_max=st.sampled_from([15, 63, 255])
)
@settings(max_examples=30, deadline=None)
def test_groups_that_do_not_move_are_told_by_their_ends(factor: int, offset: int, code_max: int) -> None:
    shift = Shift(np.array([factor]), np.array([offset]))
    codes = np.arange(code_max + 1, dtype=np.uint8)[None]
    assert shift.is_moving(code_max)[0] or (shift.apply(codes, code_max) == codes).all()
    assert not Shift(np.array([2**FRACTION_BITS]), np.array([0])).is_moving(code_max)[0]


def test_logarithms_are_right_for_every_float16_and_byte() -> None:
    bits = np.arange(1, 0x7C00, dtype=np.uint16)
    exact = np.floor(np.log2(bits.view(np.float16).astype(np.float64)) * logarithms.OCTAVE)
    assert (np.abs(logarithms.of_float16(bits) - exact) <= 1).all()
    assert (logarithms.of_float16(bits | 0x8000) == logarithms.of_float16(bits)).all()
    assert [int(value) for value in logarithms.of_byte(np.array([1, 2, 3, 64, 255], np.uint8))] == [
        0,
        256,
        405,
        1536,
        2046,
    ]
    assert logarithms.of_byte(np.array([0], np.uint8))[0] < logarithms.of_float16(np.array([1], np.uint16))[0]


@given(data=st.binary(min_size=2, max_size=64))
@settings(max_examples=30, deadline=None)
def test_nibbles_add_and_subtract_modulo_sixteen(data: bytes) -> None:
    first, second = np.frombuffer(data, np.uint8), np.frombuffer(data[::-1], np.uint8)
    total = first.copy()
    cells.add(total, second.copy())
    assert [int(each) for each in total & 15] == [
        (int(a) + int(b)) % 16 for a, b in zip(first & 15, second & 15, strict=True)
    ]
    assert [int(each) for each in total >> 4] == [
        (int(a) + int(b)) % 16 for a, b in zip(first >> 4, second >> 4, strict=True)
    ]
    assert (cells.subtract(total, second) == first).all()
    joined = np.empty_like(first)
    cells.join(cells.split(first), joined)
    assert (joined == first).all()


def test_a_code_above_fifteen_is_not_joined() -> None:
    with pytest.raises(DecodeError):
        cells.join(np.array([1, 16], np.uint8), np.empty(1, np.uint8))


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(1, 40), width=st.integers(1, 9), is_packed=st.booleans())
@settings(max_examples=30, deadline=None)
def test_rows_of_any_classes_come_back(seed: int, num_classes: int, width: int, is_packed: bool) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, num_classes, 50, np.uint8)
    cuts = tuple(sorted({int(cut) for cut in rng.integers(1, 256, rng.integers(0, 9))}))
    rows = rng.integers(0, 256, (50, width), np.uint8)
    source = StreamReader(grouped.encode_rows(rows, classes, cuts, is_packed=is_packed, level=8))
    rebuilt = grouped.decode_rows(source, classes, cuts, width, is_packed=is_packed)
    source.finish()
    assert (rebuilt == rows).all()


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_wide_rows_of_many_classes_come_back(width: int) -> None:
    rng = np.random.default_rng(width)
    classes = rng.integers(0, 9, 1000, np.uint8)
    rows = rng.integers(0, 256, (1000, width), np.uint8)
    for cuts in ((), (5,), tuple(range(1, 9))):
        source = StreamReader(grouped.encode_rows(rows, classes, cuts, is_packed=True, level=8))
        assert (grouped.decode_rows(source, classes, cuts, width, is_packed=True) == rows).all()


def test_codes_travel_as_bytes_where_pairs_of_them_say_more_than_each() -> None:
    rng = np.random.default_rng(1)
    classes, pairs = np.zeros(4096, np.uint8), rng.choice(np.array([0x07, 0x70, 0x99], np.uint8), (4096, 16))
    (stream,) = grouped.encode_rows(pairs, classes, (), is_packed=True, level=8)
    assert stream.count == pairs.size
    low, high = rng.binomial(15, 0.5, (2, 64, 16)).astype(np.uint8)
    (stream,) = grouped.encode_rows(low | high * np.uint8(16), classes[:64], (), is_packed=True, level=8)
    assert stream.count == 2 * low.size


@pytest.mark.parametrize("count", [15, 17, 31, 33, 0])
def test_a_stream_of_neither_codes_nor_bytes_is_refused(count: int) -> None:
    stream = streams.encode(np.arange(count, dtype=np.uint8) % 16)
    with pytest.raises(DecodeError):
        grouped.decode_rows(StreamReader([stream]), np.zeros(1, np.uint8), (), 16, is_packed=True)


def test_bytes_are_spent_on_time_within_the_budget_and_where_they_buy_the_most_of_it() -> None:
    rng = np.random.default_rng(1)
    low, high = rng.binomial(15, 0.5, (2, 6000, 16)).astype(np.uint8)
    rows, classes = low | high * np.uint8(16), np.repeat(np.arange(2, dtype=np.uint8), [1000, 5000])

    def encode(budget: float) -> list[Stream]:
        return grouped.encode_rows(rows, classes, (1,), is_packed=True, level=8, budget=budget)

    free, none = encode(1.0), encode(0.0)
    assert [stream.coder for stream in free] == [Coder.ZSTD, Coder.ZSTD]
    assert [stream.count for stream in none] == [2 * 16_000, 2 * 80_000]
    sizes = [sum(stream.stored_size for stream in made) for made in (none, free)]
    share = sizes[1] / sizes[0] - 1
    assert 0.001 < share < 0.02
    some = encode(share / 2)
    assert {stream.coder for stream in some} == {Coder.PCO, Coder.ZSTD}
    assert sum(stream.stored_size for stream in some) < sizes[0] * (1 + share / 2) + rows.size / 4000
    for made in (free, none, some):
        decoded = grouped.decode_rows(StreamReader(made), classes, (1,), 16, is_packed=True)
        assert (decoded == rows).all()


@pytest.mark.parametrize("num_cuts", [0, 1, 3, 4, 9])
def test_turned_groups_come_last_in_their_bucket_and_others_stay_in_order(num_cuts: int) -> None:
    rng = np.random.default_rng(num_cuts)
    classes, turned = rng.integers(0, 11, 500, np.uint8), rng.integers(0, 2, 500, np.uint8)
    cuts = tuple(range(1, 1 + num_cuts))
    order, parts = ordering.sort(classes, cuts, turned)
    if order is None:
        assert parts == [Part(500)]
        return
    keys = [(sum(cut <= classes[group] for cut in cuts), turned[group], group) for group in order]
    assert keys == sorted(keys)
    assert [part.num_groups for part in parts] == [sum(key[0] == at for key in keys) for at in range(num_cuts + 1)]
    assert [part.num_turned for part in parts] == [
        sum(key[:2] == (at, 1) for key in keys) for at in range(num_cuts + 1)
    ]


def test_classes_are_cut_where_codes_differ() -> None:
    rng = np.random.default_rng(1)
    classes = np.repeat(np.arange(8, dtype=np.uint8), 1000)
    rows = rng.integers(0, 4, (8000, 16), np.uint8) + np.where(classes < 5, 0, 8).astype(np.uint8)[:, None]
    assert grouped.choose_cuts(rows, classes) == (5,)
    assert grouped.choose_cuts(rows % 4, classes) == ()


def test_buckets_are_never_too_many() -> None:
    classes = np.repeat(np.arange(256, dtype=np.uint16), 40).astype(np.uint8)
    rows = np.repeat(classes[:, None], 64, axis=1)
    cuts = grouped.choose_cuts(rows, classes)
    assert grouped.read_cuts(grouped.pack_cuts(cuts) + b"rest") == (cuts, b"rest")
    assert len(cuts) < buckets.BUCKETS_MAX


@pytest.mark.parametrize("packed", [b"", b"\x01", b"\x02\x05\x05", b"\x01\x00", bytes([200, *range(1, 201)])])
def test_cuts_that_do_not_rise_are_refused(packed: bytes) -> None:
    with pytest.raises(DecodeError):
        grouped.read_cuts(packed)


def test_streams_are_all_taken_and_no_more() -> None:
    stream = Stream(coder=0, count=0, data=b"")  # type: ignore[arg-type]
    source = StreamReader([stream])
    with pytest.raises(DecodeError):
        source.finish()
    source.take()
    source.finish()
    with pytest.raises(DecodeError):
        source.take()


def test_levels_are_about_as_full_and_loud_groups_stand_out() -> None:
    rng = np.random.default_rng(1)
    scales = np.exp(rng.normal(-5, 0.3, (64, 16))) * np.exp(rng.normal(0, 2, (64, 1)))
    scales[:, 3] *= 1.1
    scales[7, 5] *= 8
    bits = scales.astype(np.float16).view(np.uint16).reshape(-1)
    measured = loudness.measure(bits, Float.F16, (64, 16))
    assert measured.argmax() == 7 * 16 + 5
    chosen, levels = Loudness.of(measured)
    counts = np.bincount(levels, minlength=LEVELS)
    assert counts.min() > 0.8 * counts.max()
    read, rest = Loudness.decode(chosen.encode() + b"rest")
    assert (read.thresholds, rest) == (chosen.thresholds, b"rest")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x07\x00",
        b"\x03" + bytes(12),
        b"\x07\xff\xff\xff\xff\xff\x01" + bytes(6),
        b"\x07\x00" + b"\xff\xff\xff\xff\x07" * 6,
    ],
)
def test_thresholds_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Loudness.decode(data)


def test_a_code_above_the_highest_is_refused() -> None:
    known = Contexts(None, lambda: np.zeros(4, np.uint8), lambda: np.zeros(4, np.uint8))
    rows = np.full((4, 8), 32, np.uint8)
    rows[0, 0] = 31
    plan, streams = coded_rows.encode(rows, known, code_max=255, is_packed=False, levels=1, level=8)
    with pytest.raises(DecodeError):
        coded_rows.decode(StreamReader(streams), known, plan, width=8, code_max=31, is_packed=False)


def test_halves_of_a_code_are_the_nearest_ones() -> None:
    halves = logarithms.nearest_halves(4 * logarithms.OCTAVE)
    exact = 2 * 2.0 ** (np.arange(halves.size) / logarithms.OCTAVE)
    assert np.abs(halves - exact).max() < 0.6  # logarithms are rounded down
    assert (halves[0], halves[-1]) == (2, 32)


@pytest.mark.parametrize(("width", "code_max", "is_packed"), [(16, 15, True), (5, 15, True), (32, 31, False)])
@pytest.mark.parametrize("num_classes", [1, 2, 9])
def test_groups_that_are_each_other_turned_round_share_their_streams(num_classes, width, code_max, is_packed) -> None:
    rng = np.random.default_rng(1)
    codes = (rng.exponential(2, (3000, width * (1 + is_packed)))).astype(np.uint8).clip(max=code_max)
    classes = rng.integers(0, num_classes, 3000, np.uint8)
    codes >>= classes[:, None] & np.uint8(1)  # so that classes are told apart
    turned = rng.integers(0, 2, 3000).astype(np.uint8)
    codes[turned == 1] = code_max - codes[turned == 1]
    rows = cells.bytes_of(codes.reshape(-1)).reshape(3000, width) if is_packed else codes
    sizes = []
    for told in (turned, None):
        known = Contexts(None, lambda: classes, lambda: classes, told)
        plan, streams = coded_rows.encode(rows, known, code_max=code_max, is_packed=is_packed, levels=1, level=8)
        sizes.append(sum(stream.stored_size for stream in streams))
        made = coded_rows.decode(
            StreamReader(streams), known, plan, width=width, code_max=code_max, is_packed=is_packed
        )
        assert made.tobytes() == rows.tobytes()
    assert sizes[0] < 0.85 * sizes[1]
