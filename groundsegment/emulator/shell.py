"""The link emulator as a process: a UDP proxy between ground stations and one satellite.

    home ground ──▶ --ground socket   ──▶ Channel (up)   ──┐
    a station   ──▶ its --listen socket ──▶ Channel (up)   ──┴──▶ space socket ──▶ satellite
    home ground ◀── --ground socket   ◀── Channel (down) ◀─┬── space socket ◀── satellite
    a station   ◀── its --listen socket ◀── Channel (down) ◀─┘

One datagram is one frame. A downlink is a broadcast: each frame goes down every link, and there to everybody heard in
the last ten minutes; an empty datagram makes a listener known without using the uplink. All that happens to frames is
decided by channel.py, one for each link; here are the sockets, the clock, the seed and the control socket, and nothing
else.

It promises bounded memory, and to lose no frame on its own without counting it: `socket_drops` are frames the
kernel dropped because this process was too slow, `unsendable` those that no route or address would take.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from groundsegment.emulator.conditions import Direction, LinkProfile
from groundsegment.emulator.control import Answer, Request, serve_control
from groundsegment.emulator.ground_link import FRAMES_PER_TURN, GroundLink
from groundsegment.emulator.link_clock import LinkClock
from groundsegment.emulator.profile import load_profile
from groundsegment.emulator.sockets import Endpoint, printable
from groundsegment.emulator.space_end import SpaceEnd
from groundsegment.errors import InputError

__all__ = ["Endpoint", "LinkProxy", "write_statistics"]

HOME = ""  # the name of the home link
TICK_S = 0.25


class LinkProxy:
    """The running proxy. Make it inside an event loop; `run` opens and closes everything."""

    def __init__(
        self,
        profile: LinkProfile,
        *,
        seed: int,
        ground: Endpoint,
        space: Endpoint,
        satellite: Endpoint,
        listen: Mapping[str, Endpoint] | None = None,
        epoch_unix_s: float | None = None,
    ) -> None:
        """Make a proxy.

        Args:
            profile: of the link, and of each station that has one of its own.
            seed: of everything random; each station draws from a source of its own.
            ground: where whoever has no link of its own sends to.
            space: where the satellite hears us from.
            satellite: where it listens.
            listen: where stations of the profile send to; one that is left out gets a port of the system's choice.
            epoch_unix_s: link time 0; now if left out.

        Raises:
            InputError: `listen` names a station that the profile does not have.
        """
        self._loop = asyncio.get_running_loop()
        self._clock = LinkClock(self._loop, time_scale=profile.time_scale, epoch_unix_s=epoch_unix_s)
        self._profile, self._seed = profile, seed
        self._links = {HOME: GroundLink(HOME, profile, random.Random(seed), ground)}  # noqa: S311 - no secret
        places = dict(listen or {})
        for link in profile.stations:
            place = places.pop(link.name, Endpoint(host=ground.host, port=0))
            rng = random.Random(f"{seed}/{link.name}")  # noqa: S311 - a seeded experiment, not a secret
            self._links[link.name] = GroundLink(link.name, link, rng, place)
        if places:
            raise _unknown_station(next(iter(places)), profile, option="--listen ")
        self._space = SpaceEnd(space, satellite)
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, *, stop: asyncio.Event, control: Path | None = None, on_tick: Callable[["LinkProxy"], None]
    ) -> None:
        """Carry frames until told to stop.

        Args:
            stop: ends the run.
            control: where to listen for operators; None for nowhere.
            on_tick: called once the sockets are open, several times a second, and at the end.

        Raises:
            BusyError: a port or the control path is taken.
            InputError: an address or a path cannot be used.
        """
        async with contextlib.AsyncExitStack() as stack:
            for link in self._links.values():
                stack.enter_context(await link.open())
            stack.enter_context(await self._space.open())
            if control is not None:
                await stack.enter_async_context(serve_control(control, self.handle))
            stack.enter_context(self._listening())
            await self._space.resolve()
            while not stop.is_set():
                on_tick(self)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
                for link in self._links.values():
                    link.forget_listeners()
                if self._space.wants_address:
                    await self._space.resolve()
            on_tick(self)  # so that the last word counts the last frame

    def handle(self, request: Request) -> Answer:
        """Do one operation of the control socket.

        Raises:
            InputError: no such operation, or its arguments are wrong.
        """
        now = self._clock.link_s()
        match request.get("op"):
            case "cut":
                for link in self._wanted_links(request):
                    link.channel.cut(now, _direction(request))
            case "restore":
                for link in self._wanted_links(request):
                    link.channel.restore(now, _direction(request))
            case "profile":
                if "name" in request:
                    self._change_profile(str(request["name"]), now)
            case "statistics":
                pass
            case other:
                raise InputError(f"no operation {other!r}", hint="operations are cut, restore, statistics, profile")
        return self.statistics()

    def statistics(self) -> dict[str, Any]:
        """Everything countable, as JSON values: the home link's on top, stations' under `links`."""
        now = self._clock.link_s()
        counted = {name: link.statistics(now, self._space.socket) for name, link in self._links.items()}
        return {
            "profile": self._profile.name,
            "seed": self._seed,
            "epoch_unix_s": self._clock.epoch_unix_s,
            "time_scale": self._clock.time_scale,
            "link_time_s": round(now, 3),
            "space": printable(self._space.socket.getsockname()),
            "satellite": str(self._space.satellite),
            "is_satellite_resolved": self._space.is_resolved,
            **counted.pop(HOME),
            "links": counted,
        }

    def _wanted_links(self, request: Request) -> list[GroundLink]:
        """All links, or the one of the station that is named."""
        name = request.get("station")
        if name is None:
            return list(self._links.values())
        if name == HOME or name not in self._links:
            raise _unknown_station(str(name), self._profile)
        return [self._links[name]]

    def _change_profile(self, name: str, now: float) -> None:
        profile = load_profile(name)
        if profile.time_scale != self._clock.time_scale:
            raise InputError(
                f"{name} has time_scale {profile.time_scale:g}, the running link {self._clock.time_scale:g}",
                hint="stop the emulator and start it with that profile",
            )
        links = {HOME: profile, **{link.name: link for link in profile.stations}}
        if links.keys() != self._links.keys():
            raise InputError(
                f"{name} has other stations than the running link",
                hint="stop the emulator and start it with that profile",
            )
        self._profile = profile
        for station, conditions in links.items():
            self._links[station].channel.change_profile(conditions, now)

    # --- frames ---

    def _on_ground_readable(self, link: GroundLink) -> None:
        """Take what was sent up a link, and pass on what is due."""
        link.receive(self._clock.link_s())
        self._pump()

    def _on_space_readable(self) -> None:
        """Take what the satellite sent, up to a turn's worth, and pass on what is due."""
        now, links = self._clock.link_s(), tuple(self._links.values())
        for data in self._space.receive(FRAMES_PER_TURN):
            for link in links:
                link.channel.send(Direction.DOWN, data, now)
        self._pump()

    def _pump(self) -> None:
        """Send on what has arrived at the other end, and wake up for the next."""
        now = self._clock.link_s()
        for link in self._links.values():
            for direction, data in link.channel.deliver(now):
                if direction is Direction.UP:
                    link.num_unsendable[Direction.UP] += not self._space.send(data)
                else:
                    link.send_down(data)
        self._arm()

    def _arm(self) -> None:
        deadlines = [link.channel.next_deadline() for link in self._links.values()]
        deadline = min((due for due in deadlines if due is not None), default=None)
        if deadline is None:
            return
        when = self._clock.loop_s(deadline)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        for link in self._links.values():
            self._loop.add_reader(link.socket, partial(self._on_ground_readable, link))
        self._loop.add_reader(self._space.socket, self._on_space_readable)
        try:
            yield
        finally:
            for link in self._links.values():
                self._loop.remove_reader(link.socket)
            self._loop.remove_reader(self._space.socket)
            if self._timer is not None:
                self._timer.cancel()


def write_statistics(path: Path, statistics: dict[str, Any]) -> None:
    """Replace a statistics file: readers see the old one or the new one, never half of one."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(statistics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _unknown_station(name: str, profile: LinkProfile, option: str = "") -> InputError:
    known = ", ".join(link.name for link in profile.stations)
    hint = f"stations of {profile.name}: {known}" if known else f"{profile.name} has no `stations`: see the profile"
    return InputError(f"{option}{name}: no such station", hint=hint)


def _direction(request: Request) -> Direction | None:
    wanted = request.get("direction")
    if wanted is None:
        return None
    if wanted not in ("up", "down"):
        raise InputError(f"no direction {wanted!r}", hint="directions are up and down; leave it out for both")
    return Direction(wanted)
