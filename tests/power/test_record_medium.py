"""A bit of the trust record flips on the medium, below the page cache: it is mended while the daemon lives."""

import os

import pytest

from onboard.store.facts import OnboardRecord
from onboard.store.record import RecordStore, copy_paths
from onboard.store.slots import SLOT_SIZE, Damage, slot_of
from tests.crash.test_scrub_medium import flip_below, mounted_image

pytestmark = [pytest.mark.power, pytest.mark.skipif(os.geteuid() != 0, reason="mounts an image: needs root")]


def test_a_flip_below_a_warm_cache_is_found_and_mended(tmp_path):
    with mounted_image(tmp_path) as (image, mount):
        path = mount / "trust.record"
        store = RecordStore(path)
        store.create(OnboardRecord())
        store.store(OnboardRecord(accepted=7))
        os.sync()
        whole = copy_paths(path)[0].read_bytes()  # every page is cached
        at = slot_of(store._sequence) * SLOT_SIZE
        flip_below(image, whole[at : at + SLOT_SIZE], 60)
        assert [copy.read_bytes() for copy in copy_paths(path)] == [whole] * 3  # who reads the cache sees nothing

        assert store.mend() == Damage(num_damaged=1)
        assert store.mend() == Damage()
        os.sync()
        assert RecordStore(path).load() == OnboardRecord(accepted=7)
