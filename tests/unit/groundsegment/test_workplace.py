"""What a disk changed, or somebody put, in the place where plans are packed: it is thrown away, or left alone."""

import pytest

from groundsegment.staging.workplace import discard_unfinished, open_workplace
from tests.fakes.depots import make_depot, stage_bytes

PLAN, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def depot(tmp_path):
    with make_depot(tmp_path / "depot") as depot:
        yield depot


def interrupted(depot, index, handle="00112233aabb"):
    """Leave what a registration that was interrupted does: bundles in `updates/`, with their index."""
    directory = depot.updates_path / handle
    directory.mkdir(parents=True)
    (directory / "index.jsonl").write_bytes(index)
    (directory / "bundle-0000.skb").write_bytes(b"bundle")
    return directory


def test_an_interrupted_registration_is_taken_back_and_goes_on_under_its_key(depot):
    key = open_workplace(depot, PLAN).release_key
    (depot.staging_path / PLAN[:16]).rmdir()
    directory = interrupted(depot, PLAN.encode() + b"\n")
    workplace = open_workplace(depot, PLAN)
    assert workplace.release_key == key
    assert (workplace.path / "bundle-0000.skb").exists()
    assert not directory.exists()


@pytest.mark.parametrize(
    "index",
    [b"\xff\xfe" + PLAN.encode(), b"", PLAN[:9].encode(), b"../../../outside", PLAN.upper().encode(), b"\xc3\xa9" * 8],
    ids=["not ASCII", "empty", "short", "a path", "upper case", "letters beyond ASCII"],
)
def test_bundles_whose_index_a_disk_changed_are_thrown_away_and_staging_goes_on(depot, index):
    outside = depot.path.parent / "outside"
    outside.mkdir()
    directory = interrupted(depot, index)
    assert open_workplace(depot, OTHER).path.is_dir()
    assert not directory.exists()
    assert outside.is_dir()


def test_an_update_that_is_registered_loses_its_index_and_nothing_else(depot):
    update = stage_bytes(depot, [100]).update
    index = update.directory / "index.jsonl"
    index.write_bytes(b"\xff")
    open_workplace(depot, OTHER)
    assert not index.exists()
    assert depot.update(update.handle).directory.is_dir()


def test_what_is_none_of_ours_is_left_alone(depot):
    directory = interrupted(depot, b"\xff", handle="my own backup")
    discard_unfinished(depot)
    assert (directory / "index.jsonl").exists()


@pytest.mark.parametrize("damage", [b"\xff" * 65, b"", b"00\n", b"zz" * 32 + b"\n"])
def test_a_key_that_a_disk_changed_is_made_anew_and_its_bundles_with_it(depot, damage):
    workplace = open_workplace(depot, PLAN)
    (workplace.path / "bundle-0000.skb").write_bytes(b"bundle")
    workplace.key_path.write_bytes(damage)
    again = open_workplace(depot, PLAN)
    assert again.release_key != workplace.release_key
    assert list(again.path.iterdir()) == []
