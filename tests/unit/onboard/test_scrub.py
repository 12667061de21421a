"""Scrubbing a release on real files: every flip is found, located, and repaired where parity allows."""

import errno
import fcntl
import hashlib
import itertools
import os
from dataclasses import replace

import pytest

from onboard.errors import StoreFullError
from onboard.installer.release import ReleaseDirectory
from onboard.scrub import guard as guard_module
from onboard.scrub import repair as repair_module
from onboard.scrub.blocks import BlockMap
from onboard.scrub.core import GROUP_SIZE, LEAF_SIZE
from onboard.scrub.guard import GUARD_NAMES, PARITY_NAME, Guard, guard_sizes
from onboard.scrub.scrub import scrub_release
from onboard.store.ballast import RESERVE_BYTES
from onboard.store.disk import RealDisk
from protocol.damage import WHOLE, DamageReport, LostRange
from protocol.manifest import release_digest
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.scrubbing import SMALL, GuardedRelease

MODEL = "model.safetensors"


def located(outcome):
    return {(flip.file, bit) for flip in outcome.flips for bit in flip.bits}


def test_a_whole_release_is_left_alone(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    inode = (tmp_path / "r" / MODEL).stat().st_ino
    outcome = release.scrub()
    assert (outcome.flips, outcome.lost, outcome.trouble) == ((), (), "")
    assert outcome.num_bytes > sum(SMALL.values())
    assert (tmp_path / "r" / MODEL).stat().st_ino == inode


@pytest.mark.parametrize("count", [1, 2, 50])
def test_random_flips_are_all_found_located_and_repaired(tmp_path, count):
    release = GuardedRelease(tmp_path / "r", seed=count)
    flips = release.flip_any(count)
    outcome = release.scrub()
    assert release.is_whole
    assert (outcome.num_found, outcome.num_repaired, outcome.lost) == (count, count, ())
    assert located(outcome) == flips


def test_the_guards_own_files_and_the_evidence_are_repaired_too(tmp_path):
    names = [".sha256sums", PARITY_NAME, *GUARD_NAMES]
    release = GuardedRelease(tmp_path / "r")
    before = {name: release.read(name) for name in names}
    flips = {(name, 8 * 4096 // 16 * (at + 1)) for at, name in enumerate(names)}
    for name, bit in flips:
        release.flip(name, bit % (8 * len(before[name])))
    assert release.scrub().num_repaired == len(names)
    assert {name: release.read(name) for name in names} == before


def test_both_copies_of_the_guard_may_be_damaged_even_in_the_same_page(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    good = release.read(GUARD_NAMES[0])
    release.flip(GUARD_NAMES[0], 8 * 4096 + 5, 8 * 4096 + 900)
    release.flip(GUARD_NAMES[1], 8 * 4096 + 77)
    release.flip(MODEL, 12345)
    outcome = release.scrub()
    assert release.is_whole
    assert [release.read(name) for name in GUARD_NAMES] == [good, good]
    assert outcome.num_repaired == 4


def test_a_burst_as_long_as_there_are_groups_is_repaired(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    block_map = BlockMap(entry.size_bytes for entry in release.entries)
    burst = (block_map.num_groups(0) - 1) * LEAF_SIZE
    release.overwrite(MODEL, 5000, burst)
    outcome = release.scrub()
    assert release.is_whole
    assert outcome.lost == ()
    assert sum(flip.num_bits for flip in outcome.flips) == pytest.approx(4 * burst, rel=0.05)
    assert all(flip.bits == () for flip in outcome.flips)  # too many to be listed


def test_what_parity_cannot_give_back_is_named_exactly_and_the_rest_is_repaired(tmp_path, monkeypatch):
    monkeypatch.setattr(repair_module, "_SEARCHES_MAX", 0)  # hopeless, and slow
    release = GuardedRelease(tmp_path / "r")
    guard = Guard.open(release.directory, release.digest, release.disk)
    first, second = list(guard.map.group(0, 0))[3:5]
    where = [guard.map.where(block) for block in (first, second)]
    for span in where:
        release.overwrite(MODEL, span.offset, span.size)
    release.flip(MODEL, 8 * 200_000)
    outcome = release.scrub()
    assert outcome.lost == tuple(LostRange(file=1, offset=span.offset, size=span.size) for span in where)
    assert outcome.num_repaired == 1  # the flip elsewhere
    expected = bytearray(release.files[MODEL])
    for span in where:
        expected[span.offset : span.offset + span.size] = release.read(MODEL)[span.offset : span.offset + span.size]
    assert release.read(MODEL) == bytes(expected)
    again = release.scrub()
    assert again.lost == outcome.lost  # found again, and nothing else is


def test_a_mapped_file_is_never_written_in_place(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    release.flip(MODEL, 4711)
    with (release.directory / MODEL).open("rb") as mapped:
        damaged = mapped.read()
        release.scrub()
        mapped.seek(0)
        assert mapped.read() == damaged
    assert release.is_whole


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_a_file_of_another_length_is_repaired(tmp_path, change):
    release = GuardedRelease(tmp_path / "r", {**SMALL, "vocab.txt": 5000})
    path = release.directory / "vocab.txt"
    if change == "gone":
        path.unlink()
    else:
        os.truncate(path, 4500 if change == "cut" else 50_000)
    assert release.scrub().lost == ()
    assert release.is_whole


def test_a_release_without_a_guard_gets_one(tmp_path):
    release = GuardedRelease(tmp_path / "r", has_guard=False)
    assert release.scrub().flips == ()
    release.flip(MODEL, 99)
    assert release.scrub().num_repaired == 1


def test_a_damaged_file_without_a_guard_is_lost_as_a_whole(tmp_path):
    release = GuardedRelease(tmp_path / "r", has_guard=False)
    release.flip(MODEL, 99)
    outcome = release.scrub()
    assert outcome.lost == (LostRange(file=1, offset=0, size=WHOLE),)
    assert not (release.directory / GUARD_NAMES[0]).exists()


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_without_a_guard_a_file_that_is_gone_or_of_another_length_is_asked_for_in_words_that_the_ground_reads(
    tmp_path, change
):
    release = GuardedRelease(tmp_path / "r", has_guard=False)
    path = release.directory / MODEL
    data = path.read_bytes()
    {"cut": lambda: path.write_bytes(data[:-5000]), "grown": lambda: path.write_bytes(data * 2), "gone": path.unlink}[
        change
    ]()
    lost = scrub_release(
        release.directory,
        release.digest,
        release.disk,
        files=lambda: ReleaseDirectory.open(release.directory, release.digest).files,  # as the daemon has it
    ).lost
    said = DamageReport.from_body(DamageReport(release=release.digest, lost=lost).to_body())
    assert said.lost == (LostRange(file=1, offset=0, size=WHOLE),)


@pytest.mark.parametrize("has_guard", [True, False])
@pytest.mark.parametrize("change", ["gone", "grown"])
def test_an_empty_file_that_is_gone_or_has_grown_is_a_flip_and_is_made_anew(tmp_path, change, has_guard):
    release = GuardedRelease(tmp_path / "r", {**SMALL, "empty.txt": 0}, has_guard=has_guard)
    path = release.directory / "empty.txt"
    path.unlink() if change == "gone" else path.write_bytes(b"x")
    outcome = release.scrub()
    assert release.is_whole
    assert (outcome.num_found, outcome.num_repaired, outcome.lost, outcome.trouble) == (1, 1, (), "")
    assert [(flip.file, flip.offset) for flip in outcome.flips] == [("empty.txt", 0)]
    assert release.scrub().flips == ()


def test_a_disk_that_takes_no_empty_file_is_told(tmp_path, monkeypatch):
    release = GuardedRelease(tmp_path / "r", {**SMALL, "empty.txt": 0})
    (release.directory / "empty.txt").unlink()
    release.disk = FaultyDisk()
    release.disk.sync_fails = True
    assert release.scrub().trouble


def test_a_guard_that_is_wrong_changes_nothing_and_is_made_anew(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    other = GuardedRelease(tmp_path / "other", seed=7)
    wrong = Guard.open(other.directory, other.digest, other.disk)
    wrong.head = Guard.open(release.directory, release.digest, release.disk).head
    for name in GUARD_NAMES:
        # Its file list is ours, its hashes are not: as if it had been made of bytes that nobody signed.
        release.put(name, guard_module._encode(wrong.head, wrong._page_hashes, wrong._read_page(0)))
    release.put(PARITY_NAME, other.read(PARITY_NAME))
    outcome = release.scrub()
    assert release.is_whole
    assert outcome.lost == ()
    release.flip(MODEL, 5)
    assert release.scrub().num_repaired == 1


def test_a_file_that_is_damaged_is_not_repaired_to_what_a_wrong_guard_says(tmp_path):
    """As if a bit had flipped in memory while the guard was made: all agrees but the signed digest."""
    release = GuardedRelease(tmp_path / "r")
    other = GuardedRelease(tmp_path / "other", has_guard=False)
    other.flip(MODEL, 8 * 200_000)
    entries = [replace(e, sha256=hashlib.sha256(other.read(e.name)).digest()) for e in other.entries]
    guard_module.build_guard(other.directory, entries, release_digest(entries), other.disk)
    wrong = Guard.open(other.directory, release_digest(entries), other.disk)
    wrong.head = Guard.open(release.directory, release.digest, release.disk).head
    for name in GUARD_NAMES:
        release.put(name, guard_module._encode(wrong.head, wrong._page_hashes, wrong._read_page(0)))
    release.put(PARITY_NAME, other.read(PARITY_NAME))
    release.flip(MODEL, 5)
    before = release.read(MODEL)
    outcome = release.scrub()
    assert release.read(MODEL) == before
    assert outcome.lost == (LostRange(file=1, offset=0, size=WHOLE),)
    assert not outcome.num_repaired


def test_a_guard_whose_file_list_is_of_another_release_is_none(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    guard = Guard.open(release.directory, release.digest, release.disk)
    files = (replace(guard.head.files[0], sha256=bytes(32)), *guard.head.files[1:])
    head = replace(guard.head, files=files)
    for name in GUARD_NAMES:
        release.put(name, guard_module._encode(head, guard._page_hashes, guard._read_page(0)))
    assert Guard.open(release.directory, release.digest, release.disk) is None


def test_a_full_disk_keeps_the_damaged_file_and_says_so(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    release.flip(MODEL, 4711)
    before = release.read(MODEL)
    release.disk = FaultyDisk()
    release.disk.room_bytes = 1000
    outcome = release.scrub()
    assert release.read(MODEL) == before
    assert "no space" in outcome.trouble
    assert (outcome.num_found, outcome.num_repaired) == (1, 0)
    assert not (release.directory / repair_module.REPAIR_NAME).exists()


def test_a_sector_that_cannot_be_read_is_repaired(tmp_path, monkeypatch):
    release = GuardedRelease(tmp_path / "r")
    inode, read = (release.directory / MODEL).stat().st_ino, os.preadv

    def preadv(handle, buffers, offset):
        is_bad = os.fstat(handle).st_ino == inode and offset <= 81_920 < offset + len(buffers[0])
        if is_bad:
            raise OSError(errno.EIO, "unreadable")
        return read(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    outcome = release.scrub()
    assert [flip.offset for flip in outcome.flips] == [81_920]
    assert outcome.is_whole
    assert release.is_whole


def test_a_file_system_that_opens_past_the_cache_but_does_not_read_so_is_read_through_it(tmp_path, monkeypatch):
    release = GuardedRelease(tmp_path / "r")
    read = os.preadv

    def preadv(handle, buffers, offset):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not aligned as I like it")
        return read(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    outcome = release.scrub()
    assert (outcome.flips, outcome.is_direct) == ((), False)
    release.flip(MODEL, 7)
    assert release.scrub().num_repaired == 1


class LyingDisk(RealDisk):
    """Takes every write, and flips a bit of those at one offset."""

    def write_at(self, handle, data, offset):
        data = bytearray(data)
        data[100] ^= 1
        return super().write_at(handle, bytes(data), offset)


def test_a_repair_that_the_medium_does_not_hold_takes_no_name(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    release.flip(MODEL, 4711)
    before, release.disk = release.read(MODEL), LyingDisk()
    outcome = release.scrub()
    assert "not what was written" in outcome.trouble
    assert (outcome.num_repaired, outcome.lost) == (0, ())
    assert release.read(MODEL) == before


def test_the_leftover_of_an_interrupted_repair_goes(tmp_path):
    release = GuardedRelease(tmp_path / "r")
    release.put(repair_module.REPAIR_NAME, b"half")
    release.scrub()
    assert not (release.directory / repair_module.REPAIR_NAME).exists()


def test_blocks_of_a_group_lie_far_apart():
    block_map = BlockMap([100 * LEAF_SIZE + 1, 0, 5 * LEAF_SIZE])
    assert block_map.num_blocks == 106
    groups = [block_map.group(0, number) for number in range(block_map.num_groups(0))]
    assert sorted(block for group in groups for block in group) == list(range(106))
    assert all(len(group) <= GROUP_SIZE for group in groups)
    assert all(later - earlier == len(groups) for group in groups for earlier, later in itertools.pairwise(group))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENODATA, errno.EILSEQ])
def test_a_sector_that_cannot_be_read_is_repaired_whatever_the_block_layer_calls_it(tmp_path, monkeypatch, error):
    release = GuardedRelease(tmp_path / "r")
    path, preadv = tmp_path / "r" / MODEL, os.preadv
    bad = path.stat().st_ino

    def failing(handle, buffers, offset):
        size = sum(map(len, buffers))
        if os.fstat(handle).st_ino == bad and offset <= 8192 < offset + size:
            raise OSError(error, os.strerror(error))
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    outcome = release.scrub()
    assert (outcome.lost, outcome.trouble) == ((), "")
    assert release.is_whole
    assert path.stat().st_ino != bad


def test_a_guard_made_later_leaves_the_inbox_its_reserve(tmp_path):
    release = GuardedRelease(tmp_path / "r", has_guard=False)
    release.disk = FaultyDisk()
    sums = len(release.read(".sha256sums"))
    needed = sum(guard_sizes(release.entries, release.digest, {".sha256sums": sums}).values()) + RESERVE_BYTES
    release.disk.room_bytes = needed - 1
    with pytest.raises(StoreFullError):
        release.scrub()
    assert not (release.directory / PARITY_NAME).exists()
    release.disk.room_bytes = needed
    release.scrub()
    names = (*GUARD_NAMES, PARITY_NAME)
    assert sum((release.directory / name).stat().st_size for name in names) == needed - RESERVE_BYTES


def test_a_guard_that_found_no_room_leaves_none_of_itself_on_the_full_disk(tmp_path):
    release = GuardedRelease(tmp_path / "r", has_guard=False)
    release.disk = FaultyDisk()
    release.disk.room_bytes = 5000
    with pytest.raises(StoreFullError):
        release.scrub()
    assert {path.name for path in (tmp_path / "r").iterdir()} == {*SMALL, ".sha256sums"}
