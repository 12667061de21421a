"""The supervisor: which release answers, from which worker, and what happens when one dies.

Requests come in through `answer`; the control server calls load, probe, flip, drain, unload. What it promises:

- A request that was admitted is answered by the release it started on, also across a flip: a flip moves only
  requests that have not started. Waiting requests are handed to whoever serves, in order of arrival.
- When a worker dies, its requests are taken up again, once: from the start by whoever serves if nothing has
  left this process yet, otherwise by the same release, whose answer is the same (greedy, or drawn with a seed
  that was fixed on arrival), and what was already sent is left out.
- The serving release is restarted for ever, with growing pauses; requests wait meanwhile, for a bounded time.
  Every death is told to `on_event`, so that the daemon may revert.

It does not know HTTP, trust, or whether a release is good.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onboard.inference.answers import BASE_SUFFIX, AnswerProgress, Probe, Started, greedy_answer
from onboard.inference.children import set_oom_score
from onboard.inference.confinement.policy import Confinement
from onboard.inference.engine import Delta, Done, Prompt, Sampling
from onboard.inference.errors import ServingError, WorkerLostError
from onboard.inference.limits import Limits
from onboard.inference.weights import WeightsFlip
from onboard.inference.workers import (
    SERVING_OOM_SCORE,
    TRIAL_OOM_SCORE,
    UNCONFINED,
    EngineWorker,
    Generation,
    WorkerSpec,
)
from onboard.scrub.medium import forget_cached
from onboard.store.bases import base_directory_of, base_of


class ModelState(enum.StrEnum):
    """Where a loaded release stands."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True, eq=False)
class Model:
    """A release the supervisor was told to load."""

    release: str
    name: str
    spec: WorkerSpec
    base: str | None = None
    """Digest of the release that it is an adapter of: its worker answers for both."""
    state: ModelState = ModelState.LOADING
    worker: EngineWorker | None = None
    num_restarts: int = 0
    num_failures: int = 0
    """Deaths since it last answered a request."""
    watcher: asyncio.Task[None] | None = None

    @property
    def num_active(self) -> int:
        """Answers in the making."""
        return self.worker.num_active if self.worker is not None else 0

    @property
    def voices(self) -> tuple[Started, ...]:
        """Who may be asked: the release, and its base if it is an adapter."""
        own = Started(release=self.release, name=self.name)
        return (own,) if self.base is None else (own, Started(release=self.base, name=self.name + BASE_SUFFIX))

    def voice(self, sampling: Sampling) -> Started:
        """Who answers a request."""
        return self.voices[-1] if sampling.is_plain else self.voices[0]


@dataclass(slots=True, eq=False)
class _Waiting:
    prompt: Prompt
    sampling: Sampling
    handed: asyncio.Future[tuple[Model, Generation]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Supervisor:
    """Owns the engine workers of one serving process."""

    def __init__(
        self,
        *,
        command: tuple[str, ...],
        run_directory: Path,
        num_threads: int,
        limits: Limits,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        start_worker: Callable[[WorkerSpec], Awaitable[EngineWorker]] = EngineWorker.start,
        confinement: Confinement = UNCONFINED,
    ) -> None:
        self.limits = limits
        self.on_event = on_event
        self.swap_ms: float | None = None
        self.num_swaps = 0
        self.num_worker_failures = 0
        self._command = command
        self._run_directory = run_directory
        self._num_threads = num_threads
        self._start_worker = start_worker
        self._confinement = confinement
        self._models: dict[str, Model] = {}
        self._serving: Model | None = None
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = asyncio.Event()

    @property
    def serving(self) -> Model | None:
        """The release that new requests go to, also while its worker restarts."""
        return self._serving

    @property
    def is_serving(self) -> bool:
        """Whether a request would be answered now."""
        return self._serving is not None and self._serving.state is ModelState.READY

    @property
    def models(self) -> list[Model]:
        """All loaded releases, oldest first."""
        return list(self._models.values())

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    # -- releases ------------------------------------------------------------------------------------------

    async def load(self, release: str, *, directory: Path, name: str, timeout_s: float) -> Model:
        """Start a worker for a release, beside what serves.

        Raises:
            ServingError: load_failed, with the reason; busy if too many releases are loaded.
        """
        known = self._models.get(release)
        if known is not None and known.state is not ModelState.FAILED:
            if known.state is ModelState.READY:
                return known
            raise ServingError(f"release {release[:12]} is {known.state} already", kind="busy")
        if known is not None:
            await self._forget(known)
        if len(self._models) >= self.limits.max_workers:
            raise ServingError(f"{len(self._models)} releases are loaded; unload one first", kind="busy")
        spec = WorkerSpec(
            release=release,
            directory=directory,
            command=self._command,
            run_directory=self._run_directory,
            num_threads=self._num_threads,
            load_timeout_s=timeout_s,
            weights_period_s=self.limits.weights_period_s,
            confinement=self._confinement,
        )
        base = base_of(directory)
        model = Model(release=release, name=name, spec=spec, base=None if base is None else base.hex())
        self._models[release] = model
        try:
            worker = await self._start_worker(spec)
        except BaseException:
            if self._models.get(release) is model:
                del self._models[release]
            raise
        if self._models.get(release) is not model:
            await worker.stop()
            raise ServingError(f"release {release[:12]} was unloaded while it loaded", kind="load_failed")
        self._attach(model, worker)
        model.watcher = asyncio.create_task(self._watch(model))
        return model

    def _attach(self, model: Model, worker: EngineWorker) -> None:
        worker.on_change = self._on_change
        model.worker, model.state = worker, ModelState.READY
        if model is self._serving:
            set_oom_score(worker.pid, SERVING_OOM_SCORE)
        self._on_change()

    async def probe(self, release: str, prompts: list[Prompt], *, max_tokens: int) -> list[Probe]:
        """Answer prompts greedily with a loaded release, one after the other.

        Raises:
            ServingError: the release is unknown or not ready, or cannot answer.
        """
        model = self._ready(release)
        assert model.worker is not None
        return [
            await greedy_answer(model.worker, prompt, max_tokens=max_tokens, timeout_s=self.limits.request_timeout_s)
            for prompt in prompts
        ]

    async def flip(self, release: str) -> float:
        """Make a loaded release the one that new requests go to; returns how long that took, in ms.

        Raises:
            ServingError: the release is unknown, or its worker cannot answer now; nothing has changed then.
        """
        model = self._ready(release)
        assert model.worker is not None
        started_at = time.perf_counter()
        try:
            await model.worker.health(timeout_s=self.limits.health_timeout_s)
        except TimeoutError:
            raise ServingError("its worker does not answer", kind="not_ready") from None
        except WorkerLostError as error:
            raise ServingError(f"its worker is lost: {error}", kind="not_ready") from None
        model = self._ready(release)  # it may have died, or been unloaded, since it answered
        assert model.worker is not None
        old, self._serving = self._serving, model
        set_oom_score(model.worker.pid, SERVING_OOM_SCORE)
        if old is not None and old is not model and old.worker is not None:
            set_oom_score(old.worker.pid, TRIAL_OOM_SCORE)
        self._on_change()
        self.swap_ms = (time.perf_counter() - started_at) * 1000
        self.num_swaps += 1
        return self.swap_ms

    async def drain(self, release: str, *, timeout_s: float) -> None:
        """Wait until a release that no longer serves has finished its answers, then stop its worker.

        Raises:
            ServingError: it serves, or is not finished in time; its worker goes on then.
        """
        model = self._not_serving(release)
        try:
            async with asyncio.timeout(timeout_s):
                while model.num_active:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise ServingError(f"{model.num_active} answers are not finished", kind="timeout") from None
        await self._forget(self._not_serving(release))

    async def unload(self, release: str) -> None:
        """Stop a release's worker now; its unfinished answers are taken up by whoever serves.

        Raises:
            ServingError: it serves, or is unknown.
        """
        await self._forget(self._not_serving(release))

    def reload(self, release: str) -> None:
        """Load the files of what serves anew: they were mended. Unfinished answers are taken up by the next worker."""
        model = self._models.get(release)
        if model is not None and model is self._serving and model.worker is not None:
            model.worker.is_outdated = True
            model.worker.kill()

    async def close(self) -> None:
        """Stop all workers; what waits is refused."""
        self._serving = None
        for waiting in self._waiting:
            if not waiting.handed.done():
                waiting.handed.set_exception(ServingError("serving shuts down", kind="unavailable"))
        self._waiting.clear()
        for model in self.models:
            await self._forget(model)

    def _known(self, release: str) -> Model:
        if release not in self._models:
            raise ServingError(f"release {release[:12]} is not loaded", kind="unknown_release")
        return self._models[release]

    def _ready(self, release: str) -> Model:
        model = self._known(release)
        if model.state is not ModelState.READY:
            raise ServingError(f"release {release[:12]} is {model.state}", kind="not_ready")
        return model

    def _not_serving(self, release: str) -> Model:
        model = self._known(release)
        if model is self._serving:
            raise ServingError(f"release {release[:12]} serves; flip to another first", kind="serving")
        return model

    async def _forget(self, model: Model) -> None:
        self._models.pop(model.release, None)
        if model.watcher is not None:
            model.watcher.cancel()
            await asyncio.wait({model.watcher})
        if model.worker is not None:
            await model.worker.stop()
        self._on_change()

    # -- deaths --------------------------------------------------------------------------------------------

    async def _watch(self, model: Model) -> None:
        """Notice a worker's death or stall; bring the serving release back, for ever."""
        while True:
            assert model.worker is not None
            reason = await self._until_lost(model.worker)
            self.num_worker_failures += 1
            lost, model.worker = model.worker, None
            if lost.flip is not None:
                self._tell_flip(model, lost.flip)
            is_memory = lost.flip is not None or lost.is_outdated
            if is_memory:
                await _forget_cached(model.spec.directory)
            is_innocent = is_memory and model is self._serving  # it is loaded anew, from the medium
            model.state = ModelState.RESTARTING if model is self._serving else ModelState.FAILED
            if not is_innocent:
                model.num_failures += 1
                self._tell_failure(model, reason)
            if model.state is ModelState.FAILED:
                return
            await self._restart(model)

    async def _until_lost(self, worker: EngineWorker) -> str:
        """Wait for the worker's end; kill it if it hangs."""
        ending = asyncio.ensure_future(worker.lost())
        try:
            while True:
                await asyncio.wait({ending}, timeout=self.limits.health_interval_s)
                if ending.done():
                    return ending.result()
                if (hang := await self._find_hang(worker)) is not None:
                    worker.kill()
                    return f"{hang}; {await worker.lost()}"
        finally:
            ending.cancel()

    async def _find_hang(self, worker: EngineWorker) -> str | None:
        try:
            health = await worker.health(timeout_s=self.limits.health_timeout_s)
        except TimeoutError:
            return f"no sign of life for {self.limits.health_timeout_s:.0f} s"
        except WorkerLostError:
            return None
        if health.stalled_s > self.limits.stall_timeout_s:
            return f"the engine made no progress for {self.limits.stall_timeout_s:.0f} s"
        return None

    async def _restart(self, model: Model) -> None:
        num_missing = 0  # tries that the engine or the machine failed, not the release: they count for the pause alone
        while True:
            if model is not self._serving:
                model.state = ModelState.FAILED
                return
            doublings = min(max(model.num_failures + num_missing - 1, 0), 16)
            pause_s = min(self.limits.restart_pause_s * 2**doublings, self.limits.restart_pause_max_s)
            await asyncio.sleep(pause_s)
            if model is not self._serving:
                continue
            model.num_restarts += 1
            try:
                worker = await self._start_worker(model.spec)
            except (ServingError, OSError) as error:
                is_missing = isinstance(error, OSError) or error.kind == "unavailable"
                num_missing += is_missing
                model.num_failures += not is_missing
                self._tell_failure(model, str(error))
                continue
            self._attach(model, worker)
            return

    def _tell_flip(self, model: Model, flip: WeightsFlip) -> None:
        self.on_event(
            {
                "event": "weights_flipped",
                "release": model.release,
                "where": flip.where,
                "offset": flip.offset,
                "bit": flip.bit,
            }
        )

    def _tell_failure(self, model: Model, reason: str) -> None:
        self.on_event(
            {
                "event": "worker_failed",
                "release": model.release,
                "reason": reason,
                "serving": model is self._serving,
                "failures": model.num_failures,
            }
        )

    # -- requests ------------------------------------------------------------------------------------------

    async def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Started | Delta | Done, None]:
        """Answer a request: Started, deltas, Done. Close the iterator to give up.

        Raises:
            ServingError: busy, unavailable, invalid, too_long, timeout, worker_lost or internal.
        """
        deadline = time.monotonic() + self.limits.request_timeout_s
        progress = AnswerProgress()
        waiting = self._admit(prompt, sampling)
        while True:
            model, generation = await self._handed(waiting)
            started = model.voice(sampling)
            try:
                async with contextlib.aclosing(progress.follow(started, generation, deadline)) as items:
                    async for item in items:
                        yield item
            except WorkerLostError:
                if not progress.may_try_again():
                    raise
                waiting = _Waiting(prompt, sampling)
                self._waiting.appendleft(waiting)
                self._hand_out()
                continue
            finally:
                generation.cancel()
            model.num_failures = 0
            return

    def _admit(self, prompt: Prompt, sampling: Sampling) -> _Waiting:
        """Put a request at the end of the queue; raises ServingError if it may not even wait."""
        if self._serving is None:
            raise ServingError("no model serves", kind="unavailable")
        if len(self._waiting) >= self.limits.max_waiting:
            raise ServingError(f"{len(self._waiting)} requests wait already", kind="busy")
        waiting = _Waiting(prompt, sampling)
        self._waiting.append(waiting)
        self._hand_out()
        return waiting

    async def _handed(self, waiting: _Waiting) -> tuple[Model, Generation]:
        """Wait until the request was handed to a worker; raises ServingError if that takes too long."""
        try:
            async with asyncio.timeout(self.limits.wait_timeout_s):
                return await asyncio.shield(waiting.handed)
        except BaseException as error:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
            if waiting.handed.done() and not waiting.handed.cancelled() and not waiting.handed.exception():
                waiting.handed.result()[1].cancel()
            if isinstance(error, TimeoutError):
                kind = "busy" if self.is_serving else "unavailable"
                waited = f"no answer could start within {self.limits.wait_timeout_s:.0f} s"
                raise ServingError(waited, kind=kind) from None
            raise

    def _on_change(self) -> None:
        self._changed.set()
        self._hand_out()

    def _hand_out(self) -> None:
        """Hand waiting requests to the serving worker while it has places."""
        model = self._serving
        while self._waiting and model is not None and model.state is ModelState.READY:
            worker = model.worker
            assert worker is not None
            if worker.is_lost or worker.num_active >= self.limits.num_parallel:
                return
            waiting = self._waiting.popleft()
            if not waiting.handed.done():
                waiting.handed.set_result((model, worker.begin(waiting.prompt, waiting.sampling)))


async def _forget_cached(directory: Path) -> None:
    """A flipped page of the kernel's memory must not be what is loaded next."""
    for each in filter(None, (directory, base_directory_of(directory))):
        await asyncio.to_thread(forget_cached, each)
