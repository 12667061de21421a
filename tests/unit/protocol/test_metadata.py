"""A metadata object comes back byte for byte, whatever its roles say, and nothing else is taken for one."""

import hashlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.metadata import MetadataBundle
from protocol.metadata_dictionary import DICTIONARY
from protocol.metadata_packing import WORD_MAX
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix
from protocol.packing import pack_map
from tests.fakes.updates import FakeGround

REAL = MetadataBundle.decode(FakeGround().make_update({"config.json": b"{}"}).metadata)
OTHER = MetadataBundle.decode(FakeGround().make_update({"config.json": b"[]"}, version=2).metadata)
FIELDS = {
    "roots": [],
    "number": 1,
    "expires": 1_800_000_000,
    "manifest": b"manifest",
    "targets": b"\0\1",
    "snapshot": b"\0\2\0\1",
    "timestamp": b"\0\3\0\4",
}


def whole(**changes):
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}
    dictionary = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    body = zstandard.ZstdCompressor(dict_data=dictionary).compress(pack_map(fields))
    return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body


def cut_and_pasted(texts):
    """Pieces of real metadata in any order: hashes, numbers and times of this part, of others, and none of any."""
    pieces = [piece + end for text in texts for piece in text.split(b":") for end in (b"", b":")]
    return st.lists(st.sampled_from(pieces) | st.binary(max_size=3), min_size=1, max_size=12).map(b"".join)


parts = st.tuples(
    *(
        st.sampled_from([getattr(REAL, name), getattr(OTHER, name)]) | cut_and_pasted([REAL.timestamp, OTHER.targets])
        for name in ("timestamp", "snapshot", "targets", "manifest")
    )
)


@given(parts)
def test_any_parts_come_back_whatever_they_say_of_each_other(texts):
    timestamp, snapshot, targets, manifest = (text or b"." for text in texts)
    bundle = MetadataBundle(timestamp=timestamp, snapshot=snapshot, targets=targets, manifest=manifest)
    assert MetadataBundle.decode(bundle.encode()) == bundle


def test_a_reader_fills_in_what_follows_from_the_other_parts():
    bundle = MetadataBundle.decode(whole())
    assert bundle.targets == hashlib.sha256(b"manifest").hexdigest().encode()
    assert bundle.snapshot == b"64" + hashlib.sha256(bundle.targets).hexdigest().encode()
    assert bundle.timestamp == b"12027-01-15T08:00:00Z"


@pytest.mark.parametrize(
    "change",
    [
        {"number": WORD_MAX + 1},
        {"number": -1},
        {"number": True},
        {"number": None},
        {"expires": 2**40},
        {"expires": 2**63 - 1},
        {"expires": None},
        {"manifest": b""},
        {"targets": b""},
        {"snapshot": b""},
        {"timestamp": b""},
        {"timestamp": b"\0\5"},
        {"timestamp": b"\0\1" * 1025},
        {"targets": b"x" * 65_537},
        {"manifest": b"x" * 65_537},
        {"roots": [b"\0\3"]},
        {"roots": [b"\0\1"]},
        {"roots": ["text"]},
        {"label": "spare"},
    ],
)
def test_what_is_no_metadata_is_refused(change):
    with pytest.raises(DecodeError):
        MetadataBundle.decode(whole(**change))
