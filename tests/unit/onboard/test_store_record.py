"""The trust record on the disk: what it survives, what it refuses, and that it needs no space."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from onboard.errors import StoreCorruptError, StoreFailedError, StoreFullError
from onboard.state import open_record
from onboard.store.ballast import BALLAST_SIZE, Ballast
from onboard.store.disk import RealDisk
from onboard.store.facts import OnboardRecord
from onboard.store.layout import StateLayout
from onboard.store.record import COUNTER_STEP, MessageCounters, RecordStore, copy_paths, keep_whole
from onboard.store.slots import COPY_SIZE, SLOT_SIZE, Damage, slot_of
from tests.fakes.faulty_disk import FaultyDisk
from tests.unit.onboard.test_store_facts import LARGEST


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trust.record"


def made(path, record=OnboardRecord(), disk=None):  # noqa: B008 - frozen
    store = RecordStore(path, disk)
    store.create(record)
    return store


def written(path):
    """A record of some writes."""
    store = made(path)
    for accepted in (1, 2, 3):
        store.store(OnboardRecord(accepted=accepted))
    return store


def content(path):
    return [copy.read_bytes() if copy.exists() else None for copy in copy_paths(path)]


def change(copy, at, data):
    """Change bytes of a file in place."""
    whole = bytearray(copy.read_bytes())
    whole[at : at + len(data)] = data
    copy.write_bytes(whole)


class Refusing(FaultyDisk):
    """A disk on which some files cannot be written."""

    def __init__(self):
        super().__init__()
        self.refused, self._paths = set(), {}

    def open(self, path, *, create=False):
        handle = super().open(path, create=create)
        self._paths[handle] = path
        return handle

    def sync(self, handle):
        if self._paths[handle] in self.refused:
            raise StoreFailedError("sync: refused (a test says so)")
        super().sync(handle)


def test_the_largest_record_comes_back_in_three_copies(path):
    made(path).store(LARGEST)

    assert RecordStore(path).load() == LARGEST
    assert [len(copy) for copy in content(path)] == [COPY_SIZE] * 3
    assert len(set(content(path))) == 1


def test_no_file_is_no_record(path):
    assert RecordStore(path).load() is None


def test_every_store_is_what_is_loaded_next(path):
    store = made(path)
    for accepted in range(1, 8):
        store.store(replace(store.record, accepted=accepted))
        assert RecordStore(path).load().accepted == accepted


def test_a_loaded_record_goes_on_where_it_was(path):
    for accepted in range(1, 8):
        store = RecordStore(path)
        record = store.load() or OnboardRecord()
        if accepted == 1:
            store.create(record)
        store.store(replace(record, accepted=accepted))

    assert RecordStore(path).load().accepted == 7


@pytest.mark.parametrize("bad", [b"", b"SKR2", bytes(COPY_SIZE), b"x" * COPY_SIZE])
def test_files_without_a_valid_slot_are_an_error_not_a_fresh_start(path, bad):
    for copy in copy_paths(path)[:2]:
        copy.write_bytes(bad)

    with pytest.raises(StoreCorruptError) as caught:
        RecordStore(path).load()
    assert "old updates" in caught.value.hint


def test_why_no_copy_could_be_read_is_told(path):
    made(path)

    class Blind(RealDisk):
        def read(self, handle, size, offset):
            raise StoreFailedError("read: Input/output error")

    with pytest.raises(StoreCorruptError, match=r"none in 3 copies; .*Input/output error"):
        RecordStore(path, Blind()).load()


def test_the_one_file_of_an_older_build_is_told_apart(path):
    path.write_bytes(b"SKR1" + bytes(8188))

    with pytest.raises(StoreCorruptError, match="older build") as caught:
        RecordStore(path).load()
    assert "provision" in caught.value.hint


def test_a_record_with_facts_of_a_newer_build_is_told_apart(path, monkeypatch):
    encode = OnboardRecord.encode
    monkeypatch.setattr(OnboardRecord, "encode", lambda self: encode(self)[:-6] + b"mendet\x00"[1:])
    made(path)
    monkeypatch.undo()

    with pytest.raises(StoreCorruptError, match="a record of this build") as caught:
        RecordStore(path).load()
    assert "build that wrote it" in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda copy: copy.unlink(), Damage(num_lost=1)),
        (lambda copy: copy.write_bytes(b""), Damage(num_lost=1)),
        (lambda copy: copy.write_bytes(copy.read_bytes()[:-1]), Damage(num_lost=1)),
        (lambda copy: copy.write_bytes(bytes(COPY_SIZE)), Damage(num_damaged=2)),
        (lambda copy: change(copy, 50, b"!"), Damage(num_damaged=1)),
        (lambda copy: change(copy, SLOT_SIZE + 50, b"!"), Damage(num_damaged=1)),
        (lambda copy: change(copy, COPY_SIZE - 1, b"!"), Damage(num_damaged=1)),
    ],
)
@pytest.mark.parametrize("number", range(3))
def test_a_damaged_copy_is_outvoted_written_again_and_counted(path, damage, found, number):
    written(path)
    whole = content(path)
    damage(copy_paths(path)[number])

    store = RecordStore(path)
    assert store.load().accepted == 3
    assert store.mend() == found
    assert content(path) == whole
    assert store.mend() == Damage()
    assert store.damage == found


def test_a_disk_of_its_own_for_releases_is_no_sign_of_a_lost_record(tmp_path):
    layout = StateLayout(tmp_path / "state")
    (layout.releases / "lost+found").mkdir(parents=True)
    assert open_record(layout).record == OnboardRecord()
    for copy in copy_paths(layout.record):
        copy.unlink()
    (layout.releases / "0123456789abcdef").mkdir()
    with pytest.raises(StoreFailedError, match="it is gone"):
        open_record(layout)


def test_two_lost_copies_and_a_flip_in_the_older_slot_of_the_third_are_mended(path):
    store = written(path)
    first, second, third = copy_paths(path)
    first.unlink()
    second.write_bytes(b"")
    change(third, SLOT_SIZE * (1 - slot_of(store._sequence)) + 40, b"!")

    again = RecordStore(path)
    assert again.load().accepted == 3
    assert again.mend() == Damage(num_lost=2, num_damaged=1)
    assert len(set(content(path))) == 1
    assert RecordStore(path).load().accepted == 3


def test_a_copy_left_behind_by_a_cut_is_told_apart_from_damage(path):
    store = written(path)
    before = copy_paths(path)[2].read_bytes()
    store.store(OnboardRecord(accepted=4))
    copy_paths(path)[2].write_bytes(before)

    again = RecordStore(path)
    assert again.load().accepted == 4
    assert again.mend() == Damage(num_behind=1)
    assert again.damage.num_bad == 0
    assert len(set(content(path))) == 1


def test_loading_changes_nothing(path):
    written(path)
    change(copy_paths(path)[1], 50, b"!")
    copy_paths(path)[0].unlink()
    before = content(path)
    RecordStore(path).load()

    assert content(path) == before


@pytest.mark.parametrize("ruin", [Path.unlink, lambda copy: copy.write_bytes(bytes(COPY_SIZE))])
def test_in_a_life_that_goes_on_even_three_ruined_copies_cost_nothing(path, ruin):
    store = written(path)
    for copy in copy_paths(path):
        ruin(copy)

    assert store.mend() == Damage(num_lost=3)
    assert RecordStore(path).load().accepted == 3


def test_an_older_record_in_the_place_of_the_newest_does_not_outlive_a_mend(path):
    store = written(path)
    older = content(path)[0]
    store.store(OnboardRecord(accepted=4))
    for copy in copy_paths(path):
        copy.write_bytes(older)

    store.mend()
    assert RecordStore(path).load().accepted == 4


def test_a_record_is_kept_whole_in_a_life_that_goes_on_and_what_was_mended_is_counted(path):
    store, naps = written(path), []
    told = []
    store.on_damage = told.append

    async def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            change(copy_paths(path)[1], 50, b"!")
        if len(naps) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_whole(store, period_s=60.0, sleep=sleep))
    assert (naps, told) == ([60.0] * 4, [Damage(num_damaged=1)])
    assert RecordStore(path).load() == OnboardRecord(accepted=3, num_mended=1)
    assert len(set(content(path))) == 1


def test_what_somebody_else_wrote_is_not_mended_away(path):
    store = written(path)
    other = RecordStore(path)
    other.load()
    other.store(OnboardRecord(accepted=9))

    with pytest.raises(StoreFailedError, match="somebody else"):
        store.mend()
    assert RecordStore(path).load().accepted == 9


def test_it_is_stored_and_its_slots_mended_on_a_full_disk(path):
    class Full(FaultyDisk):
        def write(self, handle, data):
            raise StoreFullError("write: no space (a test says so)")

    written(path)
    change(copy_paths(path)[1], 50, b"!")
    store = RecordStore(path, Full())
    store.load()
    assert store.mend() == Damage(num_damaged=1)
    store.store(LARGEST)

    assert RecordStore(path).load() == LARGEST
    assert len(set(content(path))) == 1


def test_a_lost_copy_that_finds_no_space_is_done_without_and_told(path):
    disk = FaultyDisk()
    written(path)
    copy_paths(path)[1].unlink()
    store = RecordStore(path, disk)
    store.load()
    disk.room_bytes = 100
    assert store.mend() == Damage(num_lost=1, num_failed=1)
    disk.room_bytes = None
    store.store(OnboardRecord(accepted=4))

    assert RecordStore(path).load().accepted == 4
    assert content(path)[1] is None


def test_a_lost_copy_takes_the_space_of_the_ballast_on_a_full_disk(path):
    disk = FaultyDisk()
    ballast = Ballast(path.with_name("ballast"), disk)
    assert ballast.hold()
    assert path.with_name("ballast").stat().st_blocks * 512 >= BALLAST_SIZE
    written(path)
    copy_paths(path)[1].unlink()
    disk.room_bytes = 0

    def make_room():
        freed = ballast.drop()
        disk.room_bytes = COPY_SIZE if freed else 0
        return freed

    store = RecordStore(path, disk, make_room=make_room)
    store.load()
    assert store.mend() == Damage(num_lost=1)
    assert len(set(content(path))) == 1
    assert not ballast.hold()  # still full
    assert not path.with_name("ballast").exists()
    disk.room_bytes = None
    assert ballast.hold()


@pytest.mark.parametrize("number", range(3))
def test_a_copy_that_cannot_be_written_is_left_alone_and_told(path, number):
    disk, told = Refusing(), []
    store = made(path, disk=disk)
    store.on_damage = told.append
    bad = copy_paths(path)[number]
    disk.refused = {bad}
    store.store(OnboardRecord(accepted=1))
    left = bad.read_bytes()
    store.store(OnboardRecord(accepted=2))

    assert told == [Damage(num_failed=1)]
    assert bad.read_bytes() == left  # an error of a sync is final: it was not written again
    assert RecordStore(path).load().accepted == 2
    disk.refused = set()
    inode = bad.stat().st_ino
    store.mend()
    assert bad.stat().st_ino != inode  # made anew, not written over
    assert len(set(content(path))) == 1


def test_a_write_that_reaches_one_copy_only_has_failed(path):
    disk, failed = Refusing(), []
    store = made(path, disk=disk)
    store.on_failed = failed.append
    disk.refused = set(copy_paths(path)[1:])

    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=1))
    assert len(failed) == 1


def test_a_mend_that_leaves_one_copy_is_told_every_time_and_ends_nothing_for_no_fact_is_in_doubt(path):
    disk, told = Refusing(), []
    store = made(path, disk=disk)
    store.store(OnboardRecord(accepted=1))
    store.on_damage = told.append
    disk.refused = {copy.with_name(copy.name + ".new") for copy in copy_paths(path)[1:]}
    for copy in copy_paths(path)[1:]:
        copy.unlink()
    assert store.mend() == store.mend() == Damage(num_lost=2, num_failed=2)
    assert len(told) == 2
    store.store(OnboardRecord(accepted=2))  # a satellite with one copy left goes on
    assert RecordStore(path, disk).load().accepted == 2

    again = RecordStore(path, disk)  # and starts
    again.load()
    assert again.mend().num_failed == 2
    again.store(OnboardRecord(accepted=3))
    disk.refused = set()
    again.mend()  # an hour later the disk takes them
    assert len(set(content(path))) == 1
    assert RecordStore(path).load().accepted == 3


def test_the_last_copy_that_cannot_be_written_either_ends_it(path):
    disk, failed = Refusing(), []
    store = made(path, disk=disk)
    store.on_failed = failed.append
    disk.refused = {*copy_paths(path)[1:], *(copy.with_name(copy.name + ".new") for copy in copy_paths(path)[1:])}
    for copy in copy_paths(path)[1:]:
        copy.unlink()
    store.mend()
    disk.refused |= {copy_paths(path)[0]}
    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=1))
    assert len(failed) == 1


def test_an_unreadable_copy_is_outvoted_and_made_anew(path):
    written(path)
    bad = copy_paths(path)[0]
    bad.unlink()
    bad.mkdir()
    store = RecordStore(path)
    assert store.load().accepted == 3
    assert store.mend() == Damage(num_lost=1, num_failed=1)  # a directory cannot be replaced
    store.store(OnboardRecord(accepted=4))
    assert RecordStore(path).load().accepted == 4


@pytest.mark.parametrize("error", [StoreFailedError, StoreFullError])
def test_a_copy_that_cannot_be_synced_before_it_is_read_is_made_anew(path, error):
    disk = FaultyDisk()
    store = made(path, disk=disk)
    sync, errors = disk.sync, [error("sync: refused")]

    def failing(handle):
        if errors:
            raise errors.pop()
        sync(handle)

    disk.sync = failing
    assert store.mend() == Damage(num_lost=1)
    assert content(path)[0] == content(path)[1]


def test_after_a_failed_sync_it_is_not_used_before_it_was_loaded_again(path):
    disk = FaultyDisk()
    store = made(path, disk=disk)
    disk.sync_fails = True
    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=1))
    disk.sync_fails = False
    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=2))

    assert store.load().accepted in {0, 1}
    store.store(OnboardRecord(accepted=2))
    assert RecordStore(path).load().accepted == 2


def test_a_record_that_finds_no_space_is_not_made_at_all(path):
    disk = FaultyDisk()
    disk.room_bytes = 2 * COPY_SIZE
    with pytest.raises(StoreFullError):
        made(path, disk=disk)

    assert list(path.parent.iterdir()) == []


def test_message_counters_are_never_handed_out_twice_even_if_the_power_goes(path):
    made(path)
    used = []
    for num_messages in (1, COUNTER_STEP, 3, 0, 2 * COUNTER_STEP + 1):
        store = RecordStore(path)
        store.load()
        counters = MessageCounters(store)
        used += [counters.take() for _ in range(num_messages)]

    assert used == sorted(set(used))
    assert used[0] == 1


def test_message_counters_do_not_cost_a_write_each(path):
    store = made(path)
    counters = MessageCounters(store)
    before = [counters.take() and content(path)[0] for _ in range(COUNTER_STEP)]

    assert len(set(before)) == 1
