"""Rebuilding a release from bundles: bounded, resumable, and every obstacle named."""

from dataclasses import replace

import pytest

from onboard.errors import InstallError
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.progress import PROGRESS_NAME
from onboard.installer.release import ReleaseDirectory, copy_release
from protocol.report import Reason
from protocol.segment import SegmentCodec, SegmentRow
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.updates import FakeGround, digest_of, write_files

OLD = {"a.json": b"{}", "m.bin": bytes(range(256)) * 40, "same.bin": b"same" * 1000}
NEW = {"a.json": b"{1}", "empty.bin": b"", "m.bin": bytes(range(256)) * 39 + bytes(256), "same.bin": b"same" * 1000}


class Workshop:
    def __init__(self, directory, base=None, **options):
        self.ground = FakeGround()
        self.update = self.ground.make_update(NEW, base=base, segment_size=1024, bundle_size=2048, **options)
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


def reason_of(call, *arguments) -> Reason:
    with pytest.raises(InstallError) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.mark.parametrize("base", [None, OLD])
def test_a_release_comes_out_as_it_went_in(tmp_path, base):
    shop = Workshop(tmp_path, base)
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


def test_an_update_signed_again_goes_on_where_it_was_and_one_of_other_bundles_begins_anew(tmp_path):
    shop = Workshop(tmp_path)
    shop.open().install(shop.paths[0], 0)
    manifest = shop.update.manifest
    signed_again = replace(manifest, sequence=manifest.sequence + 1, beside=True, floor=1)
    assert list(shop.open(manifest=signed_again).installed.numbers()) == [0]
    other = replace(manifest.bundles[1], sha256=bytes(32))
    packed_again = replace(manifest, bundles=(manifest.bundles[0], other, *manifest.bundles[2:]))
    assert not list(shop.open(manifest=packed_again).installed.numbers())


def test_a_full_disk_is_met_before_the_first_byte_and_leaves_nothing(tmp_path):
    shop = Workshop(tmp_path)
    shop.disk.room_bytes = 5000
    assert reason_of(shop.open) is Reason.DISK_FULL
    assert not shop.part.exists()


def test_a_disk_that_fails_to_sync_does_not_count_the_bundle(tmp_path):
    shop = Workshop(tmp_path)
    assembly = shop.open()
    shop.disk.sync_fails = True
    assert reason_of(assembly.install, shop.paths[0], 0) is Reason.DISK_FAILED
    shop.disk.sync_fails = False
    assert not list(shop.open().installed.numbers())


def test_a_base_that_is_not_there_or_is_damaged_is_named(tmp_path):
    shop = Workshop(tmp_path, OLD)
    last = len(shop.paths) - 1
    assert reason_of(shop.open(base=None).install, shop.paths[last], last) is Reason.BASE_MISSING
    damaged = shop.base.directory / "m.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assembly = shop.open()
    assert Reason.BASE_DAMAGED in {reason_of(assembly.install, path, number) for number, path in enumerate(shop.paths)}


def test_a_base_file_is_read_once_for_each_update(tmp_path):
    shop = Workshop(tmp_path, OLD)
    shop.install_all(shop.open())
    assert shop.open()._progress.verified_base == {1, 2}


@pytest.mark.parametrize("at", [8, 40, 47, 48, 60, -1])
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(tmp_path, at):
    shop = Workshop(tmp_path)
    data = bytearray(shop.paths[0].read_bytes())
    data[at] ^= 0x40
    shop.paths[0].write_bytes(data)
    assert reason_of(shop.open().install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


def test_a_bundle_cut_short_is_refused(tmp_path):
    shop = Workshop(tmp_path)
    shop.paths[0].write_bytes(shop.paths[0].read_bytes()[:-1])
    assert reason_of(shop.open().install, shop.paths[0], 0) is Reason.BUNDLE_DAMAGED


def test_a_bundle_of_the_wrong_number_is_refused(tmp_path):
    shop = Workshop(tmp_path)
    assert reason_of(shop.open().install, shop.paths[1], 0) is Reason.BUNDLE_DAMAGED


def test_other_files_than_were_signed_are_noticed(tmp_path):
    shop = Workshop(tmp_path, signed_files={**NEW, "a.json": b"{2}"})
    assembly = shop.open()
    shop.install_all(assembly)
    assert reason_of(assembly.verify) is Reason.DIGEST_MISMATCH


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
    shop = Workshop(tmp_path, OLD)
    assembly = shop.open()
    row = SegmentRow(
        number=0,
        codec=SegmentCodec.COPY,
        file=0,
        offset=0,
        raw_size=3,
        stored_size=0,
        base_file=0,
        base_offset=len(OLD["a.json"]) - 1,
    )
    assert reason_of(assembly._read_base, row) is Reason.BUNDLE_DAMAGED
