"""One UDP socket to one satellite (or emulator, or modem). A shell: it moves datagrams and knows nothing of them.

Weather stays weather: a host that does not answer, a route that is gone, a port nobody listens on are lost datagrams,
counted. Only a name that cannot be resolved at the start is an error.

Where a link is so fast that a system call for each datagram is too much, many go to the kernel as one train, which it
cuts up itself (UDP_SEGMENT of Linux) at a seventh of the cost. On the wire nothing differs; but what drops or counts
packets on the way out of this machine may take a whole train for one. So slow links do without.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from groundsegment.errors import InputError, LinkError

DATAGRAM_BYTES_MAX = 65_535
DATAGRAMS_PER_TURN = 256
BUFFER_BYTES = 4 << 20
_SEND_PATIENCE_S = 1.0

_UDP_SEGMENT = 103  # linux/udp.h; the standard library does not have it
_SEGMENT_SIZE = struct.Struct("=H")
_TRAIN_DATAGRAMS_MAX = 64  # UDP_MAX_SEGMENTS of the oldest kernels
_TRAIN_BYTES_MAX = 65_000  # as one IP packet before it is cut up, headers included
# A route that cannot: datagrams larger than its packets, IPsec, a device that makes no checksums.
_TRAIN_REFUSALS = {errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}


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
        self._takes_trains = False
        self.heard = asyncio.Event()
        self.num_unsendable = 0

    async def __aenter__(self) -> Self:
        family, self._address = await self._resolve()
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._takes_trains = _takes_trains(self._socket)
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

    async def send_all(self, datagrams: Sequence[bytes], *, in_trains: bool = False) -> None:
        """Send datagrams in order, each as `send`; many by one system call, if that is wanted and can be."""
        if not in_trains:
            await self._send_each(datagrams)
            return
        for train in trains_of(datagrams):
            if not (self._takes_trains and self._send_train(train)):
                await self._send_each(train)

    async def _send_each(self, datagrams: Sequence[bytes]) -> None:
        for data in datagrams:
            if not self.send_now(data):
                await self.send(data)

    def _send_train(self, train: Sequence[bytes]) -> bool:
        """False if nothing of it has left: there is no room for it now, or it cannot go as a train."""
        size = _SEGMENT_SIZE.pack(len(train[0]))
        try:
            self._socket.sendmsg(train, [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)], 0, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _TRAIN_REFUSALS:
                self._takes_trains = False
                return False
            self.num_unsendable += len(train)
        return True

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


def trains_of(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut into what the kernel takes as a train: datagrams of one size, of which the last may be shorter."""
    first = num_bytes = 0
    for number, data in enumerate(datagrams):
        size, count = len(datagrams[first]), number - first
        is_whole = count == _TRAIN_DATAGRAMS_MAX or num_bytes + len(data) > _TRAIN_BYTES_MAX
        if count and (is_whole or len(data) > size or len(datagrams[number - 1]) < size):
            yield datagrams[first:number]
            first, num_bytes = number, 0
        num_bytes += len(data)
    if datagrams:
        yield datagrams[first:]


def _takes_trains(opened: socket.socket) -> bool:
    try:
        opened.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
    except OSError:  # another system, or an old one, which would send a train as one huge datagram
        return False
    return True
