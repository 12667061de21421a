"""Ports for processes that we start: nobody else is given them, neither by the system nor by another of us.

A port that was found free by binding it and letting go may be handed to anybody before its process binds it, or between
two lives of it. These lie below the range that the system hands out from, and each is held by the name of a socket
until the process that asked for the port ends.
"""

import contextlib
import os
import socket

PORTS = range(20_000, 29_000)


def free_port(kind: socket.SocketKind) -> int:
    """A port of 127.0.0.1 that is this process's until it ends."""
    begin = os.getpid() % len(PORTS)
    for port in (*PORTS[begin:], *PORTS[:begin]):
        if _is_free(port, kind) and _hold(port):
            return port
    raise AssertionError("all ports are taken")


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _hold(port: int) -> bool:
    holder = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        holder.bind(f"\0skyload-port-{port}")
        holder.detach()  # open until we end
        return True
    holder.close()
    return False
