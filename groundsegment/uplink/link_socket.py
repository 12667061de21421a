"""One UDP socket to one satellite (or emulator, or modem). A shell: it moves datagrams and knows nothing of them.

Weather stays weather: a host that does not answer, a route that is gone, a port nobody listens on are lost datagrams,
counted. Only a name that cannot be resolved at the start is an error.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from groundsegment.errors import InputError, LinkError

DATAGRAM_BYTES_MAX = 65_535
DATAGRAMS_PER_TURN = 256
BUFFER_BYTES = 4 << 20
_SEND_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A host and a UDP port, not resolved yet."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, option: str = "--link") -> "Endpoint":
        """Read HOST:PORT or [IPV6]:PORT.

        Raises:
            InputError: it is neither.
        """
        host, _, port = text.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise InputError(f"{option}: {text!r} is not HOST:PORT", hint=f"for example {option} 127.0.0.1:7001")
        return cls(host=host.removeprefix("[").removesuffix("]"), port=int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LinkSocket:
    """Made and used inside an event loop, in an `async with`."""

    def __init__(self, endpoint: Endpoint, receive: Callable[[bytes], None]) -> None:
        self._endpoint, self._receive = endpoint, receive
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket
        self._address: Any = None
        self.heard = asyncio.Event()
        self.num_unsendable = 0

    async def __aenter__(self) -> Self:
        family, self._address = await self._resolve()
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._loop.add_reader(self._socket, self._on_readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def send_now(self, data: bytes) -> bool:
        """Send a datagram; False if the kernel has no room for it now."""
        try:
            self._socket.sendto(data, self._address)
        except BlockingIOError:
            return False
        except OSError:
            self.num_unsendable += 1
        return True

    async def send(self, data: bytes) -> None:
        """Send a datagram, waiting for room; one that finds none for a second is lost."""
        deadline_s = self._loop.time() + _SEND_PATIENCE_S
        while not self.send_now(data):
            if self._loop.time() > deadline_s:
                self.num_unsendable += 1
                return
            await asyncio.sleep(0.001)

    async def resolve_again(self) -> None:
        """Look the address up once more: a container that restarts may get another one."""
        with contextlib.suppress(LinkError):
            family, address = await self._resolve()
            if family == self._socket.family:
                self._address = address

    async def _resolve(self) -> tuple[int, Any]:
        try:
            found = await self._loop.getaddrinfo(self._endpoint.host, self._endpoint.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise LinkError(
                f"--link {self._endpoint}: {error.strerror or error}",
                hint="check the host's name; --link is where the modem, the emulator or the satellite listens",
            ) from error
        return found[0][0], found[0][4]

    def _on_readable(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data = self._socket.recv(DATAGRAM_BYTES_MAX)
            except OSError:  # nothing left, or an ICMP error of an earlier send
                break
            self._receive(data)
        self.heard.set()
