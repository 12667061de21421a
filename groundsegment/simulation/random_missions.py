"""Random missions, flown many at once, each checked; `random_plan` makes them.

What is checked of each: everything is on board when the plan ends; no object has a wrong byte; no ESI was used twice;
and where the return path was there all the time, symbols sent are at most SYMBOL_RATIO_MAX of the limit that the
link's real losses set. Symbols are small (64 B), so that a mission takes a second; what counts is their number, 12,000
to 30,000: with fewer, chance alone (one standard deviation of arrivals) would be a good part of the bar.
"""

import math
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from groundsegment.interrupts import ctrl_c_held
from groundsegment.simulation.mission import Mission
from groundsegment.simulation.payload import PayloadStore
from groundsegment.simulation.random_plan import SYMBOL_SIZE, make_update, random_mission
from groundsegment.simulation.records import MissionResult
from groundsegment.simulation.satellite import SatelliteProcess

SYMBOL_RATIO_MAX = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionReport:
    """How one mission went.

    Attributes:
        seed: of the mission.
        has_return_path: all the time.
        symbol_ratio: sent over the limit.
        num_symbols: needed.
        num_contacts: used.
        num_kills: of either side.
        days: until everything was on board.
        problems: what must not be.
    """

    seed: int
    has_return_path: bool
    symbol_ratio: float
    num_symbols: int
    num_contacts: int
    num_kills: int
    days: float
    problems: tuple[str, ...]


def fly_mission(seed: int, satellite: SatelliteProcess) -> MissionReport:
    """Fly the mission of a seed, and judge it."""
    chosen = random_mission(seed)
    with PayloadStore(SYMBOL_SIZE) as store:
        updates = [make_update(store, entry, chosen.bundle_symbols, seed) for entry in chosen.updates]
        try:
            result = Mission(chosen.plan, updates, store, satellite).fly()
        finally:
            satellite.clear()
    return MissionReport(
        seed=seed,
        has_return_path=chosen.has_return_path,
        symbol_ratio=result.symbol_ratio,
        num_symbols=result.totals.symbols_needed,
        num_contacts=result.num_contacts,
        num_kills=result.totals.num_kills,
        days=math.inf if result.complete_s is None else result.complete_s / 86_400,
        problems=tuple(_problems(result, has_return_path=chosen.has_return_path)),
    )


def fly_missions(
    count: int, *, seed: int, jobs: int, command: str | None, tell: Callable[[MissionReport], None]
) -> list[MissionReport]:
    """Fly the missions of `count` seeds from `seed` on, several at once; a mission that breaks down is a problem, too.

    Interrupted, it ends at once, and so do its processes.

    Args:
        count: how many.
        seed: the first.
        jobs: processes; 0 is one for each core.
        command: replaces `skyloadd simulate`.
        tell: told of each as it is done.
    """
    num_jobs = min(jobs or os.cpu_count() or 1, count)
    seeds = range(seed, seed + count)
    if num_jobs == 1:
        reports = []
        with SatelliteProcess(command) as satellite:
            for one in seeds:
                reports.append(fly_mission(one, satellite))
                tell(reports[-1])
        return reports
    context = multiprocessing.get_context("spawn")
    stop, until = context.Pipe(duplex=False)
    with until, stop, ProcessPoolExecutor(num_jobs, context, initializer=_end_with_parent, initargs=(stop,)) as pool:
        try:
            with ctrl_c_held():
                tasks = [pool.submit(_fly_one, one, command) for one in seeds]
            reports = []
            for task in as_completed(tasks):
                reports.append(task.result())
                tell(reports[-1])
        except BaseException:  # ctrl-C, too, which must not wait for missions that are under way
            until.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(reports, key=lambda report: report.seed)


def summarize(reports: Sequence[MissionReport]) -> dict[str, Any]:
    """Figures of many missions, as JSON types."""
    heard = [report.symbol_ratio for report in reports if report.has_return_path]
    unheard = [report.symbol_ratio for report in reports if not report.has_return_path]
    return {
        "missions": len(reports),
        "failed": sum(bool(report.problems) for report in reports),
        "with_return_path": len(heard),
        "symbol_ratio_median": _rounded(_quantile(heard, 0.5)),
        "symbol_ratio_p99": _rounded(_quantile(heard, 0.99)),
        "symbol_ratio_max": _rounded(max(heard, default=math.nan)),
        "symbol_ratio_unheard_median": _rounded(_quantile(unheard, 0.5)),
        "symbol_ratio_unheard_max": _rounded(max(unheard, default=math.nan)),
        "symbols_min": min((report.num_symbols for report in reports), default=0),
        "symbols_max": max((report.num_symbols for report in reports), default=0),
        "kills": sum(report.num_kills for report in reports),
        "contacts": sum(report.num_contacts for report in reports),
        "days": _rounded(sum(report.days for report in reports)),
    }


# Judging one


def _problems(result: MissionResult, *, has_return_path: bool) -> list[str]:
    found = [f"{update.name} is not on board" for update in result.updates if update.on_board_s is None]
    if result.wrong_bytes:
        found.append(f"{result.wrong_bytes} objects with wrong bytes")
    if result.totals.symbols_repeated:
        found.append(f"{result.totals.symbols_repeated} symbols sent twice")
    if has_return_path and not found and result.symbol_ratio > SYMBOL_RATIO_MAX:
        found.append(f"{result.symbol_ratio:.4f} x the limit of symbols, at most {SYMBOL_RATIO_MAX}")
    return found


_satellite: SatelliteProcess | None = None
_is_stopped = threading.Event()


def _end_with_parent(stop: Connection) -> None:
    """A pool's workers outlive a parent that was killed; and one that is interrupted closes its end of `stop`."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel, stop), daemon=True).start()


def _wait_and_end(parent: int, stop: Connection) -> None:
    if wait([parent, stop]) == [stop]:
        _is_stopped.set()
        if _satellite is not None:
            _satellite.abandon()
        wait([parent])
    os._exit(0)


def _fly_one(seed: int, command: str | None) -> MissionReport:
    """In a worker process: one satellite serves all its missions, and ends with it."""
    global _satellite  # noqa: PLW0603 - one for each process
    try:
        if _is_stopped.is_set():
            return _broken(seed, "nobody waits for it any more")
        if _satellite is None:
            _satellite = SatelliteProcess(command)
            if _is_stopped.is_set():
                _satellite.abandon()
            _satellite.__enter__()
        return fly_mission(seed, _satellite)
    except Exception:  # noqa: BLE001 - it is a finding, and the others go on
        _satellite = None
        return _broken(seed, traceback.format_exc())


def _broken(seed: int, text: str) -> MissionReport:
    return MissionReport(
        seed=seed,
        has_return_path=False,
        symbol_ratio=math.nan,
        num_symbols=0,
        num_contacts=0,
        num_kills=0,
        days=0.0,
        problems=(f"broke down:\n{text}",),
    )


def _quantile(values: Sequence[float], share: float) -> float:
    kept = sorted(value for value in values if not math.isnan(value))
    return kept[min(len(kept) - 1, math.floor(share * len(kept)))] if kept else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else round(value, 4)
