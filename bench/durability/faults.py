"""System calls that fail and kills at them, at calls drawn by a seed, in every story (`tests.power.faults`)."""

import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.durability.parts import Part
from bench.results import markdown_table
from tests.power.faults import Fault, FaultSweep, Kind, missing
from tests.power.images import EXT4, Lab, quick_place
from tests.power.images import missing as missing_disk
from tests.power.scenarios import SCENARIOS

FAULTS = 120  # of each story
_SEED = 1


def parts(every: int) -> list[Part]:
    """What there is to fail here."""
    if reason := missing() or missing_disk(EXT4):
        print(f"faults: left out, {reason}", flush=True)
        return []
    return [Part(what="faults", story=each.name, file_system=EXT4.name, every=every) for each in SCENARIOS]


def measure_part(part: Part) -> dict[str, Any]:
    """Make faults in one story."""
    began = time.monotonic()
    scenario = next(each for each in SCENARIOS if each.name == part.story)
    home = Path(tempfile.mkdtemp(prefix="skyload-faults-", dir=quick_place()))
    try:
        sweep = FaultSweep(Lab(kind=EXT4, directory=home / "images", mount_point=home / "mount"), scenario)
        rng = random.Random(f"{_SEED} {scenario.name}")
        chosen = draw(list(sweep.faults()), max(1, FAULTS // part.every), rng)
        tally = sweep.run(chosen)
        sweep.close()
    finally:
        shutil.rmtree(home)
    return {
        "count": tally.cuts,
        "calls": sum(sweep.calls.values()),
        "kinds": [sum(fault.kind is kind for fault in chosen) for kind in Kind],
        "broken": [str(broken) for broken in tally.broken],
        "took_s": round(time.monotonic() - began, 1),
    }


def draw(faults: Sequence[Fault], count: int, rng: random.Random) -> list[Fault]:
    """Draw so many, an eighth of them of each kind first: of the few short writes there are, none might be drawn."""
    drawn = []
    for kind in Kind:
        of_kind = [fault for fault in faults if fault.kind is kind]
        drawn += rng.sample(of_kind, min(len(of_kind), count // len(Kind) // 2))
    others = [fault for fault in faults if fault not in drawn]
    return drawn + rng.sample(others, min(len(others), count - len(drawn)))


def table(found: Mapping[Part, Mapping[str, Any]]) -> str:
    """For people: one row for each story."""
    rows = [
        [part.story, figures["calls"], *figures["kinds"], len(figures["broken"])]
        for part, figures in found.items()
        if part.what == "faults"
    ]
    return markdown_table(["story", "calls", *(kind.name.lower() for kind in Kind), "broken"], rows) if rows else ""
