"""Several updates pending on board: an urgent one overtakes a big one, which goes on; nobody pays for another."""

import asyncio
import threading

import pytest

from onboard.errors import StoreFullError, UnknownError
from onboard.installer import assemble
from onboard.installer.core import Fate
from onboard.store.record import PENDING_MAX
from protocol.objects import ObjectKind, handle_of_digest
from protocol.report import Reason, UpdateState
from tests.fakes.onboard import Board, PowerCutError
from tests.fakes.updates import FakeGround, digest_of
from tests.unit.onboard.test_installer import NEW, OLD, canary_for, receipt

BIG = {**NEW, "big.bin": bytes(range(256)) * 200}
URGENT = {**OLD, "adapter.bin": b"small"}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    board = Board(tmp_path, ground)
    board.provision(OLD)
    return board


@pytest.fixture
def big(ground):
    return ground.make_update(BIG, base=OLD, canary=canary_for(BIG), segment_size=512, bundle_size=600)


def urgent_update(ground, files=URGENT, *, base=OLD, beside=True, **changes):
    return ground.make_update(files, base=base, canary=canary_for(files), beside=beside, **changes)


def state(board, update):
    return board.record.update(update.handle).state


async def begin(board, update, *, num_bundles=3):
    """Deliver metadata and some bundles."""
    await board.hand_over(update.metadata, ObjectKind.METADATA)
    for bundle in update.bundles[:num_bundles]:
        assert await board.hand_over(bundle, ObjectKind.BUNDLE) is Fate.USED


def handles(update):
    return [handle_of_digest(entry.digest) for entry in update.manifest.bundles]


def test_an_urgent_update_is_confirmed_while_a_big_one_receives_and_that_goes_on(board, ground, big):
    urgent = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await begin(board, big, num_bundles=7)
            await board.deliver(urgent)
            await board.until(lambda: state(board, urgent) is UpdateState.CONFIRMED and not installer.is_busy)
            assert board.record.current == urgent.digest == board.serving.release
            assert [entry.handle for entry in installer.status().updates] == [big.handle, urgent.handle]
            assert installer.status().first.bundle_ranges == ((0, 6),)
            await board.deliver(big)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.record.current == big.digest == board.serving.release
    assert board.record.previous == urgent.digest
    assert board.record.accepted == 2
    assert receipt(board, big)["state"] == receipt(board, urgent)["state"] == "confirmed"


def test_the_pending_ones_are_reported_newest_first_and_those_that_ended_after_them(board, ground, big):
    second, third = urgent_update(ground), urgent_update(ground, {**URGENT, "b.bin": b"b"})

    async def run():
        async with board.life() as installer:
            await begin(board, third)
            await board.until(lambda: state(board, third) is UpdateState.CONFIRMED)
            await begin(board, big)
            await begin(board, second, num_bundles=0)
            return [(entry.handle, entry.state) for entry in installer.status().updates]

    assert asyncio.run(run()) == [
        (second.handle, UpdateState.RECEIVING),
        (big.handle, UpdateState.RECEIVING),
        (third.handle, UpdateState.CONFIRMED),
    ]


def test_the_metadata_of_a_big_update_may_come_after_that_of_the_urgent_one_that_overtook_it(board, ground):
    big = urgent_update(ground, BIG)
    urgent = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await board.deliver(urgent)
            assert await board.hand_over(big.metadata, ObjectKind.METADATA) is Fate.USED
            assert board.record.accepted == 2
            await board.deliver(big)
            await board.until_ended(installer)
            assert installer.is_complete(big.handle)

    asyncio.run(run())
    assert state(board, big) is state(board, urgent) is UpdateState.CONFIRMED
    assert board.record.accepted == 2


def test_an_update_that_is_not_beside_ends_all_older_ones_and_they_never_come_back(board, ground, big):
    urgent, last = urgent_update(ground), urgent_update(ground, {**BIG, "c.bin": b"c"}, beside=False)

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            await begin(board, urgent, num_bundles=0)
            await board.hand_over(last.metadata, ObjectKind.METADATA)
            assert not any(map(installer.is_wanted, (*handles(big), *handles(urgent))))
            assert all(map(installer.is_complete, (*handles(big), *handles(urgent), big.handle, urgent.handle)))
            await board.deliver(last)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    for update in (big, urgent):
        assert state(board, update) is UpdateState.CANCELLED
        assert receipt(board, update)["reason"] == "superseded"
        assert not board.layout.release_part(update.digest).exists()


def test_a_late_update_that_is_not_beside_leaves_newer_ones_alone(board, ground, big):
    late, urgent = ground.make_update({**NEW, "d.bin": b"d"}), urgent_update(ground)

    async def run():
        async with board.life():
            await begin(board, urgent, num_bundles=0)
            await begin(board, late, num_bundles=0)
            assert await board.hand_over(big.metadata, ObjectKind.METADATA) is Fate.USED

    asyncio.run(run())
    assert [update.handle for update in board.record.pending] == [urgent.handle, late.handle]
    assert board.record.update(big.handle) is None


def test_a_confirmed_floor_ends_pending_updates_below_it(board, ground, big):
    urgent = urgent_update(ground, floor=2)

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            await board.deliver(urgent)
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, urgent) is UpdateState.CONFIRMED
    assert (state(board, big), board.record.update(big.handle).reason) == (UpdateState.REJECTED, Reason.ROLLBACK)
    assert "forbids" in receipt(board, big)["text"]
    assert not board.layout.release_part(big.digest).exists()


def test_a_floor_that_a_cut_kept_from_ending_others_does_so_in_the_next_life(board, ground, big):
    urgent = urgent_update(ground, floor=2)

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            await board.deliver(urgent)
            await board.until_ended(installer)

    async def rest():
        async with board.life() as installer:
            await board.deliver(big)
            await board.until_ended(installer)

    board.crash_point.at = "confirmed"
    with pytest.raises(PowerCutError):
        asyncio.run(run())
    board.crash_point.at = None
    asyncio.run(rest())
    assert (state(board, big), board.record.update(big.handle).reason) == (UpdateState.REJECTED, Reason.ROLLBACK)
    assert board.record.current == urgent.digest == board.serving.release


def test_the_base_of_every_pending_update_stays_and_goes_when_the_last_one_has_ended(tmp_path, ground):
    board = Board(tmp_path, ground, keep_releases=1)
    old = board.provision(OLD)
    big = ground.make_update(BIG, base=OLD, canary=canary_for(BIG))
    urgent = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await begin(board, big, num_bundles=0)
            await board.deliver(urgent)
            await board.until(lambda: state(board, urgent) is UpdateState.CONFIRMED and not installer.is_busy)
            assert board.record.release(old) is not None
        async with board.life() as installer:
            assert board.record.release(old) is not None
            await installer.cancel(big.handle)
            await board.until_ended(installer)

    asyncio.run(run())
    assert [known.digest for known in board.record.releases] == [urgent.digest]
    assert not board.layout.release(old).exists()


def test_an_update_that_builds_on_a_pending_one_waits_for_it_and_goes_on_at_once(board, ground):
    board.retry_s = 3600.0
    first = urgent_update(ground, NEW)
    second = urgent_update(ground, BIG, base=NEW)

    async def run():
        async with board.life() as installer:
            await begin(board, first, num_bundles=0)
            await board.deliver(second)
            entry = installer.status().first
            assert (entry.state, entry.reason) == (UpdateState.BLOCKED, Reason.BASE_MISSING)
            await board.deliver(first)
            await board.until(lambda: state(board, second) is UpdateState.RECEIVING)
            await board.deliver(second)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert board.record.current == second.digest


def test_one_update_too_many_waits_with_a_reason_until_another_has_ended(board, ground):
    updates = [urgent_update(ground, {**NEW, "n.bin": bytes([n])}) for n in range(PENDING_MAX + 1)]
    *pending, waiting = updates

    async def run():
        async with board.life() as installer:
            for update in pending:
                await begin(board, update, num_bundles=0)
            assert await board.hand_over(waiting.metadata, ObjectKind.METADATA) is Fate.KEPT
            assert board.telemetry.counters()["update_waits"] == 1
            assert [entry.handle for entry in installer.status().updates] == [u.handle for u in reversed(pending)]
            await installer.cancel(pending[0].handle)
            entry = installer.status().updates[-1]  # nobody needs the seat
            assert (entry.handle, entry.state, entry.reason) == (
                waiting.handle,
                UpdateState.BLOCKED,
                Reason.TOO_MANY_UPDATES,
            )
            offers = board.offers
            await board.deliver(pending[1])
            await board.until(lambda: state(board, pending[1]) is UpdateState.CONFIRMED)
            assert board.offers > offers
            await board.deliver(waiting)
            await board.until(lambda: state(board, waiting) is UpdateState.CONFIRMED)

    asyncio.run(run())


def test_an_update_that_waits_for_room_can_be_cancelled(board, ground):
    updates = [urgent_update(ground, {**NEW, "n.bin": bytes([n])}) for n in range(PENDING_MAX + 1)]

    async def run():
        async with board.life() as installer:
            for update in updates:
                await board.hand_over(update.metadata, ObjectKind.METADATA)
            await installer.cancel(updates[-1].handle)
            assert await board.hand_over(updates[-1].metadata, ObjectKind.METADATA) is Fate.USED
            assert installer.refusal_of(updates[-1].handle) is Reason.COMMANDED

    asyncio.run(run())
    assert len(board.record.pending) == PENDING_MAX


def test_while_one_is_tried_another_takes_metadata_and_bundles_and_is_tried_next(tmp_path, ground):
    board = Board(tmp_path, ground)
    board.provision(OLD)
    first, second = urgent_update(ground, NEW), urgent_update(ground)

    async def run():
        async with board.life() as installer:
            load, gate, asked = board.serving.load, asyncio.Event(), []

            async def load_slowly(digest, **options):
                asked.append(digest)
                await gate.wait()
                await load(digest, **options)

            board.serving.load = load_slowly
            await board.deliver(first)
            await board.until(lambda: asked == [first.digest])
            await board.deliver(second)
            await board.until(lambda: state(board, second) is UpdateState.VERIFIED)
            await asyncio.sleep(0.01)
            assert state(board, first) is UpdateState.TRIAL
            assert asked == [first.digest]
            gate.set()
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, first) is state(board, second) is UpdateState.CONFIRMED
    assert [what for what in board.serving.history if what[0] != "unload"] == [
        ("load", first.digest),
        ("flip", first.digest),
        ("load", second.digest),
        ("flip", second.digest),
    ]


def test_of_those_that_are_ready_the_newest_is_tried_first(board, ground):
    first, second = urgent_update(ground, NEW), urgent_update(ground)

    async def run():
        async with board.life() as installer:
            board.serving.is_up = False
            await board.deliver(second)
            await board.deliver(first)
            await board.until(lambda: all(u.state is UpdateState.VERIFIED for u in board.record.pending))
            board.serving.is_up = True
            installer.wake()
            await board.until_ended(installer)

    asyncio.run(run())
    assert [digest for what, digest in board.serving.history if what == "flip"] == [second.digest, first.digest]


def test_no_trial_begins_before_the_release_that_was_replaced_has_let_go_of_its_memory(board, ground):
    first, second = urgent_update(ground, NEW), urgent_update(ground)

    async def run():
        async with board.life() as installer:
            gate, drain = asyncio.Event(), board.serving.drain

            async def drain_slowly(digest, *, timeout_s):
                await gate.wait()
                await drain(digest, timeout_s=timeout_s)

            board.serving.drain = drain_slowly
            await board.deliver(first)
            await board.deliver(second)
            await board.until(lambda: len(board.record.ended) == 1)
            await asyncio.sleep(0.02)
            assert len(board.serving.loaded) == 2
            assert len(board.record.pending) == 1
            gate.set()
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, first) is state(board, second) is UpdateState.CONFIRMED


def test_a_failed_trial_leaves_the_other_update_alone(board, ground, big):
    urgent = urgent_update(ground)
    board.serving.answers_wrongly.add(urgent.digest)

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            await board.deliver(urgent)
            await board.until(lambda: state(board, urgent) is UpdateState.REJECTED)
            await board.deliver(big)
            return await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, big) is UpdateState.CONFIRMED
    assert board.record.current == big.digest


def test_each_of_them_can_be_cancelled_and_the_others_go_on(board, ground, big):
    urgent = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            await begin(board, urgent, num_bundles=0)
            await installer.cancel(big.handle)
            with pytest.raises(UnknownError):
                await installer.cancel(big.handle)
            assert not board.layout.release_part(big.digest).exists()
            await board.deliver(urgent)
            await board.until_ended(installer)

    asyncio.run(run())
    assert (state(board, big), state(board, urgent)) == (UpdateState.CANCELLED, UpdateState.CONFIRMED)


def test_a_restart_goes_on_with_all_of_them_and_remembers_those_that_ended(board, ground, big):
    urgent, done = urgent_update(ground), urgent_update(ground, NEW)

    async def first_life():
        async with board.life() as installer:
            await begin(board, big, num_bundles=5)
            await board.deliver(done)
            await board.until(lambda: state(board, done) is UpdateState.CONFIRMED and not installer.is_busy)
            await begin(board, urgent, num_bundles=0)
            return installer.status()

    async def second_life():
        async with board.life() as installer:
            status = installer.status()
            assert all(map(installer.is_complete, (*handles(done), *handles(big)[:5], big.handle, urgent.handle)))
            assert not any(map(installer.is_complete, (*handles(urgent), *handles(big)[5:])))
            await board.deliver(urgent)
            await board.deliver(big)
            await board.until_ended(installer)
            return status

    done = urgent_update(ground, NEW)
    urgent = urgent_update(ground)
    before, after = asyncio.run(first_life()), asyncio.run(second_life())
    assert before.updates == after.updates
    assert {update.state for update in board.record.ended} == {UpdateState.CONFIRMED}


def test_a_full_disk_holds_the_update_that_finds_no_room_and_it_goes_on_when_another_has_ended(
    board, ground, big, monkeypatch
):
    board.retry_s = 3600.0
    urgent = urgent_update(ground)
    open_assembly = assemble.Assembly.open

    def open_if_alone(part, plan, **options):
        if part == board.layout.release_part(big.digest) and board.record.is_pending(urgent.handle):
            raise assemble.InstallError("no room", reason=Reason.DISK_FULL)
        return open_assembly(part, plan, **options)

    monkeypatch.setattr(assemble.Assembly, "open", open_if_alone)

    async def run():
        async with board.life() as installer:
            await begin(board, urgent, num_bundles=0)
            await board.hand_over(big.metadata, ObjectKind.METADATA)
            entries = {entry.handle: (entry.state, entry.reason) for entry in installer.status().updates}
            assert entries == {
                big.handle: (UpdateState.BLOCKED, Reason.DISK_FULL),
                urgent.handle: (UpdateState.RECEIVING, Reason.NONE),
            }
            assert await board.hand_over(big.bundles[0], ObjectKind.BUNDLE) is Fate.KEPT
            await board.deliver(urgent)
            await board.until(lambda: state(board, big) is UpdateState.RECEIVING)
            await board.deliver(big)
            return await board.until_ended(installer)

    big = urgent_update(ground, BIG)
    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_an_update_signed_again_takes_the_place_of_the_old_one_and_keeps_what_was_built(board, ground, big):
    again = ground.sign_again(big, beside=True)

    async def run():
        async with board.life() as installer:
            await begin(board, big, num_bundles=5)
            await board.hand_over(again.metadata, ObjectKind.METADATA)
            entry = installer.status().first
            assert (entry.handle, entry.bundle_ranges) == (again.handle, ((0, 4),))
            assert all(map(installer.is_complete, handles(again)[:5]))
            assert all(map(installer.is_wanted, handles(again)[5:]))
            await board.deliver(again)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED
    assert (state(board, big), board.record.update(big.handle).reason) == (UpdateState.CANCELLED, Reason.SUPERSEDED)


def test_a_sealed_release_whose_update_is_signed_again_needs_no_bundle(board, ground, big):
    again = ground.sign_again(big)

    async def run():
        async with board.life() as installer:
            board.serving.is_up = False
            await board.deliver(big)
            await board.until(lambda: state(board, big) is UpdateState.VERIFIED)
            await board.hand_over(again.metadata, ObjectKind.METADATA)
            assert all(map(installer.is_complete, handles(again)))
            board.serving.is_up = True
            installer.wake()
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


def test_an_older_signature_that_comes_late_does_not_replace_the_newer_one(board, ground):
    first = urgent_update(ground, BIG)
    again = ground.sign_again(first)

    async def run():
        async with board.life():
            await begin(board, again, num_bundles=1)
            assert await board.hand_over(first.metadata, ObjectKind.METADATA) is Fate.USED
            assert [update.handle for update in board.record.pending] == [again.handle]
        async with board.life() as installer:
            await installer.cancel(again.handle)
        async with board.life():
            assert await board.hand_over(first.metadata, ObjectKind.METADATA) is Fate.USED

    asyncio.run(run())
    assert board.record.pending == ()


def test_a_revert_interrupts_a_trial_which_is_made_again_and_does_not_count(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=0.0, keep_releases=3)
    old = board.provision(OLD)
    asyncio.run(board.fly(urgent_update(ground, NEW)))
    board.options = type(board.options)(probation_s=0.3, keep_releases=3)
    update = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            await board.until(lambda: board.serving.release == update.digest)
            reverted = await installer.revert(None)
            assert (reverted.known.digest, reverted.interrupted) == (old, update.handle)
            assert board.serving.history[-1] == ("flip", old)
            entry = board.record.update(update.handle)
            assert (entry.state, entry.attempts) == (UpdateState.VERIFIED, 0)
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, update) is UpdateState.CONFIRMED
    assert board.record.previous == old


def test_a_revert_to_what_serves_interrupts_nothing(tmp_path, ground):
    board = Board(tmp_path, ground)
    old = board.provision(OLD)
    update = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            load, gate = board.serving.load, asyncio.Event()

            async def load_slowly(digest, **options):
                await gate.wait()
                await load(digest, **options)

            board.serving.load = load_slowly
            await board.deliver(update)
            await board.until(lambda: state(board, update) is UpdateState.TRIAL)
            reverting = asyncio.create_task(installer.revert(old))
            await asyncio.sleep(0.01)
            gate.set()
            assert (await reverting).interrupted is None
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, update) is UpdateState.CONFIRMED


def test_what_is_signed_is_told_from_what_is_wanted_and_from_what_is_of_nobody(board, ground, big):
    stranger = urgent_update(ground)

    async def run():
        async with board.life() as installer:
            await begin(board, big, num_bundles=1)
            assert all(map(installer.is_signed, (big.handle, *handles(big))))
            assert not installer.is_wanted(handles(big)[0])
            assert installer.is_wanted(handles(big)[1])
            assert [installer.update_of(handle) for handle in handles(big)[:2]] == [None, big.handle]
            assert not any(map(installer.is_signed, (stranger.handle, *handles(stranger))))
            assert not any(map(installer.is_wanted, handles(stranger)))
            await installer.cancel(big.handle)
            assert not any(map(installer.is_signed, (big.handle, *handles(big))))

    asyncio.run(run())


def test_refused_metadata_never_takes_the_place_of_a_trusted_update(board, ground, big):
    stranger = FakeGround(seed=b"somebody else")

    async def run():
        async with board.life() as installer:
            forged = stranger.make_update(NEW)
            await board.hand_over(forged.metadata, ObjectKind.METADATA)
            (entry,) = installer.status().updates  # nothing else is to be told
            assert (entry.handle, entry.state, entry.reason) == (
                forged.handle,
                UpdateState.REJECTED,
                Reason.UNSIGNED,
            )
            await begin(board, big)
            forged = stranger.make_update(OLD)
            await board.hand_over(forged.metadata, ObjectKind.METADATA)
            assert [entry.handle for entry in installer.status().updates] == [big.handle, forged.handle]
            await installer.cancel(big.handle)
            assert [entry.handle for entry in installer.status().updates] == [big.handle, forged.handle]

    asyncio.run(run())


def test_two_pending_updates_never_share_a_directory(board, ground, big):
    urgent = urgent_update(ground)

    async def run():
        async with board.life():
            await begin(board, big)
            await begin(board, urgent, num_bundles=0)
            return {path.name for path in board.layout.releases.iterdir()}

    assert asyncio.run(run()) == {
        digest_of(OLD).hex()[:16],
        board.layout.release_part(big.digest).name,
        board.layout.release_part(urgent.digest).name,
    }


def test_metadata_that_the_disk_does_not_take_stops_no_pending_update(board, ground, big, monkeypatch):
    from onboard.installer import intake

    urgent = urgent_update(ground, beside=False)

    def refuse(state_dir, update):
        raise StoreFullError("write: no space (a test says so)")

    async def run():
        async with board.life() as installer:
            await begin(board, big)
            monkeypatch.setattr(intake, "keep_update", refuse)
            assert await board.hand_over(urgent.metadata, ObjectKind.METADATA) is Fate.KEPT
            entries = installer.status().updates
            assert [entry.handle for entry in entries] == [big.handle, urgent.handle]
            assert (entries[1].state, entries[1].reason) == (UpdateState.BLOCKED, Reason.DISK_FULL)
            await board.deliver(big)
            await board.until(lambda: state(board, big) is UpdateState.CONFIRMED)

    asyncio.run(run())


@pytest.mark.parametrize("ends_with", [None, Reason.DISK_FULL, Reason.DISK_FAILED])
def test_an_update_can_be_cancelled_while_room_is_made_for_it(board, ground, big, monkeypatch, ends_with):
    open_assembly, has_begun, may_end = assemble.Assembly.open, threading.Event(), threading.Event()

    def open_slowly(part, plan, **options):
        has_begun.set()
        assert may_end.wait(45)
        if ends_with is not None:
            raise assemble.InstallError("a test says so", reason=ends_with)
        return open_assembly(part, plan, **options)

    monkeypatch.setattr(assemble.Assembly, "open", open_slowly)

    async def run():
        async with board.life() as installer:
            taking = asyncio.create_task(board.hand_over(big.metadata, ObjectKind.METADATA))
            await board.until(has_begun.is_set)
            cancelling = asyncio.create_task(installer.cancel(big.handle))
            await asyncio.sleep(0.01)
            may_end.set()
            await cancelling
            assert await taking is Fate.USED
            await board.until_ended(installer)

    asyncio.run(run())
    assert state(board, big) is UpdateState.CANCELLED
    assert not board.layout.release_part(big.digest).exists()


def test_a_revert_while_a_trial_fails_does_not_say_that_it_interrupted_it(tmp_path, ground):
    board = Board(tmp_path, ground, keep_releases=3)
    old = board.provision(OLD)
    asyncio.run(board.fly(urgent_update(ground, NEW)))
    update = urgent_update(ground)
    board.serving.answers_wrongly.add(update.digest)

    async def run():
        async with board.life() as installer:
            await board.deliver(update)
            await board.until(lambda: state(board, update) is UpdateState.REJECTED)
            reverted = await installer.revert(None)
            assert (reverted.known.digest, reverted.interrupted) == (old, None)
            await board.until_ended(installer)

    asyncio.run(run())
    assert receipt(board, update)["reason"] == "canary_failed"
