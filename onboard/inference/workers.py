"""The supervisor's side of one engine worker: start it, ask it, notice its death.

`EngineWorker.start` returns a worker that is ready, or raises. After that everything it says arrives at the
`Generation` it belongs to, and its death arrives at all of them as WorkerLostError, exactly once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onboard.inference.children import Child, rss_bytes, start_child
from onboard.inference.confinement.policy import Confinement, Mode, program
from onboard.inference.confinement.quarters import Quarters, Report, open_socket_to
from onboard.inference.engine import (
    MAX_LINE_BYTES,
    WEIGHTS_PERIOD,
    Delta,
    Done,
    Prompt,
    Ready,
    Sampling,
    SeamError,
    decode_line,
    encode_line,
    generate_fields,
)
from onboard.inference.errors import ServingError, WorkerLostError
from onboard.inference.weights import WeightsFlip
from onboard.store.bases import base_directory_of

_Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Greeting: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter, Ready]
DEFAULT_ENGINE_COMMAND = program("onboard.inference.worker")
TRIAL_OOM_SCORE = 900
SERVING_OOM_SCORE = 500
UNCONFINED = Confinement(readable=(), writable=(), mode=Mode.OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What it takes to start a worker.

    Attributes:
        release: digest of the release, hexadecimal.
        directory: the release's files.
        command: engine command, without the arguments of the seam.
        run_directory: for sockets and logs.
        num_threads: CPU threads of the engine.
        load_timeout_s: longest time from start to ready.
        weights_period_s: in which it compares all its weights once; 0 never.
        confinement: what holds for every engine; this one's paths are added.
    """

    release: str
    directory: Path
    command: tuple[str, ...]
    run_directory: Path
    num_threads: int = 1
    load_timeout_s: float = 300.0
    weights_period_s: float = 0.0
    confinement: Confinement = UNCONFINED


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """What a worker says of itself."""

    state: str
    num_active: int
    stalled_s: float


class Generation:
    """One answer in the making. Its end frees the worker's place, whether or not anybody reads it."""

    def __init__(self, request_id: str, worker: EngineWorker) -> None:
        self.request_id = request_id
        self.worker = worker
        self._items: asyncio.Queue[Delta | Done | ServingError] = asyncio.Queue()
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether the worker still works on it."""
        return self._is_open

    def put(self, item: Delta | Done | ServingError) -> None:
        """Take what the worker said."""
        self._is_open = isinstance(item, Delta)
        self._items.put_nowait(item)

    async def next_item(self, *, timeout_s: float) -> Delta | Done:
        """Return the next step.

        Raises:
            ServingError: the request cannot be answered, the worker is lost, or nothing came in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                item = await self._items.get()
        except TimeoutError:
            raise ServingError("the answer took longer than a request may", kind="timeout") from None
        if isinstance(item, ServingError):
            raise item
        return item

    def cancel(self) -> None:
        """Tell the worker that nobody wants the rest; nothing if it has ended."""
        if self._is_open:
            self.worker.say("cancel", {"id": self.request_id})


class EngineWorker:
    """A worker process with its release loaded; made by `start`."""

    def __init__(
        self, spec: WorkerSpec, child: Child, writer: asyncio.StreamWriter, ready: Ready, quarters: Quarters
    ) -> None:
        self.spec = spec
        self.ready = ready
        self.confined: Report = quarters.report()
        """What holds it."""
        self._quarters = quarters
        self.on_change: Callable[[], None] = lambda: None
        """Called when an answer ended."""
        self.is_outdated = False
        """Whether its release's files were mended since it loaded them."""
        self.flip: WeightsFlip | None = None
        """What it found wrong with its weights in memory before it went."""
        self._child = child
        self._writer = writer
        self._ids = itertools.count(1)
        self._open: dict[str, Generation] = {}
        self._health: dict[str, asyncio.Future[WorkerHealth]] = {}
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._is_stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, spec: WorkerSpec) -> EngineWorker:
        """Start a worker and wait until its release is loaded.

        Raises:
            ServingError: load_failed, with what the engine said or how it ended; unavailable if the engine itself
                cannot be started.
        """
        accepted: asyncio.Queue[_Connection] = asyncio.Queue()
        connections: list[asyncio.StreamWriter] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            accepted.put_nowait((reader, writer))

        try:
            quarters = Quarters.make(spec.run_directory, user=spec.confinement.user)
        except OSError as error:
            raise ServingError(f"no directory for the engine: {error}", kind="unavailable") from error
        try:
            try:
                server = await asyncio.start_unix_server(accept, quarters.socket_path, limit=MAX_LINE_BYTES)
                open_socket_to(quarters.socket_path, spec.confinement.user)
            except OSError as error:
                raise ServingError(f"no socket for the engine: {error}", kind="unavailable") from error
            try:
                child = await _start_process(spec, quarters)
                try:
                    async with asyncio.timeout(spec.load_timeout_s):
                        reader, writer, ready = await _meet(child, accepted)
                except BaseException as error:
                    child.kill()
                    await asyncio.shield(child.wait())
                    for connection in connections:
                        connection.close()
                    if isinstance(error, TimeoutError):
                        reason = f"not loaded after {spec.load_timeout_s:g} s"
                        raise ServingError(reason, kind="load_failed") from None
                    if spec.confinement.mode is Mode.REQUIRED and (troubles := quarters.report().troubles()):
                        # Not load_failed: it is this machine that has no locks, the release may be good.
                        raise ServingError(f"confinement is required: {troubles[0]}", kind="unavailable") from None
                    raise
            finally:
                server.close()
        except BaseException:
            quarters.remove()
            raise
        worker = cls(spec, child, writer, ready, quarters)
        worker._tasks.add(asyncio.create_task(worker._read(reader)))
        return worker

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._child.pid

    @property
    def num_active(self) -> int:
        """Answers in the making."""
        return len(self._open)

    @property
    def is_lost(self) -> bool:
        """Whether it has died or was stopped."""
        return self._lost.done()

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the worker."""
        return rss_bytes(self.pid)

    async def lost(self) -> str:
        """Wait for the worker's end; returns the reason."""
        return await asyncio.shield(self._lost)

    def begin(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Hand over a request."""
        generation = Generation(f"r{next(self._ids)}", self)
        if self._lost.done():
            generation.put(WorkerLostError(self._lost.result()))
            return generation
        self._open[generation.request_id] = generation
        self.say("generate", generate_fields(generation.request_id, prompt, sampling))
        return generation

    async def health(self, *, timeout_s: float) -> WorkerHealth:
        """Ask how it is; answered even while it computes.

        Raises:
            TimeoutError: no answer.
            WorkerLostError: it is gone.
        """
        if self._lost.done():
            raise WorkerLostError(self._lost.result())
        request_id = f"h{next(self._ids)}"
        answer: asyncio.Future[WorkerHealth] = asyncio.get_running_loop().create_future()
        self._health[request_id] = answer
        try:
            self.say("health", {"id": request_id})
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._health[request_id]

    def say(self, type_: str, fields: dict[str, Any]) -> None:
        """Send one message; to a worker that is gone, nothing."""
        if not self._lost.done() and not self._writer.is_closing():
            self._writer.write(encode_line(type_, fields))

    def kill(self) -> None:
        """End a worker that no longer answers; its requests see WorkerLostError."""
        self._child.kill()

    async def stop(self, *, grace_s: float = 2.0) -> None:
        """End the worker: hang up, which tells it to go, and kill it if it does not."""
        self._is_stopping = True
        self._writer.close()
        await self._child.stop(grace_s=grace_s)
        await self.lost()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        broken = ""
        try:
            while line := await reader.readline():
                self._handle(decode_line(line))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, SeamError) as error:
            broken = f"it broke the seam ({error!r}); "
        self._child.kill()
        how = await self._child.wait()
        self._quarters.remove()
        reason = "stopped" if self._is_stopping else f"worker process ended: {broken}{how}"
        self._lost.set_result(reason)
        self._writer.close()
        lost, self._open = self._open, {}
        for generation in lost.values():
            generation.put(WorkerLostError(reason))
        for future in self._health.values():
            if not future.done():
                future.set_exception(WorkerLostError(reason))
        self.on_change()

    def _handle(self, message: dict[str, Any]) -> None:
        request_id = message.get("id")
        if message["type"] == "health":
            future = self._health.get(str(request_id))
            if future is not None and not future.done():
                future.set_result(
                    WorkerHealth(
                        state=str(message["state"]),
                        num_active=int(message["num_active"]),
                        stalled_s=float(message["stalled_s"]),
                    )
                )
            return
        if message["type"] == "flipped":
            bit = message["bit"]
            self.flip = WeightsFlip(
                where=str(message["where"]), offset=int(message["offset"]), bit=None if bit is None else int(bit)
            )
            return
        generation = self._open.get(str(request_id))
        if generation is None:
            return
        generation.put(_item_from(message))
        if not generation.is_open:
            del self._open[generation.request_id]
            self.on_change()


def _item_from(message: dict[str, Any]) -> Delta | Done | ServingError:
    match message["type"]:
        case "delta":
            return Delta(tokens=tuple(message["tokens"]), text=str(message["text"]))
        case "done":
            return Done(
                finish_reason=str(message["finish_reason"]),
                prompt_tokens=int(message["prompt_tokens"]),
                completion_tokens=int(message["completion_tokens"]),
            )
        case "error":
            return ServingError(str(message["message"]), kind=str(message["kind"]))
        case other:
            raise SeamError(f"unknown message {other!r}")


async def _start_process(spec: WorkerSpec, quarters: Quarters) -> Child:
    argv = [*spec.command, "--release-dir", str(spec.directory), "--socket", str(quarters.socket_path)]
    base = base_directory_of(spec.directory)
    if base is not None:
        argv += ["--base-dir", str(base)]
    argv += ["--threads", str(spec.num_threads)]
    reads = [spec.directory] if base is None else [spec.directory, base]
    try:
        return await start_child(
            quarters.command(spec.confinement, argv, reads=reads),
            log_path=spec.run_directory / f"worker-{spec.release[:16]}.log",
            oom_score=TRIAL_OOM_SCORE,
            environment={
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(spec.num_threads),
                WEIGHTS_PERIOD: str(spec.weights_period_s),
            },
            inherited=quarters.environment(),
        )
    except OSError as error:
        # Not load_failed: the release may be good, it is the engine that is not there.
        raise ServingError(f"cannot start the engine {spec.command[0]}: {error}", kind="unavailable") from error


async def _meet(child: Child, accepted: asyncio.Queue[_Connection]) -> _Greeting:
    """Wait until the worker has connected and is ready; raises ServingError if it ends or refuses."""
    greeting = asyncio.create_task(_greet(accepted))
    ending = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({greeting, ending}, return_when=asyncio.FIRST_COMPLETED)
        # Its last message may still be on its way when the process has ended, and the other way round.
        await asyncio.wait({greeting}, timeout=1)
        if greeting.done() and not isinstance(greeting.exception(), EOFError):
            return greeting.result()
        await asyncio.wait({ending}, timeout=1)
        how = ending.result() if ending.done() else "it closed its socket"
        raise ServingError(f"the engine did not load the release: {how}", kind="load_failed")
    finally:
        greeting.cancel()
        ending.cancel()


async def _greet(accepted: asyncio.Queue[_Connection]) -> _Greeting:
    reader, writer = await accepted.get()
    line = await reader.readline()
    if not line:
        raise EOFError
    try:
        message = decode_line(line)
        if message["type"] == "ready":
            ready = Ready(engine=str(message["engine"]), context_tokens=int(message["context_tokens"]))
            return reader, writer, ready
        reason = str(message["reason"]) if message["type"] == "failed" else f"it said {message['type']!r} first"
    except (SeamError, KeyError, ValueError, TypeError, OverflowError) as error:
        reason = f"it broke the seam: {error!r}"
    raise ServingError(reason, kind="load_failed")
