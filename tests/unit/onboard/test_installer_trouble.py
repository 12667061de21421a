"""What goes wrong between the installer's parts: races, full disks, serving that restarts. Nothing stays stuck."""

import asyncio
from dataclasses import replace

import pytest

from onboard.errors import StoreFailedError, StoreFullError, UnknownError
from onboard.installer import housekeeping, intake, release, shelf
from onboard.installer.core import Fate
from onboard.store.disk import RealDisk
from onboard.store.record import RecordStore
from onboard.telemetry import EVENTS, Severity
from protocol.objects import ObjectKind, handle_of_digest
from protocol.report import Reason, UpdateState
from tests.fakes.onboard import Board, PowerCutError
from tests.fakes.updates import FakeGround
from tests.unit.onboard.test_installer import NEW, OLD, canary_for, receipt

NEWER = {**NEW, "config.json": b"{}"}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    return Board(tmp_path, ground)


async def settled(installer):
    async with asyncio.timeout(45):
        while installer.is_busy:
            await asyncio.sleep(0.001)


def test_a_release_sealed_by_a_life_that_was_killed_is_made_durable_before_it_is_called_verified(
    board, ground, monkeypatch
):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    board.crash_point.at = "sealed"  # its name may be in the kernel's memory only
    with pytest.raises(PowerCutError):
        asyncio.run(board.fly(update))
    board.crash_point.at = None
    synced, inner = [], RealDisk.sync_directory

    def sync_directory(disk, path):
        if board.record.pending and board.record.pending[0].state is UpdateState.RECEIVING:
            synced.append(path)
        inner(disk, path)

    monkeypatch.setattr(RealDisk, "sync_directory", sync_directory)
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    release = board.layout.release(update.digest)
    assert [path for path in synced if path in {release, release.parent}][:2] == [release, release.parent]


def test_a_revert_that_was_told_is_no_warning_and_a_return_by_itself_is(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(update))

    async def run():
        async with board.life() as installer:
            await installer.revert(None)
            await installer.revert(None)
            reverts = dict(board.telemetry.counters())
            installer.worker_failed(update.digest, "segmentation fault", failures=3)
            await settled(installer)
            return reverts, board.telemetry.counters()

    before, after = asyncio.run(run())
    assert (before["reverted"], before.get("returned", 0)) == (2, 0)
    assert (after["reverted"], after["returned"]) == (2, 1)
    assert EVENTS["reverted"].severity is Severity.ACTIVITY
    assert EVENTS["returned"].severity is Severity.WARNING_HI


def test_a_return_from_a_failing_release_does_not_undo_the_update_that_replaced_it_meanwhile(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=0.1, keep_releases=3)
    board.provision(OLD)
    asyncio.run(board.fly(ground.make_update(NEW, base=OLD)))
    update = ground.make_update(NEWER, base=NEW, canary=canary_for(NEWER))

    async def run():
        async with board.life() as installer:
            failing = board.record.current
            await board.deliver(update)
            while installer.status().first.state is not UpdateState.TRIAL:
                await asyncio.sleep(0.001)
            installer.worker_failed(failing, "segmentation fault", failures=3)
            await board.until_ended(installer)

    asyncio.run(run())
    assert board.record.current == update.digest == board.serving.release


def golden_board(board, ground):
    """The golden release, an old one, and a newer one that serves and forbids what is older than itself or not."""
    golden = board.provision(NEWER, "golden")
    old = board.provision(OLD)
    store = RecordStore(board.layout.record)
    store.load()
    store.store(replace(store.record, golden=golden))
    return golden, old


def test_when_nothing_else_loads_the_golden_release_serves(board, ground):
    golden, old = golden_board(board, ground)
    update = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(update))
    board.serving.fails_to_load = {old}

    async def run():
        async with board.life() as installer:
            installer.worker_failed(update.digest, "segmentation fault", failures=3)
            await settled(installer)
            return board.telemetry.counters()

    counters = asyncio.run(run())
    assert board.record.current == golden == board.serving.release
    assert (counters["revert_failed"], counters["returned"]) == (1, 1)


def test_the_golden_release_is_never_deleted_and_may_be_reverted_to_below_the_floor(tmp_path, ground):
    board = Board(tmp_path, ground, keep_releases=1)
    golden, old = golden_board(board, ground)
    asyncio.run(board.fly(ground.make_update(NEW, base=OLD, floor=1)))
    assert board.record.floor == 1

    async def run():
        async with board.life() as installer:
            await settled(installer)
            await installer.revert(golden)

    asyncio.run(run())
    assert board.record.release(old) is None
    assert board.record.current == golden == board.serving.release


def test_a_release_that_was_left_and_is_chosen_again_is_left_again_when_it_goes_on_failing(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(update))

    async def run():
        async with board.life() as installer:
            for _ in range(2):
                installer.worker_failed(update.digest, "segmentation fault", failures=3)
                await settled(installer)
                assert board.record.current == old
                await installer.revert(update.digest)
            installer.worker_failed(update.digest, "segmentation fault", failures=3)
            await settled(installer)

    asyncio.run(run())
    assert board.record.current == old


def test_no_trial_begins_before_a_cancel_that_waits_for_its_turn(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            await installer._changeover._turn.acquire()  # whoever else changes what serves
            await board.until(lambda: installer.status().first.state is UpdateState.VERIFIED)
            cancelling = asyncio.create_task(installer.cancel(update.handle))
            await asyncio.sleep(0.01)
            installer._changeover._turn.release()
            await cancelling

    asyncio.run(run())
    assert board.record.update(update.handle).state is UpdateState.CANCELLED
    assert board.record.current == old == board.serving.release
    assert receipt(board, update)["reason"] == "commanded"


def test_a_cancel_that_comes_too_late_says_so(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=0.05)
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            while board.serving.release != update.digest:
                await asyncio.sleep(0.001)
            pending = installer._roster.get(update.handle)
            pending._task, task = None, pending._task  # it ends before it can be stopped

            async def stop():
                await task

            pending.stop = stop
            with pytest.raises(UnknownError, match="CONFIRMED"):
                await installer.cancel(update.handle)

    asyncio.run(run())
    assert board.record.current == update.digest


def test_metadata_that_finds_no_space_is_reported_and_offered_again_when_there_may_be_some(board, ground, monkeypatch):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    keep_update = intake.keep_update

    def refuse(state_dir, accepted):
        raise StoreFullError("write: no space (a test says so)")

    async def run():
        async with board.life() as installer:
            monkeypatch.setattr(intake, "keep_update", refuse)
            assert await board.hand_over(update.metadata, ObjectKind.METADATA) is Fate.KEPT
            status = installer.status().first
            assert (status.handle, status.state, status.reason) == (
                update.handle,
                UpdateState.BLOCKED,
                Reason.DISK_FULL,
            )
            async with asyncio.timeout(45):
                while not board.offers:
                    await asyncio.sleep(0.001)
            monkeypatch.setattr(intake, "keep_update", keep_update)
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_serving_that_restarts_during_the_probation_does_not_confirm_what_it_does_not_serve(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=0.05)
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            while board.serving.release != update.digest:
                await asyncio.sleep(0.001)
            del board.serving.loaded[update.digest]
            board.serving.release = old  # a new process has loaded what the record names
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.telemetry.counters()["trial_interrupted"] == 1
    assert board.record.current == update.digest == board.serving.release


def test_a_link_that_cannot_be_set_stops_no_update(board, ground, monkeypatch):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))

    def refuse(layout, digest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf, "point_current", refuse)
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert board.record.current == update.digest == board.serving.release
    assert board.telemetry.counters()["link_not_set"] >= 1


def test_a_stray_file_among_the_releases_keeps_nobody_from_starting(board):
    old = board.provision(OLD)
    (board.layout.releases / "notes.txt").write_text("left by somebody")

    async def run():
        await board.boot().start()

    asyncio.run(run())
    assert [path.name for path in board.layout.releases.iterdir()] == [old.hex()[:16]]


def test_what_cannot_be_deleted_keeps_nobody_from_starting(board, monkeypatch):
    board.provision(OLD)
    (board.layout.releases / "lost+found").mkdir()

    def refuse(directory, disk):
        raise StoreFailedError("rmdir: Operation not permitted")

    monkeypatch.setattr(housekeeping, "delete_tree", refuse)

    async def run():
        await board.boot().start()
        return board.telemetry.counters()

    assert asyncio.run(run())["leftover_stays"] == 1


def test_what_waits_for_space_goes_on_when_a_worker_has_let_go_of_the_release_before(tmp_path, ground, monkeypatch):
    board = Board(tmp_path, ground, keep_releases=1)
    board.retry_s = 600.0
    old = board.provision(OLD)
    first, second = ground.make_update(NEW, base=OLD), ground.make_update(NEWER, base=NEW)
    # What is deleted but mapped takes its space: there is none until the old release has gone.
    monkeypatch.setattr(RealDisk, "free_bytes", lambda disk, path: 0 if board.layout.release(old).exists() else 1 << 40)

    async def run():
        async with board.life() as installer:
            may_drain, drain = asyncio.Event(), board.serving.drain

            async def drain_late(digest, *, timeout_s):
                await may_drain.wait()
                await drain(digest, timeout_s=timeout_s)

            board.serving.drain = drain_late
            with monkeypatch.context() as patch:
                patch.setattr(RealDisk, "free_bytes", lambda disk, path: 1 << 40)
                await board.deliver(first)
                await board.until(lambda: board.record.current == first.digest)
            await board.hand_over(second.metadata, ObjectKind.METADATA)
            assert installer.status().first.reason is Reason.DISK_FULL
            may_drain.set()
            await board.until(lambda: installer.status().first.state is UpdateState.RECEIVING)
            await board.deliver(second)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_releases_that_a_cut_kept_from_being_deleted_go_at_the_next_start(board, ground):
    first = board.provision(OLD)
    second = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(second))
    third = ground.make_update(NEWER, base=NEW)
    board.crash_point.at = "confirmed"
    with pytest.raises(PowerCutError):
        asyncio.run(board.fly(third))
    assert board.record.release(first) is not None

    async def run():
        await board.boot().start()

    board.crash_point.at = None
    asyncio.run(run())
    assert {known.digest for known in board.record.releases} == {second.digest, third.digest}
    assert not board.layout.release(first).exists()


def test_the_base_of_a_running_update_stays_however_few_releases_are_kept(tmp_path, ground):
    board = Board(tmp_path, ground, keep_releases=1)
    board.provision(OLD)
    update = ground.make_update(NEWER, base=OLD, canary=canary_for(NEWER))

    async def run():
        async with board.life():
            await board.hand_over(update.metadata, ObjectKind.METADATA)
        board.provision(NEW, "second")
        async with board.life() as installer:  # OLD serves no more, but the update builds on it
            await settled(installer)
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_a_base_that_cannot_be_looked_at_blocks_the_update(board, ground, monkeypatch):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    def refuse(text, directory):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(release, "_parse_sums", refuse)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            blocked = installer.status().first
            monkeypatch.undo()
            async with asyncio.timeout(45):
                while installer.status().first.state is UpdateState.BLOCKED:
                    await asyncio.sleep(0.001)
            await board.deliver(update)
            return blocked, await board.until_ended(installer)

    blocked, state = asyncio.run(run())
    assert (blocked.state, blocked.reason) == (UpdateState.BLOCKED, Reason.BASE_DAMAGED)
    assert state is UpdateState.CONFIRMED


def test_a_cancelled_update_frees_the_inbox_of_the_bundles_that_were_kept_for_it(board, ground):
    update = ground.make_update(NEW, base=OLD)  # blocked: there is no base

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            assert await board.hand_over(update.bundles[0], ObjectKind.BUNDLE) is Fate.KEPT
            offers = board.offers
            await installer.cancel(update.handle)
            assert board.offers > offers
            return await board.hand_over(update.bundles[0], ObjectKind.BUNDLE)

    assert asyncio.run(run()) is Fate.USED


def test_the_bundles_of_a_superseded_update_are_wanted_no_more_but_for_those_that_the_new_one_has_too(board, ground):
    first = ground.make_update(NEW)
    second = ground.make_update(NEWER)

    async def run():
        async with board.life() as installer:
            await board.hand_over(first.metadata, ObjectKind.METADATA)
            handles = [handle_of_digest(entry.digest) for entry in first.manifest.bundles]
            assert not any(map(installer.is_complete, handles))
            await board.hand_over(second.metadata, ObjectKind.METADATA)
            assert all(map(installer.is_complete, handles))
            assert not any(installer.is_complete(handle_of_digest(entry.digest)) for entry in second.manifest.bundles)

    asyncio.run(run())


def test_restarts_in_peace_during_a_trial_use_up_no_attempt(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=30)
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))

    async def run():
        for _ in range(4):
            async with board.life():
                await board.deliver(update)
                while board.serving.release != update.digest:
                    await asyncio.sleep(0.001)
            assert board.serving.release == old
            assert board.record.update(update.handle).state is UpdateState.VERIFIED
        board.options = replace(board.options, probation_s=0.0)
        return await board.fly(update)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_what_building_left_in_a_sealed_release_goes_at_the_next_start_and_nothing_else(board):
    release = board.layout.release(board.provision(OLD))
    whole = {path.name for path in release.iterdir()}
    for name in (".progress", ".adapter_model.safetensors"):
        (release / name).write_bytes(b"a cut came before it was deleted")

    asyncio.run(board.boot().start())
    assert {path.name for path in release.iterdir()} - {".guard-0", ".guard-1", ".parity"} == whole


def test_a_release_whose_directory_cannot_be_read_does_not_keep_the_installer_from_starting(board, ground):
    old = board.provision(OLD, name="old")
    board.provision(NEW, name="new")
    directory = board.layout.release(old)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    directory.touch()  # to list it is refused, as a damaged file system refuses it

    async def run():
        async with board.life():
            return board.telemetry.counters()

    assert asyncio.run(run())["leftover_stays"] == 1
    assert directory.exists()
