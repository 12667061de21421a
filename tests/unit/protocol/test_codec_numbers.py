"""Numbers on the wire take as few bytes as they need, and a reader takes no more than there is."""

import pytest

from protocol.codec import numbers
from protocol.codec.numbers import Reader
from protocol.errors import DecodeError

VALUES = [0, 1, 127, 128, 16_383, 16_384, 2**32 - 1, 2**62]


def test_numbers_come_back_and_small_ones_take_a_byte():
    reader = Reader(numbers.pack(*VALUES), "test")
    assert [reader.number(2**62) for _ in VALUES] == VALUES
    reader.finish()
    assert [len(numbers.pack(value)) for value in VALUES[:6]] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("value", [0, 1, -1, 63, -64, 64, 2**40, -(2**40)])
def test_signed_numbers_come_back(value):
    packed = numbers.pack_signed(value)
    assert Reader(packed, "test").signed(2**40) == value
    assert len(packed) == 1 or abs(value) >= 64


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff" * 9 + b"\x01", numbers.pack(1001)], ids=lambda data: data.hex()
)
def test_what_is_no_number_or_too_high_is_refused(data):
    with pytest.raises(DecodeError):
        Reader(data, "test").number(1000)


def test_a_reader_takes_no_more_than_there_is():
    reader = Reader(b"abc", "test")
    assert reader.take(2) == b"ab"
    with pytest.raises(DecodeError, match="ends at 3, 4 expected"):
        reader.take(2)
    with pytest.raises(DecodeError, match="1 bytes too many"):
        reader.finish()
    assert reader.rest() == b"c"
    reader.finish()
