"""Everything that a satellite must outlive, in one run: power cuts, reordered writes, failing calls, flipped bits.

Stories are cut, replayed and failed in parts (`parts`), several at a time; a run that is stopped goes on where it was.
Then, alone on the machine, metadata and flips are measured. What cannot be measured here, for want of root or loop
devices, is null; and so is what is not complete because a part of it failed.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.durability import cuts, faults, flips, metadata, replays
from bench.durability.parts import JOURNAL, Part, run_parts

FIGURES = (
    *("cuts", "broken", "replays", "replay_broken", "syscall_faults", "fault_broken"),
    *("flips_injected", "flips_found", "flips_repaired", "metadata_bytes", "verify_ms"),
)
_NAMES = {
    "cuts": ("cuts", "broken"),
    "replays": ("replays", "replay_broken"),
    "faults": ("syscall_faults", "fault_broken"),
}


def measure(options: list[str]) -> tuple[str, dict[str, float | None]]:
    """Run all parts; returns tables, and the figures: those of the issue first."""
    parser = argparse.ArgumentParser(prog="make bench NAME=durability")
    parser.add_argument("--every", type=int, default=1, help="cut before every n-th step only, and so on")
    parser.add_argument("--deep", action="store_true", help="cut every recovery before each of its steps, everywhere")
    parser.add_argument("--flip-mb", type=int, default=100, help="size of the release in which bits flip")
    parser.add_argument("--jobs", type=int, default=0, help="parts at a time; as many as there are cores by default")
    parser.add_argument("--journal", type=Path, default=JOURNAL, help="where what is done is kept")
    arguments = parser.parse_args(options)
    print(*cuts.left_out(), sep="\n", end="")
    parts = [
        *cuts.parts(every=arguments.every, is_deep=arguments.deep),
        *replays.parts(arguments.every),
        *faults.parts(arguments.every),
    ]
    found = run_parts(parts, journal=arguments.journal, jobs=arguments.jobs)
    tables = [part.table(found) for part in (cuts, replays, faults)]
    figures: dict[str, Any] = dict.fromkeys(FIGURES) | summary(parts, found)
    table, measured = metadata.measure(arguments.every)
    figures |= measured | flips.measure_flips(size_bytes=arguments.flip_mb * 1_000_000)
    return "\n\n".join(filter(None, [*tables, table])), figures


def summary(parts: list[Part], found: Mapping[Part, Mapping[str, Any]]) -> dict[str, float | None]:
    """What the parts come to together; nothing of what has a part that failed."""
    totals: dict[str, float | None] = {}
    for what, (count, broken) in _NAMES.items():
        wanted = [part for part in parts if part.what == what]
        if wanted and all(part in found for part in wanted):
            totals[count] = sum(found[part]["count"] for part in wanted)
            totals[broken] = sum(len(found[part]["broken"]) for part in wanted)
    return totals
