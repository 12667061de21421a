"""Media left by a disk that reorders: stories' writes replayed at moments drawn by a seed (`tests.power.replay`)."""

import random
import shutil
import tempfile
from pathlib import Path

from bench.durability.cuts import quick_place
from bench.results import markdown_table
from tests.power.block_log import missing
from tests.power.images import EXT4, XFS, Lab
from tests.power.images import missing as missing_disk
from tests.power.replay import Replay
from tests.power.scenarios import SCENARIOS

MEDIA = 60  # of each story on each file system
_SEED = 1


def measure(every: int) -> tuple[str, dict[str, float | None]]:
    """Replay; returns a table and figures."""
    if reason := missing():
        print(f"replays: left out, {reason}", flush=True)
        return "", {"replays": None, "replay_broken": None}
    rows, total, broken = [], 0, 0
    home = Path(tempfile.mkdtemp(prefix="skyload-replays-", dir=quick_place()))
    try:
        for scenario in SCENARIOS:
            for kind in (EXT4, XFS):
                if missing_disk(kind):
                    continue
                lab = Lab(kind=kind, directory=home / "images", mount_point=home / "mount")
                replay = Replay(lab, scenario, home / f"{scenario.name}-{kind.name}")
                rng = random.Random(f"{_SEED} {scenario.name} {kind.name}")
                tally = replay.run(replay.sample(max(1, MEDIA // every), rng), rng)
                replay.close()
                writes = len(replay.moments) - 1
                flushes = sum(entry.is_flush for entry in replay.entries[replay.moments[0] :])
                rows.append([scenario.name, kind.name, writes - flushes, flushes, tally.cuts, len(tally.broken)])
                total, broken = total + tally.cuts, broken + len(tally.broken)
                print(*rows[-1], *tally.broken[:5], flush=True)
    finally:
        shutil.rmtree(home)
    columns = ["story", "file system", "writes", "flushes", "media", "broken"]
    return markdown_table(columns, rows), {"replays": total, "replay_broken": broken}
