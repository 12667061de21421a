"""A mission in virtual time: stations, their channels and one satellite, moved by a clock until everything is there.

Given a plan of contacts, what the links do, what is to be carried, and when either side is killed; the same plan and
seed give the same mission. What comes out is `records`. It promises to judge the satellite by the bytes it delivered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from groundsegment.emulator.channel import Channel
from groundsegment.emulator.conditions import Direction, LinkProfile
from groundsegment.simulation.clock import VirtualClock
from groundsegment.simulation.logbook import Logbook, judge
from groundsegment.simulation.payload import PayloadStore, SimulatedUpdate
from groundsegment.simulation.records import ContactRow, LinkTotals, MissionResult
from groundsegment.simulation.satellite import Satellite, SatelliteView
from groundsegment.simulation.seeds import source
from groundsegment.simulation.station import GroundStation, all_decided
from groundsegment.uplink.sender.loss import LossEstimate

TURN_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StationPlan:
    """One station of a mission.

    Attributes:
        name: of it.
        link: what it does to frames, and when it is there.
        rate_bps: at which it sends.
    """

    name: str
    link: LinkProfile
    rate_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionPlan:
    """What is to be flown.

    Attributes:
        stations: at least one; their order gives their numbers.
        until_s: when the plan ends.
        ground_kills: (virtual seconds, station).
        satellite_kills: virtual seconds.
        silences: (from, to) without a return path.
        satellite: options of the simulated satellite.
        loss: what is believed of the links before anything is known.
        seed: of all that is random.
    """

    stations: tuple[StationPlan, ...]
    until_s: float
    ground_kills: tuple[tuple[float, int], ...] = ()
    satellite_kills: tuple[float, ...] = ()
    silences: tuple[tuple[float, float], ...] = ()
    satellite: dict[str, float | int | bool] = field(default_factory=dict)
    loss: LossEstimate = field(default_factory=LossEstimate)
    seed: int = 1

    @property
    def is_one_way(self) -> bool:
        """Whether nothing ever comes down."""
        return all(station.link.is_one_way for station in self.stations)


class Mission:
    """See the module."""

    def __init__(
        self,
        plan: MissionPlan,
        updates: Sequence[SimulatedUpdate],
        store: PayloadStore,
        satellite: Satellite,
        *,
        on_contact: Callable[[ContactRow], None] = lambda _: None,
    ) -> None:
        """`on_contact` is told of each contact when it is over."""
        self._plan, self._updates, self._satellite, self._on_contact = plan, tuple(updates), satellite, on_contact
        self._clock = VirtualClock()
        link_key = source(plan.seed, "key").randbytes(32)
        satellite.begin(link_key, dict(plan.satellite))
        self._stations = [
            GroundStation(
                number,
                station.name,
                Channel(station.link, source(plan.seed, "channel", number)),
                lanes=len(plan.stations),
                link_key=link_key,
                store=store,
                is_one_way=station.link.is_one_way,
                loss=plan.loss,
            )
            for number, station in enumerate(plan.stations)
        ]
        needed = sum(item.num_symbols for update in updates for item in update.objects)
        self._logbook = Logbook(self._stations, needed)
        self._num_staged = 0
        self._stepping_s: float | None = None
        self._complete_s: float | None = None
        self._done_s: float | None = None
        self._at_complete: LinkTotals | None = None

    def fly(self) -> MissionResult:
        """Fly it."""
        began_s = time.perf_counter()
        plan, clock = self._plan, self._clock
        for update in self._updates:
            clock.at(update.staged_s, lambda update=update: self._stage(update))  # type: ignore[misc]
        for station, planned in zip(self._stations, plan.stations, strict=True):
            for start_s, end_s in planned.link.contact_windows(plan.until_s):
                self._plan_contact(station, planned, start_s, end_s)
        for time_s, number in plan.ground_kills:
            clock.at(time_s, lambda number=number: self._kill_ground(number))  # type: ignore[misc]
        for time_s in plan.satellite_kills:
            clock.at(time_s, self._kill_satellite)
        for start_s, end_s in plan.silences:
            clock.at(start_s, lambda: self._silence(is_silent=True))
            clock.at(end_s, lambda: self._silence(is_silent=False))
        clock.run(plan.until_s, self._is_over)
        for station in self._stations:
            if station.is_up:
                self._end_contact(station)
        return self._result(time.perf_counter() - began_s)

    # What the clock calls

    def _plan_contact(self, station: GroundStation, planned: StationPlan, start_s: float, end_s: float) -> None:
        up = planned.link.up
        guard_s = up.delay_s + up.jitter_s + TURN_S

        def begin() -> None:
            self._logbook.begin_contact(station, self._look(), start_s)
            station.begin_contact(start_s, end_s - guard_s, planned.rate_bps)
            turn()

        def turn() -> None:
            self._turn(station, is_sending=self._clock.now < end_s - guard_s)
            if self._clock.now + TURN_S < end_s:
                self._clock.after(TURN_S, turn)
            elif station.is_up:
                self._end_contact(station)

        if end_s - guard_s > start_s:
            self._clock.at(start_s, begin)

    def _stage(self, update: SimulatedUpdate) -> None:
        self._num_staged += 1
        for station in self._stations:
            station.stage(update, self._clock.now)

    def _kill_ground(self, number: int) -> None:
        self._logbook.num_kills += 1
        self._stations[number].kill(self._clock.now)

    def _kill_satellite(self) -> None:
        self._logbook.num_kills += 1
        self._collect()
        self._satellite.kill(self._clock.now)

    def _silence(self, *, is_silent: bool) -> None:
        for station in self._stations:
            if is_silent:
                station.channel.cut(self._clock.now, Direction.DOWN)
            else:
                station.channel.restore(self._clock.now, Direction.DOWN)

    def _turn(self, station: GroundStation, *, is_sending: bool) -> None:
        now = self._clock.now
        self._move(station, now)
        if is_sending and not self._is_over():
            station.turn(now)
            if self._done_s is None and self._is_known():
                self._done_s = now

    def _move(self, station: GroundStation, now: float) -> None:
        """Bring what has arrived, both ways. The satellite works on it while the stations send."""
        self._collect()
        going_up: list[bytes] = []
        for direction, data in station.channel.deliver(now):
            if direction is Direction.UP:
                going_up.append(data)
            else:
                station.hear(data, now)
        self._satellite.begin_step(now, going_up)
        self._stepping_s = now

    def _collect(self) -> None:
        """Put what the satellite has said since on its way down."""
        if self._stepping_s is None:
            return
        outgoing, num_whole = self._satellite.end_step()
        then_s, self._stepping_s = self._stepping_s, None
        for number, data in outgoing:
            self._stations[number].channel.send(Direction.DOWN, data, then_s)
        if num_whole == len(self._updates) and self._complete_s is None:
            view = self._satellite.look()
            self._complete_s, self._at_complete = max(view.arrived_s.values()), self._logbook.totals(view)

    def _look(self) -> SatelliteView:
        self._collect()
        return self._satellite.look()

    # When it is over

    def _is_known(self) -> bool:
        return self._num_staged == len(self._updates) and all_decided(self._stations, self._updates)

    def _is_over(self) -> bool:
        """All is on board, and the ground knows it, or never will."""
        if self._complete_s is None:
            return False
        return self._done_s is not None or self._plan.is_one_way

    def _end_contact(self, station: GroundStation) -> None:
        now = self._clock.now
        self._move(station, now)
        loss, view = station.loss, self._look()
        station.end_contact()
        self._on_contact(self._logbook.end_contact(station, view, loss, now))

    def _result(self, wall_s: float) -> MissionResult:
        view = self._look()
        known: set[bytes] = set().union(*(station.decided for station in self._stations))
        return MissionResult(
            contacts=tuple(self._logbook.rows),
            updates=tuple(judge(update, view, known) for update in self._updates),
            totals=self._logbook.totals(view),
            complete_s=self._complete_s,
            done_s=self._done_s,
            at_complete=self._at_complete,
            wall_s=wall_s,
        )
