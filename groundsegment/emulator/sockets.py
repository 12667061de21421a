"""The emulator's UDP sockets: addresses, buffers, and what the kernel dropped. They know nothing of links."""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any

from groundsegment.errors import BusyError, GroundError, InputError

Address = tuple[Any, ...]  # as the socket module has it: (host, port) or (host, port, flow, scope)

DATAGRAM_BYTES_MAX = 65_535
# 16 MiB hold about half a second at 30,000 frames a second; the kernel may grant less.
SOCKET_BUFFER_BYTES = 16 << 20

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


async def open_udp(option: str, endpoint: Endpoint) -> socket.socket:
    """Bind a socket that does not block.

    Raises:
        BusyError: the port is taken.
        InputError: the address cannot be used.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise InputError(
            f"{option} {endpoint}: {error.strerror or error}", hint="use an address of this machine"
        ) from error
    family, _, _, _, address = found[0]
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        _enlarge_buffers(opened)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise _bind_error(option, endpoint, error) from error
    return opened


def _bind_error(option: str, endpoint: Endpoint, error: OSError) -> GroundError:
    if isinstance(error, OSError) and error.errno == 98:
        return BusyError(
            f"{option} {endpoint}: the port is in use",
            hint=f"another emulator may be running; stop it, or choose another port with {option}",
        )
    return InputError(
        f"{option} {endpoint}: {error.strerror or error}", hint="use an address of this machine and a free port"
    )


def _enlarge_buffers(opened: socket.socket) -> None:
    # FORCE passes the system's limit but needs a privilege; without it the kernel grants what it may.
    so_rcvbufforce = 33
    try:
        opened.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, SOCKET_BUFFER_BYTES)
    except OSError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def socket_drops(opened: socket.socket) -> int | None:
    """Frames the kernel dropped for want of buffer; None where it does not say."""
    try:
        words = _MEMINFO.unpack(opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return None
    return int(words[-1])


def printable(address: Address) -> str:
    """An address for people."""
    return str(Endpoint(host=address[0], port=address[1]))
