"""The link emulator as a process: a UDP proxy between ground stations and one satellite.

    ground stations ──▶ ground socket ──▶ Channel (up)   ──▶ space socket ──▶ satellite
    ground stations ◀── ground socket ◀── Channel (down) ◀── space socket ◀── satellite

One datagram is one frame. A downlink is a broadcast: every station heard in the last ten minutes gets each frame;
an empty datagram makes a station known without using the uplink. All that happens to frames is decided by
channel.py; here are the sockets, the clock, the seed and the control socket, and nothing else.

It promises bounded memory, and to lose no frame on its own without counting it: `socket_drops` are frames the
kernel dropped because this process was too slow, `unsendable` those that no route or address would take.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundsegment.emulator.channel import Channel
from groundsegment.emulator.conditions import Direction, LinkProfile
from groundsegment.emulator.control import Answer, Request, serve_control
from groundsegment.emulator.profile import load_profile
from groundsegment.errors import BusyError, GroundError, InputError

logger = logging.getLogger(__name__)

Address = tuple[Any, ...]  # as the socket module has it: (host, port) or (host, port, flow, scope)

STATIONS_MAX = 16
STATION_SILENCE_S_MAX = 600.0
# Frames read per wake-up: enough to spread the cost of the event loop, few enough that both sockets get a turn.
FRAMES_PER_TURN = 64
DATAGRAM_BYTES_MAX = 65_535
# 16 MiB hold about half a second at 30,000 frames a second; the kernel may grant less.
SOCKET_BUFFER_BYTES = 16 << 20
TICK_S = 0.25
RESOLVE_PERIOD_S = 2.0
# A container that restarts under the same name may get another address without any send failing.
RESOLVE_SILENCE_S = 10.0

_SO_MEMINFO, _MEMINFO = 55, struct.Struct("9I")  # linux/sock_diag.h; the last word counts drops


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host and a UDP port, not resolved yet."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, option: str, lowest_port: int = 0) -> "Endpoint":
        """Read HOST:PORT or [IPV6]:PORT; port 0 lets the system choose one to listen on.

        Raises:
            InputError: it is neither.
        """
        host, colon, port = text.rpartition(":")
        is_port = port.isascii() and port.isdigit() and lowest_port <= int(port) <= 65_535
        if not colon or not host or not is_port:
            raise InputError(f"{option}: {text!r} is not HOST:PORT", hint=f"for example {option} 127.0.0.1:7001")
        return cls(host=host.removeprefix("[").removesuffix("]"), port=int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LinkClock:
    """Link time from the loop's clock: link_s = (wall - epoch) * time_scale."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, time_scale: float, epoch_unix_s: float | None) -> None:
        self._loop = loop
        self.time_scale = time_scale
        utc_s = time.time()
        self.epoch_unix_s = utc_s if epoch_unix_s is None else epoch_unix_s
        # Read the wall clock once: a step of it in mid-flight must not make link time jump.
        self._epoch_loop_s = loop.time() - (utc_s - self.epoch_unix_s)

    def link_s(self) -> float:
        """Link time now."""
        return (self._loop.time() - self._epoch_loop_s) * self.time_scale

    def loop_s(self, link_s: float) -> float:
        """The loop's time at a link time."""
        return self._epoch_loop_s + link_s / self.time_scale


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
        epoch_unix_s: float | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = LinkClock(self._loop, time_scale=profile.time_scale, epoch_unix_s=epoch_unix_s)
        self._channel = Channel(profile, random.Random(seed))  # noqa: S311 - a seeded experiment, not a secret
        self._seed = seed
        self._endpoints = {"ground": ground, "space": space, "satellite": satellite}
        self._ground: socket.socket
        self._space: socket.socket
        self._satellite: Address | None = None
        self._stations: dict[Address, float] = {}
        self._buffer = bytearray(DATAGRAM_BYTES_MAX)
        self._timer: asyncio.TimerHandle | None = None
        self._unsendable = {Direction.UP: 0, Direction.DOWN: 0}
        self._is_address_doubted = True
        self._heard_satellite_s = self._resolved_s = -RESOLVE_SILENCE_S

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
            self._ground = stack.enter_context(await self._open("ground"))
            self._space = stack.enter_context(await self._open("space"))
            if control is not None:
                await stack.enter_async_context(serve_control(control, self.handle))
            stack.enter_context(self._listening())
            await self._resolve()
            while not stop.is_set():
                on_tick(self)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
                self._forget_stations()
                if self._wants_address():
                    await self._resolve()
            on_tick(self)  # so that the last word counts the last frame

    def handle(self, request: Request) -> Answer:
        """Do one operation of the control socket.

        Raises:
            InputError: no such operation, or its arguments are wrong.
        """
        now = self._clock.link_s()
        match request.get("op"):
            case "cut":
                self._channel.cut(now, _direction(request))
            case "restore":
                self._channel.restore(now, _direction(request))
            case "profile":
                if "name" in request:
                    self._change_profile(str(request["name"]), now)
            case "statistics":
                pass
            case other:
                raise InputError(f"no operation {other!r}", hint="operations are cut, restore, statistics, profile")
        return self.statistics()

    def statistics(self) -> dict[str, Any]:
        """Everything countable, as JSON values; frames per direction as in channel.DirectionStatistics."""
        now = self._clock.link_s()
        is_contact, until_s = self._channel.profile.contact_at(now)
        counters = self._channel.statistics()
        return {
            "profile": self._channel.profile.name,
            "seed": self._seed,
            "epoch_unix_s": self._clock.epoch_unix_s,
            "time_scale": self._clock.time_scale,
            "link_time_s": round(now, 3),
            "is_contact": is_contact,
            "changes_in_s": None if until_s == float("inf") else round(until_s - now, 3),
            "stations": len(self._stations),
            "ground": _printable(self._ground.getsockname()),
            "space": _printable(self._space.getsockname()),
            "satellite": str(self._endpoints["satellite"]),
            "is_satellite_resolved": self._satellite is not None,
            **{
                direction.value: {
                    **dataclasses.asdict(getattr(counters, direction.value)),
                    "lost": getattr(counters, direction.value).lost,
                    "is_cut": self._channel.is_cut(direction),
                    "is_up": self._channel.is_up(now, direction),
                    "unsendable": self._unsendable[direction],
                    "socket_drops": _socket_drops(source),
                }
                for direction, source in ((Direction.UP, self._ground), (Direction.DOWN, self._space))
            },
        }

    def _change_profile(self, name: str, now: float) -> None:
        profile = load_profile(name)
        if profile.time_scale != self._clock.time_scale:
            raise InputError(
                f"{name} has time_scale {profile.time_scale:g}, the running link {self._clock.time_scale:g}",
                hint="stop the emulator and start it with that profile",
            )
        self._channel.change_profile(profile, now)

    # --- frames ---

    def _on_ground_readable(self) -> None:
        """Take what stations sent, up to a turn's worth, and pass on what is due."""
        now, heard_s = self._clock.link_s(), self._loop.time()
        view, receive, send = memoryview(self._buffer), self._ground.recvfrom_into, self._channel.send
        for _ in range(FRAMES_PER_TURN):
            try:
                size, station = receive(view)
            except OSError:  # empty, or an ICMP error about an earlier send: both mean nothing to read now
                break
            if station not in self._stations:
                self._admit(station)
            self._stations[station] = heard_s
            if size:
                send(Direction.UP, bytes(view[:size]), now)
        self._pump()

    def _on_space_readable(self) -> None:
        """Take what the satellite sent, up to a turn's worth, and pass on what is due."""
        now, self._heard_satellite_s = self._clock.link_s(), self._loop.time()
        view, receive, send = memoryview(self._buffer), self._space.recv_into, self._channel.send
        for _ in range(FRAMES_PER_TURN):
            try:
                size = receive(view)
            except OSError:
                break
            if size:
                send(Direction.DOWN, bytes(view[:size]), now)
        self._pump()

    def _pump(self) -> None:
        """Send on what has arrived at the other end, and wake up for the next."""
        for direction, data in self._channel.deliver(self._clock.link_s()):
            if direction is Direction.UP:
                self._send_up(data)
            else:
                for station in self._stations:
                    self._send_down(data, station)
        self._arm()

    def _send_up(self, data: bytes) -> None:
        if self._satellite is None:
            self._unsendable[Direction.UP] += 1
            return
        try:
            self._space.sendto(data, self._satellite)
        except BlockingIOError:
            self._unsendable[Direction.UP] += 1
        except OSError:  # no route, no such network any more
            self._unsendable[Direction.UP] += 1
            self._is_address_doubted = True

    def _send_down(self, data: bytes, station: Address) -> None:
        try:
            self._ground.sendto(data, station)
        except OSError:
            self._unsendable[Direction.DOWN] += 1

    def _arm(self) -> None:
        deadline = self._channel.next_deadline()
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

    # --- who is there ---

    def _admit(self, station: Address) -> None:
        """Make room for a station never heard before: the one silent longest has to go."""
        if len(self._stations) >= STATIONS_MAX:
            del self._stations[min(self._stations, key=self._stations.__getitem__)]
        logger.info("station=%s heard", _printable(station))

    def _forget_stations(self) -> None:
        silent_since_s = self._loop.time() - STATION_SILENCE_S_MAX
        for station in [station for station, heard_s in self._stations.items() if heard_s < silent_since_s]:
            del self._stations[station]

    def _wants_address(self) -> bool:
        now_s = self._loop.time()
        is_silent = now_s - self._heard_satellite_s > RESOLVE_SILENCE_S
        period_s = RESOLVE_PERIOD_S if self._is_address_doubted or self._satellite is None else RESOLVE_SILENCE_S
        return (self._is_address_doubted or is_silent) and now_s - self._resolved_s > period_s

    async def _resolve(self) -> None:
        """Look the satellite up; keep the address we have if that fails."""
        self._resolved_s = self._loop.time()
        satellite = self._endpoints["satellite"]
        try:
            found = await self._loop.getaddrinfo(
                satellite.host, satellite.port, family=self._space.family, type=socket.SOCK_DGRAM
            )
        except OSError as error:
            logger.warning("satellite=%s unresolved error=%s", satellite, error)
            return
        self._satellite = found[0][4]
        self._is_address_doubted = False

    # --- sockets ---

    async def _open(self, name: str) -> socket.socket:
        endpoint = self._endpoints[name]
        try:
            found = await self._loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise InputError(
                f"--{name} {endpoint}: {error.strerror or error}", hint="use an address of this machine"
            ) from error
        family, _, _, _, address = found[0]
        opened = socket.socket(family, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            _enlarge_buffers(opened)
            opened.bind(address)
        except OSError as error:
            opened.close()
            raise _bind_error(name, endpoint, error) from error
        return opened

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        self._loop.add_reader(self._ground, self._on_ground_readable)
        self._loop.add_reader(self._space, self._on_space_readable)
        try:
            yield
        finally:
            self._loop.remove_reader(self._ground)
            self._loop.remove_reader(self._space)
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


def _bind_error(name: str, endpoint: Endpoint, error: OSError) -> GroundError:
    if isinstance(error, OSError) and error.errno == 98:
        return BusyError(
            f"--{name} {endpoint}: the port is in use",
            hint=f"another emulator may be running; stop it, or choose another port with --{name}",
        )
    return InputError(
        f"--{name} {endpoint}: {error.strerror or error}", hint="use an address of this machine and a free port"
    )


def _enlarge_buffers(opened: socket.socket) -> None:
    # FORCE passes the system's limit but needs a privilege; without it the kernel grants what it may.
    so_rcvbufforce = 33
    try:
        opened.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, SOCKET_BUFFER_BYTES)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def _socket_drops(opened: socket.socket) -> int | None:
    """Frames the kernel dropped for want of buffer; None where it does not say."""
    try:
        words = _MEMINFO.unpack(opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return None
    return int(words[-1])


def _printable(address: Address) -> str:
    return str(Endpoint(host=address[0], port=address[1]))


def _direction(request: Request) -> Direction | None:
    wanted = request.get("direction")
    if wanted is None:
        return None
    if wanted not in ("up", "down"):
        raise InputError(f"no direction {wanted!r}", hint="directions are up and down; leave it out for both")
    return Direction(wanted)
