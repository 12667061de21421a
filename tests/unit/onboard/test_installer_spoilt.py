"""What our own medium damages between "received" and "in place" is sent again: it is the medium's fault alone."""

import asyncio
import hashlib
import random
from dataclasses import replace

import pytest

from onboard.installer.core import Fate
from onboard.installer.pending import _SPOILT_MAX
from onboard.receiver.events import Verdict
from onboard.receiver.workshop import _FILE_VERDICTS
from onboard.store.record import RecordStore
from protocol.objects import ObjectKind, handle_of_digest, object_handle
from protocol.report import Reason, UpdateState
from tests.fakes.onboard import Board
from tests.fakes.receiving import DryReceiver, RememberingSink, Source, disk_with_inbox, make_object
from tests.fakes.updates import FakeGround
from tests.unit.onboard.test_installer import NEW, OLD, canary_for


@pytest.fixture
def board(tmp_path):
    board = Board(tmp_path, FakeGround())
    board.provision(OLD)
    return board


def the_update(board):
    return board.ground.make_update(NEW, base=OLD, canary=canary_for(NEW), segment_size=1024, bundle_size=1500)


async def hand_over_flipped(board, entry, bundle):
    """What the receiver found whole is flipped by the time that it is offered."""
    path = board.directory / "spoilt"
    path.write_bytes(bundle[:-1] + bytes([bundle[-1] ^ 4]))
    sha256 = hashlib.sha256(bundle).digest()
    return await board.installer.object_ready(handle_of_digest(entry.digest), ObjectKind.BUNDLE, path, sha256)


def test_a_bundle_damaged_on_board_is_missing_again_and_the_update_goes_on(board):
    update = the_update(board)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            fate = await hand_over_flipped(board, update.manifest.bundles[0], update.bundles[0])
            standing = installer.status().first
            assert (fate, standing.state, standing.bundle_ranges) == (Fate.SPOILT, UpdateState.RECEIVING, ())
            assert installer.is_wanted(object_handle(update.bundles[0]))
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.telemetry.counters()["bundle_spoilt"] == 1


def test_a_medium_that_damages_one_bundle_again_and_again_blocks_the_update_and_asks_for_no_more(board):
    update = the_update(board)
    board.retry_s = 60.0

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            spoilt = update.manifest.bundles[0], update.bundles[0]
            fates = [await hand_over_flipped(board, *spoilt) for _ in range(_SPOILT_MAX + 1)]
            standing = installer.status().first
            assert (standing.state, standing.reason) == (UpdateState.BLOCKED, Reason.DISK_FAILED)
            for pending in installer._roster:
                pending.wake(is_retry=True)
            await board.until(lambda: installer.status().first.state is UpdateState.RECEIVING)
            await board.deliver(update)  # by now the medium gives back what it was given
            await board.until_ended(installer)
            return fates, installer.status().first.state

    fates, state = asyncio.run(run())
    assert fates == [Fate.SPOILT] * _SPOILT_MAX + [Fate.KEPT]
    assert state is UpdateState.CONFIRMED


def test_a_bundle_whose_signed_bytes_are_wrong_is_still_the_updates_end(board):
    update = the_update(board)
    wrong = board.ground.make_update(NEW, base=OLD, segment_size=1024, bundle_size=1500)  # under another key

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            pending = next(iter(installer._roster))
            entry = wrong.manifest.bundles[0]
            bundles = (entry, *update.manifest.bundles[1:])
            object.__setattr__(pending.building._assembly.plan.manifest, "bundles", bundles)
            path = board.directory / "wrong"
            path.write_bytes(wrong.bundles[0])
            return await pending.take_bundle(path, hashlib.sha256(update.bundles[0]).digest())

    assert asyncio.run(run()) is Fate.USED
    assert board.record.ended[0].reason is Reason.BUNDLE_DAMAGED


def flip_metadata(board, at=100):
    for path in board.layout.state_dir.glob("update-*.skm"):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("num_bundles", [0, 1, None], ids=["no bundle", "some", "all but the trial"])
def test_a_pending_update_whose_metadata_flips_asks_for_it_again_and_goes_on_where_it_was(board, num_bundles):
    update = the_update(board)

    async def run():
        async with board.life() as installer:
            board.serving.is_up = num_bundles is not None
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            for bundle in update.bundles[:num_bundles]:
                await board.hand_over(bundle, ObjectKind.BUNDLE)
            if num_bundles is None:
                await board.until(lambda: installer.status().first.state is UpdateState.VERIFIED)
        flip_metadata(board)
        if num_bundles is None:
            (board.layout.release(update.digest) / ".metadata.skm").unlink()
        async with board.life() as installer:
            standing = installer.status().first
            assert (standing.state, standing.reason) == (UpdateState.BLOCKED, Reason.METADATA_LOST)
            assert not installer.is_complete(update.handle)
            assert installer.is_wanted(update.handle)
            assert await board.hand_over(update.metadata, ObjectKind.METADATA) is Fate.USED
            assert installer.is_complete(update.handle)
            in_place = [installer.is_complete(object_handle(bundle)) for bundle in update.bundles]
            await board.until(lambda: installer.status().first.reason is not Reason.METADATA_LOST)
            in_place = [installer.is_complete(object_handle(bundle)) for bundle in update.bundles]
            await board.deliver(update)
            return in_place, await board.until_ended(installer)

    in_place, state = asyncio.run(run())
    assert sum(in_place) == (len(update.bundles) if num_bundles is None else num_bundles)
    assert state is UpdateState.CONFIRMED


def test_the_copy_beside_a_sealed_release_saves_the_metadata_without_the_ground(board):
    update = the_update(board)

    async def run():
        async with board.life() as installer:
            board.serving.is_up = False
            await board.deliver(update)
            await board.until(lambda: installer.status().first.state is UpdateState.VERIFIED)
        flip_metadata(board)
        async with board.life() as installer:
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert "metadata_lost" not in board.telemetry.counters()


def lost(board, update):
    """A life that begins with the damaged metadata of a pending update."""

    async def before():
        async with board.life():
            await board.hand_over(update.metadata, ObjectKind.METADATA)

    asyncio.run(before())
    flip_metadata(board)
    return board.life()


def test_an_object_with_the_same_handle_and_another_digest_is_not_what_was_lost(board):
    update = the_update(board)
    life = lost(board, update)
    store = RecordStore(board.layout.record)
    pending = store.load().pending[0]
    store.store(store.record.with_pending(replace(pending, metadata=b"?" * 32)))  # as if the handle had been forged

    async def run():
        async with life as installer:
            fate = await board.hand_over(update.metadata, ObjectKind.METADATA)
            return fate, installer.status().first.reason

    assert asyncio.run(run()) == (Fate.BAD, Reason.METADATA_LOST)


def test_a_lost_update_can_be_cancelled_and_gives_way_to_a_newer_one(board):
    update = the_update(board)

    async def cancel():
        async with lost_life as installer:
            await installer.cancel(update.handle)
            return installer.status().first

    lost_life = lost(board, update)
    standing = asyncio.run(cancel())
    assert (standing.state, standing.reason) == (UpdateState.CANCELLED, Reason.COMMANDED)

    second, third = the_update(board), the_update(board)

    async def overtake():
        async with lost_life as installer:
            await board.deliver(third)
            return await board.until_ended(installer), board.record.ended

    lost_life = lost(board, second)
    state, ended = asyncio.run(overtake())
    assert state is UpdateState.CONFIRMED
    assert (ended[1].handle, ended[1].reason) == (second.handle, Reason.SUPERSEDED)
    assert {update.handle.hex(), second.handle.hex()} <= {key.removeprefix("receipt-") for key in board.messages.said}


def test_what_a_lost_update_may_build_on_is_not_deleted(tmp_path):
    board = Board(tmp_path, FakeGround())
    old = board.provision(OLD)
    middle = board.provision({"config.json": b"{}", "model.bin": b"x" * 100}, "middle")  # it serves; OLD is needed
    update = the_update(board)

    async def run():
        async with lost_life as installer:
            await board.until(lambda: not installer._background)
            assert board.record.release(old) is not None
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            await board.until(lambda: installer.status().first.state is UpdateState.RECEIVING)
            await board.deliver(update)
            return await board.until_ended(installer)

    lost_life = lost(board, update)
    board.options = replace(board.options, keep_releases=1)
    assert board.record.current == middle
    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_what_was_reported_complete_is_taken_back_when_the_medium_spoilt_it_and_is_collected_again():
    source = Source(make_object(random.Random(1), 6400), symbol_size=64)
    receiver = DryReceiver(disk_with_inbox(), RememberingSink(Verdict.KEPT))
    frames = list(source.all_frames())
    for frame in frames:
        receiver.receive(frame)
    receiver.sync()
    receiver.work()
    assert source.handle in receiver.report().complete

    receiver.sink.verdict = Verdict.SPOILT
    receiver.core.offer_again()
    receiver._dispatch()
    receiver.work()
    report = receiver.report()
    assert source.handle not in report.complete
    assert [(entry.handle, entry.have) for entry in report.open_blocks] == [(source.handle, 0)]
    assert receiver.core.statistics().objects_spoilt == 1

    receiver.sink.verdict = Verdict.CONSUMED
    for frame in frames:
        receiver.receive(frame)
    receiver.sync()
    receiver.work()
    assert receiver.sink.consumed == {source.handle: source.data}


def test_every_fate_has_a_verdict_and_every_verdict_one_for_files():
    from onboard.receiver_ports import VERDICTS

    assert VERDICTS == {
        Fate.USED: Verdict.CONSUMED,
        Fate.KEPT: Verdict.KEPT,
        Fate.BAD: Verdict.REFUSED,
        Fate.SPOILT: Verdict.SPOILT,
    }
    assert set(_FILE_VERDICTS) == set(Verdict)
