"""Media left by a disk that reorders: stories' writes replayed at moments drawn by a seed (`tests.power.replay`)."""

import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.durability.parts import Part
from bench.results import markdown_table
from tests.power.block_log import missing
from tests.power.images import EXT4, XFS, Lab, quick_place
from tests.power.images import missing as missing_disk
from tests.power.replay import Replay
from tests.power.scenarios import SCENARIOS

MEDIA = 60  # of each story on each file system
_SEED = 1


def parts(every: int) -> list[Part]:
    """What there is to replay here."""
    if reason := missing():
        print(f"replays: left out, {reason}", flush=True)
        return []
    return [
        Part(what="replays", story=scenario.name, file_system=kind.name, every=every)
        for scenario in SCENARIOS
        for kind in (EXT4, XFS)
        if not missing_disk(kind)
    ]


def measure_part(part: Part) -> dict[str, Any]:
    """Replay one story on one kind of file system."""
    began = time.monotonic()
    scenario = next(each for each in SCENARIOS if each.name == part.story)
    kind = next(each for each in (EXT4, XFS) if each.name == part.file_system)
    home = Path(tempfile.mkdtemp(prefix="skyload-replays-", dir=quick_place()))
    try:
        lab = Lab(kind=kind, directory=home / "images", mount_point=home / "mount")
        replay = Replay(lab, scenario, home / "log")
        rng = random.Random(f"{_SEED} {scenario.name} {kind.name}")
        tally = replay.run(replay.sample(max(1, MEDIA // part.every), rng), rng)
        replay.close()
        writes = len(replay.moments) - 1
        flushes = sum(entry.is_flush for entry in replay.entries[replay.moments[0] :])
    finally:
        shutil.rmtree(home)
    return {
        "count": tally.cuts,
        "writes": writes - flushes,
        "flushes": flushes,
        "broken": [str(broken) for broken in tally.broken],
        "took_s": round(time.monotonic() - began, 1),
    }


def table(found: Mapping[Part, Mapping[str, Any]]) -> str:
    """For people: one row for each story and file system."""
    rows = [
        [part.story, part.file_system, figures["writes"], figures["flushes"], figures["count"], len(figures["broken"])]
        for part, figures in found.items()
        if part.what == "replays"
    ]
    head = ["story", "file system", "writes", "flushes", "media drawn", "broken"]
    return markdown_table(head, rows) if rows else ""
