"""One answer seen from the supervisor: who gives it, how far it is, and how another worker takes it up."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from onboard.inference.engine import Delta, Done, Prompt, Sampling
from onboard.inference.errors import WorkerLostError
from onboard.inference.workers import EngineWorker, Generation

BASE_SUFFIX = "/base"
"""What follows an adapter's name where its base without the adapter is meant; no release's name holds a slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first item of an answer: who answers."""

    release: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One greedy answer of a release that need not serve."""

    tokens: tuple[int, ...]
    text: str
    seconds: float


@dataclass(slots=True)
class AnswerProgress:
    """What of one answer has left the supervisor, so that another worker can take the answer up."""

    release: str | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    num_retries_left: int = 1

    def may_try_again(self) -> bool:
        """Use up the one retry; False if there is none."""
        self.num_retries_left -= 1
        return self.num_retries_left >= 0

    async def follow(
        self, started: Started, generation: Generation, deadline: float
    ) -> AsyncGenerator[Started | Delta | Done, None]:
        """Yield what is new in a generation; raises ServingError."""
        if self.release not in (None, started.release):
            self.num_retries_left = 0
            raise WorkerLostError("the worker died during the answer, and another release serves now")
        old_tokens, old_text = self.tokens.copy(), self.text
        while True:
            item = await generation.next_item(timeout_s=deadline - time.monotonic())
            if self.release is None:
                self.release = started.release
                yield started
            if isinstance(item, Done):
                yield item
                return
            num_tokens, num_chars = len(item.tokens), len(item.text)
            known_tokens, old_tokens = old_tokens[:num_tokens], old_tokens[num_tokens:]
            known_text, old_text = old_text[:num_chars], old_text[num_chars:]
            if known_tokens != list(item.tokens[: len(known_tokens)]) or not item.text.startswith(known_text):
                self.num_retries_left = 0
                raise WorkerLostError("the worker died during the answer, and the answer came out different")
            news = Delta(tokens=item.tokens[len(known_tokens) :], text=item.text[len(known_text) :])
            self.tokens.extend(news.tokens)
            self.text += news.text
            if news.tokens or news.text:
                yield news


async def greedy_answer(worker: EngineWorker, prompt: Prompt, *, max_tokens: int, timeout_s: float) -> Probe:
    """Answer one prompt greedily with one worker.

    Raises:
        ServingError: it cannot.
    """
    started_at = time.perf_counter()
    generation = worker.begin(prompt, Sampling(max_tokens=max_tokens))
    tokens: list[int] = []
    text = ""
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            item = await generation.next_item(timeout_s=deadline - time.monotonic())
            if isinstance(item, Done):
                seconds = time.perf_counter() - started_at
                return Probe(tokens=tuple(tokens), text=text, seconds=seconds)
            tokens.extend(item.tokens)
            text += item.text
    finally:
        generation.cancel()
