"""The daemon's side of serving: the process as a child, and a typed client of its control socket.

    async with ServingProcess.start(...) as process:
        control = await ServingControl.connect(process.control_path)
        await control.load(...); await control.probe(...); await control.flip(...); await control.drain(...)

The serving process dies with the daemon, and its engine workers with it, `kill -9` included. Whether to start
it again when it ends by itself is the daemon's decision: `ServingProcess.wait` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onboard.inference.children import Child, start_child
from onboard.inference.confinement.policy import BEST_EFFORT, Confinement, program
from onboard.inference.engine import MAX_LINE_BYTES
from onboard.inference.errors import ServingError
from onboard.store import local_key

SERVING_COMMAND = program("onboard.inference.serving")
_SERVING_PROCESS_OOM_SCORE = 300
_MAX_EVENTS = 256
_REPLY_SLACK_S = 10.0
_MAX_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A release has a worker now.

    Attributes:
        engine: name and versions of the engine.
        context_tokens: most tokens of prompt and answer together.
        seconds: how long loading took.
        rss_bytes: resident memory of the worker after loading.
        not_confined: what does not hold it and should.
    """

    engine: str
    context_tokens: int
    seconds: float
    rss_bytes: int
    not_confined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A greedy answer to one prompt of a probe.

    Attributes:
        tokens: ids generated, the ending one included.
        text: the same as text.
        seconds: how long it took.
    """

    tokens: tuple[int, ...]
    text: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAnswer:
    """The serving release's answer to a question."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    release: str
    name: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One loaded release.

    Attributes:
        release: its digest.
        name: its name at the endpoint.
        state: "loading", "ready", "serving", "restarting" or "failed".
        pid: process of its worker, None if it has none now.
        in_flight: answers in the making.
        restarts: how often its worker was restarted.
        rss_bytes: resident memory of the worker.
        locks: what holds it, by name, and how.
        not_confined: what does not and should.
    """

    release: str
    name: str
    state: str
    pid: int | None
    in_flight: int
    restarts: int
    rss_bytes: int
    locks: Mapping[str, str] = field(default_factory=dict)
    not_confined: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStatus:
    """The serving process at one moment.

    Attributes:
        endpoint: base URL, without /v1.
        serving: release that requests go to, None before the first flip.
        is_serving: whether a request would be answered now (False while its worker restarts).
        workers: loaded releases, oldest first.
        requests_total: requests that ended.
        requests_failed_total: of these, admitted and then not answered.
        in_flight: requests being answered or waiting.
        swap_ms: how long the last flip took, None before the first.
        rss_bytes: resident memory of the serving process itself.
        uptime_s: since its start.
    """

    endpoint: str
    serving: str | None
    is_serving: bool
    workers: tuple[WorkerStatus, ...]
    requests_total: int
    requests_failed_total: int
    in_flight: int
    swap_ms: float | None
    rss_bytes: int
    uptime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailed:
    """A worker died or could not be restarted.

    Attributes:
        release: whose worker.
        reason: for people.
        serving: whether it is the release that serves; then it is being restarted.
        failures: failures in a row, without a request answered between them.
    """

    release: str
    reason: str
    serving: bool
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFlipped:
    """A worker found its weights changed in memory, and ended; what serves is loaded anew.

    Attributes:
        release: whose worker.
        where: tensor whose bytes these are, or begin.
        offset: of the 4 KiB that are wrong.
        bit: which one of their bits; None if it was more than one.
    """

    release: str
    where: str
    offset: int
    bit: int | None


class ServingControl:
    """A connection to the control socket; made by `connect`. Every method raises ServingError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._writer = writer
        self._key = key
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: asyncio.Queue[WorkerFailed | WeightsFlipped | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def connect(cls, path: Path) -> ServingControl:
        """Connect to the control socket at `path`."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise ServingError(f"no serving process at {path}: {error}", kind="control") from error
        return cls(reader, writer, local_key.read(path.parent))

    async def close(self) -> None:
        """Hang up; requests without a reply yet are abandoned."""
        self._writer.transport.abort()  # not close: that would wait for a process that hangs to take the rest
        await asyncio.wait({self._reading})

    async def load(self, release: str, *, directory: Path, name: str, timeout_s: float = 300.0) -> Loaded:
        """Load a release beside what serves; a release that is loaded already is left as it is."""
        fields = {"release": release, "directory": str(directory), "name": name, "timeout_s": timeout_s}
        reply = await self._call("load", fields, timeout_s=timeout_s)
        return Loaded(
            engine=reply["engine"],
            context_tokens=reply["context_tokens"],
            seconds=reply["seconds"],
            rss_bytes=reply["rss_bytes"],
            not_confined=tuple(reply["not_confined"]),
        )

    async def probe(
        self, release: str, prompts: Sequence[Mapping[str, Any]], *, max_tokens: int, timeout_s: float = 600.0
    ) -> list[Answer]:
        """Answer prompts greedily with a loaded release.

        Args:
            release: which.
            prompts: each {"messages": [{"role", "content"}, ...]}, or {"prompt": text}, or {"tokens": [ids]}.
            max_tokens: longest answer.
            timeout_s: for all of them.
        """
        fields = {"release": release, "prompts": [dict(prompt) for prompt in prompts], "max_tokens": max_tokens}
        reply = await self._call("probe", fields, timeout_s=timeout_s)
        return [
            Answer(tokens=tuple(item["tokens"]), text=item["text"], seconds=item["seconds"])
            for item in reply["answers"]
        ]

    async def flip(self, release: str) -> float:
        """Send new requests to this release from now on; returns the time it took in ms."""
        return float((await self._call("flip", {"release": release}, timeout_s=60))["swap_ms"])

    async def drain(self, release: str, *, timeout_s: float) -> None:
        """Wait until a release that no longer serves has finished its answers, then stop its worker."""
        await self._call("drain", {"release": release, "timeout_s": timeout_s}, timeout_s=timeout_s)

    async def unload(self, release: str) -> None:
        """Stop a release's worker now; its unfinished answers move to whoever serves."""
        await self._call("unload", {"release": release}, timeout_s=30)

    async def reload(self, release: str) -> None:
        """Have what serves loaded anew, for its files were mended; nothing if this release does not serve."""
        await self._call("reload", {"release": release}, timeout_s=30)

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = 600.0,
    ) -> AskAnswer:
        """Ask the serving release."""
        fields = {
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        reply = await self._call("ask", fields, timeout_s=timeout_s)
        return AskAnswer(
            text=reply["text"],
            tokens=tuple(reply["tokens"]),
            finish_reason=reply["finish_reason"],
            prompt_tokens=reply["usage"]["prompt_tokens"],
            completion_tokens=reply["usage"]["completion_tokens"],
            release=reply["release"],
            name=reply["name"],
            seconds=reply["seconds"],
        )

    async def status(self) -> ServingStatus:
        """Return how things stand."""
        reply = await self._call("status", {}, timeout_s=30)
        fields = {name: reply[name] for name in ServingStatus.__dataclass_fields__}
        fields["workers"] = tuple(_worker_status(worker) for worker in reply["workers"])
        return ServingStatus(**fields)

    async def shutdown(self) -> None:
        """Tell the serving process to end; it stops its workers first."""
        await self._call("shutdown", {}, timeout_s=30)

    async def next_event(self) -> WorkerFailed | WeightsFlipped | None:
        """Wait for the next failure of a worker, or of its memory; None when the serving process is gone."""
        return await self._events.get()

    async def _call(self, type_: str, fields: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if self._reading.done():
            raise ServingError("the serving process is gone", kind="control")
        request_id = next(self._ids)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = reply
        self._writer.write(json.dumps({"type": type_, "id": request_id, "key": self._key, **fields}).encode() + b"\n")
        try:
            async with asyncio.timeout(timeout_s + _REPLY_SLACK_S):
                message = await reply
        except TimeoutError:
            raise ServingError(f"no reply to {type_} within {timeout_s:.0f} s", kind="control") from None
        finally:
            del self._replies[request_id]
        if not message["ok"]:
            raise ServingError(message["error"], kind=message["kind"])
        return message

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            while line := await reader.readline():
                self._handle(json.loads(line))
        self._writer.close()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ServingError("the serving process is gone", kind="control"))
        self._events.put_nowait(None)

    def _handle(self, message: dict[str, Any]) -> None:
        kind: type[WorkerFailed | WeightsFlipped] | None = _EVENTS.get(str(message.get("event")))
        if kind is not None:
            if self._events.qsize() < _MAX_EVENTS:
                self._events.put_nowait(kind(**{name: message[name] for name in kind.__dataclass_fields__}))
            return
        reply = self._replies.get(message.get("id", 0))
        if reply is not None and not reply.done():
            reply.set_result(message)


_EVENTS: Mapping[str, type[WorkerFailed | WeightsFlipped]] = {
    "worker_failed": WorkerFailed,
    "weights_flipped": WeightsFlipped,
}


class ServingProcess:
    """The serving process as our child; made by `start`."""

    def __init__(self, child: Child, *, control_path: Path, endpoint: str) -> None:
        self._child = child
        self.control_path = control_path
        self.endpoint = endpoint

    @classmethod
    async def start(
        cls,
        *,
        listen: str,
        run_directory: Path,
        engine_command: Sequence[str] = (),
        num_threads: int = 1,
        confinement: Confinement = BEST_EFFORT,
        options: Sequence[str] = (),
        timeout_s: float = 30.0,
    ) -> ServingProcess:
        """Start the serving process and wait until its sockets listen.

        Args:
            listen: HOST:PORT of the endpoint; port 0 picks a free one.
            run_directory: for sockets and logs; made if missing.
            engine_command: program and arguments of the engine worker; empty is the embedded one.
            num_threads: CPU threads of an engine.
            confinement: what engines may do.
            options: more arguments of the process, see serving.py.
            timeout_s: longest time until it listens.

        Raises:
            ServingError: it did not start, with its last words.
        """
        run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        control_path = run_directory / "control.sock"
        if len(os.fsencode(control_path)) > _MAX_SOCKET_PATH_BYTES:
            reason = f"a Unix socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes: {control_path}"
            raise ServingError(reason, kind="control")
        argv = [*SERVING_COMMAND, "--listen", listen]
        argv += ["--control", str(control_path), "--run-dir", str(run_directory), "--threads", str(num_threads)]
        argv += ["--engine-command", shlex.join(engine_command), "--confinement", confinement.to_json(), *options]
        child = await start_child(
            argv, log_path=run_directory / "serving.log", oom_score=_SERVING_PROCESS_OOM_SCORE, keep_stdout=True
        )
        assert child.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await child.stdout.readline()
        except BaseException as error:
            child.kill()
            await asyncio.shield(child.wait())
            if isinstance(error, TimeoutError):
                raise ServingError(f"not listening after {timeout_s:.0f} s", kind="control") from None
            raise
        if not line:
            raise ServingError(f"the serving process did not start: {await child.wait()}", kind="control")
        return cls(child, control_path=control_path, endpoint=json.loads(line)["endpoint"])

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    async def wait(self) -> str:
        """Wait until it ends; returns how."""
        return await self._child.wait()

    async def stop(self, *, grace_s: float = 10.0) -> str:
        """End it and its workers; returns how it ended."""
        return await self._child.stop(grace_s=grace_s)

    def kill(self) -> None:
        """SIGKILL; its workers die with it."""
        self._child.kill()


def _worker_status(fields: dict[str, Any]) -> WorkerStatus:
    return WorkerStatus(**{**fields, "not_confined": tuple(fields["not_confined"])})
