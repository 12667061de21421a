"""The trial of a release: load it beside the one that serves, ask the canary, flip, watch; undo all of it on failure.

Promises: until `run` has returned, whatever served before serves again if anything goes wrong, a cancellation
included. It writes nothing: the attempt is counted before it begins, and its end is recorded by the caller.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onboard.errors import CanaryFailedError, InstallError
from onboard.installer.core import CanaryVerdict, judge_canary
from onboard.installer.serving import Fault, Serving, ServingProblem
from onboard.telemetry import CANARY_ANSWERED, FLIPPED, FLIPPED_BACK, Telemetry
from protocol.canary import Canary
from protocol.report import Reason

_LOAD_TIMEOUT_S = 600.0
_PROBE_TEXT = "Hello"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A sealed release that is to serve.

    Attributes:
        digest: of the release.
        name: what people call it.
        directory: its files.
    """

    digest: bytes
    name: str
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedTrial:
    """How a release passed.

    Attributes:
        verdict: on its answers.
        swap_ms: how long the flip to it took.
    """

    verdict: CanaryVerdict
    swap_ms: float


class FailureWatch:
    """Collects failures of workers, for whoever waits for one of a certain release."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[str]] = {}

    def tell(self, digest: bytes, reason: str) -> bool:
        """Report a failure; returns whether somebody was waiting for it."""
        future = self._waiting.get(digest)
        if future is not None and not future.done():
            future.set_result(reason)
        return future is not None

    @contextlib.contextmanager
    def watching(self, digest: bytes) -> Iterator[asyncio.Future[str]]:
        """Give a future that is set at the first failure of a release."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[digest] = future
        try:
            yield future
        finally:
            del self._waiting[digest]


class Trial:
    """Runs trials and takeovers."""

    def __init__(
        self,
        serving: Serving,
        telemetry: Telemetry,
        watch: FailureWatch,
        *,
        probation_s: float,
        crash_point: Callable[[str], None],
    ) -> None:
        self._serving, self._telemetry, self._watch = serving, telemetry, watch
        self._probation_s, self._crash_point = probation_s, crash_point

    async def run(self, candidate: Candidate, canary: Canary) -> PassedTrial:
        """Try a release; when this returns it serves and has passed.

        Raises:
            InstallError: LOAD_FAILED, CANARY_FAILED, WORKER_FAILED; the old release serves.
            ServingProblem: serving itself failed; the release may be good.
        """
        with self._watch.watching(candidate.digest) as failure:
            async with self._undone_on_failure(candidate):
                verdict = await self._ask_canary(candidate, canary)
                self._crash_point("canary-passed")
                swap_ms = await self._flip(candidate)
                self._crash_point("flipped")
                await asyncio.wait({failure}, timeout=self._probation_s)
                if failure.done():
                    raise InstallError(failure.result(), reason=Reason.WORKER_FAILED, hint="see the worker's log")
                if self._serving.release != candidate.digest:  # it serves what the record says, not what we try
                    raise ServingProblem("serving was restarted during the probation", fault=Fault.SERVING)
                return PassedTrial(verdict=verdict, swap_ms=swap_ms)

    async def take_over(self, candidate: Candidate, *, timeout_s: float = _LOAD_TIMEOUT_S) -> None:
        """Have a release that passed its trial earlier serve again: load, one token, flip.

        Raises:
            InstallError: LOAD_FAILED; what served before serves.
            ServingProblem: serving itself failed.
        """
        async with self._undone_on_failure(candidate):
            await self._load(candidate, timeout_s=timeout_s)
            await self._probe(candidate, [_PROBE_TEXT], max_tokens=1, timeout_s=timeout_s)
            await self._flip(candidate)

    @contextlib.asynccontextmanager
    async def _undone_on_failure(self, candidate: Candidate) -> AsyncIterator[None]:
        before = self._serving.release
        try:
            yield
        except BaseException as error:
            if isinstance(error, (Exception, asyncio.CancelledError)):  # not what only a power cut may do
                await asyncio.shield(self._undo(candidate, before))
            raise

    async def _undo(self, candidate: Candidate, before: bytes | None) -> None:
        if before == candidate.digest:
            return
        with contextlib.suppress(ServingProblem):  # serving is gone: it comes back with what the record says
            if before is not None and self._serving.release == candidate.digest:
                await self._serving.flip(before)
                self._telemetry.emit(FLIPPED_BACK, release=before.hex()[:16])
            await self._serving.unload(candidate.digest)

    async def _ask_canary(self, candidate: Candidate, canary: Canary) -> CanaryVerdict:
        started = asyncio.get_running_loop().time()
        await self._load(candidate, timeout_s=canary.timeout_s)
        self._crash_point("loaded")
        left_s = canary.timeout_s - (asyncio.get_running_loop().time() - started)
        texts = [prompt.text for prompt in canary.prompts]
        answers = await self._probe(candidate, texts, max_tokens=canary.max_tokens, timeout_s=max(left_s, 0.1))
        verdict = judge_canary(canary, answers)
        self._telemetry.emit(
            CANARY_ANSWERED,
            release=candidate.digest.hex()[:16],
            agreement_permille=verdict.agreement_permille,
            agreeing=verdict.agreeing,
            expected=verdict.expected,
        )
        if not verdict.is_passed:
            raise CanaryFailedError(
                f"{verdict.agreeing} of {verdict.expected} tokens agree, {canary.agreement_permille} permille must",
                hint="rehearse the update on the engine that flies",
            )
        return verdict

    async def _load(self, candidate: Candidate, *, timeout_s: float) -> None:
        try:
            await self._serving.load(
                candidate.digest, directory=candidate.directory, name=candidate.name, timeout_s=timeout_s
            )
        except ServingProblem as error:
            raise _blamed(error, Reason.LOAD_FAILED) from error

    async def _probe(
        self, candidate: Candidate, texts: list[str], *, max_tokens: int, timeout_s: float
    ) -> list[tuple[int, ...]]:
        if not texts:
            return []
        try:
            async with asyncio.timeout(timeout_s):
                return await self._serving.probe(candidate.digest, texts, max_tokens=max_tokens, timeout_s=timeout_s)
        except ServingProblem as error:
            raise _blamed(error, Reason.CANARY_FAILED) from error
        except TimeoutError:
            raise CanaryFailedError(f"no answers within {timeout_s:.0f} s", hint="raise the canary's timeout") from None

    async def _flip(self, candidate: Candidate) -> float:
        swap_ms = await self._serving.flip(candidate.digest)
        self._telemetry.emit(FLIPPED, release=candidate.digest.hex()[:16], name=candidate.name, swap_ms=swap_ms)
        return swap_ms


def _blamed(error: ServingProblem, reason: Reason) -> Exception:
    """What an error means for the release: nothing, if serving itself is at fault."""
    if error.fault is Fault.SERVING:
        return error
    return InstallError(str(error), reason=reason, hint="see the worker's log")
