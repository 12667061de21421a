"""One link of the emulator: the socket that its ground sends to, the channel behind it, who listens there. A shell.

The home link is everybody's who has none of their own; each station of the profile has its own socket, conditions and
contacts. What comes down goes to whoever was heard at the socket in the last ten minutes.
"""

import asyncio
import dataclasses
import logging
import socket
from typing import Any

from groundsegment.emulator.channel import Channel, RandomSource
from groundsegment.emulator.conditions import Direction, LinkProfile
from groundsegment.emulator.sockets import DATAGRAM_BYTES_MAX, Address, Endpoint, open_udp, printable, socket_drops

logger = logging.getLogger(__name__)

LISTENERS_MAX = 16
LISTENER_SILENCE_S_MAX = 600.0
# Frames read per wake-up: enough to spread the cost of the event loop, few enough that all sockets get a turn.
FRAMES_PER_TURN = 64


class GroundLink:
    """One link between the ground and the satellite.

    Attributes:
        name: of the station it belongs to; empty for the home link.
        channel: what happens to its frames.
        socket: where its ground sends to; open after `open`.
        num_unsendable: frames that no route or address would take, by direction.
    """

    def __init__(self, name: str, profile: LinkProfile, rng: RandomSource, endpoint: Endpoint) -> None:
        self.name, self._endpoint = name, endpoint
        self.channel = Channel(profile, rng)
        self.socket: socket.socket
        self.num_unsendable = {Direction.UP: 0, Direction.DOWN: 0}
        self._listeners: dict[Address, float] = {}
        self._view = memoryview(bytearray(DATAGRAM_BYTES_MAX))
        self._loop = asyncio.get_running_loop()

    async def open(self) -> socket.socket:
        """Bind the socket.

        Raises:
            BusyError: the port is taken.
            InputError: the address cannot be used.
        """
        self.socket = await open_udp(f"--listen {self.name}" if self.name else "--ground", self._endpoint)
        return self.socket

    def receive(self, link_s: float) -> None:
        """Take what its ground sent, up to a turn's worth."""
        heard_s = self._loop.time()
        view, receive, send, listeners = self._view, self.socket.recvfrom_into, self.channel.send, self._listeners
        for _ in range(FRAMES_PER_TURN):
            try:
                size, listener = receive(view)
            except OSError:  # empty, or an ICMP error about an earlier send: both mean nothing to read now
                break
            if listener not in listeners:
                self._admit(listener)
            listeners[listener] = heard_s
            if size:
                send(Direction.UP, bytes(view[:size]), link_s)

    def send_down(self, data: bytes) -> None:
        """Give everybody who listens a frame of the satellite."""
        for listener in self._listeners:
            try:
                self.socket.sendto(data, listener)
            except OSError:
                self.num_unsendable[Direction.DOWN] += 1

    def forget_listeners(self) -> None:
        """Drop those that were silent for long."""
        silent_since_s = self._loop.time() - LISTENER_SILENCE_S_MAX
        for listener in [listener for listener, heard_s in self._listeners.items() if heard_s < silent_since_s]:
            del self._listeners[listener]

    def statistics(self, link_s: float, space: socket.socket) -> dict[str, Any]:
        """Everything countable, as JSON values; frames per direction as in channel.DirectionStatistics."""
        channel, counters = self.channel, self.channel.statistics()
        is_contact, until_s = channel.profile.contact_at(link_s)
        return {
            "is_contact": is_contact,
            "changes_in_s": None if until_s == float("inf") else round(until_s - link_s, 3),
            "stations": len(self._listeners),
            "ground": printable(self.socket.getsockname()),
            **{
                direction.value: {
                    **dataclasses.asdict(getattr(counters, direction.value)),
                    "lost": getattr(counters, direction.value).lost,
                    "is_cut": channel.is_cut(direction),
                    "is_up": channel.is_up(link_s, direction),
                    "unsendable": self.num_unsendable[direction],
                    "socket_drops": socket_drops(source),
                }
                for direction, source in ((Direction.UP, self.socket), (Direction.DOWN, space))
            },
        }

    def _admit(self, listener: Address) -> None:
        """Make room for a listener never heard before: the one silent longest has to go."""
        if len(self._listeners) >= LISTENERS_MAX:
            del self._listeners[min(self._listeners, key=self._listeners.__getitem__)]
        logger.info("link=%s listener=%s heard", self.name or "home", printable(listener))
