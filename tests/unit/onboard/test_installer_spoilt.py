"""What our own medium damages between "received" and "in place" is sent again: it is the medium's fault alone."""

import asyncio
import random

import pytest

from onboard.installer.core import Fate
from onboard.installer.pending import _SPOILT_MAX
from onboard.receiver.events import Verdict
from onboard.receiver.workshop import _FILE_VERDICTS
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
    return await board.installer.object_ready(handle_of_digest(entry.sha256), ObjectKind.BUNDLE, path, entry.sha256)


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
            return await pending.take_bundle(path, update.manifest.bundles[0].sha256)

    assert asyncio.run(run()) is Fate.USED
    assert board.record.ended[0].reason is Reason.BUNDLE_DAMAGED


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
    from onboard.daemon import _VERDICTS

    assert _VERDICTS == {
        Fate.USED: Verdict.CONSUMED,
        Fate.KEPT: Verdict.KEPT,
        Fate.BAD: Verdict.REFUSED,
        Fate.SPOILT: Verdict.SPOILT,
    }
    assert set(_FILE_VERDICTS) == set(Verdict)
