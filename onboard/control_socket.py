"""The daemon's control socket, both ends: `run/daemon.sock`, one JSON line asked, one answered.

    {"op": "status", "key": hex}                        -> {"ok": true, "status": {...}}
    {"op": "revert", "digest": hex | null}  -> {"ok": true, "digest": hex, "name": str}
    {"op": "import", "sha256": hex}         -> {"ok": true, "outcome": str | null, "reason": str}
    {"op": "scrub", "digest": hex | null, "now": bool} -> {"ok": true, "releases": [...]}
    {"op": "report"}                        -> {"ok": true, "name": str, "data": hex}; a datagram
    anything that fails                     -> {"ok": false, "error": text, "hint": text, "exit_code": int}

Whoever may open the socket and read the key beside it (`store.local_key`) may do all of it; every request carries the
key. Deep state directories work, for the
socket is reached through its directory and not by its whole path (which may have 107 bytes at most).
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from onboard.errors import BusyError, OnboardError
from onboard.installer.serving import ServingProblem
from onboard.read_only import find_run_directory
from onboard.store import local_key
from onboard.store.layout import StateLayout

SOCKET_NAME = "daemon.sock"
_LINE_SIZE_MAX = 1 << 20
_TIMEOUT_S = 5.0
_TIMEOUTS_S = {"revert": 900.0, "import": 90.0, "scrub": 3600.0}  # a model is loaded; unpacked; read

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlSocket:
    """The daemon's end.

    Args:
        run_directory: where the socket lies.
        operations: what may be asked, by name.
    """

    def __init__(self, run_directory: Path, operations: dict[str, Operation]) -> None:
        self._run_directory, self._operations = run_directory, operations
        self._connections: set[asyncio.Task[Any]] = set()
        self._key = ""

    async def run(self) -> None:
        """Answer, for ever."""
        self._key = local_key.ensure(self._run_directory)
        (self._run_directory / SOCKET_NAME).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short_path(self._run_directory) as path:
            listener.bind(path)
        (self._run_directory / SOCKET_NAME).chmod(0o600)
        server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_SIZE_MAX)
        try:
            await asyncio.Event().wait()  # not serve_forever: that waits for every client to hang up
        finally:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            (self._run_directory / SOCKET_NAME).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            line = await reader.readline()
            writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # whoever asked has gone, or asked for too much; or we stop, which is no error to be logged
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            operation, is_known = self._operations[asked["op"]], local_key.is_key(asked.get("key"), self._key)
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"ok": False, "error": "not a request", "hint": "", "exit_code": 2}
        if not is_known:
            hint = "run as the daemon's user, who can read the key in the run directory"
            return {"ok": False, "error": "a request without the daemon's key", "hint": hint, "exit_code": 3}
        try:
            return {"ok": True, **await operation(asked)}
        except OnboardError as error:
            return {"ok": False, "error": str(error), "hint": error.hint, "exit_code": error.exit_code}
        except ServingProblem as error:
            return {"ok": False, "error": str(error), "hint": "`skyloadd status` shows serving", "exit_code": 7}


def ask_daemon(run_directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon one thing.

    Raises:
        BusyError: nobody answers there.
        OnboardError: what the daemon said no with, with its exit code.
    """
    timeout_s = _TIMEOUTS_S.get(request["op"], _TIMEOUT_S)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            with _short_path(run_directory) as path:
                connection.connect(path)
            connection.sendall(json.dumps({**request, "key": local_key.read(run_directory)}).encode() + b"\n")
            reply = _reply(connection.makefile("rb").readline(_LINE_SIZE_MAX))
    except (OSError, ValueError) as error:
        raise BusyError(
            f"no daemon answers at {run_directory / SOCKET_NAME}: {getattr(error, 'strerror', None) or error}",
            hint="start it with `skyloadd run --config FILE`, and look into its log",
        ) from error
    if not reply.get("ok"):
        refused = OnboardError(str(reply.get("error")), hint=str(reply.get("hint", "")))
        refused.exit_code = reply.get("exit_code", 1)
        raise refused
    return reply


def ask_here(layout: StateLayout, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon of a state directory, also one whose sockets are elsewhere because it cannot write there.

    Raises as `ask_daemon`.
    """
    try:
        return ask_daemon(layout.run, request)
    except BusyError:
        elsewhere = find_run_directory(layout)
        if elsewhere is None:
            raise
        return ask_daemon(elsewhere, request)


def _reply(line: bytes) -> dict[str, Any]:
    """Parse what the daemon says; ValueError if it is something else that listens there."""
    try:
        reply = json.loads(line)
    except RecursionError:
        reply = None
    if not isinstance(reply, dict) or type(reply.get("exit_code", 1)) is not int:
        raise ValueError("what listens there is not the daemon")
    return reply


@contextlib.contextmanager
def _short_path(run_directory: Path) -> Iterator[str]:
    handle = os.open(run_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET_NAME}"
    finally:
        os.close(handle)
