"""A manifest that says anything that cannot be is refused as a whole; of its files see `test_manifest`."""

from dataclasses import replace

import pytest

from protocol.errors import DecodeError
from protocol.limits import BUNDLES_MAX, OBJECT_SIZE_MAX, SEGMENTS_PER_BUNDLE_MAX
from protocol.manifest import Manifest
from protocol.packing import pack_map, unpack_map
from tests.vectors import make

GOOD = unpack_map(replace(make.MANIFEST, hold=True).encode(), unit="m", size_max=100_000)
BUNDLE = GOOD["bundles"][0]


def test_the_good_one_is_taken():
    assert Manifest.decode(pack_map(GOOD)) == replace(make.MANIFEST, hold=True)


@pytest.mark.parametrize("change", [{"digest": bytes(31)}, {"name": ""}, {"name": "a/b"}, {"more": 1}])
def test_a_release_that_cannot_be_is_refused(change):
    with pytest.raises(DecodeError):
        Manifest.decode(pack_map({**GOOD, "release": {**GOOD["release"], **change}}))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"sequence": 0},
        {"sequence": 2**32},
        {"floor": GOOD["sequence"] + 1},
        {"floor": -1},
        {"base": b"short"},
        {"satellites": ["SAT/1"]},
        {"satellites": ["SAT-1"] * 4097},
        {"keys": {"SAT-9": b"key"}},
        {"keys": {"SAT-1": bytes(2049)}},
        {"beside": 1},
        {"hold": 1},
        {"engine": {"format": "exe", "memory_bytes": 0}},
        {"engine": {"format": "gguf", "memory_bytes": -1}},
        {"engine": {"format": "gguf", "memory_bytes": 0, "more": 1}},
        {"canary": {}},
        {"bundles": [[0, *BUNDLE[1:]]]},
        {"bundles": [[OBJECT_SIZE_MAX + 1, *BUNDLE[1:]]]},
        {"bundles": [[BUNDLE[0], bytes(31), BUNDLE[2]]]},
        {"bundles": [[*BUNDLE[:2], 0]]},
        {"bundles": [[*BUNDLE[:2], SEGMENTS_PER_BUNDLE_MAX + 1]]},
        {"bundles": [BUNDLE[:2]]},
        {"bundles": [BUNDLE] * (BUNDLES_MAX + 1)},
        {"more": 1},
    ],
)
def test_what_cannot_be_is_refused(change):
    with pytest.raises(DecodeError):
        Manifest.decode(pack_map({**GOOD, **change}))


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"hold"}))
def test_what_is_not_there_is_missed(name):
    with pytest.raises(DecodeError, match="no field"):
        Manifest.decode(pack_map({key: value for key, value in GOOD.items() if key != name}))
