"""One satellite without a link: updates end CONFIRMED with the new release serving, or the old one never stops."""

import asyncio
from dataclasses import replace

import pytest

from onboard.installer.core import Fate
from onboard.store.record import RecordStore
from protocol.canary import Canary, CanaryPrompt
from protocol.objects import ObjectKind, handle_of_digest
from protocol.report import Reason, UpdateState
from tests.fakes.onboard import Board, PowerCutError
from tests.fakes.serving import answer_of
from tests.fakes.updates import FakeGround, digest_of

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 64, "tokenizer.json": b"words"}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256)) * 48 + bytes(4096), "tokenizer.json": b"words"}
PROMPTS = ("Who are you?", "Where are we?")


def canary_for(files, prompts=PROMPTS, max_tokens=8, **changes) -> Canary:
    return replace(
        Canary(
            prompts=tuple(CanaryPrompt(text=text, expected=answer_of(files, text, max_tokens)) for text in prompts),
            max_tokens=max_tokens,
            timeout_s=5,
        ),
        **changes,
    )


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    return Board(tmp_path, ground)


def released_files(board, digest):
    directory = board.layout.release(digest)
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def receipt(board, update):
    return board.messages.said[f"receipt-{update.handle.hex()}"][2]


def test_a_first_update_without_a_base_is_confirmed_and_serves(board, ground):
    update = ground.make_update(NEW, canary=canary_for(NEW))
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert released_files(board, update.digest) == NEW
    assert board.record.current == update.digest == board.serving.release
    assert board.layout.current.resolve() == board.layout.release(update.digest)
    assert receipt(board, update)["state"] == "confirmed"
    assert receipt(board, update)["canary"]["permille"] == 1000
    assert receipt(board, update)["canary"]["swap_ms"] == 0.5  # as long as the fake's flip takes


def test_an_update_on_a_base_copies_and_adds_to_it(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert released_files(board, update.digest) == NEW
    assert board.record.previous == old


def test_the_old_release_serves_until_the_new_one_has_answered_the_canary(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    asyncio.run(board.fly(update))
    assert board.serving.history == [("load", update.digest), ("flip", update.digest), ("unload", old)]


def test_a_wrong_answer_rejects_the_update_and_the_old_release_stays(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    board.serving.answers_wrongly.add(update.digest)
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.CANARY_FAILED
    assert board.serving.release == old == board.record.current
    assert ("flip", update.digest) not in board.serving.history
    assert not board.layout.release(update.digest).exists()
    assert receipt(board, update)["reason"] == "canary_failed"


def test_a_release_that_does_not_load_is_rejected(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    board.serving.fails_to_load.add(update.digest)
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.LOAD_FAILED


def test_a_crash_on_probation_flips_back(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=5.0)
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    board.serving.dies_on_probation.add(update.digest)
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.WORKER_FAILED
    assert board.serving.history[-2:] == [("flip", old), ("unload", update.digest)]


def test_serving_that_goes_away_in_a_trial_costs_an_attempt_and_not_the_update(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))

    async def run():
        async with board.life() as installer:
            board.serving.goes_down_on_load = True
            await board.deliver(update)
            while board.serving.is_up:
                await asyncio.sleep(0.001)
            while board.record.update(update.handle).state is not UpdateState.VERIFIED:
                await asyncio.sleep(0.001)
            board.serving.goes_down_on_load, board.serving.is_up = False, True
            installer.wake()
            await board.until_ended(installer)

    asyncio.run(run())
    assert board.record.update(update.handle).state is UpdateState.CONFIRMED


def test_a_trial_that_always_takes_the_daemon_down_is_given_up(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    board.crash_point.at = "loaded"
    for _ in range(3):
        with pytest.raises(PowerCutError):
            asyncio.run(board.fly(update))
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.TOO_MANY_ATTEMPTS
    assert board.serving.release == old
    assert not board.layout.release(update.digest).exists()


def test_files_that_differ_from_what_was_signed_are_rejected(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, signed_files={**NEW, "config.json": b'{"new": 3}'})
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.DIGEST_MISMATCH
    assert not list(board.layout.releases.glob("*.part"))


def test_a_bundle_that_comes_before_its_metadata_is_kept(board, ground):
    update = ground.make_update(NEW)

    async def run():
        async with board.life():
            return await board.hand_over(update.bundles[0], ObjectKind.BUNDLE)

    assert asyncio.run(run()) is Fate.KEPT


def test_an_old_statement_is_refused_and_the_ground_is_told(board, ground):
    first, second = ground.make_update(NEW), ground.make_update(OLD)

    async def run():
        async with board.life() as installer:
            await board.hand_over(second.metadata, ObjectKind.METADATA)
            fate = await board.hand_over(first.metadata, ObjectKind.METADATA)
            assert installer.is_complete(first.handle)
            return fate, board.telemetry.counters()["update_refused"]

    assert asyncio.run(run()) == (Fate.USED, 1)
    assert board.record.accepted == 2


def test_a_missing_base_blocks_the_update_and_is_reported(board, ground):
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            fate = await board.hand_over(update.bundles[0], ObjectKind.BUNDLE)
            return fate, installer.status().first

    fate, status = asyncio.run(run())
    assert fate is Fate.KEPT
    assert (status.state, status.reason) == (UpdateState.BLOCKED, Reason.BASE_MISSING)


def test_a_damaged_base_blocks_the_update_and_it_goes_on_when_the_base_is_repaired(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    damaged = board.layout.release(old) / "model.bin"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"\xff" + whole[1:])

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            status = installer.status().first
            assert (status.state, status.reason) == (UpdateState.BLOCKED, Reason.BASE_DAMAGED)
            damaged.write_bytes(whole)
            while installer.status().first.state is UpdateState.BLOCKED:
                await asyncio.sleep(0.001)
            assert board.offers
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_a_newer_update_supersedes_an_unfinished_one(board, ground):
    board.provision(OLD)
    first = ground.make_update({**NEW, "extra.bin": b"x"}, base=OLD)
    second = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))

    async def run():
        async with board.life() as installer:
            await board.hand_over(first.metadata, ObjectKind.METADATA)
            await board.deliver(second)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert receipt(board, first)["reason"] == "superseded"
    assert not board.layout.release_part(first.digest).exists()


def test_a_cancelled_update_leaves_nothing(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            await board.hand_over(update.bundles[0], ObjectKind.BUNDLE)
            await installer.cancel(update.handle)

    asyncio.run(run())
    assert board.record.update(update.handle).state is UpdateState.CANCELLED
    assert [path.name for path in board.layout.releases.iterdir()] == [digest_of(OLD).hex()[:16]]


def test_revert_goes_to_the_release_before_and_back_again(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    asyncio.run(board.fly(update))

    async def run():
        async with board.life() as installer:
            assert (await installer.revert(None)).known.digest == old
            assert board.serving.release == old == board.record.current
            assert (await installer.revert(None)).known.digest == update.digest

    asyncio.run(run())
    assert board.record.current == update.digest


def test_no_release_below_the_signed_floor_serves_again(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, floor=1)
    asyncio.run(board.fly(update))

    async def run():
        async with board.life() as installer:
            await installer.revert(old)

    with pytest.raises(Exception, match=r"floor|no confirmed release"):
        asyncio.run(run())
    assert not board.layout.release(old).exists()


def test_three_crashes_in_a_row_return_to_the_release_before(board, ground):
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(update))

    async def run():
        async with board.life() as installer:
            for failures in (1, 2):
                installer.worker_failed(update.digest, "segmentation fault", failures=failures)
            assert not installer.is_busy
            installer.worker_failed(update.digest, "segmentation fault", failures=3)
            while installer.is_busy:
                await asyncio.sleep(0.001)

    asyncio.run(run())
    assert board.record.current == old == board.serving.release


def test_old_releases_go_and_the_one_to_return_to_stays(board, ground):
    first = board.provision(OLD)
    second = ground.make_update(NEW, base=OLD)
    asyncio.run(board.fly(second))
    third = ground.make_update({**NEW, "config.json": b"{}"}, base=NEW)
    asyncio.run(board.fly(third))
    names = {path.name for path in board.layout.releases.iterdir()}
    assert names == {second.digest.hex()[:16], third.digest.hex()[:16]}
    assert board.record.release(first) is None


def test_an_update_to_a_release_that_is_on_board_needs_no_bundle(board, ground):
    old = board.provision(OLD)
    asyncio.run(board.fly(ground.make_update(NEW, base=OLD)))
    back = ground.make_update(OLD, canary=canary_for(OLD))

    async def run():
        async with board.life() as installer:
            await board.hand_over(back.metadata, ObjectKind.METADATA)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.record.current == old


def test_an_update_that_needs_more_memory_than_there_is_is_rejected(board, ground):
    update = ground.make_update(NEW, memory_bytes=2**60)
    assert asyncio.run(board.fly(update)) is UpdateState.REJECTED
    assert board.record.update(update.handle).reason is Reason.ENGINE_UNSUITABLE


def test_metadata_that_comes_during_a_trial_waits_for_its_end(tmp_path, ground):
    board = Board(tmp_path, ground)
    board.provision(OLD)
    first = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))
    second = ground.make_update({**NEW, "config.json": b"{}"}, base=NEW)

    async def run():
        async with board.life() as installer:
            load, gate = board.serving.load, asyncio.Event()

            async def load_slowly(digest, **options):
                await gate.wait()
                await load(digest, **options)

            board.serving.load = load_slowly
            await board.deliver(first)
            while installer.status().first.state is not UpdateState.TRIAL:
                await asyncio.sleep(0.001)
            offers = board.offers
            assert await board.hand_over(second.metadata, ObjectKind.METADATA) is Fate.KEPT
            gate.set()
            while board.offers == offers:
                await asyncio.sleep(0.001)
            assert board.record.current == first.digest
            await board.deliver(second)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.record.current == second.digest


def test_a_trial_can_be_cancelled_and_the_old_release_serves_again(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=30)
    old = board.provision(OLD)
    update = ground.make_update(NEW, base=OLD, canary=canary_for(NEW))

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            while board.serving.release != update.digest:
                await asyncio.sleep(0.001)
            await installer.cancel(update.handle)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CANCELLED
    assert board.serving.release == old == board.record.current
    assert receipt(board, update)["reason"] == "commanded"
    assert not board.layout.release(update.digest).exists()


def test_what_no_record_speaks_of_is_deleted_at_start(board):
    old = board.provision(OLD)
    (board.layout.releases / "deadbeefdeadbeef.part").mkdir()
    (board.layout.releases / "deadbeefdeadbeef.part" / "model.bin").write_bytes(b"x")
    (board.layout.releases / "deadbeefdeadbeef").mkdir()

    async def run():
        await board.boot().start()

    asyncio.run(run())
    assert [path.name for path in board.layout.releases.iterdir()] == [old.hex()[:16]]


def test_the_link_follows_the_record_after_a_cut_between_the_two(board, ground):
    old = board.provision(OLD)
    board.crash_point.at = "linked"
    update = ground.make_update(NEW, base=OLD)
    with pytest.raises(PowerCutError):
        asyncio.run(board.fly(update))
    assert board.layout.current.resolve() == board.layout.release(update.digest)

    async def run():
        await board.boot().start()

    asyncio.run(run())
    assert board.layout.current.resolve() == board.layout.release(old)


def test_a_receipt_that_a_cut_swallowed_is_queued_by_the_next_life(board, ground):
    board.provision(OLD)
    board.crash_point.at = "confirmed"
    update = ground.make_update(NEW, base=OLD)
    with pytest.raises(PowerCutError):
        asyncio.run(board.fly(update))
    assert not board.messages.said

    async def run():
        await board.boot().start()

    asyncio.run(run())
    assert receipt(board, update)["state"] == "confirmed"


def test_an_expired_statement_is_refused_only_where_the_clock_is_trusted(board, ground):
    ground.expires = ground.expires.replace(year=2020)
    update = ground.make_update(NEW)
    board.utc = ground.expires.replace(year=2026)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            refused = installer.status().first
            assert (refused.state, refused.reason) == (UpdateState.REJECTED, Reason.EXPIRED)
            assert refused.handle == update.handle
        board.utc = None
        return await board.fly(update)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_an_update_of_an_older_build_that_lost_its_metadata_is_given_up_and_says_so(board, ground):
    board.provision(OLD)
    update = ground.make_update(NEW, base=OLD)

    async def run():
        async with board.life():
            await board.hand_over(update.metadata, ObjectKind.METADATA)
        for path in board.layout.state_dir.glob("update-*.skm"):
            path.write_bytes(b"damaged")
        store = RecordStore(board.layout.record)
        pending = store.load().pending[0]
        store.store(store.record.with_pending(replace(pending, metadata=b"")))  # it is known by its handle alone
        async with board.life() as installer:
            return installer.status().first

    status = asyncio.run(run())
    assert (status.state, status.reason) == (UpdateState.REJECTED, Reason.INTERNAL)


def test_bundles_in_place_stay_known_while_an_obstacle_stands(board, ground):
    board.provision(OLD)
    update = ground.make_update({**NEW, "a.bin": bytes(range(256)) * 200}, base=OLD, segment_size=512, bundle_size=600)
    damaged = board.layout.release(digest_of(OLD)) / "model.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            assert installer.status().first.state is UpdateState.BLOCKED
            ranges = installer.status().first.bundle_ranges
            assert ranges
            for first, last in ranges:
                assert all(
                    installer.is_complete(handle_of_digest(update.manifest.bundles[number].digest))
                    for number in range(first, last + 1)
                )

    asyncio.run(run())
