"""The power is cut before every operation, and after the last: what is found is old or new, and what was promised."""

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

from onboard.errors import StoreCorruptError
from onboard.store.disk import replace_file
from onboard.store.facts import KnownRelease, OnboardRecord
from onboard.store.record import RecordStore, copy_paths
from tests.fakes.sim_disk import NoDirectorySync, NoFileSync, PowerCut, SimDisk

PATH = Path("state/thing")
OLD, NEW = b"old " * 30, b"brand new " * 20
FIRST = OnboardRecord(accepted=1)
NUM_IMAGES = 40  # of the disks that a cut may leave
LATER = [
    replace(FIRST, accepted=n, releases=(KnownRelease(digest=bytes([n] * 32), name="r", sequence=n),))
    for n in (2, 3, 4)
]


def cuts(make_disk, scenario):
    """Run a scenario once for each operation it makes, cut there; yield (what it had finished, disks found)."""
    rehearsal = make_disk(None)
    scenario(rehearsal, [])
    for cut_at in range(rehearsal.num_operations + 1):
        disk, finished = make_disk(cut_at), []
        try:
            scenario(disk, finished)
        except PowerCut:
            assert cut_at < rehearsal.num_operations
        yield finished, disk.images(random.Random(cut_at), at_most=NUM_IMAGES)


def disk_with(kind, files):
    def make(cut_at):
        disk = kind(write_max=max(map(len, files.values())) // 3 + 1)
        for path, data in files.items():
            disk.put(path, data)
        disk.cut_at = cut_at
        return disk

    return make


def replace_thing(disk, finished):
    replace_file(PATH, NEW, disk)
    finished.append(NEW)


def broken_replacements(kind):
    """What a sweep over `replace_file` finds wrong."""
    for finished, images in cuts(disk_with(kind, {PATH: OLD}), replace_thing):
        allowed = {NEW} if finished else {OLD, NEW}
        yield from (image.content(PATH) for image in images if image.content(PATH) not in allowed)


def test_a_power_cut_during_a_replacement_leaves_old_or_new_and_new_after_it_returned():
    assert list(broken_replacements(SimDisk)) == []


def test_the_sweep_sees_a_missing_file_sync():
    assert any(len(found or b"") < len(NEW) for found in broken_replacements(NoFileSync))


def test_the_sweep_sees_a_missing_directory_sync():
    assert OLD in list(broken_replacements(NoDirectorySync))


def test_a_replacement_leaves_no_temporary_file():
    disk = disk_with(SimDisk, {PATH: OLD})(None)
    replace_file(PATH, NEW, disk)

    assert disk.list_directory(PATH.parent) == [PATH.name]


def record_scenario(disk, finished):
    store = RecordStore(PATH, disk)
    assert store.load() == FIRST
    finished.append(FIRST)
    for record in LATER:
        store.store(record)
        finished.append(record)


def record_disk(kind):
    made = SimDisk()
    made.make_directory(PATH.parent)
    RecordStore(PATH, made).create(FIRST)
    return disk_with(kind, {copy: made.content(copy) for copy in copy_paths(PATH)})


def broken_records(kind, scenario=record_scenario):
    """What a sweep over three stores finds wrong."""
    order = [FIRST, *LATER]
    for finished, images in cuts(record_disk(kind), scenario):
        done = len(finished) - 1
        allowed = order[max(done, 0) : done + 2]
        for image in images:
            try:
                found = RecordStore(PATH, image).load()
            except StoreCorruptError as error:
                yield error
            else:
                if found not in allowed:
                    yield found


def test_a_power_cut_during_a_store_leaves_the_old_or_the_new_record():
    assert list(broken_records(SimDisk)) == []


def test_the_sweep_sees_a_record_that_is_not_synced():
    assert next(broken_records(NoFileSync), None) is not None


def test_the_record_is_mended_and_stored_again_after_any_cut_and_a_cut_of_that():
    newest = replace(FIRST, accepted=9)

    def mend(disk, finished):
        store = RecordStore(PATH, disk)
        finished.append(store.load())
        assert store.mend().num_bad <= 1, "a cut tears one slot at most"
        store.store(newest)
        finished.append(newest)

    for _, images in islice(cuts(record_disk(SimDisk), record_scenario), None, None, 5):
        for image in islice(images, 2):
            begun = {copy: image.content(copy) for copy in copy_paths(PATH)}
            for finished, again in cuts(disk_with(SimDisk, begun), mend):
                allowed = [finished[-1], newest] if finished else [RecordStore(PATH, image).load()]
                assert all(RecordStore(PATH, found).load() in allowed for found in islice(again, 3))


def test_a_power_cut_while_the_record_is_made_leaves_none_or_all_of_it():
    def create(disk, finished):
        RecordStore(PATH, disk).create(FIRST)
        finished.append(FIRST)

    for finished, images in cuts(disk_with(SimDisk, {PATH.with_name("other"): bytes(8192)}), create):
        for image in images:
            assert RecordStore(PATH, image).load() in ([FIRST] if finished else [None, FIRST])
