"""A manifest says how good a release is, in integers, or nothing at all."""

from dataclasses import replace

import pytest

from protocol.errors import DecodeError
from protocol.manifest import Manifest
from protocol.packing import pack_map, unpack_map
from protocol.quality import Quality
from tests.vectors import make

QUALITY = make.JUDGED.quality
ALONE = replace(QUALITY, reference=None)


@pytest.mark.parametrize("quality", [QUALITY, ALONE, None])
def test_it_decodes_to_what_was_encoded(quality):
    whole = replace(make.MANIFEST, quality=quality)
    assert Manifest.decode(whole.encode()) == whole


def test_a_manifest_without_figures_has_the_bytes_that_it_had_before():
    assert "quality" not in unpack_map(make.MANIFEST.encode(), unit="m", size_max=10_000)


def test_the_figures_take_less_than_a_hundred_bytes():
    assert len(make.JUDGED.encode()) - len(make.MANIFEST.encode()) < 100


def test_the_loss_is_what_perplexity_rose_by():
    assert QUALITY.loss == pytest.approx(14.967 / 14.931 - 1)
    assert ALONE.loss is None


@pytest.mark.parametrize(
    "change",
    [
        {"perplexity": 999},
        {"perplexity": 14.967},
        {"perplexity": True},
        {"tokens": 0},
        {"text": b"short"},
        {"reference": [14_931]},
        {"reference": [14_931, 1, 2]},
        {"reference": [14_931, -1]},
        {"reference": [0, 1]},
        {"reference": 14_931},
        {"benchmark": 1},
    ],
)
def test_figures_that_are_none_are_refused(change):
    with pytest.raises(DecodeError, match="quality"):
        Quality.from_map({**QUALITY.as_map(), **change})


def test_a_manifest_whose_figures_are_none_is_refused_as_a_whole():
    fields = unpack_map(make.JUDGED.encode(), unit="m", size_max=10_000)
    with pytest.raises(DecodeError, match="quality"):
        Manifest.decode(pack_map({**fields, "quality": {**fields["quality"], "tokens": -1}}))
