"""The power is cut at every operation of a repair: each file is as it was or right; the next scrub ends the work."""

import contextlib
import random
from pathlib import Path

import pytest

from tests.fakes.scrubbing import RepairScenario
from tests.fakes.sim_disk import NoDirectorySync, NoFileSync, PowerCut, SimDisk

DIRECTORY = Path("releases") / "r"


def broken(kind, *, damaged=None, at_most=8):
    """What a sweep of power cuts finds wrong, with a scrub on each disk that may be found."""
    rehearsal = kind()
    scenario = RepairScenario(DIRECTORY, rehearsal, damaged)
    start = rehearsal.num_operations
    scenario.run()
    for cut_at in range(start, rehearsal.num_operations + 1):
        disk, is_done = kind(), False
        scenario = RepairScenario(DIRECTORY, disk, damaged)
        disk.cut_at = cut_at
        with contextlib.suppress(PowerCut):
            is_done = scenario.run().is_whole
        for image in disk.images(random.Random(cut_at), at_most=at_most):
            for problem in scenario.find_broken(
                lambda name, image=image: image.content(DIRECTORY / name), is_done=is_done
            ):
                yield cut_at, problem
            if not scenario.run(image).is_whole:
                yield cut_at, "the next scrub does not repair it"
            for problem in scenario.find_broken(
                lambda name, image=image: image.content(DIRECTORY / name), is_done=True
            ):
                yield cut_at, f"after the next scrub {problem}"
            if image.has(DIRECTORY / ".repair"):
                yield cut_at, "space leaks"


@pytest.mark.parametrize("damaged", [None, ("model.safetensors",), (".guard-0",)])
def test_a_power_cut_anywhere_in_a_repair_leaves_the_old_file_or_the_right_one(damaged):
    assert list(broken(SimDisk, damaged=damaged)) == []


@pytest.mark.parametrize("kind", [NoFileSync, NoDirectorySync])
def test_the_sweep_sees_a_missing_sync(kind):
    assert next(broken(kind, damaged=("model.safetensors",)), None) is not None
