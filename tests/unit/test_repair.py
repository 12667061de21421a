"""What a satellite lost of a release comes back from the ground, and nothing else flies: both ends together."""

import asyncio
import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ReceivedMessage
from groundsegment.packer.packing import Sources, pack
from groundsegment.packer.plan import PackPlan
from groundsegment.packer.workers import Workers
from groundsegment.staging.repairing import repair_survey, with_all_behind, with_known_sizes
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import ReleaseDirectory, copy_release
from onboard.scrub.guard import Guard, build_guard
from onboard.scrub.scrub import scrub_release
from onboard.store.disk import RealDisk
from protocol.bundle import BundleHeader
from protocol.damage import WHOLE, DamageReport, LostRange
from protocol.link_keys import wrap_release_key
from protocol.manifest import BundleEntry, SizedFile, bundle_digest
from protocol.objects import ObjectKind
from protocol.report import NO_HANDLE, Reason, UpdateState
from protocol.segment import SegmentCodec
from tests.fakes.models import make_tiny_qwen2
from tests.fakes.onboard import Board
from tests.fakes.staging import NOW, make_ground, open_as_satellite, run, run_json
from tests.fakes.updates import FakeGround, FakeUpdate, digest_of, file_entries, write_files

RNG = random.Random(7)
FILES = {"config.json": b'{"a": 1}', "model.bin": RNG.randbytes(200_000), "tokenizer.json": RNG.randbytes(30_000)}


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    monkeypatch.setattr("onboard.scrub.repair._SEARCHES_MAX", 0)


def ruin(directory, digest, groups=(0,)):
    """Damage two blocks of groups of a release with a guard; returns what a scrub says is lost."""
    guard = Guard.open(directory, digest, RealDisk())
    for group in groups:
        for block in list(guard.map.group(0, group))[2:4]:
            span = guard.map.where(block)
            with guard.path(span.file).open("r+b") as file:
                file.seek(span.offset)
                file.write(bytes(span.size))
    return scrub_release(directory, digest, RealDisk(), files=tuple).lost


def damaged_copy(source, releases):
    """A sealed release with a guard, and damage beyond repair."""
    releases.mkdir()
    release = copy_release(source, releases)
    build_guard(release.directory, release.files, release.digest, RealDisk())
    return release, ruin(release.directory, release.digest)


def say_lost(digest, lost):
    body = DamageReport(release=digest, lost=lost).to_body()
    with Depot.open(Path("depot")) as depot:
        depot.journal.add_message(
            ReceivedMessage(
                satellite="SAT-1", counter=1, kind="damage", re=NO_HANDLE, body=body, received_utc=NOW, data=b""
            )
        )


@pytest.mark.slow
def test_stage_repair_sends_what_was_lost_and_it_is_whole_again(tmp_path, monkeypatch):
    make_ground(tmp_path, monkeypatch)
    make_tiny_qwen2(tmp_path / "v1", seed=1)
    release, lost = damaged_copy(tmp_path / "v1", tmp_path / "releases")
    assert run("v1", "--repair")[0] == 3  # nothing was said to be lost
    say_lost(release.digest, lost)
    staged = run_json("v1", "--repair")
    assert staged["payload_bytes"] < sum(each.size for each in lost) + 1500
    directory = tmp_path / "depot/updates" / staged["update"]
    manifest, key = open_as_satellite(directory)
    assert manifest.is_repair
    base = ReleaseDirectory.open(release.directory, release.digest)
    assembly = Assembly.open(tmp_path / "part", Plan(manifest=manifest, release_key=key, base=base))
    for number, path in enumerate(sorted(directory.glob("*.skb"))):
        assembly.install(path, number)
    assembly.verify()
    assembly.seal(release.directory, b"metadata")
    assert ReleaseDirectory.open(release.directory, release.digest).find_damage() == []
    assert scrub_release(release.directory, release.digest, RealDisk(), files=tuple).flips == ()
    assert not (tmp_path / "part").exists()
    assert run("v1", "--repair")[0] == 3  # one is under way


def repair_of(ground, directory, lost, files=FILES):
    """An update that brings back what was lost of a release."""
    full, key = ground.make_update(files), b"k" * 32
    entries, digest = file_entries(files), digest_of(files)
    out = directory / "packed"
    out.mkdir()
    source = write_files(directory / "source", files)
    paths = tuple(source / entry.name for entry in entries)
    plan = PackPlan(
        satellite=ground.satellite,
        release_digest=digest,
        files=entries,
        base_digest=digest,
        base_files=entries,
        bundle_size_bytes=1 << 20,
        level=3,
        survey=repair_survey(entries, lost),
        lost=lost,
    )
    pack(plan, Sources(files=paths, base_files=paths), out, release_key=key, workers=Workers())
    bundles = tuple(path.read_bytes() for path in sorted(out.glob("*.skb")))
    rows = [row for data in bundles for row in BundleHeader.decode(data).rows]
    changes = {
        "base": digest,
        "bundles": tuple(
            BundleEntry(
                size_bytes=len(data),
                digest=bundle_digest(hashlib.sha256(data).digest()),
                num_segments=len(BundleHeader.decode(data).rows),
            )
            for data in bundles
        ),
        "keys": {
            ground.satellite: wrap_release_key(
                key, ground.release_public_key, satellite=ground.satellite, release_digest=digest
            )
        },
    }
    signed = ground.sign_again(full, **changes)
    return FakeUpdate(manifest=signed.manifest, metadata=signed.metadata, bundles=bundles, files=files), rows


class Damaged:
    """A board that serves FILES, damaged, with another release beside it."""

    def __init__(self, directory):
        self.ground = FakeGround()
        self.board = Board(directory, self.ground)
        self.digest = self.board.provision(FILES)
        self.directory = self.board.layout.release(self.digest)
        release = ReleaseDirectory.open(self.directory, self.digest)
        build_guard(self.directory, release.files, self.digest, RealDisk())
        self.lost = ruin(self.directory, self.digest)

    @property
    def is_whole(self):
        return ReleaseDirectory.open(self.directory, self.digest).find_damage() == []

    def inodes_of_right_files(self):
        wrong = {damage.name for damage in ReleaseDirectory.open(self.directory, self.digest).find_damage()}
        return {name: (self.directory / name).stat().st_ino for name in {*FILES, ".guard-0"} - wrong}

    async def fly(self, update, until):
        async with self.board.life() as installer:
            served = dict(self.board.serving.loaded)
            await self.board.hand_over(update.metadata, ObjectKind.METADATA)
            for data in update.bundles:
                await self.board.hand_over(data, ObjectKind.BUNDLE)
            async with asyncio.timeout(45):
                while installer.status().first.state is not until:
                    await asyncio.sleep(0.005)
            assert self.board.serving.loaded == served  # nobody loaded, or left, anything
            return installer.status().first


def test_a_repair_is_confirmed_without_a_trial_and_what_serves_goes_on(tmp_path):
    damaged = Damaged(tmp_path / "board")
    update, rows = repair_of(damaged.ground, tmp_path, damaged.lost)
    assert not damaged.is_whole
    assert sum(row.stored_size for row in rows) < sum(each.size for each in damaged.lost) + 500
    before, stays = damaged.board.record, damaged.inodes_of_right_files()
    assert {".guard-0", "config.json"} <= stays.keys()
    asyncio.run(damaged.fly(update, UpdateState.CONFIRMED))
    assert damaged.is_whole
    assert stays.items() <= damaged.inodes_of_right_files().items()  # the release was never away, nor what was right
    after = damaged.board.record
    assert (after.current, after.previous, after.releases) == (before.current, before.previous, before.releases)
    assert scrub_release(damaged.directory, damaged.digest, RealDisk(), files=tuple).flips == ()


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_files_of_a_release_without_a_guard_come_back_whole_though_the_satellite_does_not_know_their_length(
    tmp_path, change
):
    files = {**FILES, "empty.txt": b""}
    ground = FakeGround()
    board = Board(tmp_path / "board", ground)
    digest = board.provision(files)
    directory = board.layout.release(digest)
    for path in (directory / "model.bin", directory / "tokenizer.json"):
        data = path.read_bytes()
        path.unlink()
        if change != "gone":
            path.write_bytes(data[:-7000] if change == "cut" else data + b"more")
    (directory / "empty.txt").unlink()
    lost = tuple(LostRange(file=number, offset=0, size=WHOLE) for number in (1, 2, 3))  # its scrub took no empty file
    said = DamageReport.from_body(DamageReport(release=digest, lost=lost).to_body())
    entries = file_entries(files)
    told = with_known_sizes(said, [entry.size_bytes for entry in entries])
    update, rows = repair_of(ground, tmp_path, told.lost, files)
    assert sum(row.stored_size for row in rows) > len(FILES["model.bin"]) + len(FILES["tokenizer.json"])

    async def fly():
        async with board.life() as installer:
            await board.deliver(update)
            await board.until(lambda: installer.status().first.state is UpdateState.CONFIRMED)

    asyncio.run(fly())
    assert ReleaseDirectory.open(directory, digest).find_damage() == []


@pytest.mark.parametrize("change", ["fewer", "more", "others"])
def test_a_repair_of_other_files_than_its_release_has_is_rejected(tmp_path, change):
    damaged = Damaged(tmp_path / "board")
    update, _ = repair_of(damaged.ground, tmp_path, damaged.lost)
    files = update.manifest.files
    stranger = SizedFile(name="zzz.bin", size_bytes=0)
    files = {"fewer": files[:1], "more": (*files, stranger), "others": (*files[:-1], stranger)}[change]
    update = damaged.ground.sign_again(update, files=files)
    status = asyncio.run(damaged.fly(update, UpdateState.REJECTED))
    assert status.reason is Reason.BUNDLE_DAMAGED
    assert {path.name for path in damaged.directory.iterdir() if path.name[0] != "."} == set(FILES)


def test_a_repair_uses_nothing_that_is_damaged_meanwhile(tmp_path):
    damaged = Damaged(tmp_path / "board")
    update, _ = repair_of(damaged.ground, tmp_path, damaged.lost)
    ruin(damaged.directory, damaged.digest, groups=(1,))
    status = asyncio.run(damaged.fly(update, UpdateState.BLOCKED))
    assert status.reason is Reason.BASE_DAMAGED
    assert not damaged.is_whole


def test_another_loss_is_another_plan_so_no_number_is_ever_encrypted_twice():
    entries = file_entries(FILES)
    digests = set()
    for lost in ((), (LostRange(file=1, offset=0, size=4096),), (LostRange(file=1, offset=4096, size=4096),)):
        plan = PackPlan(
            satellite="SAT-1",
            release_digest=digest_of(FILES),
            files=entries,
            base_digest=digest_of(FILES),
            base_files=entries,
            bundle_size_bytes=1 << 20,
            level=3,
            survey=repair_survey(entries, lost),
            lost=lost,
        )
        digests.add(plan.digest())
    assert len(digests) == 3


def test_only_what_was_lost_is_in_the_segments(tmp_path):
    lost = (LostRange(file=1, offset=4096, size=8192), LostRange(file=1, offset=196_608, size=200_000 - 196_608))
    _, rows = repair_of(FakeGround(), tmp_path, lost)
    assert {row.codec for row in rows} <= {SegmentCodec.COPY, SegmentCodec.STORED, SegmentCodec.TENSOR}
    assert sum(row.raw_size for row in rows) == sum(map(len, FILES.values()))
    assert sum(row.stored_size for row in rows) < sum(each.size for each in lost) + 500


def test_where_more_is_lost_than_a_message_takes_all_behind_it_is_sent(tmp_path, monkeypatch):
    """What is not listed lies behind what is; a repair without it would wait on board for ever."""
    monkeypatch.setattr("protocol.damage.RANGES_MAX", 1)
    damaged = Damaged(tmp_path / "board")
    said = DamageReport.from_body(DamageReport(release=damaged.digest, lost=damaged.lost).to_body())
    assert (len(said.lost), len(damaged.lost), said.is_all) == (1, 2, False)
    entries = file_entries(FILES)
    update, _ = repair_of(damaged.ground, tmp_path, with_all_behind(said, [entry.size_bytes for entry in entries]))
    asyncio.run(damaged.fly(update, UpdateState.CONFIRMED))
    assert damaged.is_whole


def test_all_that_was_said_to_be_lost_is_sent_and_nothing_else():
    said = DamageReport(release=bytes(32), lost=(LostRange(file=1, offset=4096, size=4096),))
    assert with_all_behind(said, [10, 20_000, 0, 30]) == said.lost
    assert with_all_behind(replace(said, is_all=False), [10, 20_000, 0, 30]) == (
        LostRange(file=1, offset=4096, size=20_000 - 4096),
        LostRange(file=3, offset=0, size=30),
    )


def test_what_was_reserved_for_a_repair_is_given_back_when_the_release_is_whole_without_it(tmp_path):
    damaged = Damaged(tmp_path / "board")
    whole = {name: damaged.directory / name for name in FILES}
    update, _ = repair_of(damaged.ground, tmp_path, damaged.lost)

    async def until(installer, state):
        async with asyncio.timeout(45):
            while installer.status().first.state is not state:
                await asyncio.sleep(0.005)

    async def fly():
        async with damaged.board.life() as installer:
            await damaged.board.hand_over(update.metadata, ObjectKind.METADATA)
            await until(installer, UpdateState.RECEIVING)
            assert damaged.board.layout.release_part(damaged.digest).exists()
        for name, path in whole.items():
            path.write_bytes(FILES[name])
        async with damaged.board.life() as installer:
            await until(installer, UpdateState.CONFIRMED)
        assert not damaged.board.layout.release_part(damaged.digest).exists()

    asyncio.run(fly())
