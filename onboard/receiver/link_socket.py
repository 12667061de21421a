"""The receiver's socket: bound, deep, read many datagrams at a time. It knows nothing of what is in them."""

import contextlib
import errno
import logging
import socket
from typing import Any

from onboard.errors import BusyError, ConfigError
from onboard.receiver.many_datagrams import Datagram, ManyDatagrams, is_available
from protocol.frame import FRAME_SIZE_MAX
from protocol.limits import MIB

logger = logging.getLogger(__name__)

_RECEIVE_BUFFER_BYTES = 32 * MIB  # a second of a fast link, should the loop be held up
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; needs CAP_NET_ADMIN, passes over the system's limit

_READ_NUM = 64  # by one system call


class LinkSocket:
    """A UDP socket that never blocks.

    Args:
        listen: address and port; port 0 takes any.

    Raises:
        ConfigError: the address cannot be listened on.
        BusyError: somebody else does.
    """

    def __init__(self, listen: tuple[str, int]) -> None:
        self._socket = bind(listen)
        self._many: ManyDatagrams | None = None
        if is_available():
            self._many = ManyDatagrams(self._socket, num_max=_READ_NUM, size_max=FRAME_SIZE_MAX)

    def fileno(self) -> int:
        """For whoever waits for datagrams."""
        return self._socket.fileno()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self._socket.getsockname()
        return name[0], name[1]

    def read(self, num_max: int) -> list[Datagram]:
        """Return what has come, about so many datagrams at most."""
        datagrams: list[Datagram] = []
        for _ in range(0, num_max, _READ_NUM):
            try:
                found = self._read_some()
            except OSError as error:  # an ICMP answer to something we sent
                logger.debug("receive failed error=%s", error)
                continue
            datagrams += found
            if len(found) < _READ_NUM:
                break
        return datagrams

    def _read_some(self) -> list[Datagram]:
        if self._many is not None:
            return self._many.read()
        datagrams: list[Datagram] = []
        with contextlib.suppress(BlockingIOError):
            while len(datagrams) < _READ_NUM:
                datagrams.append(self._socket.recvfrom(FRAME_SIZE_MAX + 1))  # one more: longer must not look whole
        return datagrams

    def send(self, data: bytes, address: Any) -> bool:  # noqa: ANN401 - as it came
        """Send a datagram, or lose it if the network cannot; False: there is no room now."""
        try:
            self._socket.sendto(data, address)
        except BlockingIOError:
            return False
        except OSError as error:
            logger.debug("send failed error=%s", error)
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def bind(listen: tuple[str, int]) -> socket.socket:
    """Make the socket. Raises as `LinkSocket`."""
    host, port = listen
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{host}: {error}", key="link.listen", hint="give an address of this machine") from error
    bound.setblocking(False)
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"{host}:{port}/udp is in use", hint="stop the other daemon, or give link.listen another port"
            ) from error
        raise ConfigError(
            f"{host}:{port}: {error.strerror}", key="link.listen", hint="give an address of this machine"
        ) from error
    return bound
