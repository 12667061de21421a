"""The control socket of the serving process: JSON lines, one request, one reply; events pushed between.

    load    {release, directory, name, timeout_s}     -> {engine, context_tokens, seconds, rss_bytes,
                                                          not_confined: [text]}
    probe   {release, prompts, max_tokens}            -> {answers: [{tokens, text, seconds}]}   greedy
    flip    {release}                                 -> {swap_ms}
    drain   {release, timeout_s}                      -> {}   waits for its answers, then stops its worker
    unload  {release}                                 -> {}
    reload  {release}                                 -> {}   its files were mended: what serves is loaded from them
    status  {}                                        -> see ServingStatus in control.py
    ask     {messages | prompt | tokens, max_tokens, temperature, top_p, seed, stop}
                                                      -> {text, tokens, finish_reason, usage, release, name, seconds}
    shutdown {}                                       -> {}

A request is {"type": NAME, "id": ..., "key": hex, fields}; its reply {"id": ..., "ok": true, fields} or {"id": ...,
"ok": false, "error": text, "kind": word of errors.py}. Requests of one connection run side by side, so a long load
does not delay status. Every connection gets every event: {"event": "worker_failed", release, reason, serving,
failures}. Whoever can open the socket and read the key beside it (`store.local_key`) may do all this; a connection
without the key is told so and closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from onboard.inference.answers import Started
from onboard.inference.children import rss_bytes
from onboard.inference.engine import (
    MAX_LINE_BYTES,
    Delta,
    Done,
    Prompt,
    RequestError,
    SeamError,
    decode_line,
    sampling_from,
)
from onboard.inference.errors import ServingError
from onboard.inference.metrics import Tally
from onboard.inference.openai_api import usage_object
from onboard.inference.supervisor import Supervisor
from onboard.store import local_key

_MAX_OPEN_REQUESTS = 64
"""Per connection; one more is refused."""


class ControlServer:
    """Answers the daemon."""

    def __init__(self, supervisor: Supervisor, tally: Tally, *, endpoint: str, shut_down: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._tally = tally
        self._endpoint = endpoint
        self._shut_down = shut_down
        self._started_at = time.monotonic()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._key = ""

    async def start(self, path: Path) -> None:
        """Listen on a Unix socket; a stale one is replaced."""
        self._key = local_key.ensure(path.parent)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=MAX_LINE_BYTES)
        path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1)

    def publish(self, event: Mapping[str, Any]) -> None:
        """Push an event to every connection."""
        for writer in self._writers:
            _write(writer, event)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                message = decode_line(line)
                if not local_key.is_key(message.get("key"), self._key):
                    raise SeamError("a request without the key of this serving process")
                self._writers.add(writer)
                if len(tasks) >= _MAX_OPEN_REQUESTS:
                    _write(writer, _failure(message, ServingError("too many open requests", kind="busy")))
                    continue
                task = asyncio.create_task(self._reply(writer, message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (SeamError, ValueError, OSError) as error:
            _write(writer, {"ok": False, "error": str(error), "kind": "control"})
        finally:
            # A daemon that hung up wants none of it: a load that nobody waits for is undone.
            for task in tasks:
                task.cancel()
            self._writers.discard(writer)
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "load": self._load,
            "probe": self._probe,
            "flip": self._flip,
            "drain": self._drain,
            "unload": self._unload,
            "reload": self._reload,
            "status": self._status,
            "ask": self._ask,
            "shutdown": self._shutdown,
        }
        try:
            operation = operations.get(message["type"])
            if operation is None:
                raise ServingError(f"unknown request {message['type']!r}", kind="invalid")
            reply = {"id": message.get("id"), "ok": True, **await operation(message)}
        except ServingError as error:
            reply = _failure(message, error)
        except (RequestError, KeyError, TypeError, ValueError) as error:
            reply = _failure(message, ServingError(f"{message['type']}: {error!r}", kind="invalid"))
        except OSError as error:  # of this machine, not of the release
            reply = _failure(message, ServingError(f"{message['type']}: {error}", kind="unavailable"))
        _write(writer, reply)

    async def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        started_at = time.monotonic()
        model = await self._supervisor.load(
            str(message["release"]),
            directory=Path(message["directory"]),
            name=str(message["name"]),
            timeout_s=float(message["timeout_s"]),
        )
        assert model.worker is not None
        return {
            "engine": model.worker.ready.engine,
            "context_tokens": model.worker.ready.context_tokens,
            "seconds": time.monotonic() - started_at,
            "rss_bytes": model.worker.rss_bytes,
            "not_confined": model.worker.confined.troubles(),
        }

    async def _probe(self, message: dict[str, Any]) -> dict[str, Any]:
        prompts = [Prompt.from_json(item) for item in message["prompts"]]
        answers = await self._supervisor.probe(str(message["release"]), prompts, max_tokens=int(message["max_tokens"]))
        return {
            "answers": [
                {"tokens": list(answer.tokens), "text": answer.text, "seconds": answer.seconds} for answer in answers
            ]
        }

    async def _flip(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"swap_ms": await self._supervisor.flip(str(message["release"]))}

    async def _drain(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._supervisor.drain(str(message["release"]), timeout_s=float(message["timeout_s"]))
        return {}

    async def _unload(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._supervisor.unload(str(message["release"]))
        return {}

    async def _reload(self, message: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.reload(str(message["release"]))
        return {}

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        started_at = time.monotonic()
        prompt, sampling = Prompt.from_json(message), sampling_from(message)
        release = name = text = ""
        tokens: list[int] = []
        async with aclosing(self._tally.answer("ask", prompt, sampling)) as items:
            async for item in items:
                match item:
                    case Started():
                        release, name = item.release, item.name
                    case Delta():
                        tokens.extend(item.tokens)
                        text += item.text
                    case Done():
                        usage = usage_object(item.prompt_tokens, item.completion_tokens)
                        finish_reason = item.finish_reason
        return {
            "text": text,
            "tokens": tokens,
            "finish_reason": finish_reason,
            "usage": usage,
            "release": release,
            "name": name,
            "seconds": time.monotonic() - started_at,
        }

    async def _status(self, _message: dict[str, Any]) -> dict[str, Any]:
        supervisor = self._supervisor
        serving = supervisor.serving
        return {
            "endpoint": self._endpoint,
            "serving": serving.release if serving is not None else None,
            "is_serving": supervisor.is_serving,
            "workers": [
                {
                    "release": model.release,
                    "name": model.name,
                    "state": "serving" if model is serving and model.state == "ready" else model.state.value,
                    "pid": model.worker.pid if model.worker is not None else None,
                    "in_flight": model.num_active,
                    "restarts": model.num_restarts,
                    "rss_bytes": model.worker.rss_bytes if model.worker is not None else 0,
                    "locks": model.worker.confined.in_force if model.worker is not None else {},
                    "not_confined": model.worker.confined.troubles() if model.worker is not None else [],
                }
                for model in supervisor.models
            ],
            "requests_total": self._tally.num_requests,
            "requests_failed_total": self._tally.num_failed,
            "in_flight": self._tally.num_in_flight,
            "swap_ms": supervisor.swap_ms,
            "rss_bytes": rss_bytes(os.getpid()),
            "uptime_s": time.monotonic() - self._started_at,
        }

    async def _shutdown(self, _message: dict[str, Any]) -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(self._shut_down)
        return {}


def _failure(message: Mapping[str, Any], error: ServingError) -> dict[str, Any]:
    return {"id": message.get("id"), "ok": False, "error": str(error), "kind": error.kind}


def _write(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
