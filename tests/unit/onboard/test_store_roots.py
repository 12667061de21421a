"""The root's three copies: a flipped bit, a lost file, two bad copies, three; and what the daemon begins with."""

import pytest

from onboard.config import load_config
from onboard.state import open_record, open_root
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout, make_state_directories
from onboard.store.roots import forget_roots, keep_root, mend_root, read_root_copies, root_digest, root_paths
from tests.fakes.rotation import successor
from tests.fakes.updates import FakeGround

ROOT = FakeGround().root


@pytest.fixture
def layout(tmp_path):
    layout = StateLayout(tmp_path)
    keep_root(layout, ROOT)
    return layout


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_all_copies_hold_the_root(layout):
    paths = root_paths(layout, root_digest(ROOT))
    assert [path.read_bytes() for path in paths] == [ROOT] * 3
    assert read_root_copies(layout, root_digest(ROOT)) == ROOT
    assert mend_root(layout, ROOT) == 0


@pytest.mark.parametrize("damaged", [(0,), (1, 2), (0, 1, 2)])
def test_flips_in_any_copies_are_mended_as_long_as_no_two_hit_the_same_bit(layout, damaged):
    for number in damaged:
        flip(root_paths(layout, root_digest(ROOT))[number], 100 + number)
    assert read_root_copies(layout, root_digest(ROOT)) == ROOT
    assert mend_root(layout, ROOT) == len(damaged)
    assert mend_root(layout, ROOT) == 0


def test_a_root_that_no_copy_gives_is_not_guessed(layout):
    paths = root_paths(layout, root_digest(ROOT))
    for path in paths[:2]:
        flip(path, 100)
    paths[2].unlink()
    assert read_root_copies(layout, root_digest(ROOT)) is None
    assert read_root_copies(layout, bytes(32)) is None


def test_a_lost_copy_is_made_again(layout):
    root_paths(layout, root_digest(ROOT))[1].unlink()
    assert read_root_copies(layout, root_digest(ROOT)) == ROOT
    assert mend_root(layout, ROOT) == 1


def test_other_roots_and_half_written_copies_are_forgotten(layout):
    other = FakeGround(seed=b"other").root
    keep_root(layout, other)
    (layout.state_dir / "root-0011223344556677.1.json.new").write_bytes(b"half")
    forget_roots(layout, but=root_digest(ROOT))
    assert {path.read_bytes() for path in layout.state_dir.glob("root-*")} == {ROOT}


def begin(ground, directory):
    config = load_config(ground.write_kit(directory))
    layout = StateLayout(config.satellite.state_dir)
    make_state_directories(layout, RealDisk())
    store = open_record(layout)
    return open_root(layout, config, store), store, layout


def test_the_kits_root_is_trusted_on_the_first_day_and_recorded(tmp_path):
    ground = FakeGround()
    opened, store, _ = begin(ground, tmp_path)
    assert (opened.data, opened.is_lost, opened.num_mended) == (ground.root, False, 0)
    assert (store.record.root_version, store.record.root_digest) == (1, root_digest(ground.root))
    again, _, _ = begin(ground, tmp_path)
    assert again == opened


def test_the_kits_root_never_takes_the_place_of_a_newer_one_that_was_lost(tmp_path):
    from dataclasses import replace

    ground = FakeGround()
    _, root = successor(ground)
    _, store, layout = begin(ground, tmp_path)
    digest = keep_root(layout, root)
    store.store(replace(store.record, root_version=2, root_digest=digest))
    opened, _, _ = begin(ground, tmp_path)
    assert (opened.data, opened.is_lost) == (root, False)
    for path in root_paths(layout, digest):
        path.unlink()
    opened, store, _ = begin(ground, tmp_path)
    assert (opened.data, opened.is_lost) == (ground.root, True)
    assert (store.record.root_version, store.record.root_digest) == (2, digest)


def test_a_root_that_is_the_kits_is_taken_from_the_kit_if_its_copies_are_lost(tmp_path):
    ground = FakeGround()
    _, store, layout = begin(ground, tmp_path)
    for path in root_paths(layout, store.record.root_digest):
        path.write_bytes(b"garbage")
    opened, _, _ = begin(ground, tmp_path)
    assert (opened.data, opened.is_lost, opened.num_mended) == (ground.root, False, 3)
