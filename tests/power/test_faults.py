"""System calls that fail, and kills at any of them: a sample of what `make bench NAME=durability` does."""

import random
from dataclasses import replace

import pytest

from tests.power.faults import Fault, FaultSweep, Kind, missing
from tests.power.images import EXT4, Lab
from tests.power.images import missing as missing_disk
from tests.power.scenarios import SCENARIOS

pytestmark = pytest.mark.power
SEED = 20261122
FAULTS = 5


@pytest.fixture
def sweep_of(tmp_path):
    made = []

    def make(scenario):
        if reason := missing() or missing_disk(EXT4):
            pytest.skip(reason)
        lab = Lab(kind=EXT4, directory=tmp_path / "images", mount_point=tmp_path / "mount")
        made.append(FaultSweep(lab, scenario))
        return made[-1]

    yield make
    for sweep in made:
        sweep.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_call_that_fails_or_a_kill_at_it_leaves_a_satellite_that_serves_and_goes_on(sweep_of, scenario):
    sweep = sweep_of(scenario)
    tally = sweep.run(random.Random(f"{SEED} {scenario.name}").sample(list(sweep.faults()), FAULTS))

    assert [str(broken) for broken in tally.broken] == []
    assert tally.cuts == FAULTS


@pytest.mark.parametrize(
    "fault",
    [
        # The link to the new release could not be set: the old one, to which it leads, must stay.
        Fault(call="symlink", number=1, kind=Kind.EIO),
        # Metadata that could not be kept waits; the next life takes it, and the bundles that came meanwhile.
        Fault(call="rename", number=3, kind=Kind.EIO),
        Fault(call="rmdir", number=1, kind=Kind.EIO),
        Fault(call="fdatasync", number=7, kind=Kind.EIO),
        Fault(call="pwrite64", number=5, kind=Kind.SHORT),
    ],
    ids=str,
)
def test_what_was_broken_once_or_nearly_is_not(sweep_of, fault):
    sweep = sweep_of(next(scenario for scenario in SCENARIOS if scenario.name == "flight"))
    assert [str(broken) for broken in sweep.run([fault]).broken] == []


def test_the_sweep_sees_an_error_that_is_swallowed(sweep_of):
    """A sync that failed, and nobody who minds: what was said to be durable need not be; here it is made to be gone."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "revert")

    def run(mount_point, say):
        say("confirmed", b"\x11" * 32)  # a promise of what no disk has
        scenario.run(mount_point, say)

    sweep = sweep_of(replace(scenario, run=run))
    assert sweep.run([Fault(call="fsync", number=1, kind=Kind.KILL)]).broken != []
