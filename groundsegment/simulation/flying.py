"""From a scenario to a mission that is flown: bytes, stations, kills, and the schemes it is compared with."""

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from groundsegment.emulator.conditions import LinkProfile
from groundsegment.errors import InputError
from groundsegment.simulation.mission import Mission, MissionPlan, StationPlan
from groundsegment.simulation.payload import PayloadStore, SimulatedUpdate
from groundsegment.simulation.records import ContactRow, MissionResult
from groundsegment.simulation.satellite import SatelliteProcess
from groundsegment.simulation.scenario import Scenario
from groundsegment.simulation.schemes import SchemeResult, fly_all
from groundsegment.simulation.seeds import Random, source
from groundsegment.simulation.weather import make_weather
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.frame import HEADER_SIZE, TAG_SIZE

_ABANDONED_S = 2.0  # for a mission that nobody waits for any more to clear up behind it
_PATIENCE = 12  # times the limit: what has not finished by then is said not to finish
INSTALL_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A mission beside others.

    Attributes:
        mission: with reports, where the link has a way back.
        one_way: the same without a way back; None if the link never has one, or it was not asked for.
        schemes: all, the real ones first.
    """

    mission: MissionResult
    one_way: MissionResult | None = None
    schemes: tuple[SchemeResult, ...] = ()


def fly_scenario(
    scenario: Scenario,
    *,
    bundles: Sequence[Path] = (),
    is_compared: bool = False,
    satellite_command: str | None = None,
    on_contact: Callable[[ContactRow], None] = lambda _: None,
) -> Comparison:
    """Fly a scenario; where it is compared, the one-way run goes on beside it.

    Args:
        scenario: what to fly.
        bundles: files that replace the payload of its first update.
        is_compared: fly it without a way back, too, and all models.
        satellite_command: replaces `skyloadd simulate`.
        on_contact: told of each contact of the mission.

    Raises:
        InputError: nobody says at which rate a station sends.
        TwinError: no satellite to simulate, or it died.
    """
    is_one_way = all(link.is_one_way for link in scenario.links)

    def fly(chosen: Scenario, process: SatelliteProcess, tell: Callable[[ContactRow], None]) -> MissionResult:
        plan = mission_plan(chosen)
        with PayloadStore(chosen.symbol_size) as store, process as satellite:
            updates = _make_updates(chosen, store, bundles)
            return Mission(plan, updates, store, satellite, on_contact=tell).fly()

    if not is_compared or is_one_way:
        mission, one_way = fly(scenario, SatelliteProcess(satellite_command), on_contact), None
    else:
        silent = replace(scenario, links=tuple(replace(link, down=None) for link in scenario.links), silences=())
        other = SatelliteProcess(satellite_command)
        beside = _in_thread(lambda: fly(silent, other, lambda _: None))
        try:
            mission = fly(scenario, SatelliteProcess(satellite_command), on_contact)
            one_way = beside.result()
        except BaseException:  # ctrl-C, too, which must not wait for the other mission
            other.abandon()
            with contextlib.suppress(Exception):
                beside.exception(_ABANDONED_S)
            raise
    if not is_compared:
        return Comparison(mission=mission)
    return Comparison(mission=mission, one_way=one_way, schemes=tuple(_schemes(scenario, mission, one_way)))


def _in_thread(fly: Callable[[], MissionResult]) -> "Future[MissionResult]":
    """Fly beside. The thread is a daemon: the program may end without it."""
    result: Future[MissionResult] = Future()

    def run() -> None:
        try:
            result.set_result(fly())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def mission_plan(scenario: Scenario) -> MissionPlan:
    """The plan of a scenario; its kills fall into contacts that will be needed.

    Raises:
        InputError: nobody says at which rate a station sends.
    """
    rng = source(scenario.seed, "kills")
    windows = _needed_windows(scenario)
    return MissionPlan(
        stations=tuple(StationPlan(name=link.name, link=link, rate_bps=_rate_bps(link)) for link in scenario.links),
        until_s=scenario.until_s,
        ground_kills=tuple(sorted(_moment(rng, windows) for _ in range(scenario.ground_kills))),
        satellite_kills=tuple(sorted(_moment(rng, windows)[0] for _ in range(scenario.satellite_kills))),
        silences=scenario.silences,
        satellite={"is_silent": all(link.is_one_way for link in scenario.links), "install_s": INSTALL_S},
        loss=LossEstimate.of_mean(scenario.known_loss),
        seed=scenario.seed,
    )


def _make_updates(scenario: Scenario, store: PayloadStore, bundles: Sequence[Path]) -> list[SimulatedUpdate]:
    if bundles:
        return [store.add_files(scenario.updates[0].name, bundles)]
    return [
        store.add_random(
            update.name,
            update.size_bytes,
            bundle_bytes=scenario.bundle_bytes,
            seed=scenario.seed,
            priority=update.priority,
            weight=update.weight,
            staged_s=update.staged_s,
        )
        for update in scenario.updates
    ]


def _rate_bps(link: LinkProfile) -> float:
    if link.up.rate_bps is None:
        raise InputError(
            f"nobody says at which rate {link.name or 'the station'} sends",
            hint="give --rate 2Mbit/s, or rate_bps in the link profile",
        )
    return link.up.rate_bps


def _needed_windows(scenario: Scenario) -> list[tuple[float, float, int]]:
    """Contacts of all stations, (start, end, station), until the payload should have arrived."""
    windows = sorted(
        (start_s, end_s, number)
        for number, link in enumerate(scenario.links)
        for start_s, end_s in link.contact_windows(scenario.until_s)
    )
    found, left = [], scenario.payload_bytes * 1.1
    for start_s, end_s, number in windows:
        link = scenario.links[number]
        arriving = _rate_bps(link) / 8 * (1 - link.up.mean_loss)
        found.append((start_s, min(end_s, start_s + left / arriving), number))
        left -= arriving * (end_s - start_s)
        if left <= 0:
            break
    return found


def _moment(rng: Random, windows: Sequence[tuple[float, float, int]]) -> tuple[float, int]:
    at = rng.random() * sum(end_s - start_s for start_s, end_s, _ in windows)
    for start_s, end_s, number in windows:
        if at < end_s - start_s:
            return start_s + at, number
        at -= end_s - start_s
    return windows[-1][1], windows[-1][2]


# Comparing


def _schemes(scenario: Scenario, mission: MissionResult, one_way: MissionResult | None) -> list[SchemeResult]:
    num_source = mission.totals.symbols_needed
    is_one_way = one_way is None
    weather = make_weather(
        scenario.links,
        [_rate_bps(link) for link in scenario.links],
        until_s=scenario.until_s,
        frame_size=scenario.symbol_size + HEADER_SIZE + TAG_SIZE,
        seed=scenario.seed,
        most=_PATIENCE * num_source,
    )
    real = [scheme_of("skyload, one-way" if is_one_way else "skyload", mission)]
    if one_way is not None:
        real.append(scheme_of("skyload, one-way", one_way))
    models = fly_all(weather, num_source, scale=scenario.scale)
    return real + [model for model in models if not is_one_way or model.name not in {"nak-per-pass", "bitmap-rounds"}]


def scheme_of(name: str, mission: MissionResult) -> SchemeResult:
    """A real run as one scheme among others: until everything was on board."""
    totals = mission.totals if mission.at_complete is None else mission.at_complete
    end_s = math.inf if mission.complete_s is None else mission.complete_s
    return SchemeResult(
        name=name,
        shares=tuple(row.share_done for row in mission.contacts if row.start_s <= end_s),
        num_contacts=None if mission.complete_s is None else mission.num_contacts,
        frames_sent=totals.symbols_sent,
        limit_ratio=totals.symbols_arrived / (totals.symbols_needed + totals.symbols_cut),
        is_measured=True,
    )
