"""Everything that a satellite must outlive, in one run: power cuts, reordered writes, failing calls, flipped bits.

Each part is a module of this package with a function that takes how many steps to leave out and returns a table, if it
has one, and figures. What is not measured yet, or cannot be here, is null.
"""

import argparse
import importlib
import importlib.util
from typing import Any

from bench.durability import cuts, flips

FIGURES = (
    *("cuts", "broken", "replays", "replay_broken", "syscall_faults", "fault_broken"),
    *("flips_injected", "flips_found", "flips_repaired", "metadata_bytes", "verify_ms"),
)
# To come: block logs replayed in other orders, errors of system calls, what an update's metadata costs.
_LATER = ("replays", "faults", "metadata")


def measure(options: list[str]) -> tuple[str, dict[str, float | None]]:
    """Run all parts; returns tables and the figures of the issue, then others."""
    parser = argparse.ArgumentParser(prog="make bench NAME=durability")
    parser.add_argument("--every", type=int, default=1, help="cut before every n-th step only")
    parser.add_argument("--deep", action="store_true", help="cut every recovery before each of its steps")
    parser.add_argument("--flip-mb", type=int, default=100, help="size of the release in which bits flip")
    arguments = parser.parse_args(options)
    results = cuts.sweep_all(every=arguments.every, is_deep=arguments.deep)
    tables, found = [cuts.table(results)], dict[str, Any](cuts.figures(results))
    found |= flips.measure_flips(size_bytes=arguments.flip_mb * 1_000_000)
    for name in _LATER:
        if importlib.util.find_spec(f"bench.durability.{name}") is not None:
            more, figures = importlib.import_module(f"bench.durability.{name}").measure(arguments.every)
            tables += [more] if more else []
            found |= figures
    ordered = {name: found.pop(name, None) for name in FIGURES}
    return "\n\n".join(tables), ordered | found
