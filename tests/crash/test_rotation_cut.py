"""The power is cut at every point of a rotation, alone or within an update: the old root or the new one, never none.

Whatever is cut, what was counted stays counted: (epoch, accepted) never goes back, and neither does the root's version.
"""

import asyncio
import contextlib

import pytest

from onboard.store.roots import read_root_copies
from protocol.objects import ObjectKind, object_handle
from protocol.roots import read_root
from tests.fakes.onboard import Board, Cutter, PowerCutError
from tests.fakes.rotation import rotation, successor
from tests.fakes.updates import FakeGround

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(256)}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256))}
POINTS = {
    "a rotation": ("root-kept", "root-rotated"),
    "a new epoch": ("root-kept", "root-rotated", "ended"),
    "an update with a root": ("root-kept", "root-rotated", "metadata-kept", "accepted"),
    "an update with a new epoch": ("root-kept", "root-rotated", "metadata-kept", "accepted", "ended"),
}


def arrivals(kind, ground, big):
    """The objects that come, oldest first, and the root that they lead to."""
    new, root = successor(ground, epoch=1 if "epoch" in kind else None)
    if "update" not in kind:
        return [big.metadata, rotation(root)], root
    update = new.make_update({**NEW, "config.json": b"{}"}, version=2)
    return [big.metadata, new.sign_manifest(update.manifest, 2, roots=(root,))], root


def live(board, objects):
    """One life that takes what comes; returns what is durable before each."""
    seen = []

    async def run():
        async with board.life() as installer:
            for data in objects:
                record = board.record
                seen.append((record.epoch, record.accepted, record.root_version))
                if not installer.is_complete(object_handle(data)):
                    await board.hand_over(data, ObjectKind.METADATA)

    with contextlib.suppress(PowerCutError):
        asyncio.run(run())
    return seen


def standing(board):
    record = board.record
    root = read_root_copies(board.layout, record.root_digest)
    assert root is not None, "the record names a root that is not there"
    assert read_root(root).version == record.root_version
    return record.epoch, record.accepted, record.root_version


def test_the_points_are_those_that_are_passed(tmp_path):
    for number, (kind, points) in enumerate(POINTS.items()):
        ground = FakeGround()
        board = Board(tmp_path / str(number), ground)
        board.provision(OLD)
        objects, _ = arrivals(kind, ground, ground.make_update(NEW))
        live(board, objects[:1])
        board.crash_point = Cutter()
        live(board, objects[1:])
        assert set(points) <= set(board.crash_point.names)


@pytest.mark.parametrize(("kind", "point"), [(kind, point) for kind, points in POINTS.items() for point in points])
def test_a_cut_leaves_the_old_root_or_the_new_one_and_the_next_life_goes_on(tmp_path, kind, point):
    ground = FakeGround()
    board = Board(tmp_path, ground)
    board.provision(OLD)
    objects, root = arrivals(kind, ground, ground.make_update(NEW))
    live(board, objects[:1])
    board.crash_point = Cutter(point)
    before = live(board, objects[1:])[-1]
    assert board.crash_point.is_cut
    after = standing(board)
    assert after[0] > before[0] or after[:2] >= before[:2]
    assert after[2] >= before[2]

    board.crash_point = Cutter()
    live(board, objects)
    end = standing(board)
    assert end[2] == read_root(root).version == 2
    assert (end[0] > after[0]) or end[:2] >= after[:2]
    assert len(list(board.layout.state_dir.glob("root-*"))) == 3
    if "epoch" in kind:
        assert not board.record.is_pending(object_handle(objects[0]))
