"""Power cuts on real file systems, before every step of every story and its recovery: the sweep of tests/power, whole.

    python -m bench.durability.cuts --stories flight,revert --file-systems ext4 --every 1 --deep

Every step is cut on ext4 and XFS, so that what was not synced is lost; the other ways to lose power (a journal that
survives without bytes, ext4 without its help) are sampled, one step in SAMPLED. `--deep` cuts every step everywhere,
and every recovery before every of its steps, where the default leaves out steps that another recovery of the same
sweep was cut before already, told apart by what is done to which kind of file and after what.
"""

import argparse
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.durability.parts import Part, run_parts
from bench.results import markdown_table
from tests.power.images import EXT4, FILE_SYSTEMS, XFS, Cut, Lab, missing, quick_place
from tests.power.scenarios import SCENARIOS
from tests.power.sweep import Sweep

SAMPLED = 4
_WHOLE = {(EXT4.name, Cut.LOST), (XFS.name, Cut.LOST)}


def parts(
    *, every: int = 1, is_deep: bool = False, stories: Sequence[str] = (), kinds: Sequence[str] = ()
) -> list[Part]:
    """What there is to sweep here.

    Args:
        every: cut before each step with a number that this divides.
        is_deep: see the module.
        stories: names; all if empty.
        kinds: names of file systems; all if empty.
    """
    return [
        Part(
            what="cuts",
            story=scenario.name,
            file_system=kind.name,
            how=how.name,
            every=every if is_deep or (kind.name, how) in _WHOLE else every * SAMPLED,
            is_deep=is_deep,
        )
        for how in Cut
        for kind in FILE_SYSTEMS
        for scenario in SCENARIOS
        if (not stories or scenario.name in stories) and (not kinds or kind.name in kinds) and not missing(kind)
    ]


def left_out() -> Iterator[str]:
    """Why some file system is not swept here."""
    for kind in FILE_SYSTEMS:
        if reason := missing(kind):
            yield f"{kind.name}: left out, {reason}"


def measure_part(part: Part) -> dict[str, Any]:
    """Sweep one story on one kind of file system, with cuts of one kind."""
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    scenario = next(each for each in SCENARIOS if each.name == part.story)
    kind = next(each for each in FILE_SYSTEMS if each.name == part.file_system)
    home = Path(tempfile.mkdtemp(prefix="skyload-cuts-", dir=quick_place()))
    try:
        sweep = Sweep(Lab(kind=kind, directory=home / "images", mount_point=home / "mount"), scenario, Cut[part.how])
        cuts_max = sweep.num_steps if part.every == 1 else 2  # of the recoveries from each first cut
        tally = sweep.run(range(0, sweep.num_steps, part.every), recovery_cuts_max=cuts_max, is_deep=part.is_deep)
        sweep.close()
    finally:
        shutil.rmtree(home)
    return {
        "count": tally.cuts,
        "steps": sweep.num_steps,
        "broken": [str(broken) for broken in tally.broken],
        "recovery_s_max": round(tally.recovery_s_max, 2),
        "took_s": round(time.monotonic() - began, 1),
    }


def table(found: Mapping[Part, Mapping[str, Any]]) -> str:
    """For people: one row for each story and file system."""
    rows = [
        [
            part.story,
            part.file_system,
            part.how.lower(),
            figures["steps"],
            "every step" if part.every == 1 else f"1 step in {part.every}",
            figures["count"],
            len(figures["broken"]),
            f"{figures['recovery_s_max']:.2f}",
        ]
        for part, figures in found.items()
        if part.what == "cuts"
    ]
    head = ["story", "file system", "a cut leaves", "steps", "cut before", "cuts", "broken", "serves after, s"]
    return markdown_table(head, rows) if rows else ""


def main() -> None:
    """Print a table, and the figures as one JSON object."""
    parser = argparse.ArgumentParser(description="Power cuts before every step.")
    parser.add_argument("--stories", default="", help="names, with commas; all by default")
    parser.add_argument("--file-systems", default="", help="names, with commas; all by default")
    parser.add_argument("--every", type=int, default=1, help="cut before every n-th step")
    parser.add_argument("--deep", action="store_true")
    arguments = parser.parse_args()
    print(*left_out(), sep="\n", end="")
    found = run_parts(
        parts(
            every=arguments.every,
            is_deep=arguments.deep,
            stories=tuple(filter(None, arguments.stories.split(","))),
            kinds=tuple(filter(None, arguments.file_systems.split(","))),
        )
    )
    print(table(found))
    num_broken = sum(len(figures["broken"]) for figures in found.values())
    print(json.dumps({"cuts": sum(figures["count"] for figures in found.values()), "broken": num_broken}))


if __name__ == "__main__":
    main()
