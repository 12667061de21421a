"""Attacks one target in this process: counts, times, limits memory; stops at the first finding and keeps its input.

Cases come in batches, each from its number alone, so a batch can be run again. What costs more than a case is looked at
once a batch: the peak of resident memory misses no case between two looks, and where it has grown too much, a batch is
run again, case by case, for the one that did it. A case that seems slow is timed again, by itself, in CPU time: other
processes, and the collector of garbage, have their turns in between. One that never ends is interrupted.
"""

import gc
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType

from tests.fuzz.mutate import cases
from tests.fuzz.target import Target

SECONDS_MAX = 1.0  # of one input, CPU
GROWTH_MAX = 200 << 20
_BATCH = 512
_SUSPECT_S = 0.002
_TICK_S = 0.5
_SAMPLE = 16  # one case in so many is asked where it was refused


class Endless(BaseException):
    """A case does not end. No parser's `except Exception` takes it for its own."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an attack found.

    Attributes:
        cases: inputs given.
        taken: of these, accepted.
        places: where in the code inputs were refused, as far as the sample shows.
        took_s: CPU seconds in all, the making of inputs with them.
        slowest_s: CPU seconds of the slowest.
        growth_bytes: of resident memory, at its highest.
        finding: what went wrong, empty if nothing did.
        culprit: its input.
    """

    cases: int = 0
    taken: int = 0
    places: set[tuple[CodeType, int]] = field(default_factory=set)
    took_s: float = 0.0
    slowest_s: float = 0.0
    growth_bytes: int = 0
    finding: str = ""
    culprit: bytes = b""


def attack(target: Target, *, seed: int, count: int, seconds: float) -> Outcome:
    """Give a target made-up input until there were so many, or for so long."""
    for each in target.seeds:
        assert target.attack(each), f"good input is refused: {each!r}"
    return _Attack(target, seed).run(count, seconds)


class _Attack:
    def __init__(self, target: Target, seed: int) -> None:
        self._target, self._seed = target, seed
        self._outcome, self._before = Outcome(), 0

    def run(self, count: int, seconds: float) -> Outcome:
        outcome = self._outcome
        gc.collect()
        gc.freeze()  # what is imported need not be looked through again and again
        forget_peak()
        self._before = peak_bytes()
        started_s, deadline = time.process_time(), time.monotonic() + seconds
        batch = 0
        with self._watched():
            while outcome.cases < count and not outcome.finding:
                size = min(_BATCH, count - outcome.cases)
                self._run_batch(batch, size)
                growth = peak_bytes() - self._before
                outcome.growth_bytes = max(outcome.growth_bytes, growth)
                if growth > GROWTH_MAX and not outcome.finding:
                    self._blame(batch, size, growth)
                batch += 1
                if time.monotonic() > deadline:
                    break
        gc.unfreeze()
        outcome.took_s = time.process_time() - started_s
        return outcome

    def _run_batch(self, batch: int, size: int) -> None:
        target, outcome, clock = self._target, self._outcome, time.perf_counter
        parse, refusals = target.parse, target.refusals
        number, taken, data = 0, 0, b""
        now = clock()
        try:
            for data in cases(target, seed=self._seed, batch=batch, count=size):
                number += 1
                try:
                    parse(data)
                    taken += 1
                except refusals as error:
                    if not number % _SAMPLE:
                        outcome.places.add(_place(error.__traceback__))
                before, now = now, clock()
                if now - before > _SUSPECT_S:
                    self._suspect(data, now - before)
                    now = clock()
                    if outcome.finding:
                        break
        except (Exception, Endless) as error:  # noqa: BLE001 - that is what is looked for
            outcome.finding, outcome.culprit = f"{type(error).__name__}: {error}", data
        outcome.cases += number
        outcome.taken += taken

    def _suspect(self, data: bytes, wall_s: float) -> None:
        """Look at a case that took long: at its memory, for to fill that takes time, and at its own time."""
        outcome = self._outcome
        growth = peak_bytes() - self._before
        if growth > GROWTH_MAX:
            outcome.finding, outcome.culprit, outcome.growth_bytes = f"took {growth >> 20} MiB", data, growth
        elif wall_s > outcome.slowest_s:
            took_s = self._cpu_seconds(data)
            if took_s > SECONDS_MAX:
                took_s = min(took_s, self._cpu_seconds(data))
            outcome.slowest_s = max(outcome.slowest_s, took_s)
            if took_s > SECONDS_MAX:
                outcome.finding, outcome.culprit = f"took {took_s:.2f} s", data

    def _cpu_seconds(self, data: bytes) -> float:
        started_s = time.process_time()
        self._target.attack(data)
        return time.process_time() - started_s

    def _blame(self, batch: int, size: int, growth: int) -> None:
        """Find the case that took the memory; if none did alone, it was all of them."""
        self._outcome.finding = f"took {growth >> 20} MiB"
        for data in cases(self._target, seed=self._seed, batch=batch, count=size):
            gc.collect()
            forget_peak()
            before = peak_bytes()
            self._target.attack(data)
            if peak_bytes() - before > GROWTH_MAX:
                self._outcome.culprit = data
                return
        self._outcome.finding += ", by and by"

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Interrupt a case that does not end. It costs the others nothing."""
        seen: list[tuple[object, object]] = [(None, None)]

        def look(_number: int, frame: FrameType | None) -> None:
            runs, data = _case_of(frame)
            if runs is not None and runs is seen[0][0] and data is seen[0][1]:
                raise Endless(f"no end after {SECONDS_MAX:g} s")
            seen[0] = runs, data

        before = signal.signal(signal.SIGPROF, look)
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS_MAX, SECONDS_MAX + _TICK_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def _case_of(frame: FrameType | None) -> tuple[object, object]:
    """Who runs a case, and its input: the very objects, which no two cases share while they are kept."""
    while frame is not None:
        if frame.f_code in (_Attack._run_batch.__code__, _Attack._cpu_seconds.__code__):
            return frame, frame.f_locals.get("data")
        frame = frame.f_back
    return None, None


def _place(trace: TracebackType | None) -> tuple[CodeType, int]:
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code, trace.tb_lineno


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
