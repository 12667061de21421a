"""An update that is held waits, verified, for its command; a release that is forgotten leaves no key behind."""

import asyncio

import pytest

from onboard.errors import StoreFailedError, UnknownError
from onboard.installer.update_file import update_path
from onboard.store.disk import RealDisk
from onboard.store.record import ENDED_MAX
from onboard.store.wiping import wipe_file
from protocol.objects import ObjectKind
from protocol.report import Reason, UpdateState
from tests.fakes.onboard import Board, PowerCutError
from tests.fakes.updates import FakeGround

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 16}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256)) * 12 + bytes(1024)}
OTHER = {"config.json": b'{"other": 3}', "model.bin": bytes(2048)}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    return Board(tmp_path, ground)


async def until(board, update, state, reason=Reason.NONE):
    while (entry := board.record.update(update.handle)) is None or (entry.state, entry.reason) != (state, reason):
        await asyncio.sleep(0.001)


async def settle(installer):
    for _ in range(50):
        await asyncio.sleep(0)


def test_an_update_that_is_held_is_sealed_and_not_tried_until_it_is_activated(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, hold=True)

    async def receive():
        async with board.life() as installer:
            await board.deliver(update)
            await until(board, update, UpdateState.VERIFIED, Reason.HELD)
            await settle(installer)
            assert board.serving.history == []

    async def activate():
        async with board.life() as installer:  # and it still waits after a restart
            await settle(installer)
            assert (board.serving.history, board.serving.release) == ([], old)
            installer.activate(update.handle)
            await board.until_ended(installer)

    asyncio.run(receive())
    asyncio.run(activate())
    assert board.record.current == update.digest == board.serving.release


def test_a_power_cut_after_it_was_activated_does_not_hold_it_again(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, hold=True)

    async def receive_and_activate():
        async with board.life() as installer:
            await board.deliver(update)
            await until(board, update, UpdateState.VERIFIED, Reason.HELD)
            board.crash_point.at = "activated"
            installer.activate(update.handle)

    async def go_on():
        async with board.life() as installer:
            await board.until_ended(installer)

    with pytest.raises(PowerCutError):
        asyncio.run(receive_and_activate())
    asyncio.run(go_on())
    assert board.record.update(update.handle).state is UpdateState.CONFIRMED


def test_one_that_is_held_does_not_keep_others_from_their_trial(board, ground):
    board.provision(OLD)
    other = ground.make_update(OTHER)
    held = ground.make_update(NEW, base=OLD, hold=True, beside=True)

    async def run():
        async with board.life() as installer:
            await board.hand_over(other.metadata, ObjectKind.METADATA)
            await board.deliver(held)
            await until(board, held, UpdateState.VERIFIED, Reason.HELD)
            for bundle in other.bundles:
                await board.hand_over(bundle, ObjectKind.BUNDLE)
            await until(board, other, UpdateState.CONFIRMED)
            assert board.record.update(held.handle).reason is Reason.HELD
            await settle(installer)

    asyncio.run(run())


def test_what_does_not_wait_is_not_activated(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, hold=True)

    async def run():
        async with board.life() as installer:
            with pytest.raises(UnknownError, match="no unfinished update"):
                installer.activate(update.handle)
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            with pytest.raises(UnknownError, match="is RECEIVING: it does not wait"):
                installer.activate(update.handle)

    asyncio.run(run())


def keys_on_disk(board, update):
    """Files under the state directory in which the wrapped key of an update can be found."""
    return [
        path for path in board.layout.state_dir.rglob("*") if path.is_file() and path.read_bytes() == update.metadata
    ]


def confirmed(board, ground, files, base):
    update = ground.make_update(files, base=base)
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    return update


def test_a_release_that_is_forgotten_leaves_neither_files_nor_keys(board, ground):
    board.provision(OLD)
    first = confirmed(board, ground, NEW, OLD)
    confirmed(board, ground, OTHER, None)
    assert len(keys_on_disk(board, first)) == 2

    async def run():
        async with board.life() as installer:
            return await installer.forget(first.digest)

    words = asyncio.run(run())
    assert "2 copies of its key overwritten" in words
    assert keys_on_disk(board, first) == []
    assert not board.layout.release(first.digest).exists()
    assert board.record.release(first.digest) is None
    assert board.record.previous is None


def test_keys_are_overwritten_before_their_file_goes(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"secret" * 100)
    with path.open("rb") as file:  # whoever holds the old name open sees what is left
        assert wipe_file(path, RealDisk())
        assert file.read() == bytes(600)
    assert not path.exists()
    assert not wipe_file(path, RealDisk())


def test_the_medium_has_the_zeros_before_the_name_goes(tmp_path):
    """Of a file without a name the kernel writes nothing any more: the key would stay where it was."""
    calls = []

    class Disk(RealDisk):
        def sync(self, handle):
            calls.append("sync")
            super().sync(handle)

        def unlink(self, path):
            calls.append("unlink")
            super().unlink(path)

    (tmp_path / "key").write_bytes(b"secret")
    assert wipe_file(tmp_path / "key", Disk())
    assert calls == ["sync", "unlink"]


def test_a_release_whose_files_cannot_be_deleted_is_not_said_to_be_and_can_be_forgotten_again(
    board, ground, monkeypatch
):
    board.provision(OLD)
    first = confirmed(board, ground, NEW, OLD)
    confirmed(board, ground, OTHER, None)
    directory, inner = board.layout.release(first.digest), RealDisk.unlink

    def unlink(disk, path):
        if path == directory / "model.bin":
            raise StoreFailedError("unlink: refused (a test says so)")
        inner(disk, path)

    async def run():
        async with board.life() as installer:
            monkeypatch.setattr(RealDisk, "unlink", unlink)
            with pytest.raises(StoreFailedError, match="its files stay: unlink: refused"):
                await installer.forget(first.digest)
            assert "release_forgotten" not in board.telemetry.counters()
            assert keys_on_disk(board, first) == []
            monkeypatch.setattr(RealDisk, "unlink", inner)
            return await installer.forget(first.digest)

    assert "is forgotten" in asyncio.run(run())
    assert not directory.exists()


def test_the_keys_of_updates_and_releases_that_go_by_themselves_are_overwritten(tmp_path, ground):
    board = Board(tmp_path, ground, keep_releases=1)
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    names = []

    async def keep_names():
        async with board.life() as installer:
            await board.deliver(update)
            await board.until_ended(installer)
            for number, path in enumerate(keys_on_disk(board, update)):
                names.append(tmp_path / f"kept-{number}")  # whoever holds another name of the file sees what is left
                names[-1].hardlink_to(path)

    asyncio.run(keep_names())
    assert len(names) == 2
    for number in range(ENDED_MAX + 1):  # so many end after it that nobody remembers it
        confirmed(board, ground, {**OTHER, "number.txt": bytes([number])}, None)
    assert keys_on_disk(board, update) == []
    assert {name.read_bytes() for name in names} == {bytes(len(update.metadata))}


def test_what_is_needed_is_not_forgotten(board, ground):
    old = board.provision(OLD)
    waiting = ground.make_update(NEW, base=OLD)
    current = confirmed(board, ground, OTHER, None)

    async def run():
        async with board.life() as installer:
            await board.hand_over(ground.sign_again(waiting).metadata, ObjectKind.METADATA)
            for digest, words in (
                (current.digest, "serves: revert"),
                (waiting.digest, "cancel it first"),
                (old, "builds on release"),
                (bytes(32), "no release 0000"),
            ):
                with pytest.raises(UnknownError, match=words):
                    await installer.forget(digest)

    asyncio.run(run())
    assert board.layout.release(old).exists()
    assert board.layout.release(current.digest).exists()


@pytest.mark.parametrize("at", ["keys-wiped", "forgotten"])
def test_a_power_cut_while_forgetting_leaves_it_whole_without_keys_or_gone(board, ground, at):
    board.provision(OLD)
    first = confirmed(board, ground, NEW, OLD)
    second = confirmed(board, ground, OTHER, None)

    async def forget():
        async with board.life() as installer:
            board.crash_point.at = at
            await installer.forget(first.digest)

    async def look():
        async with board.life() as installer:
            board.crash_point.at = None
            await settle(installer)
            if board.record.release(first.digest) is not None:
                await installer.forget(first.digest)

    with pytest.raises(PowerCutError):
        asyncio.run(forget())
    assert keys_on_disk(board, first) == []
    asyncio.run(look())
    assert not board.layout.release(first.digest).exists()
    assert board.serving.release == second.digest


def test_an_update_that_was_forgotten_is_not_accepted_again(board, ground):
    board.provision(OLD)
    first = confirmed(board, ground, NEW, OLD)
    confirmed(board, ground, OTHER, None)

    async def run():
        async with board.life() as installer:
            await installer.forget(first.digest)
            await board.hand_over(first.metadata, ObjectKind.METADATA)
            await settle(installer)

    asyncio.run(run())
    assert not board.record.is_pending(first.handle)
    assert not update_path(board.layout.state_dir, first.handle).exists()


@pytest.mark.parametrize("key_size", [32, 96])
def test_an_update_under_a_seal_is_installed_also_across_restarts(tmp_path, ground, key_size):
    ground.is_sealed, ground.release_private_key = True, bytes(range(key_size))
    board = Board(tmp_path, ground)
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def begin():
        async with board.life():
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            await board.hand_over(update.bundles[0], ObjectKind.BUNDLE)

    asyncio.run(begin())
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert board.record.current == update.digest


def test_an_update_sealed_for_another_key_is_refused(board, ground):
    board.provision(OLD)
    stranger = FakeGround(is_sealed=True)
    stranger.release_private_key = b"x" * 32
    update = stranger.make_update(NEW)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            return installer.refusal_of(update.handle)

    assert asyncio.run(run()) is Reason.UNTRUSTED
    assert board.record.pending == ()
