"""System calls that fail and kills at them, at calls drawn by a seed, in every story (`tests.power.faults`)."""

import random
import shutil
import tempfile
from pathlib import Path

from bench.durability.cuts import quick_place
from bench.results import markdown_table
from tests.power.faults import FaultSweep, Kind, missing
from tests.power.images import EXT4, Lab
from tests.power.images import missing as missing_disk
from tests.power.scenarios import SCENARIOS

FAULTS = 120  # of each story
_SEED = 1


def measure(every: int) -> tuple[str, dict[str, float | None]]:
    """Make faults; returns a table and figures."""
    if reason := missing() or missing_disk(EXT4):
        print(f"faults: left out, {reason}", flush=True)
        return "", {"syscall_faults": None, "fault_broken": None}
    rows, total, broken = [], 0, 0
    home = Path(tempfile.mkdtemp(prefix="skyload-faults-", dir=quick_place()))
    try:
        for scenario in SCENARIOS:
            lab = Lab(kind=EXT4, directory=home / "images", mount_point=home / "mount")
            sweep = FaultSweep(lab, scenario)
            faults = list(sweep.faults())
            rng = random.Random(f"{_SEED} {scenario.name}")
            chosen = rng.sample(faults, min(len(faults), max(1, FAULTS // every)))
            tally = sweep.run(chosen)
            sweep.close()
            of_kinds = [sum(fault.kind is kind for fault in chosen) for kind in Kind]
            rows.append([scenario.name, sum(sweep.calls.values()), *of_kinds, len(tally.broken)])
            total, broken = total + tally.cuts, broken + len(tally.broken)
            print(*rows[-1], *tally.broken[:5], flush=True)
    finally:
        shutil.rmtree(home)
    columns = ["story", "calls", *(kind.name.lower() for kind in Kind), "broken"]
    return markdown_table(columns, rows), {"syscall_faults": total, "fault_broken": broken}
