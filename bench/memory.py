"""Bounded memory: stage and fly a synthetic 4 GB release; peak resident memory of packer and daemon.

The engine is the one without a model: no engine here could load 4 GB of noise. Packer, uplink, daemon and disk are
what flies.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.kills import twin_with_fake_engine
from bench.memory_watch import MemoryWatch
from bench.results import markdown_table
from demo.rehearsal import SATELLITE, Rehearsal
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release


def measure(options: list[str]) -> tuple[str, dict[str, float]]:
    """Stage and fly; returns a table and the figures."""
    parser = argparse.ArgumentParser(prog="make bench NAME=memory")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    arguments = parser.parse_args(options)
    figures = stage_and_fly(int(arguments.gigabytes * 1e9))
    bars = {"packer_rss_mb": "under 1000", "daemon_rss_mb": "under 256", "uplink_rss_mb": ""}
    rows = [[name, value, bars.get(name, "")] for name, value in figures.items()]
    return markdown_table(["figure", "value", "bar"], rows), figures


def stage_and_fly(size_bytes: int) -> dict[str, float]:
    """One release of that size through packer, link and daemon."""
    directory = Path(tempfile.mkdtemp(prefix="skyload-memory-"))
    try:
        settings: dict[str, object] = {"install.probation_s": 0.5, "limits.inbox_bytes_max": 2**30}
        with Rehearsal(directory / "run", engine_command=engine_command(), settings=settings) as rehearsal:
            rehearsal.init_keys()
            rehearsal.provision(make_synthetic_release(directory / "launch", 100_000, 1), "launch")
            rehearsal.start_satellite(wait_for_model=True)
            rehearsal.start_link("clear", seed=1)
            release = make_synthetic_release(directory / "release", size_bytes, 2)
            return _measure(rehearsal, release)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _measure(rehearsal: Rehearsal, release: Path) -> dict[str, float]:
    skyload = str(Path(sys.executable).parent / "skyload")
    stage = [skyload, "stage", str(release), "--for", SATELLITE, "--base", "none", "--json"]
    stage += ["--bundle-size", "64MiB", "--twin", twin_with_fake_engine(), "--depot", str(rehearsal.depot)]
    staged, packer, stage_s = _watched(stage)
    assert rehearsal.satellite is not None
    with MemoryWatch(rehearsal.satellite.pid) as daemon:
        summary, uplink, flight_s = _watched(rehearsal.uplink_command("--rate", "max", "--json"))
    if summary["state"] != "confirmed":
        raise SystemExit(f"the flight ended {summary['state']}")
    rehearsal.skyloadd("verify", "all", "--config", str(rehearsal.config))
    return {
        "payload_mb": round(float(staged["payload_bytes"]) / 1e6, 1),
        "packer_rss_mb": round(packer.peak_tree_bytes / 1e6, 1),
        "daemon_rss_mb": round(daemon.peak_tree_bytes / 1e6, 1),
        "daemon_process_rss_mb": round(daemon.peak_bytes / 1e6, 1),
        "uplink_rss_mb": round(uplink.peak_tree_bytes / 1e6, 1),
        "stage_s": round(stage_s, 1),
        "flight_s": round(flight_s, 1),
    }


def _watched(command: list[str]) -> tuple[dict[str, object], MemoryWatch, float]:
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr)
    with MemoryWatch(process.pid) as watch:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ended with {process.returncode}")
    return json.loads(output), watch, time.monotonic() - began
