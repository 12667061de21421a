"""The measurement in parts, each in a process of its own, several at a time; what is done is kept, and not done again.

A part is one story's sweep on one kind of file system, its replays there, or its faults. Its figures go as a line into
a journal as soon as it ends, under a key that names the code that was measured and how much of it was asked for; so a
run that was stopped goes on where it was.
"""

import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JOURNAL = ROOT / "build" / "durability.jsonl"
# What a part mounts is its own: nobody else's mount namespace holds on to it, and it goes when the part is killed.
_APART = ("unshare", "--mount") if os.geteuid() == 0 and shutil.which("unshare") else ()
_MEASURED = ("protocol", "onboard", "tests/power", "tests/fakes", "bench/durability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part.

    Attributes:
        what: "cuts", "replays" or "faults".
        story: name of the scenario.
        file_system: name.
        how: name of what a cut leaves; empty where nothing is cut.
        every: which share of steps, media or calls: one in so many.
        is_deep: see `cuts`.
    """

    what: str
    story: str
    file_system: str
    how: str = ""
    every: int = 1
    is_deep: bool = False

    def __str__(self) -> str:
        share = "all" if self.every == 1 else f"1 in {self.every}"
        return " ".join(filter(None, (self.what, self.story, self.file_system, self.how, f"({share})")))


def run_parts(parts: Sequence[Part], *, journal: Path = JOURNAL, jobs: int = 0) -> dict[Part, dict[str, Any]]:
    """Run what the journal does not have; prints as it goes. Returns figures by part; a part that failed has none."""
    code = code_digest()
    known = _read(journal, code)
    found = {part: known[key] for part in parts if (key := _key(part)) in known}
    left = [part for part in parts if part not in found]
    if found:
        print(f"{len(found)} of {len(parts)} parts are in {journal}", flush=True)
    began, num_done = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        futures = {pool.submit(_run, part): part for part in left}
        try:
            for future in concurrent.futures.as_completed(futures):
                part, figures = futures[future], future.result()
                num_done += 1
                if figures is not None:
                    found[part] = figures
                    _note(journal, code, part, figures)
                left_s = (time.monotonic() - began) / num_done * (len(left) - num_done)
                _tell(f"{len(found)}/{len(parts)}", part, figures, left_s)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def code_digest() -> str:
    """Name the code that is measured."""
    digest = hashlib.sha256()
    for directory in _MEASURED:
        for path in sorted((ROOT / directory).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def serve(measure: Callable[[Part], dict[str, Any]]) -> None:
    """Be the process of one part: read it from the command line, print its figures as the last line."""
    print(json.dumps(measure(Part(**json.loads(sys.argv[1])))), flush=True)


def _run(part: Part) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "bench.durability.measure_part", json.dumps(asdict(part))]
    done = subprocess.run([*_APART, *command], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr, flush=True)
        return None
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _tell(progress: str, part: Part, figures: dict[str, Any] | None, left_s: float) -> None:
    if figures is None:
        print(f"[{progress}] {part}: failed", flush=True)
        return
    count = f"{figures['count']} points, {len(figures['broken'])} broken, {figures['took_s']:.0f} s"
    print(f"[{progress}] {part}: {count}; about {left_s / 60:.0f} min left", flush=True)
    for broken in figures["broken"][:5]:
        print(f"    {broken}", flush=True)


def _key(part: Part) -> str:
    return json.dumps(asdict(part), sort_keys=True)


def _read(journal: Path, code: str) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # it was stopped while it wrote
                continue
            if entry["code"] == code:
                known[entry["part"]] = entry["figures"]
    return known


def _note(journal: Path, code: str, part: Part, figures: dict[str, Any]) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as file:
        file.write(json.dumps({"code": code, "part": _key(part), "figures": figures}) + "\n")
