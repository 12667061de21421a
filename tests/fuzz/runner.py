"""Attacks one target in this process: counts, times, limits memory; stops at the first finding and keeps its input."""

import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

SECONDS_MAX = 1.0  # of one input, CPU
GROWTH_MAX = 200 << 20
_LOOK_EVERY = 64
_LOOK_AT_S = 0.01  # to fill much memory takes longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attack found.

    Attributes:
        cases: inputs given.
        taken: of these, accepted.
        slowest_s: CPU seconds of the slowest.
        growth_bytes: of resident memory, at its highest.
        finding: what went wrong, empty if nothing did.
        culprit: its input.
    """

    cases: int
    taken: int
    slowest_s: float
    growth_bytes: int
    finding: str = ""
    culprit: bytes = b""


def attack(target: Target, *, seed: int, count: int, seconds: float) -> Outcome:
    """Give a target made-up input until there were so many, or for so long."""
    for each in target.seeds:
        assert target.attack(each), f"good input is refused: {each!r}"
    mutator = Mutator(target, random.Random(seed))
    forget_peak()
    before, deadline = peak_bytes(), time.monotonic() + seconds
    cases = taken = 0
    slowest_s = 0.0
    while cases < count:
        data = mutator.next_input()
        started = time.process_time()
        finding = ""
        try:
            taken += target.attack(data)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            finding = f"{type(error).__name__}: {error}"
        cases += 1
        took_s = time.process_time() - started
        slowest_s = max(slowest_s, took_s)
        if not finding and took_s > SECONDS_MAX:
            finding = f"took {took_s:.2f} s"
        growth = peak_bytes() - before if took_s > _LOOK_AT_S or not cases % _LOOK_EVERY else 0
        if not finding and growth > GROWTH_MAX:
            finding = f"took {growth >> 20} MiB"
        if finding:
            return Outcome(
                cases=cases, taken=taken, slowest_s=slowest_s, growth_bytes=growth, finding=finding, culprit=data
            )
        if not cases % _LOOK_EVERY and time.monotonic() > deadline:
            break
    return Outcome(cases=cases, taken=taken, slowest_s=slowest_s, growth_bytes=peak_bytes() - before)


def peak_bytes() -> int:
    """Resident memory at its highest since `forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def forget_peak() -> None:
    """Let the peak be what is resident now: who ran in this process before may have had more."""
    Path("/proc/self/clear_refs").write_text("5")


def keep(directory: Path, name: str, data: bytes) -> Path:
    """Write what was found, to be looked at and to become a test."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.bin"
    path.write_bytes(data)
    return path
