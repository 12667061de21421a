"""Metadata text packed: exactly reversible whatever it is, bounded whatever it claims, and small."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.metadata_packing import pack_text, unpack_text

_digits = st.text("0123456789abcdef", min_size=1, max_size=700).map(str.encode)


@given(st.lists(_digits | st.binary(max_size=20) | st.just(b"\0"), max_size=6).map(b"".join))
def test_every_text_comes_back(text):
    packed = pack_text(text)
    assert unpack_text(packed, size_max=len(text)) == text
    assert len(packed) <= 2 * len(text)


@given(st.binary(max_size=60))
def test_whatever_is_unpacked_is_text_of_that_size_or_an_error(packed):
    with contextlib.suppress(DecodeError):
        assert len(unpack_text(packed, size_max=100)) <= 100


def test_a_signature_takes_its_own_size():
    text = b'"sig":"' + b"0123456789abcdef" * 8 + b'"'
    assert len(pack_text(text)) == len(text) - 128 + 64 + 2


@pytest.mark.parametrize("packed", [b"\0", b"text\0", b"\0\x05abcd"])
def test_a_text_that_breaks_off_is_an_error(packed):
    with pytest.raises(DecodeError):
        unpack_text(packed, size_max=100)


def test_a_text_that_grows_too_large_is_an_error():
    packed = b"\0\xff" + bytes(255)
    assert len(unpack_text(packed, size_max=510)) == 510
    for size_max in (509, 0):
        with pytest.raises(DecodeError):
            unpack_text(packed * 1000, size_max=size_max)
