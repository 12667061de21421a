"""Random missions: plans, weather, kills and silences from a seed. Pure; `random_missions` flies and judges them.

A mission is made to be hard, not to be likely: 1 to 3 stations with 0 to 40 % loss, independent or in bursts, bit
errors, duplicates, frames that overtake each other, up to 0.6 s of delay; 1 to 3 updates of different urgency; gaps of
a minute to a week; either side killed up to four times while it sends; a return path that is lossy, silent for a
while, or not there at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from groundsegment.emulator.conditions import BurstLoss, Contact, DirectionProfile, LinkProfile
from groundsegment.simulation.mission import MissionPlan, StationPlan
from groundsegment.simulation.payload import PayloadStore, SimulatedUpdate
from groundsegment.simulation.seeds import Random, source
from protocol.frame import HEADER_SIZE, TAG_SIZE

SYMBOL_SIZE = 64
_FRAME_BITS = 8 * (SYMBOL_SIZE + HEADER_SIZE + TAG_SIZE)
_SYMBOLS_MIN, _SYMBOLS_MAX = 12_000, 30_000
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


def make_update(
    store: PayloadStore, entry: tuple[str, int, int, float, float], bundle_symbols: int, seed: int
) -> SimulatedUpdate:
    """Make the bytes of an update of a mission."""
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
