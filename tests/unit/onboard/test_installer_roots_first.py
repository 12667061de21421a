"""Roots are followed before what they come with, and whatever becomes of it: a revocation counts at once, for ever."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from onboard.errors import StoreFullError
from onboard.installer import intake
from onboard.installer.core import Fate
from onboard.store.roots import root_paths
from protocol.metadata import MetadataBundle
from protocol.objects import ObjectKind, object_handle
from protocol.report import Reason, UpdateState
from protocol.trust import command_keys
from tests.fakes.onboard import Board
from tests.fakes.rotation import rotation, successor
from tests.fakes.updates import FakeGround

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(256)}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256))}
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    board = Board(tmp_path, ground)
    board.provision(OLD)
    return board


def in_one_life(board, *objects):
    """Hand objects over; returns the last fate, why the last was refused, and the trusted root."""

    async def run():
        async with board.life() as installer:
            fate = [await board.hand_over(data, ObjectKind.METADATA) for data in objects][-1]
            return fate, installer.refusal_of(object_handle(objects[-1])), installer.root

    return asyncio.run(run())


def with_parts(data, **changes):
    return replace(MetadataBundle.decode(data), **changes).encode()


def refused_updates(ground, new, root):
    """Updates that bring a good root and are refused for another reason, and the reason."""
    good = new.make_update(NEW, version=2)
    signed = new.sign_manifest(good.manifest, 2, roots=(root,))
    other = new.make_update(NEW, version=2, satellites=("SAT-9",))
    first = new.make_update(NEW, version=1)
    late = replace(new, expires=PAST)
    return {
        Reason.WRONG_SATELLITE: new.sign_manifest(other.manifest, 2, roots=(root,)),
        Reason.UNSIGNED: ground.sign_manifest(good.manifest, 2, roots=(root,)),  # by the keys that the root takes away
        Reason.REPLAYED: new.sign_manifest(first.manifest, 1, roots=(root,)),
        Reason.EXPIRED: late.sign_manifest(good.manifest, 2, roots=(root,)),
        Reason.MIXED: with_parts(signed, manifest=first.manifest.encode()),
        Reason.MALFORMED: with_parts(signed, timestamp=b"{"),
        Reason.ROOT_UNSIGNED: with_parts(signed, roots=(root, replace(new, root_version=3, seed=b"thief").root)),
        Reason.ROLLBACK: with_parts(signed, roots=(root, replace(new, root_version=4).root)),
    }


REASONS = sorted(refused_updates(FakeGround(), *successor(FakeGround())))


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_a_revocation_that_comes_with_a_refused_update_counts_and_is_durable(board, ground, reason):
    pending = ground.make_update(NEW, version=1)
    new, root = successor(ground)
    board.utc = datetime(2026, 11, 22, tzinfo=UTC)
    fate, refusal, trusted = in_one_life(board, pending.metadata, refused_updates(ground, new, root)[reason])
    assert (fate, refusal, trusted) == (Fate.USED, reason, root)
    assert (board.record.root_version, board.record.accepted) == (2, 1)  # all or nothing of the rest stays
    assert [entry.handle for entry in board.record.pending] == [pending.handle]
    assert {path.read_bytes() for path in root_paths(board.layout, board.record.root_digest)} == {root}

    by_revoked_keys = ground.make_update(NEW, version=3)
    _, refusal, trusted = in_one_life(board, by_revoked_keys.metadata)  # the next life
    assert (refusal, command_keys(trusted)) == (Reason.UNSIGNED, command_keys(new.root))


@pytest.mark.parametrize("fault", ["unsigned", "skipped", "unreadable", "none"])
def test_a_root_that_is_not_good_changes_nothing(board, ground, fault):
    new, _ = successor(ground)
    faulty = {
        "unsigned": new.root,
        "skipped": replace(ground, root_version=3).root,
        "unreadable": b"{",
        "none": ground.root,
    }
    update = ground.make_update(NEW)
    before = board.record
    assert in_one_life(board, with_parts(update.metadata, roots=(faulty[fault],), manifest=b"x"))[0] is Fate.USED
    assert replace(board.record, boot_count=before.boot_count, nonces=before.nonces) == before


def test_a_root_counts_though_its_update_has_to_wait(board, ground):
    async def run():
        async with board.life() as installer:
            for number in range(4):
                update = ground.make_update({**NEW, "config.json": b"%d" % number}, beside=True)
                await board.hand_over(update.metadata, ObjectKind.METADATA)
            new, root = successor(ground)
            fifth = new.make_update(NEW, version=5, beside=True)
            data = new.sign_manifest(fifth.manifest, 5, roots=(root,))
            assert await board.hand_over(data, ObjectKind.METADATA) is Fate.KEPT
            assert not installer.is_complete(object_handle(data))
            return installer.root == root, installer.status().root_version

    assert asyncio.run(run()) == (True, 2)
    assert board.record.root_version == 2
    assert len(board.record.pending) == 4


def test_a_root_that_has_expired_meanwhile_is_followed_and_the_ground_hears_why_it_is_of_no_use(board, ground):
    """TUF 1.0.34, 5.3.8 before 5.3.10: else whoever keeps a root back until it expires keeps what it revokes."""
    board.utc = datetime(2026, 11, 22, tzinfo=UTC)
    _, root = successor(replace(ground, expires=PAST))
    fate, refusal, trusted = in_one_life(board, rotation(root))
    assert (fate, refusal, trusted) == (Fate.USED, Reason.EXPIRED, root)
    assert board.record.root_version == 2


def test_a_new_epoch_that_comes_with_a_refused_update_ends_what_is_pending(board, ground):
    stolen = ground.make_update(NEW, version=2**31, sequence=2**31)
    new, root = successor(ground, epoch=1)
    update = new.make_update(NEW, version=1, satellites=("SAT-9",))
    refusal = in_one_life(board, stolen.metadata, new.sign_manifest(update.manifest, 1, roots=(root,)))[1]
    assert refusal is Reason.WRONG_SATELLITE
    assert (board.record.epoch, board.record.accepted, board.record.pending) == (1, 0, ())


def test_a_disk_that_refuses_the_root_keeps_the_update_waiting(board, ground, monkeypatch):
    new, root = successor(ground)
    update = new.make_update(NEW)
    data = new.sign_manifest(update.manifest, 1, roots=(root,))

    def refuse(*_):
        raise StoreFullError("write: no space left on device")

    async def run():
        async with board.life() as installer:
            with monkeypatch.context() as patch:
                patch.setattr(intake, "keep_root", refuse)
                assert await board.hand_over(data, ObjectKind.METADATA) is Fate.KEPT
                assert installer.root == ground.root
                assert installer.status().first.reason is Reason.DISK_FULL
            assert await board.hand_over(data, ObjectKind.METADATA) is Fate.USED
            return installer.status().first.state, installer.root

    assert asyncio.run(run()) == (UpdateState.RECEIVING, root)
