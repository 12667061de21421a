"""A byte of the medium is flipped below the page cache: a buffered read does not see it, the scrub does, and repairs.

On an ext4 image behind a loop device, which needs root.
"""

import contextlib
import mmap
import os
import random
import subprocess

import pytest

from onboard.scrub.medium import DirectMedium
from tests.fakes.scrubbing import GuardedRelease

MODEL = "model.safetensors"
pytestmark = [pytest.mark.power, pytest.mark.skipif(os.geteuid() != 0, reason="mounts an image: needs root")]


@contextlib.contextmanager
def mounted_image(directory):
    """An ext4 image; gives its path and where it is mounted."""
    image, mount = directory / "medium.img", directory / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    mounting = subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True)
    if mounting.returncode:
        pytest.skip(f"no loop mounts here: {mounting.stderr.decode()}")
    try:
        yield image, mount
    finally:
        subprocess.run(["umount", mount], check=True)


def flip_below(image, needle, at):
    """Flip the lowest bit of a byte of some known bytes, wherever they lie on the image."""
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        where = view.find(needle)
        assert where >= 0
        view[where + at] ^= 1
        view.flush()


def test_a_scrub_sees_the_medium_under_a_warm_cache_and_a_mapping(tmp_path):
    with mounted_image(tmp_path) as (image, mount):
        release = GuardedRelease(mount / "r", {MODEL: 4 << 20})
        data = release.files[MODEL]
        with (mount / "r" / MODEL).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            os.sync()
            assert mapped[:] == data  # every page is cached
            at = random.Random(1).randrange(len(data) // 4096)
            flip_below(image, data[at * 4096 : (at + 1) * 4096], 77)
            assert mapped[:] == data
            assert file.read() == data  # who reads through the cache sees nothing
            medium = DirectMedium(mount / "r" / MODEL)
            assert medium.is_direct
            medium.close()
            outcome = release.scrub()
            assert [(flip.file, flip.bits) for flip in outcome.flips] == [(MODEL, (8 * (at * 4096 + 77),))]
            assert outcome.is_whole
            assert outcome.is_direct
        assert release.scrub().flips == ()
        assert release.is_whole
