"""Keeps the serving process alive, and is what the installer and the commands see of it.

Starts it, connects, loads and flips to the release that the trust record names, hears of dead workers; when it ends
by itself, or hangs, starts it again with growing pauses. It fills the installer's `Serving` seam: here, and only
here, serving's errors are sorted into those of a release and those of serving itself.

It does not decide which release serves: it asks.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onboard import telemetry as events
from onboard.commands import Question, Reply
from onboard.inference.confinement.policy import BEST_EFFORT, Confinement
from onboard.inference.control import ServingControl, ServingProcess, ServingStatus, WeightsFlipped, WorkerFailed
from onboard.inference.errors import ServingError
from onboard.installer.serving import Fault, ServingProblem
from onboard.installer.trial import Candidate
from onboard.telemetry import Telemetry

_PAUSE_S = 0.2
_PAUSE_S_MAX = 30.0
_STEADY_S = 60.0  # a process that lasted so long starts with a short pause again
_ASK_TIMEOUT_S = 900.0
_LOAD_TIMEOUT_S = 900.0
_SERVINGS_OWN_FAULTS = frozenset({"control", "busy", "unavailable", "serving"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How the serving process is started.

    Attributes:
        listen: HOST:PORT of the endpoint.
        run_directory: sockets and logs.
        engine_command: of the engine worker; empty for the built-in one.
        num_threads: CPU threads of one engine.
        confinement: what an engine may do.
        weights_period_s: in which a worker compares all its weights in memory once; 0 never.
        health_interval_s: between two questions after the process's health.
        health_timeout_s: a process that does not answer for so long hangs, and is killed.
    """

    listen: str
    run_directory: Path
    engine_command: Sequence[str]
    num_threads: int
    confinement: Confinement = BEST_EFFORT
    weights_period_s: float = 0.0
    health_interval_s: float = 10.0
    health_timeout_s: float = 60.0


class ServingSupervision:
    """See the module.

    Args:
        options: how it is started.
        telemetry: events.
        wanted: the release that should serve, None for none.
    """

    def __init__(
        self, options: ServingOptions, telemetry: Telemetry, *, wanted: Callable[[], Candidate | None]
    ) -> None:
        self._options, self._telemetry, self._wanted = options, telemetry, wanted
        self._process: ServingProcess | None = None
        self._control: ServingControl | None = None
        self._release: bytes | None = None
        self._loads_failed = 0
        self._told_not_confined: set[tuple[str, ...]] = set()
        self._loaded_s: dict[bytes, float] = {}
        self.endpoint = ""
        self.trouble = ""
        """Why there is no serving process, empty while there is one."""
        self.on_up: Callable[[], None] = lambda: None
        self.on_worker_failed: Callable[[bytes, str, int], None] = lambda digest, reason, failures: None
        self.on_weights_flipped: Callable[[bytes, str, int, int | None], None] = lambda digest, where, offset, bit: None

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep it running, for ever."""
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_S
        while True:
            started = loop.time()
            try:
                how = await self._live()
            except (ServingError, OSError, ValueError) as error:  # also: no process to be had, no log to be written
                how = str(error)
            finally:
                has_started = self._process is not None
                await self._stop()
            pause_s = _PAUSE_S if loop.time() - started > _STEADY_S else min(2 * pause_s, _PAUSE_S_MAX)
            self.trouble = how
            event = events.SERVING_ENDED if has_started else events.SERVING_NOT_STARTED
            self._telemetry.emit(event, how=how, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self) -> str:
        options = self._options
        self._process = await ServingProcess.start(
            listen=options.listen,
            run_directory=options.run_directory,
            engine_command=options.engine_command,
            num_threads=options.num_threads,
            confinement=options.confinement,
            options=("--weights-period-s", str(options.weights_period_s)),
        )
        self.endpoint = self._process.endpoint
        self._control = control = await ServingControl.connect(self._process.control_path)
        self.trouble = ""
        self._telemetry.emit(events.SERVING_STARTED, endpoint=self.endpoint, pid=self._process.pid)
        tasks = {asyncio.create_task(self._bring_up()), asyncio.create_task(self._watch(control, self._process))}
        try:
            while (event := await control.next_event()) is not None:
                self._hear(event)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return await self._process.wait()

    async def _watch(self, control: ServingControl, process: ServingProcess) -> None:
        """Kill a process that is there but does not answer: nobody else would notice."""
        while True:
            await asyncio.sleep(self._options.health_interval_s)
            try:
                async with asyncio.timeout(self._options.health_timeout_s):
                    await control.status()
            except (ServingError, TimeoutError) as error:
                self._telemetry.emit(events.SERVING_HANGS, pid=process.pid, error=str(error))
                process.kill()
                return

    async def _bring_up(self) -> None:
        """Let the wanted release serve; try again for ever, for it served before."""
        pause_s = _PAUSE_S
        while True:
            wanted = self._wanted()
            if wanted is None:
                self._telemetry.emit(events.NOTHING_TO_SERVE)
                self.on_up()
                return
            if self._release is not None:
                return
            try:
                await self.load(wanted.digest, directory=wanted.directory, name=wanted.name, timeout_s=_LOAD_TIMEOUT_S)
                serves = self.release
                if serves is not None:  # another one took over meanwhile
                    if serves != wanted.digest:
                        await self.unload(wanted.digest)
                    return
                await self.flip(wanted.digest)
            except ServingProblem as error:
                self._loads_failed += 1
                self._telemetry.emit(events.RELEASE_LOAD_FAILED, release=wanted.digest.hex()[:16], error=str(error))
                if error.fault is Fault.RELEASE:
                    self.on_worker_failed(wanted.digest, str(error), self._loads_failed)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S_MAX)
                continue
            self._loads_failed = 0
            self._telemetry.emit(events.RELEASE_LOADED, release=wanted.digest.hex()[:16], name=wanted.name)
            self.on_up()
            return

    def _hear(self, event: WorkerFailed | WeightsFlipped) -> None:
        with contextlib.suppress(ValueError):
            release = bytes.fromhex(event.release)
            self._loaded_s.pop(release, None)
            if isinstance(event, WorkerFailed):
                self.on_worker_failed(release, event.reason, event.failures)
            else:
                self.on_weights_flipped(release, event.where, event.offset, event.bit)

    async def _stop(self) -> None:
        control, self._control = self._control, None
        process, self._process = self._process, None
        self._release = None
        self._loaded_s.clear()
        if control is not None:
            await control.close()
        if process is not None:
            await process.stop()

    # -- the installer's seam ------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether another release can be tried now: what should serve does, or cannot, or there is none."""
        is_settled = self._release is not None or self._loads_failed > 0 or self._wanted() is None
        return self._control is not None and is_settled

    @property
    def release(self) -> bytes | None:
        """Digest of the release that requests go to."""
        return self._release

    async def load(self, digest: bytes, *, directory: Path, name: str, timeout_s: float) -> None:
        """See `installer.serving.Serving`."""
        with _sorted_faults():
            loaded = await self._connected().load(digest.hex(), directory=directory, name=name, timeout_s=timeout_s)
        self._loaded_s[digest] = asyncio.get_running_loop().time()
        if loaded.not_confined and loaded.not_confined not in self._told_not_confined:  # once a life, not once a load
            self._told_not_confined.add(loaded.not_confined)
            self._telemetry.emit(
                events.ENGINE_NOT_CONFINED, release=digest.hex()[:16], missing="; ".join(loaded.not_confined)
            )

    async def probe(
        self, digest: bytes, prompts: Sequence[str], *, max_tokens: int, timeout_s: float
    ) -> list[tuple[int, ...]]:
        """See `installer.serving.Serving`."""
        conversations = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
        with _sorted_faults():
            answers = await self._connected().probe(
                digest.hex(), conversations, max_tokens=max_tokens, timeout_s=timeout_s
            )
        return [answer.tokens for answer in answers]

    async def flip(self, digest: bytes) -> float:
        """See `installer.serving.Serving`."""
        with _sorted_faults():
            swap_ms = await self._connected().flip(digest.hex())
        self._release = digest
        return swap_ms

    async def drain(self, digest: bytes, *, timeout_s: float) -> None:
        """See `installer.serving.Serving`."""
        with _sorted_faults():
            await self._connected().drain(digest.hex(), timeout_s=timeout_s)

    async def unload(self, digest: bytes) -> None:
        """See `installer.serving.Serving`. The last release that serves goes with the whole process."""
        if digest == self._release and self._wanted() is None and self._process is not None:
            self._release = None
            self._process.kill()
            return
        with _sorted_faults():
            await self._connected().unload(digest.hex())

    async def reload(self, digest: bytes) -> None:
        """Have what serves loaded anew, for its files were mended; nothing if this release does not serve."""
        with _sorted_faults():
            await self._connected().reload(digest.hex())

    def loaded_at_s(self, digest: bytes) -> float:
        """When a release was loaded, in the loop's time; infinity if its worker may have been restarted since."""
        return self._loaded_s.get(digest, math.inf)

    async def ask(self, question: Question) -> Reply:
        """Ask the release that serves."""
        with _sorted_faults():
            answer = await self._connected().ask(
                question.messages,
                max_tokens=question.max_tokens,
                temperature=question.temperature,
                seed=question.seed,
                timeout_s=_ASK_TIMEOUT_S,
            )
        return Reply(
            text=answer.text,
            release=bytes.fromhex(answer.release),
            num_tokens=answer.completion_tokens,
            seconds=answer.seconds,
        )

    async def status(self) -> ServingStatus:
        """What the serving process says of itself."""
        with _sorted_faults():
            return await self._connected().status()

    def _connected(self) -> ServingControl:
        if self._control is None:
            raise ServingError("the serving process is not up", kind="control")
        return self._control


@contextlib.contextmanager
def _sorted_faults() -> Iterator[None]:
    try:
        yield
    except ServingError as error:
        fault = Fault.SERVING if error.kind in _SERVINGS_OWN_FAULTS else Fault.RELEASE
        raise ServingProblem(str(error), fault=fault) from error
