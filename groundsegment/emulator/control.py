"""The control socket: one JSON object per line in, one per line out, over a Unix socket.

    {"op": "cut"}                         both directions; or "direction": "up" | "down"
    {"op": "restore"}                     likewise
    {"op": "statistics"}
    {"op": "profile"}                     what is in force; with "name": a profile to change to

Every answer has "ok": true, or "ok": false with "error" and "hint". The server belongs to the proxy's event loop;
`call_control` is the client, for commands and tests. Neither knows what an operation means: the proxy does.
"""

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from groundsegment.errors import BusyError, GroundError, InputError, LinkError

Request = dict[str, Any]
Answer = dict[str, Any]

LINE_BYTES_MAX = 16 * 1024
ANSWER_BYTES_MAX = 1 << 20
CLIENTS_MAX = 16


def call_control(path: Path, request: Request, *, timeout_s: float = 5.0) -> Answer:
    """Ask a running emulator to do something.

    Raises:
        LinkError: nobody answers at this path.
        InputError: the emulator refused; carries its words.
    """
    hint = f"`skyload link run ... --control {path}` starts an emulator that listens there"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(str(path))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as file:
                line = file.readline(ANSWER_BYTES_MAX)
        answer = json.loads(line)
    except OSError as error:
        raise LinkError(f"no link emulator at {path}: {error.strerror or error}", hint=hint) from error
    except ValueError as error:
        raise LinkError(f"what listens at {path} is not a link emulator", hint=hint) from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        words = answer if isinstance(answer, dict) else {}
        raise InputError(str(words.get("error", "refused")), hint=str(words.get("hint", "")))
    return answer


@contextlib.asynccontextmanager
async def serve_control(path: Path, handle: Callable[[Request], Answer]) -> AsyncIterator[None]:
    """Listen at a path while the body runs; the socket is for this user only.

    Args:
        path: where; a socket that a dead emulator left there is replaced.
        handle: does one operation; may raise GroundError.

    Raises:
        BusyError: another emulator listens there.
        InputError: the path cannot be used.
    """
    _claim(path)
    writers: set[asyncio.StreamWriter] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            if len(writers) <= CLIENTS_MAX:
                await _converse(reader, writer, handle)
        finally:
            writers.discard(writer)
            writer.close()

    try:
        server = await asyncio.start_unix_server(talk, path=str(path), limit=LINE_BYTES_MAX)
    except OSError as error:
        raise InputError(
            f"cannot listen at {path}: {error.strerror or error}",
            hint="choose a short path in a directory you can write to",
        ) from error
    try:
        path.chmod(0o600)
        yield
    finally:
        server.close()
        for writer in list(writers):
            writer.close()
        path.unlink(missing_ok=True)


def _claim(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise InputError(f"{path} exists and is not a socket", hint="choose another path for --control")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # whoever listened there is gone
            return
    raise BusyError(f"another link emulator listens at {path}", hint="stop it, or give this one another --control path")


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Callable[[Request], Answer]
) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # longer than LINE_BYTES_MAX
                return
            if not line:
                return
            writer.write(json.dumps(_answer(line, handle)).encode() + b"\n")
            await writer.drain()


def _answer(line: bytes, handle: Callable[[Request], Answer]) -> Answer:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise InputError("a request is one JSON object per line", hint='try {"op": "statistics"}')
        return {"ok": True, **handle(request)}
    except GroundError as error:
        return {"ok": False, "error": str(error), "hint": error.hint}
    except (ValueError, RecursionError) as error:
        return {"ok": False, "error": f"not JSON: {error}", "hint": 'try {"op": "statistics"}'}
