"""The emulator's end towards the satellite: one socket, and where the satellite is. A shell.

The satellite's name is looked up again when sends fail, and now and then while it is silent: a container that restarts
under the same name may get another address without any send failing.
"""

import asyncio
import logging
import socket
from collections.abc import Iterator

from groundsegment.emulator.sockets import DATAGRAM_BYTES_MAX, Address, Endpoint, open_udp

logger = logging.getLogger(__name__)

RESOLVE_PERIOD_S = 2.0
RESOLVE_SILENCE_S = 10.0


class SpaceEnd:
    """The satellite, as the emulator sees it.

    Attributes:
        satellite: where it listens.
        socket: what it hears us from; open after `open`.
    """

    def __init__(self, endpoint: Endpoint, satellite: Endpoint) -> None:
        self._endpoint, self.satellite = endpoint, satellite
        self._loop = asyncio.get_running_loop()
        self.socket: socket.socket
        self._address: Address | None = None
        self._view = memoryview(bytearray(DATAGRAM_BYTES_MAX))
        self._is_address_doubted = True
        self._heard_s = self._resolved_s = -RESOLVE_SILENCE_S

    async def open(self) -> socket.socket:
        """Bind the socket.

        Raises:
            BusyError: the port is taken.
            InputError: the address cannot be used.
        """
        self.socket = await open_udp("--space", self._endpoint)
        return self.socket

    @property
    def is_resolved(self) -> bool:
        """Whether it has an address."""
        return self._address is not None

    def receive(self, count_max: int) -> Iterator[bytes]:
        """What the satellite sent, at most so many frames."""
        self._heard_s = self._loop.time()
        view, receive = self._view, self.socket.recv_into
        for _ in range(count_max):
            try:
                size = receive(view)
            except OSError:  # empty, or an ICMP error about an earlier send
                return
            if size:
                yield bytes(view[:size])

    def send(self, data: bytes) -> bool:
        """Send a frame to it; False if no route or address would take it."""
        if self._address is None:
            return False
        try:
            self.socket.sendto(data, self._address)
        except BlockingIOError:
            return False
        except OSError:  # no route, no such network any more
            self._is_address_doubted = True
            return False
        return True

    @property
    def wants_address(self) -> bool:
        """Whether it is time to look it up."""
        now_s = self._loop.time()
        is_silent = now_s - self._heard_s > RESOLVE_SILENCE_S
        period_s = RESOLVE_PERIOD_S if self._is_address_doubted or self._address is None else RESOLVE_SILENCE_S
        return (self._is_address_doubted or is_silent) and now_s - self._resolved_s > period_s

    async def resolve(self) -> None:
        """Look it up; keep the address we have if that fails."""
        self._resolved_s = self._loop.time()
        satellite = self.satellite
        try:
            found = await self._loop.getaddrinfo(
                satellite.host, satellite.port, family=self.socket.family, type=socket.SOCK_DGRAM
            )
        except OSError as error:
            logger.warning("satellite=%s unresolved error=%s", satellite, error)
            return
        self._address = found[0][4]
        self._is_address_doubted = False
