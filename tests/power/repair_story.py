"""The story of a repair from the ground: what a release lost is received, and its files take their places again.

The release has a guard, and damage beyond it: a file that is gone, an empty one that is gone, blocks of a large one
that share a group. Another release serves, and has to go on. Whatever is interrupted, each file of the damaged release
is as it was or right, and right once the repair is confirmed, said or only recorded.
"""

import asyncio
import hashlib
import random
from dataclasses import replace
from functools import cache

from onboard.installer.release import ReleaseDirectory
from onboard.scrub.core import LEAF_SIZE
from onboard.scrub.guard import GUARD_NAMES, PARITY_NAME, build_guard
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from onboard.store.record import RecordStore
from protocol.bundle import BundleHeader
from protocol.manifest import BundleEntry, bundle_digest
from tests.fakes.updates import FakeGround, digest_of, make_bundles
from tests.power.stories import OLD, PowerBoard, fly_update, look_at_serving

FILES = {
    "config.json": b'{"lost": 1}',
    "empty.txt": b"",
    "model.bin": random.Random(5).randbytes(5 * LEAF_SIZE),
    "tokenizer.json": random.Random(6).randbytes(500),
}
_LOST_FROM = 2 * LEAF_SIZE  # of the model: blocks of one group
_GUARD = {}  # by where: what it was before any damage


@cache
def the_repair():
    """What was lost in full, the rest as copies of the release itself."""
    ground = FakeGround()
    full = ground.make_update(FILES)
    there = {"model.bin": FILES["model.bin"][:_LOST_FROM], "tokenizer.json": FILES["tokenizer.json"]}
    base = {name: there.get(name, b"") for name in FILES}
    key = ground._secret("release key 1 1")  # which the metadata wraps
    bundles = make_bundles(FILES, base, digest=full.digest, key=key, segment_size=LEAF_SIZE, bundle_size=2 * LEAF_SIZE)
    return replace(ground.sign_again(full, base=full.digest, bundles=tuple(map(_entry, bundles))), bundles=bundles)


def _entry(bundle):
    rows = BundleHeader.decode(bundle).rows
    return BundleEntry(
        size_bytes=len(bundle), digest=bundle_digest(hashlib.sha256(bundle).digest()), num_segments=len(rows)
    )


def damaged_beyond_its_guard(mount_point):
    """One release serves; what another one lost its guard cannot give back."""
    the_repair()
    board = PowerBoard(mount_point)
    directory = board.layout.release(board.provision(FILES, "damaged"))
    build_guard(directory, ReleaseDirectory.open(directory, digest_of(FILES)).files, digest_of(FILES), RealDisk())
    _GUARD[mount_point] = {name: (directory / name).read_bytes() for name in (*GUARD_NAMES, PARITY_NAME)}
    for name in ("config.json", "empty.txt"):
        (directory / name).unlink()
    (directory / "model.bin").write_bytes(_damaged_model())
    board.provision(OLD)


def _damaged_model():
    return FILES["model.bin"][:_LOST_FROM] + bytes(len(FILES["model.bin"]) - _LOST_FROM)


def repair(mount_point, say):
    """A repair is received, built, and put back."""
    asyncio.run(fly_update(PowerBoard(mount_point, keep_releases=2), the_repair(), say, word="repaired"))


def look_at_repaired(mount_point, said):
    """What must hold after any cut: what serves is whole, and what is repaired is no worse."""
    yield from look_at_serving(mount_point, said, but={digest_of(FILES)})
    layout = StateLayout(mount_point / "state")
    record = RecordStore(layout.record).load()
    if record.release(digest_of(FILES)) is None:
        yield "the record forgot what is to be repaired"
    directory = layout.release(digest_of(FILES))
    damaged = {**FILES, "config.json": None, "empty.txt": None, "model.bin": _damaged_model()}
    is_done = bool(said.get("repaired") or record.ended)
    for name, right in FILES.items():
        if _read(directory / name) not in ((right,) if is_done else (right, damaged[name])):
            yield f"{name} is neither as it was nor repaired"
    for name, right in _GUARD[mount_point].items():
        if _read(directory / name) != right:
            yield f"{name} has changed"


def _read(path):
    return path.read_bytes() if path.exists() else None
