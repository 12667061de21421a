"""Random missions: plans, weather, kills and silences from a seed, flown many at once, each checked.

A mission is made to be hard, not to be likely: 1 to 3 stations with 0 to 40 % loss, independent or in bursts, bit
errors, duplicates, frames that overtake each other, up to 0.6 s of delay; 1 to 3 updates of different urgency; gaps of
a minute to a week; either side killed up to four times while it sends; a return path that is lossy, silent for a
while, or not there at all.

What is checked of each: everything is on board when the plan ends; no object has a wrong byte; no ESI was used twice;
and where the return path was there all the time, symbols sent are at most SYMBOL_RATIO_MAX of the limit that the
link's real losses set. Symbols are small (64 B), so that a mission takes a second; what counts is their number, 16,000
to 40,000: with fewer, chance alone (one standard deviation of arrivals) would be a good part of the bar.
"""

import math
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from groundsegment.emulator.conditions import BurstLoss, Contact, DirectionProfile, LinkProfile
from groundsegment.simulation.mission import Mission, MissionPlan, StationPlan
from groundsegment.simulation.payload import PayloadStore, SimulatedUpdate
from groundsegment.simulation.records import MissionResult
from groundsegment.simulation.satellite import SatelliteProcess
from groundsegment.simulation.seeds import Random, source
from protocol.frame import HEADER_SIZE, TAG_SIZE

SYMBOL_RATIO_MAX = 1.03
SYMBOL_SIZE = 64
_FRAME_BITS = 8 * (SYMBOL_SIZE + HEADER_SIZE + TAG_SIZE)
_SYMBOLS_MIN, _SYMBOLS_MAX = 16_000, 40_000
_BUNDLE_SYMBOLS = (5_000, 9_000, 16_000)
_CONTACT_S = (8.0, 30.0)
_GAP_S = (60.0, 7 * 86_400.0)
_PATIENCE = 4.0  # times the contacts that should do


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomMission:
    """One mission.

    Attributes:
        plan: stations, kills, silences.
        updates: (name, symbols, priority, weight, when staged).
        bundle_symbols: of the largest bundle.
        has_return_path: all the time.
    """

    plan: MissionPlan
    updates: tuple[tuple[str, int, int, float, float], ...]
    bundle_symbols: int
    has_return_path: bool


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


def random_mission(seed: int) -> RandomMission:
    """Make the mission of a seed."""
    rng = source(seed, "mission")
    num_symbols = rng.randint(_SYMBOLS_MIN, _SYMBOLS_MAX)
    way_back = rng.choices(("whole", "silences", "none"), (70, 20, 10))[0]
    # A station carries all in 3 to 10 contacts; with more stations there are more contacts, and they overlap.
    contact_s, num_contacts = rng.uniform(*_CONTACT_S), rng.randint(3, 10)
    stations = tuple(
        _station(rng, number, num_symbols, contact_s, num_contacts, is_one_way=way_back == "none")
        for number in range(rng.choices((1, 2, 3), (5, 3, 2))[0])
    )
    sending_s = [window for station in stations for window in station.link.contact_windows(math.inf)]
    early = sorted(sending_s)[: 2 * num_contacts]
    silences = (_span(rng, early),) if way_back == "silences" else ()
    plan = MissionPlan(
        stations=stations,
        until_s=max(end_s for _, end_s in sending_s) + 1.0,
        ground_kills=tuple(
            sorted((_moment(rng, early), rng.randrange(len(stations))) for _ in range(rng.randint(0, 4)))
        ),
        satellite_kills=tuple(sorted(_moment(rng, early) for _ in range(rng.randint(0, 4)))),
        silences=silences,
        satellite={"is_silent": way_back == "none", "install_s": 1.0},
        seed=seed,
    )
    return RandomMission(
        plan=plan,
        updates=tuple(_updates(rng, num_symbols, early)),
        bundle_symbols=rng.choice(_BUNDLE_SYMBOLS),
        has_return_path=way_back == "whole",
    )


def fly_mission(seed: int, satellite: SatelliteProcess) -> MissionReport:
    """Fly the mission of a seed, and judge it."""
    chosen = random_mission(seed)
    with PayloadStore(SYMBOL_SIZE) as store:
        updates = [_make(store, entry, chosen.bundle_symbols, seed) for entry in chosen.updates]
        result = Mission(chosen.plan, updates, store, satellite).fly()
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
    with ProcessPoolExecutor(max_workers=num_jobs, mp_context=context) as pool:
        tasks = [pool.submit(_fly_some, list(seeds)[at::count], command) for at in range(count)]
        reports = []
        for task in as_completed(tasks):
            for report in task.result():
                reports.append(report)
                tell(report)
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


# Making one


def _station(
    rng: Random, number: int, num_symbols: int, contact_s: float, num_contacts: int, *, is_one_way: bool
) -> StationPlan:
    up = DirectionProfile(
        loss=rng.uniform(0.0, 0.4) if rng.random() < 0.7 else 0.0,
        burst=_burst(rng) if rng.random() < 0.3 else None,
        delay_s=rng.choice((0.005, 0.03, 0.15, 0.6)),
        jitter_s=rng.choice((0.0, 0.01)),
        bit_error_rate=rng.choice((0.0, 0.0, 1e-6, 2e-5)),
        duplicate=rng.choice((0.0, 0.0, 0.02)),
        reorder=rng.choice((0.0, 0.0, 0.02)),
        reorder_delay_s=0.03,
    )
    arriving = 1 - up.frame_loss(_FRAME_BITS // 8)
    frames_per_s = num_symbols / (contact_s * num_contacts * arriving)
    rate_bps = frames_per_s * _FRAME_BITS
    down = DirectionProfile(loss=rng.uniform(0.0, 0.5), delay_s=up.delay_s)
    contacts, at = [], rng.uniform(0.0, contact_s)
    for _ in range(math.ceil(num_contacts * _PATIENCE) + 4):
        length_s = contact_s * rng.uniform(0.7, 1.3)
        contacts.append(Contact(start_s=at, end_s=at + length_s))
        at += length_s + math.exp(rng.uniform(math.log(_GAP_S[0]), math.log(_GAP_S[1])))
    link = LinkProfile(
        name=f"station-{number}",
        up=replace(up, rate_bps=rate_bps),
        down=None if is_one_way else down,
        contacts=tuple(contacts),
    )
    return StationPlan(name=link.name, link=link, rate_bps=rate_bps)


def _burst(rng: Random) -> BurstLoss:
    length = rng.uniform(5, 60)
    share = rng.uniform(0.01, 0.2)
    return BurstLoss(
        p_good_to_bad=share / (1 - share) / length, p_bad_to_good=1 / length, loss_bad=rng.uniform(0.6, 1.0)
    )


def _updates(
    rng: Random, num_symbols: int, windows: Sequence[tuple[float, float]]
) -> list[tuple[str, int, int, float, float]]:
    """The first is there at once; others come in mid-flight, urgent or beside it."""
    others = [rng.randint(300, num_symbols // 4) for _ in range(rng.choices((0, 1, 2), (5, 3, 2))[0])]
    found = [("update-0", num_symbols - sum(others), 0, 1.0, 0.0)]
    for number, symbols in enumerate(others, start=1):
        staged_s = _moment(rng, windows[: max(1, len(windows) // 3)])
        found.append((f"update-{number}", symbols, rng.choice((0, 10)), rng.choice((0.5, 1.0, 3.0)), staged_s))
    return found


def _make(
    store: PayloadStore, entry: tuple[str, int, int, float, float], bundle_symbols: int, seed: int
) -> SimulatedUpdate:
    name, symbols, priority, weight, staged_s = entry
    return store.add_random(
        name,
        symbols * SYMBOL_SIZE,
        bundle_bytes=bundle_symbols * SYMBOL_SIZE,
        seed=seed,
        priority=priority,
        weight=weight,
        staged_s=staged_s,
    )


def _moment(rng: Random, windows: Sequence[tuple[float, float]]) -> float:
    return rng.uniform(*rng.choice(windows))


def _span(rng: Random, windows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first = rng.randrange(len(windows))
    last = min(len(windows) - 1, first + rng.randint(0, 3))
    return rng.uniform(*windows[first]), max(windows[first][1], windows[last][1]) + 1.0


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


def _fly_some(seeds: Sequence[int], command: str | None) -> list[MissionReport]:
    """In a worker process: one satellite serves all its missions, and ends with it."""
    global _satellite  # noqa: PLW0603 - one for each process
    reports = []
    for seed in seeds:
        try:
            if _satellite is None:
                _satellite = SatelliteProcess(command)
                _satellite.__enter__()
            reports.append(fly_mission(seed, _satellite))
        except Exception:  # noqa: BLE001 - it is a finding, and the others go on
            _satellite = None
            reports.append(_broken(seed, traceback.format_exc()))
    return reports


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
