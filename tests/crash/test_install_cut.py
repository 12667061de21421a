"""The power is cut at every operation of a rebuild, and at every point of an installation: old or new, never half."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import copy_release
from protocol.canary import Canary, CanaryPrompt
from protocol.manifest import AdapterUse
from protocol.objects import ObjectKind, object_handle
from protocol.report import UpdateState
from tests.fakes.adapters import make_adapter_update, smallest_adapter, smallest_release
from tests.fakes.onboard import Board, Cutter, PowerCutError
from tests.fakes.serving import answer_of
from tests.fakes.sim_disk import NoDirectorySync, NoFileSync, PowerCut, SimDisk
from tests.fakes.updates import FakeGround, digest_of, write_files

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 64}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256)) * 48 + bytes(4096)}
TINY = {"a.json": b"{}", "b.bin": b"0123456789" * 5}
RELEASES = Path("releases")
PART, TARGET = RELEASES / "new.part", RELEASES / "new"


class TinyUpdate:
    """A release of two files in a few bundles, on real files for the bundles, as the inbox has them.

    Made of `tensors`, or, with `use`, of an adapter.
    """

    def __init__(self, directory, *, tensors=False, use=None):
        ground, self.base = FakeGround(), None
        if use is None:
            bundle_size = 256 if tensors else 64
            self.update = ground.make_update(TINY, segment_size=16, bundle_size=bundle_size, tensors=tensors)
        else:
            base = smallest_release()
            self.base = copy_release(write_files(directory / "base", base), directory)
            self.update = make_adapter_update(ground, smallest_adapter(), base, use, bundle_size=256)
        self.key = ground._secret("release key 1 1")
        self.bundles = []
        for number, data in enumerate(self.update.bundles):
            self.bundles.append(directory / f"bundle-{number}")
            self.bundles[-1].write_bytes(data)

    def rebuild(self, disk, finished=None):
        """What the installer does, from wherever it was."""
        if disk.has(TARGET):
            return
        assembly = Assembly.open(PART, self.plan, disk=disk)
        for number, path in enumerate(self.bundles):
            assembly.install(path, number)
            if finished is not None:
                finished.append(number)
        assembly.verify()
        assembly.seal(TARGET, self.update.metadata)
        if finished is not None:
            finished.append("sealed")

    @property
    def plan(self):
        return Plan(manifest=self.update.manifest, release_key=self.key, base=self.base)

    def is_whole(self, disk):
        return all(disk.content(TARGET / name) == data for name, data in self.update.files.items())


def broken(tiny, kind, *, at_most=12):
    """What a sweep of power cuts finds wrong, with a fresh rebuild on each disk that may be found."""
    rehearsal = _disk(kind, None)
    tiny.rebuild(rehearsal)
    for cut_at in range(rehearsal.num_operations + 1):
        disk, finished = _disk(kind, cut_at), []
        with contextlib.suppress(PowerCut):
            tiny.rebuild(disk, finished)
        for image in disk.images(random.Random(cut_at), at_most=at_most):
            if image.has(TARGET) and not tiny.is_whole(image):
                yield cut_at, "half a release has its final name"
            if "sealed" in finished and not image.has(TARGET):
                yield cut_at, "a sealed release is gone"
            if not image.has(TARGET):
                known = Assembly.open(PART, tiny.plan, disk=image).installed
                if any(number not in known for number in finished if number != "sealed"):
                    yield cut_at, "an installed bundle is forgotten"
            try:
                tiny.rebuild(image)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
                yield cut_at, f"it cannot go on: {error}"
            if not tiny.is_whole(image):
                yield cut_at, "it goes on to something else"


def _disk(kind, cut_at):
    disk = kind(write_max=40)
    disk.put(RELEASES / ".keep", b"")
    disk.cut_at = cut_at
    return disk


@pytest.mark.timeout(120)
@pytest.mark.parametrize("tensors", [False, True])
def test_a_power_cut_anywhere_in_a_rebuild_leaves_nothing_half_and_forgets_no_bundle(tmp_path, tensors):
    assert list(broken(TinyUpdate(tmp_path, tensors=tensors), SimDisk)) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("use", list(AdapterUse))
def test_a_power_cut_anywhere_while_an_adapter_is_installed_leaves_nothing_half(tmp_path, use):
    assert list(broken(TinyUpdate(tmp_path, use=use), SimDisk)) == []


def test_the_sweep_sees_a_merged_file_that_is_not_synced(tmp_path):
    assert next(broken(TinyUpdate(tmp_path, use=AdapterUse.MERGE), NoFileSync), None) is not None


@pytest.mark.parametrize("kind", [NoFileSync, NoDirectorySync])
def test_the_sweep_sees_a_missing_sync(tmp_path, kind):
    assert next(broken(TinyUpdate(tmp_path), kind), None) is not None


@pytest.mark.timeout(120)
def test_a_kill_anywhere_in_a_rebuild_and_a_power_cut_later_forget_no_bundle(tmp_path):
    tiny = TinyUpdate(tmp_path)
    rehearsal = _disk(SimDisk, None)
    tiny.rebuild(rehearsal)
    for kill_at in range(rehearsal.num_operations):
        disk = _disk(SimDisk, kill_at)
        with contextlib.suppress(PowerCut):
            tiny.rebuild(disk)
        disk.cut_at = None  # only its process died: the kernel remembers all that it did
        if disk.has(TARGET):
            return
        assembly = Assembly.open(PART, tiny.plan, disk=disk)
        assembly.install(tiny.bundles[0], 0)
        known = set(assembly.installed.numbers())
        for image in disk.images(random.Random(kill_at), at_most=6):
            assert known <= set(Assembly.open(PART, tiny.plan, disk=image).installed.numbers()), kill_at


# -- the installer: every crash point, then the next life, cut again


def canary() -> Canary:
    return Canary(prompts=(CanaryPrompt(text="Hello", expected=answer_of(NEW, "Hello", 4)),), max_tokens=4)


def points_of_a_flight(tmp_path) -> list[str]:
    board = Board(tmp_path, FakeGround())
    board.provision(OLD)
    asyncio.run(board.fly(board.ground.make_update(NEW, base=OLD, canary=canary(), bundle_size=4096)))
    return board.crash_point.names


def check_promises(board, update):
    """What must hold after any cut, before anything is mended."""
    record = board.record
    current = board.layout.release(record.current)
    files = {path.name: path.read_bytes() for path in current.iterdir() if not path.name.startswith(".")}
    assert files in (OLD, NEW)
    assert digest_of(files) == record.current
    if (entry := record.update(update.handle)) and entry.state is UpdateState.CONFIRMED:
        assert record.current == update.digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cut_at_every_point_and_again_at_every_point_of_the_next_life_ends_confirmed(tmp_path):
    names = points_of_a_flight(tmp_path / "rehearsal")
    for first in range(len(names)):
        for second in [None, *range(0, len(names), 2)]:
            run_with_cuts(tmp_path / f"{first}-{second}", first, second)


def test_a_cut_at_every_point_of_an_installation_ends_confirmed(tmp_path):
    names = points_of_a_flight(tmp_path / "rehearsal")
    assert {"accepted", "bundle-installed", "sealed", "trial-counted", "flipped", "linked", "confirmed"} <= set(names)
    for first in range(len(names)):
        run_with_cuts(tmp_path / str(first), first, None)


def run_with_cuts(directory, *cuts):
    directory.mkdir()
    board = Board(directory, FakeGround(), attempts_max=5)
    board.provision(OLD)
    update = board.ground.make_update(NEW, base=OLD, canary=canary(), bundle_size=4096)
    for cut in cuts:
        board.crash_point = Cutter(cut)
        if cut is None:
            continue
        try:
            asyncio.run(board.fly(update))
        except PowerCutError:
            check_promises(board, update)
    board.crash_point = Cutter()
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert board.record.current == update.digest == board.serving.release
    assert [path.name for path in board.layout.releases.iterdir() if path.suffix == ".part"] == []
    assert f"receipt-{update.handle.hex()}" in board.messages.said
    assert board.record.accepted == 1


# -- two pending updates: an urgent one overtakes a big one, the power cut at every point of both


BIG = {**NEW, "big.bin": bytes(range(256)) * 40}
URGENT = {**OLD, "adapter.bin": b"small"}


class TwoUpdates:
    """A big update in mid-flight, and an urgent one beside it; each life goes on where the last one ended."""

    def __init__(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.board = Board(directory, FakeGround(), attempts_max=5)
        self.board.provision(OLD)
        make = self.board.ground.make_update
        self.big = make(BIG, base=OLD, canary=canary_of(BIG), segment_size=2048, bundle_size=2500)
        self.urgent = make(URGENT, base=OLD, canary=canary_of(URGENT), beside=True)
        self.accepted = 0

    async def live(self):
        """One life, to the end of both if nothing cuts it short."""
        board = self.board
        async with board.life() as installer:
            await self._offer(self.big, num_bundles=len(self.big.bundles) // 2)
            await board.deliver(self.urgent)
            await board.until(lambda: self.state(self.urgent) is UpdateState.CONFIRMED)
            await board.deliver(self.big)
            await board.until_ended(installer)

    async def _offer(self, update, *, num_bundles):
        objects = [(update.metadata, ObjectKind.METADATA)]
        objects += [(bundle, ObjectKind.BUNDLE) for bundle in update.bundles[:num_bundles]]
        for data, kind in objects:
            if not self.board.installer.is_complete(object_handle(data)):
                await self.board.hand_over(data, kind)

    def state(self, update):
        entry = self.board.record.update(update.handle)
        return entry.state if entry else UpdateState.NONE

    def check(self):
        """What must hold after any cut, before anything is mended."""
        record, contents = self.board.record, {}
        for files in (OLD, URGENT, BIG):
            contents[digest_of(files)] = files
        for path in self.board.layout.releases.iterdir():
            if path.suffix != ".part":  # under its final name it is whole
                files = {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith(".")}
                assert files == contents[digest_of(files)]
                assert path == self.board.layout.release(digest_of(files))
        assert self.board.layout.release(record.current).exists()
        assert record.accepted >= self.accepted
        self.accepted = record.accepted
        if self.state(self.big) is UpdateState.CONFIRMED:
            assert record.current == self.big.digest

    def check_end(self):
        board = self.board
        assert self.state(self.big) is self.state(self.urgent) is UpdateState.CONFIRMED
        assert board.record.current == self.big.digest == board.serving.release
        assert board.record.accepted == 2
        assert not list(board.layout.releases.glob("*.part"))
        assert {f"receipt-{update.handle.hex()}" for update in (self.big, self.urgent)} <= set(board.messages.said)


def canary_of(files) -> Canary:
    return Canary(prompts=(CanaryPrompt(text="Hello", expected=answer_of(files, "Hello", 4)),), max_tokens=4)


def num_points(directory) -> int:
    mission = TwoUpdates(directory)
    asyncio.run(mission.live())
    mission.check_end()
    return len(mission.board.crash_point.names)


def fly_two_with_cuts(directory, *cuts):
    mission = TwoUpdates(directory)
    for cut in cuts:
        mission.board.crash_point = Cutter(cut)
        with contextlib.suppress(PowerCutError):
            asyncio.run(mission.live())
        mission.check()
    mission.board.crash_point = Cutter()
    asyncio.run(mission.live())
    mission.check_end()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cut_at_every_point_of_two_pending_updates_ends_with_both_confirmed(tmp_path):
    for cut in range(num_points(tmp_path / "rehearsal")):
        fly_two_with_cuts(tmp_path / str(cut), cut)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_cuts_anywhere_in_two_pending_updates_end_with_both_confirmed(tmp_path):
    num = num_points(tmp_path / "rehearsal")
    for first in range(num):
        for second in range(first % 3, num, 3):
            fly_two_with_cuts(tmp_path / f"{first}-{second}", first, second)
