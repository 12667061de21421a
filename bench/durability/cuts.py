"""Power cuts on real file systems, before every step of every story and its recovery: the sweep of tests/power, whole.

    python -m bench.durability.cuts --stories flight,revert --file-systems ext4 --every 1 --deep

`--deep` cuts every recovery before every of its steps, where the default leaves out steps that another recovery of the
same sweep was cut before already, told apart by what is done to which kind of file and after what.
"""

import argparse
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results import markdown_table
from tests.power.images import FILE_SYSTEMS, Cut, FileSystem, Lab, missing
from tests.power.scenarios import SCENARIOS
from tests.power.stories import Scenario
from tests.power.sweep import Broken, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What came of one story on one kind of file system, with cuts of one kind.

    Attributes:
        scenario: its name.
        kind: of file system.
        how: what a cut left.
        num_steps: of the story in peace.
        cuts: made, in the story and in recoveries.
        broken: promises that did not hold.
        recovery_s_max: the longest until a satellite served.
        took_s: the sweep.
    """

    scenario: str
    kind: str
    how: Cut
    num_steps: int
    cuts: int
    broken: tuple[Broken, ...]
    recovery_s_max: float
    took_s: float


def sweep_all(
    *,
    stories: Sequence[str] = (),
    kinds: Sequence[str] = (),
    every: int = 1,
    is_deep: bool = False,
    directory: Path | None = None,
) -> list[SweepResult]:
    """Sweep every story on every kind of file system that can be had here; prints as it goes.

    Args:
        stories: names; all if empty.
        kinds: names of file systems; all if empty.
        every: cut before each step with a number that this divides.
        is_deep: see the module.
        directory: for the images; in memory if there is such a place.
    """
    logging.disable(logging.CRITICAL)
    results = []
    home = Path(tempfile.mkdtemp(prefix="skyload-cuts-", dir=directory or quick_place()))
    try:
        for scenario in SCENARIOS:
            for kind in FILE_SYSTEMS:
                if (stories and scenario.name not in stories) or (kinds and kind.name not in kinds):
                    continue
                if reason := missing(kind):
                    print(f"{kind.name}: left out, {reason}", flush=True)
                    continue
                for how in Cut:
                    results.append(_sweep(home, scenario, kind, how, every=every, is_deep=is_deep))
    finally:
        shutil.rmtree(home)
    return results


def table(results: Sequence[SweepResult]) -> str:
    """For people: one row for each story and file system."""
    rows = [
        [
            each.scenario,
            each.kind,
            each.how.name.lower(),
            each.num_steps,
            each.cuts,
            len(each.broken),
            f"{each.recovery_s_max:.2f}",
        ]
        for each in results
    ]
    return markdown_table(["story", "file system", "a cut leaves", "steps", "cuts", "broken", "serves after, s"], rows)


def figures(results: Sequence[SweepResult]) -> dict[str, float]:
    """For the last line."""
    return {"cuts": sum(each.cuts for each in results), "broken": sum(len(each.broken) for each in results)}


def _sweep(home: Path, scenario: Scenario, kind: FileSystem, how: Cut, *, every: int, is_deep: bool) -> SweepResult:
    began = time.monotonic()
    sweep = Sweep(Lab(kind=kind, directory=home / "images", mount_point=home / "mount"), scenario, how)
    recovery_cuts_max = sweep.num_steps if every == 1 else 2  # of each first cut
    tally = sweep.run(range(0, sweep.num_steps, every), recovery_cuts_max=recovery_cuts_max, is_deep=is_deep)
    sweep.close()
    result = SweepResult(
        scenario=scenario.name,
        kind=kind.name,
        how=how,
        num_steps=sweep.num_steps,
        cuts=tally.cuts,
        broken=tuple(tally.broken),
        recovery_s_max=tally.recovery_s_max,
        took_s=time.monotonic() - began,
    )
    print(
        f"{scenario.name:10} {kind.name:11} {how.name.lower():10} {result.num_steps:4} steps {result.cuts:5} cuts"
        f" {len(result.broken):3} broken {result.took_s:6.1f} s",
        flush=True,
    )
    for broken in result.broken[:5]:
        print(f"    {broken}", flush=True)
    return result


def quick_place() -> Path | None:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


def main() -> None:
    """Print a table, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description="Power cuts before every step.")
    parser.add_argument("--stories", default="", help="names, with commas; all by default")
    parser.add_argument("--file-systems", default="", help="names, with commas; all by default")
    parser.add_argument("--every", type=int, default=1, help="cut before every n-th step")
    parser.add_argument("--deep", action="store_true")
    arguments = parser.parse_args()
    results = sweep_all(
        stories=tuple(filter(None, arguments.stories.split(","))),
        kinds=tuple(filter(None, arguments.file_systems.split(","))),
        every=arguments.every,
        is_deep=arguments.deep,
    )
    print(table(results))
    print(json.dumps(figures(results)))


if __name__ == "__main__":
    main()
