"""Everything that a satellite must outlive, in one run: power cuts, reordered writes, failing calls, flipped bits.

Each part is a module of this package whose `measure` takes how many steps to leave out, and returns a table, if it has
one, and figures. What cannot be measured here, for want of root or loop devices, is null.
"""

import argparse
from typing import Any

from bench.durability import cuts, faults, flips, metadata, replays

FIGURES = (
    *("cuts", "broken", "replays", "replay_broken", "syscall_faults", "fault_broken"),
    *("flips_injected", "flips_found", "flips_repaired", "metadata_bytes", "verify_ms"),
)


def measure(options: list[str]) -> tuple[str, dict[str, float | None]]:
    """Run all parts; returns tables, and the figures: those of the issue first."""
    parser = argparse.ArgumentParser(prog="make bench NAME=durability")
    parser.add_argument("--every", type=int, default=1, help="cut before every n-th step only, and so on")
    parser.add_argument("--deep", action="store_true", help="cut every recovery before each of its steps")
    parser.add_argument("--flip-mb", type=int, default=100, help="size of the release in which bits flip")
    arguments = parser.parse_args(options)
    results = cuts.sweep_all(every=arguments.every, is_deep=arguments.deep)
    tables = [cuts.table(results)]
    found: dict[str, Any] = dict.fromkeys(FIGURES) | (cuts.figures(results) if results else {})
    for part in (replays, faults, metadata):
        table, figures = part.measure(arguments.every)
        tables += [table] if table else []
        found |= figures
    found |= flips.measure_flips(size_bytes=arguments.flip_mb * 1_000_000)
    return "\n\n".join(tables), found
