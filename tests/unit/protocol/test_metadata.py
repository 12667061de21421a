"""A metadata object comes back byte for byte, whatever its roles say, and nothing else is taken for one."""

import hashlib
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DecodeError
from protocol.limits import METADATA_UNPACKED_MAX, ROOT_SIZE_MAX, ROOTS_MAX
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


def whole(trailing=b"", **changes):
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}
    dictionary = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    body = zstandard.ZstdCompressor(dict_data=dictionary).compress(pack_map(fields)) + trailing
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


def test_what_follows_is_not_sent():
    dictionary = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    sent = zstandard.ZstdDecompressor(dict_data=dictionary).decompress(REAL.encode()[PREFIX_SIZE:])
    assert REAL.manifest in sent
    for part in (REAL.manifest, REAL.targets, REAL.snapshot):
        assert hashlib.sha256(part).digest() not in sent
        assert hashlib.sha256(part).hexdigest().encode() not in sent
    expires = json.loads(REAL.timestamp)["signed"]["expires"].encode()
    assert expires in REAL.timestamp
    assert expires not in sent


def test_roots_have_their_bounds():
    runs = ROOT_SIZE_MAX // 510
    run = b"\0\xff" + bytes(255)
    assert len(MetadataBundle.decode(whole(roots=[run * runs])).roots[0]) == 510 * runs
    assert len(MetadataBundle.decode(whole(roots=[b"{}"] * ROOTS_MAX)).roots) == ROOTS_MAX
    for roots in ([run * (runs + 1)], [b"{}"] * (ROOTS_MAX + 1)):
        with pytest.raises(DecodeError):
            MetadataBundle.decode(whole(roots=roots))


@pytest.mark.parametrize(
    "change",
    [
        {"trailing": b"more"},
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


@pytest.mark.parametrize("options", [{}, {"write_content_size": False}])
def test_what_would_grow_too_large_is_not_decompressed(options):
    packed = pack_map({**FIELDS, "manifest": bytes(METADATA_UNPACKED_MAX if not options else 1)})
    body = zstandard.ZstdCompressor(**options).compress(packed)
    with pytest.raises(DecodeError, match="decompressed bytes are not in"):
        MetadataBundle.decode(object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body)


@pytest.mark.parametrize("label", ["x" * 129, b"bytes"])
def test_a_rotation_is_refused_if_its_label_is_none(label):
    body = zstandard.ZstdCompressor().compress(pack_map({"roots": [b"root"], "label": label}))
    with pytest.raises(DecodeError, match="label"):
        MetadataBundle.decode(object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body)
