"""Media that a disk may leave which reorders what was not flushed: a sample of `make bench NAME=durability`."""

import random
from dataclasses import replace

import pytest

from tests.power.block_log import Entry, crash_state, make_medium, missing
from tests.power.images import EXT4, XFS, Lab
from tests.power.images import missing as missing_disk
from tests.power.mistakes import MISTAKES
from tests.power.replay import Replay
from tests.power.scenarios import SCENARIOS

SEED = 20261122
MEDIA = 3


@pytest.fixture
def replay_of(tmp_path):
    made = []

    def make(kind, scenario):
        if reason := missing() or missing_disk(kind):
            pytest.skip(reason)
        lab = Lab(kind=kind, directory=tmp_path / "images", mount_point=tmp_path / "mount")
        made.append(Replay(lab, scenario, tmp_path))
        return made[-1]

    yield make
    for replay in made:
        replay.close()


@pytest.mark.power
@pytest.mark.parametrize("kind", [EXT4, XFS], ids=lambda kind: kind.name)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_whatever_a_disk_kept_of_what_was_not_flushed_nothing_is_broken(replay_of, scenario, kind):
    replay = replay_of(kind, scenario)
    rng = random.Random(f"{SEED} {scenario.name} {kind.name}")
    tally = replay.run(replay.sample(MEDIA, rng), rng)

    assert [str(broken) for broken in tally.broken] == []
    assert any(entry.is_flush for entry in replay.entries)


@pytest.mark.power
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["a release's file is not synced", "the trust record is not synced"])
def test_replaying_sees_a_mistake(replay_of, name):
    mistake = next(mistake for mistake in MISTAKES if mistake.name == name)
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == mistake.story)

    def run(mount_point, say):
        mistake.make()
        scenario.run(mount_point, say)

    replay = replay_of(EXT4, replace(scenario, run=run))
    rng = random.Random(SEED)
    for moment in replay.sample(150, rng):
        if replay.run([moment], rng).broken:
            return
    pytest.fail("150 media, and nothing broken was seen")


def test_a_medium_has_all_that_was_flushed_and_any_of_the_rest(tmp_path):
    base = tmp_path / "base"
    base.write_bytes(bytes(8 * 4096))
    entries = [
        Entry(1, 0, b"a" * 4096), Entry(2), Entry(3, 4096, b"b" * 8192), Entry(4, 0, b"c" * 4096), Entry(5),
    ]  # fmt: skip
    seen = set()
    for seed in range(60):
        state = crash_state(entries, 4, random.Random(seed))
        make_medium(base, entries, state, tmp_path / "medium")
        medium = (tmp_path / "medium").read_bytes()
        seen.add("".join(chr(medium[at * 4096] or ord("-")) for at in range(4)))
    assert seen == {first + second + third + "-" for first in "ac" for second in "-b" for third in "-b"}
    make_medium(base, entries, crash_state(entries, 5, random.Random(1)), tmp_path / "medium")
    assert (tmp_path / "medium").read_bytes()[:12288:4096] == b"cbb"
