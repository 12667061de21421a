"""The power is really cut, on real file systems: a sample of what `make bench NAME=durability` does in full."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.power.images import EXT4, EXT4_PLAIN, XFS, Cut, Lab, missing, quick_place
from tests.power.mistakes import MISTAKES
from tests.power.scenarios import SCENARIOS
from tests.power.sweep import Sweep

pytestmark = pytest.mark.power
SEED = 20261122
CUTS = 2  # of each story, on each file system
RECOVERY_CUTS_MAX = 1
SAMPLE = [(EXT4, Cut.LOST), (EXT4_PLAIN, Cut.JOURNALED), (XFS, Cut.LOST)]


@pytest.fixture
def lab_of(tmp_path):
    with tempfile.TemporaryDirectory(prefix="skyload-power-", dir=quick_place()) as images:

        def make(kind):
            if reason := missing(kind):
                pytest.skip(reason)
            return Lab(kind=kind, directory=Path(images), mount_point=tmp_path / "mount")

        yield make


@pytest.mark.parametrize(("kind", "how"), SAMPLE, ids=lambda each: each.name.lower())
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_power_cut_leaves_a_satellite_that_serves_and_goes_on(lab_of, scenario, kind, how):
    sweep = Sweep(lab_of(kind), scenario, how)
    rng = random.Random(f"{SEED} {scenario.name} {kind.name} {how}")
    tally = sweep.run(rng.sample(range(sweep.num_steps), CUTS), recovery_cuts_max=RECOVERY_CUTS_MAX)

    assert [str(broken) for broken in tally.broken] == []
    assert tally.cuts >= CUTS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_the_sweep_sees_a_mistake(lab_of, mistake):
    lab = lab_of(EXT4)
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == mistake.story)

    def run(mount_point, say):
        mistake.make()
        scenario.run(mount_point, say)

    sweep = Sweep(lab, replace(scenario, run=run), mistake.how)
    steps = sweep.peaceful.steps
    near = [number + 1 for number, step in enumerate(steps[:-1]) if mistake.shows_after(*step)]
    assert sweep.find(reversed(near)) is not None
