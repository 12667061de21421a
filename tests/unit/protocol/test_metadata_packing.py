"""Metadata text packed: exactly reversible whatever it is, bounded whatever it claims, and small."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.metadata_packing import WORD_MAX, Known, expires_s_of, number_of, pack_text, unpack_text

NAMED = b"what is named"
DIGEST = hashlib.sha256(NAMED).hexdigest().encode()
KNOWN = Known(named=NAMED, number=7, expires_s=1_800_000_000)
ROLE = (
    b'{"signed":{"expires":"2027-01-15T08:00:00Z","meta":{"x.json":{"hashes":{"sha256":"%b"},"length":13,"version":7}},'
    b'"targets":{"updates/7.manifest":{}},"version":7}}' % DIGEST
)
_digits = st.text("0123456789abcdef", min_size=1, max_size=700).map(str.encode)
_words = st.sampled_from(
    [
        *(b'"sha256":"', b'"length":', b'"version":', b'"updates/', b'"expires":"', b'"', b",", b"}", b".", b"\0"),
        *(DIGEST, b"13", b"7", b"07", b"70", b"2027-01-15T08:00:00Z", b"2027-01-15T08:00:01Z", b"\0\1", b"\0\4"),
    ]
)
_texts = st.lists(_digits | st.binary(max_size=20) | _words, max_size=12).map(b"".join)
_known = st.builds(
    Known,
    named=st.none() | st.just(NAMED) | st.binary(max_size=20),
    number=st.integers(0, 20) | st.integers(0, WORD_MAX),
    expires_s=st.just(0) | st.just(1_800_000_000) | st.integers(0, WORD_MAX),
)


@given(_texts, _known)
def test_every_text_comes_back(text, known):
    packed = pack_text(text, known)
    assert unpack_text(packed, known, size_max=len(text)) == text
    assert len(packed) <= 2 * len(text)


@given(st.binary(max_size=60), _known)
def test_whatever_is_unpacked_is_text_of_that_size_or_an_error(packed, known):
    with contextlib.suppress(DecodeError):
        assert len(unpack_text(packed, known, size_max=100)) <= 100


def test_a_signature_takes_its_own_size():
    text = b'"sig":"' + b"0123456789abcdef" * 8 + b'"'
    assert len(pack_text(text)) == len(text) - 128 + 64 + 2


@pytest.mark.parametrize("num_digits", [15, 16, 17, 510, 511, 512, 525, 526, 1025])
def test_digits_come_back_however_many_there_are(num_digits):
    text = b"g" + (b"0123456789abcdef" * 65)[:num_digits] + b"g"
    packed = pack_text(text)
    assert unpack_text(packed, size_max=len(text)) == text
    assert (len(packed) < len(text)) == (num_digits >= 16)


def test_what_the_reader_knows_takes_two_bytes_each_and_what_follows_from_it_changes_with_it():
    packed = pack_text(ROLE, KNOWN)
    assert len(packed) == len(ROLE) - (64 - 2) - (20 - 2) + 3  # "7" thrice takes one byte more
    other = Known(named=b"another", number=12, expires_s=1)
    text = unpack_text(packed, other, size_max=1000)
    assert hashlib.sha256(b"another").hexdigest().encode() in text
    assert b'"length":7,"version":12}' in text
    assert b'"updates/12.manifest"' in text
    assert b'"1970-01-01T00:00:01Z"' in text


@pytest.mark.parametrize(
    "change",
    [{"named": b"another"}, {"number": 8}, {"expires_s": 1_800_000_001}],
)
def test_what_is_not_as_known_is_sent(change):
    known = Known(**{**{"named": NAMED, "number": 7, "expires_s": 1_800_000_000}, **change})
    packed = pack_text(ROLE, known)
    assert unpack_text(packed, known, size_max=len(ROLE)) == ROLE
    assert len(packed) > len(pack_text(ROLE, KNOWN)) - 4


@pytest.mark.parametrize("packed", [b"\0", b"text\0", b"\0\x08abcdefg", b"\0\xff"])
def test_a_text_that_breaks_off_is_an_error(packed):
    with pytest.raises(DecodeError):
        unpack_text(packed, size_max=1000)


@pytest.mark.parametrize("code", range(1, 8))
def test_a_code_that_stands_for_nothing_is_an_error(code):
    with pytest.raises(DecodeError, match="no meaning"):
        unpack_text(bytes((0, code)) + b"and more text", size_max=100)
    if code <= 4:
        assert unpack_text(bytes((0, code)), KNOWN, size_max=100)
    else:
        with pytest.raises(DecodeError, match="no meaning"):
            unpack_text(bytes((0, code)), KNOWN, size_max=100)


def test_a_text_that_grows_too_large_is_an_error():
    for packed, known, size in ((b"\0\xff" + bytes(255), Known(), 510), (b"\0\1", KNOWN, 64)):
        assert len(unpack_text(packed, known, size_max=size)) == size
        for size_max in (size - 1, 0):
            with pytest.raises(DecodeError, match="more than"):
                unpack_text(packed * 1000, known, size_max=size_max)


def test_what_is_too_large_is_read_no_further():
    broken_off = b"\0\1" * 10 + b"\0"
    with pytest.raises(DecodeError, match="more than"):
        unpack_text(broken_off, KNOWN, size_max=64)
    with pytest.raises(DecodeError, match="expected 22"):
        unpack_text(broken_off, KNOWN, size_max=640)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (ROLE, 7),
        (b'"version":4294967295}', 4294967295),
        (b'"version":4294967296}', 0),
        (b'"version":07}', 0),
        (b'"version":0}', 0),
        (b'"version":1.0}', 0),
        (b'"version":"1"}', 0),
        (b"", 0),
    ],
)
def test_the_number_is_the_version_of_the_text(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (b"2027-01-15T08:00:00Z", 1_800_000_000),
        (b"2106-02-07T06:28:15Z", WORD_MAX),
        (b"2106-02-07T06:28:16Z", 0),
        (b"1970-01-01T00:00:00Z", 0),
        (b"1969-12-31T23:59:59Z", 0),
        (b"2027-02-30T00:00:00Z", 0),
        (b"9999-99-99T99:99:99Z", 0),
        (b"--------------------", 0),
        (b"2027-01-15T08:00:00", 0),
    ],
)
def test_the_time_is_when_the_text_expires(time, seconds):
    assert expires_s_of(b'"expires":"%b"' % time) == seconds
