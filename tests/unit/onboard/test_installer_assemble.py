"""Rebuilding a release from bundles: bounded, resumable, and every obstacle named."""

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from onboard.errors import BundleSpoiltError, InstallError
from onboard.installer import assemble, received
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.guarding import add_guard, guard_room
from onboard.installer.progress import PROGRESS_NAME
from onboard.installer.received import read_checked_head
from onboard.installer.release import ReleaseDirectory, copy_release
from onboard.scrub.guard import Guard
from onboard.store.ballast import RESERVE_BYTES, RESERVE_FILES
from protocol.bundle import BundleHeader
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import Extent, Piece, Stream, TensorPayload
from protocol.manifest import SizedFile, bundle_digest
from protocol.report import Reason
from protocol.segment import TAG_SIZE, SegmentCipher, SegmentCodec, SegmentRow
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.updates import FakeGround, digest_of, file_entries, write_files

OLD = {"a.json": b"{}", "m.bin": bytes(range(256)) * 40, "same.bin": b"same" * 1000}
NEW = {"a.json": b"{1}", "empty.bin": b"", "m.bin": bytes(range(256)) * 39 + bytes(256), "same.bin": b"same" * 1000}


class Workshop:
    def __init__(self, directory, base=None, files=NEW, **options):
        self.ground = FakeGround()
        self.update = self.ground.make_update(files, base=base, segment_size=1024, bundle_size=2048, **options)
        self.paths = []
        for number, data in enumerate(self.update.bundles):
            self.paths.append(directory / f"bundle-{number}")
            self.paths[-1].write_bytes(data)
        (directory / "releases").mkdir()
        self.part, self.target = directory / "releases/new.part", directory / "releases/new"
        self.base = None
        if base is not None:
            self.base = copy_release(write_files(directory / "source", base), directory / "releases")
        self.disk = FaultyDisk()

    def open(self, **changes):
        plan = Plan(
            manifest=changes.get("manifest", self.update.manifest),
            release_key=self.ground._secret("release key 1 1"),
            base=changes.get("base", self.base),
        )
        return Assembly.open(self.part, plan, disk=self.disk)

    def install_all(self, assembly):
        for number, path in enumerate(self.paths):
            assembly.install(path, number)

    def files(self, directory):
        return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}

    def as_signed(self):
        """The manifest, had it been signed over the bundles as they lie there now."""
        manifest = self.update.manifest
        bundles = [
            replace(entry, digest=bundle_digest(hashlib.sha256(path.read_bytes()).digest()))
            for entry, path in zip(manifest.bundles, self.paths, strict=True)
        ]
        return replace(manifest, bundles=tuple(bundles))


def reason_of(call, *arguments) -> Reason:
    with pytest.raises(InstallError) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("base", [None, OLD])
def test_a_release_comes_out_as_it_went_in(tmp_path, base, tensors):
    shop = Workshop(tmp_path, base, tensors=tensors)
    assembly = shop.open()
    shop.install_all(assembly)
    assembly.verify()
    assembly.seal(shop.target, shop.update.metadata)
    assert shop.files(shop.target) == NEW
    sealed = ReleaseDirectory.open(shop.target, digest_of(NEW))
    assert sealed.find_damage() == []
    assert not (shop.target / PROGRESS_NAME).exists()


def test_bundles_may_come_in_any_order_and_again(tmp_path):
    shop = Workshop(tmp_path, OLD)
    assembly = shop.open()
    for number in [*reversed(range(len(shop.paths))), 0]:
        assembly.install(shop.paths[number], number)
    assembly.verify()


def test_short_reads_and_short_writes_are_legal(tmp_path):
    shop = Workshop(tmp_path, OLD)
    shop.disk.write_max = 100
    assembly = shop.open()
    shop.install_all(assembly)
    assembly.verify()


def test_another_life_goes_on_where_the_last_one_stopped(tmp_path):
    shop = Workshop(tmp_path)
    shop.open().install(shop.paths[1], 1)
    again = shop.open()
    assert list(again.installed.numbers()) == [1]
    shop.paths[1].unlink()  # it is not needed again
    for number in set(range(len(shop.paths))) - {1}:
        again.install(shop.paths[number], number)
    again.verify()


def test_a_torn_entry_is_cut_off_and_its_bundle_comes_again(tmp_path):
    shop = Workshop(tmp_path)
    shop.open().install(shop.paths[0], 0)
    progress = shop.part / PROGRESS_NAME
    progress.write_bytes(progress.read_bytes()[:-3])
    again = shop.open()
    assert not list(again.installed.numbers())
    shop.install_all(again)
    assert len(shop.open().installed) == len(shop.paths)


def test_what_a_killed_life_noted_is_durable_before_it_counts(tmp_path):
    shop = Workshop(tmp_path)
    shop.open().install(shop.paths[0], 0)
    progress, done = shop.part / PROGRESS_NAME, []

    class Watched(FaultyDisk):
        def sync(self, handle):
            done.append(("sync", str(Path(f"/proc/self/fd/{handle}").readlink())))
            super().sync(handle)

        def read(self, handle, size, offset):
            done.append(("read", str(Path(f"/proc/self/fd/{handle}").readlink())))
            return super().read(handle, size, offset)

    shop.disk = Watched()
    assert list(shop.open().installed.numbers()) == [0]
    assert done[:2] == [("sync", str(progress)), ("read", str(progress))]
    shop.disk.sync_fails = True
    assert reason_of(shop.open) is Reason.DISK_FAILED


def test_an_update_signed_again_goes_on_where_it_was_and_one_of_other_bundles_begins_anew(tmp_path):
    shop = Workshop(tmp_path)
    shop.open().install(shop.paths[0], 0)
    manifest = shop.update.manifest
    signed_again = replace(manifest, sequence=manifest.sequence + 1, beside=True, floor=1)
    assert list(shop.open(manifest=signed_again).installed.numbers()) == [0]
    other = replace(manifest.bundles[1], digest=bytes(16))
    packed_again = replace(manifest, bundles=(manifest.bundles[0], other, *manifest.bundles[2:]))
    assert not list(shop.open(manifest=packed_again).installed.numbers())


def test_a_full_disk_is_met_before_the_first_byte_and_leaves_nothing(tmp_path):
    shop = Workshop(tmp_path)
    shop.disk.room_bytes = 5000
    assert reason_of(shop.open) is Reason.DISK_FULL
    assert not shop.part.exists()


def test_room_is_left_for_the_bundles_that_fill_the_reserved_space(tmp_path):
    shop = Workshop(tmp_path)
    manifest = shop.update.manifest
    files = sum(entry.size_bytes for entry in manifest.files)
    bundles = 2 * max(entry.size_bytes for entry in manifest.bundles)
    shop.disk.room_bytes = files + bundles + RESERVE_BYTES - 1
    assert reason_of(shop.open) is Reason.DISK_FULL
    assert not shop.part.exists()
    shop.disk.room_bytes += 1
    shop.open()


def test_inodes_are_left_for_what_fills_the_reserved_space_and_too_few_are_a_full_disk(tmp_path):
    shop = Workshop(tmp_path)
    shop.disk.room_files = len(shop.update.manifest.files) + RESERVE_FILES - 1
    assert reason_of(shop.open) is Reason.DISK_FULL
    assert not shop.part.exists()
    shop.disk.room_files += 1
    shop.open()


def test_a_file_system_that_makes_inodes_as_it_goes_is_not_full_for_want_of_them(tmp_path, monkeypatch):
    shop = Workshop(tmp_path)
    found = list(os.statvfs(tmp_path))
    found[5] = found[6] = found[7] = 0  # f_files, f_ffree, f_favail, as btrfs tells
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(found))
    shop.open()
    found[5] = 1000  # a number that is all used up
    shop.open().discard()
    assert reason_of(shop.open) is Reason.DISK_FULL


def test_the_guards_space_is_reserved_before_the_first_byte_and_its_making_takes_none(tmp_path):
    shop = Workshop(tmp_path)
    manifest, room = shop.update.manifest, guard_room(shop.update.manifest)
    plan = Plan(manifest=manifest, release_key=shop.ground._secret("release key 1 1"))
    files = sum(entry.size_bytes for entry in manifest.files)
    bundles = 2 * max(entry.size_bytes for entry in manifest.bundles)
    shop.disk.room_bytes = files + bundles + RESERVE_BYTES + sum(room.values()) - 1
    assert reason_of(lambda: Assembly.open(shop.part, plan, disk=shop.disk, besides=room)) is Reason.DISK_FULL
    shop.disk.room_bytes += 1
    assembly = Assembly.open(shop.part, plan, disk=shop.disk, besides=room)
    assert {name: (shop.part / name).stat().st_size for name in room} == room
    shop.disk.room_bytes = None
    shop.install_all(assembly)
    found = assembly.verify()
    blocks = {}

    def add(part):
        blocks["before"] = {name: ((part / name).stat().st_ino, (part / name).stat().st_blocks) for name in room}
        add_guard(part, files=found, digest=manifest.release_digest, disk=shop.disk)
        blocks["after"] = {name: ((part / name).stat().st_ino, (part / name).stat().st_blocks) for name in room}

    assembly.seal(shop.target, shop.update.metadata, add=add)
    assert blocks["after"] == blocks["before"]
    assert {name: (shop.target / name).stat().st_size for name in room} == room
    guard = Guard.open(shop.target, manifest.release_digest, shop.disk)
    assert guard is not None
    assert guard.bad_copies == set()


def test_no_guard_is_reserved_for_a_repair(tmp_path):
    manifest = Workshop(tmp_path).update.manifest
    assert guard_room(manifest)
    assert guard_room(replace(manifest, base=manifest.release_digest)) == {}


def test_a_disk_that_fails_to_sync_does_not_count_the_bundle(tmp_path):
    shop = Workshop(tmp_path)
    assembly = shop.open()
    shop.disk.sync_fails = True
    assert reason_of(assembly.install, shop.paths[0], 0) is Reason.DISK_FAILED
    shop.disk.sync_fails = False
    assert not list(shop.open().installed.numbers())


@pytest.mark.parametrize("tensors", [False, True])
def test_a_base_that_is_not_there_or_is_damaged_is_named(tmp_path, tensors):
    shop = Workshop(tmp_path, OLD, tensors=tensors)
    last = len(shop.paths) - 1
    assert reason_of(shop.open(base=None).install, shop.paths[last], last) is Reason.BASE_MISSING
    damaged = shop.base.directory / "m.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assembly = shop.open()
    assert Reason.BASE_DAMAGED in {reason_of(assembly.install, path, number) for number, path in enumerate(shop.paths)}


@pytest.mark.parametrize("is_verified", [False, True])
def test_a_base_that_was_cut_short_is_damaged_and_not_the_bundles_fault(tmp_path, is_verified):
    shop = Workshop(tmp_path, OLD)
    assembly = shop.open()
    if is_verified:
        assembly._verify_base(shop.base, 1)
    with (shop.base.directory / "m.bin").open("r+b") as file:
        file.truncate(100)
    if not is_verified:  # it was short already when the list of its files was read
        assembly = shop.open(base=ReleaseDirectory.open(shop.base.directory, shop.base.digest))
    assert reason_of(assembly._read_base, 0, 1, 5000, 100) is Reason.BASE_DAMAGED


@pytest.mark.parametrize("tensors", [False, True])
def test_a_base_file_is_read_once_for_each_update(tmp_path, tensors):
    shop = Workshop(tmp_path, OLD, tensors=tensors)
    shop.install_all(shop.open())
    assert shop.open()._progress.verified_base == ({0, 1, 2} if tensors else {1, 2})


@pytest.mark.parametrize("at", [8, 40, 47, 48, 60, -1])
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(tmp_path, at):
    shop = Workshop(tmp_path)
    data = bytearray(shop.paths[0].read_bytes())
    data[at] ^= 0x40
    shop.paths[0].write_bytes(data)
    assert reason_of(shop.open(manifest=shop.as_signed()).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


def test_a_bundle_cut_short_that_was_signed_so_is_refused(tmp_path):
    shop = Workshop(tmp_path)
    shop.paths[0].write_bytes(shop.paths[0].read_bytes()[:-1])
    assert reason_of(shop.open(manifest=shop.as_signed()).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


def test_a_bundle_of_the_wrong_number_is_refused(tmp_path):
    shop = Workshop(tmp_path)
    shop.paths[0].write_bytes(shop.paths[1].read_bytes())
    assert reason_of(shop.open(manifest=shop.as_signed()).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


@pytest.mark.parametrize("base", [None, OLD])
def test_a_bundle_that_our_medium_damaged_is_told_apart_and_touches_nothing(tmp_path, base):
    """Wherever it is flipped: also where it says which bytes of the base are copied to where."""
    shop = Workshop(tmp_path, base)
    assembly = shop.open()
    before = shop.files(shop.part)
    right = shop.paths[0].read_bytes()
    for at in (*range(0, min(len(right), 200), 7), len(right) - 1):
        shop.paths[0].write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        with pytest.raises(BundleSpoiltError):
            assembly.install(shop.paths[0], 0)
    assert shop.files(shop.part) == before
    shop.paths[0].write_bytes(right)
    shop.install_all(assembly)
    assembly.verify()


def test_a_bundle_that_is_cut_short_gone_or_unreadable_is_our_mediums_fault(tmp_path, monkeypatch):
    shop = Workshop(tmp_path)
    assembly, right = shop.open(), shop.paths[0].read_bytes()
    for data in (b"", right[:10], right[:-1], right + b"x"):
        shop.paths[0].write_bytes(data)
        with pytest.raises(BundleSpoiltError):
            assembly.install(shop.paths[0], 0)
    shop.paths[0].unlink()
    with pytest.raises(BundleSpoiltError):
        assembly.install(shop.paths[0], 0)

    def bad_sector(handle, size, offset):
        raise OSError(errno.EIO, "Input/output error")

    shop.paths[0].write_bytes(right)
    monkeypatch.setattr(received.os, "pread", bad_sector)
    with pytest.raises(BundleSpoiltError):
        assembly.install(shop.paths[0], 0)


def test_a_bundle_that_changes_while_it_is_put_in_place_is_our_mediums_fault(tmp_path, monkeypatch):
    shop = Workshop(tmp_path)
    assembly, right = shop.open(), shop.paths[0].read_bytes()

    def check_and_flip(*arguments):
        head = read_checked_head(*arguments)
        shop.paths[0].write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        return head

    monkeypatch.setattr(assemble, "read_checked_head", check_and_flip)
    with pytest.raises(BundleSpoiltError):
        assembly.install(shop.paths[0], 0)


def test_other_files_than_were_signed_are_noticed(tmp_path):
    shop = Workshop(tmp_path, signed_files={**NEW, "a.json": b"{2}"})
    assembly = shop.open()
    shop.install_all(assembly)
    assert reason_of(assembly.verify) is Reason.DIGEST_MISMATCH
    with pytest.raises(AssertionError):  # what was not verified gets no name
        assembly.seal(shop.target, shop.update.metadata)


def test_an_update_signed_again_for_other_files_begins_anew(tmp_path):
    shop = Workshop(tmp_path)
    right = shop.update.manifest
    wrong = replace(right, files=(*right.files, SizedFile(name="stranger.bin", size_bytes=3)))
    assembly = shop.open(manifest=wrong)
    assembly.install(shop.paths[0], 0)
    assert (shop.part / "stranger.bin").exists()
    assembly = shop.open(manifest=right)
    assert not (shop.part / "stranger.bin").exists()
    assert not list(assembly.installed.numbers())


def test_what_was_right_once_is_not_sealed_after_it_was_found_wrong(tmp_path):
    shop = Workshop(tmp_path)
    assembly = shop.open()
    shop.install_all(assembly)
    assembly.verify()
    (shop.part / "a.json").write_bytes(b"{3}")
    assert reason_of(assembly.verify) is Reason.DIGEST_MISMATCH
    with pytest.raises(AssertionError):
        assembly.seal(shop.target, shop.update.metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [(b"", "a.json has 0 bytes, 3 were signed"), (b"{1}}", "a.json has 4 bytes"), (b"{3}", "its 4 files are not")],
)
def test_a_file_that_is_not_what_was_written_is_noticed(tmp_path, change, words):
    shop = Workshop(tmp_path)
    assembly = shop.open()
    shop.install_all(assembly)
    (shop.part / "a.json").write_bytes(change)
    with pytest.raises(InstallError, match=words) as caught:
        assembly.verify()
    assert caught.value.reason is Reason.DIGEST_MISMATCH


def test_files_that_have_each_others_bytes_are_noticed(tmp_path):
    shop = Workshop(tmp_path, files={**NEW, "a.json": b"{1}", "b.json": b"{2}"})
    assembly = shop.open()
    shop.install_all(assembly)
    (shop.part / "a.json").write_bytes(b"{2}")
    (shop.part / "b.json").write_bytes(b"{1}")
    assert reason_of(assembly.verify) is Reason.DIGEST_MISMATCH


def test_the_file_list_of_a_release_is_what_was_found_on_the_medium(tmp_path):
    shop = Workshop(tmp_path)
    assembly = shop.open()
    shop.install_all(assembly)
    found = assembly.verify()
    assembly.seal(shop.target, shop.update.metadata)
    assert ReleaseDirectory.open(shop.target, shop.update.digest).files == found == file_entries(NEW)


def test_damage_at_rest_is_found_by_name(tmp_path):
    release = copy_release(write_files(tmp_path / "source", OLD), make(tmp_path / "releases"))
    (release.directory / "m.bin").write_bytes(b"x")
    (release.directory / "a.json").unlink()
    (release.directory / "stranger").write_bytes(b"")
    assert [item.name for item in release.find_damage()] == ["a.json", "m.bin", "stranger"]


def make(path):
    path.mkdir()
    return path


def test_a_segment_that_asks_for_more_than_its_base_has_is_the_bundles_fault(tmp_path):
    assembly = Workshop(tmp_path, OLD).open()
    assert reason_of(assembly._read_base, 0, 0, len(OLD["a.json"]) - 1, 3) is Reason.BUNDLE_DAMAGED
    assert reason_of(assembly._read_base, 0, 3, 0, 1) is Reason.BUNDLE_DAMAGED


def tensor_bundle(shop, file, *pieces):
    """Bundle 0 with one TENSOR segment of these pieces, under the real key."""
    payload = TensorPayload(pieces=pieces).encode()
    digest = shop.update.manifest.release_digest
    row = SegmentRow(
        number=0,
        codec=SegmentCodec.TENSOR,
        file=file,
        offset=min(extent.offset for piece in pieces for extent in piece.extents),
        raw_size=sum(piece.raw_size for piece in pieces),
        stored_size=len(payload) + TAG_SIZE,
    )
    stored = SegmentCipher(shop.ground._secret("release key 1 1"), digest).seal(row, payload)
    shop.paths[0].write_bytes(BundleHeader(release_digest=digest, number=0, rows=(row,)).encode() + stored)
    first, *others = shop.update.manifest.bundles
    first = replace(first, num_segments=1, digest=bundle_digest(hashlib.sha256(shop.paths[0].read_bytes()).digest()))
    return replace(shop.update.manifest, bundles=(first, *others))


def stored_piece(*extents, **changes):
    values = b"".join(bytes(size) for _, size in extents)
    return Piece(
        transform=TransformKind.BYTES,
        extents=tuple(Extent(offset=offset, size=size) for offset, size in extents),
        streams=(Stream(coder=Coder.RAW, count=len(values), data=values),),
        **changes,
    )


def test_the_runs_of_a_tensor_may_lie_anywhere_in_its_file(tmp_path):
    shop = Workshop(tmp_path, OLD)
    size = len(NEW["m.bin"])
    manifest = tensor_bundle(shop, 2, stored_piece((size - 100, 100), (0, 50)))
    shop.open(manifest=manifest).install(shop.paths[0], 0)
    assert (shop.part / "m.bin").read_bytes()[-100:] == bytes(100)


@pytest.mark.parametrize("behind_end", [1, 1000])
def test_a_run_outside_its_file_is_refused_and_the_file_does_not_grow(tmp_path, behind_end):
    shop = Workshop(tmp_path, OLD)
    size = len(NEW["m.bin"])
    manifest = tensor_bundle(shop, 2, stored_piece((0, 10), (size + behind_end - 100, 100)))
    assert reason_of(shop.open(manifest=manifest).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED
    assert (shop.part / "m.bin").stat().st_size == size


@pytest.mark.parametrize(("base_file", "base_offset"), [(0, 3), (2, 2**40), (3, 0), (0xFFFE, 0)])
def test_a_tensor_that_asks_for_more_than_its_base_has_is_the_bundles_fault(tmp_path, base_file, base_offset):
    shop = Workshop(tmp_path, OLD)
    extent = Extent(offset=0, size=4000, base_file=base_file, base_offset=base_offset)
    manifest = tensor_bundle(shop, 2, Piece(transform=TransformKind.SAME, extents=(extent,)))
    assert reason_of(shop.open(manifest=manifest).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


def test_a_tensor_without_its_base_is_told(tmp_path):
    shop = Workshop(tmp_path)
    extent = Extent(offset=0, size=10, base_file=0)
    manifest = tensor_bundle(shop, 2, Piece(transform=TransformKind.SAME, extents=(extent,)))
    assert reason_of(shop.open(manifest=manifest).install, shop.paths[0], 0) is Reason.BASE_MISSING


def test_a_tensor_that_does_not_decode_is_the_bundles_fault(tmp_path):
    shop = Workshop(tmp_path)
    manifest = tensor_bundle(shop, 2, stored_piece((0, 50), parameters=b"odd"))
    assert reason_of(shop.open(manifest=manifest).install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED
