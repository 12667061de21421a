"""One answer: an engine's tokens as deltas with text, ended by an ending token, a stop string or the length.

The same for every engine behind the seam, so stop strings and UTF-8 behave alike on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from onboard.inference.engine import Delta, Done, Engine, Prompt, RequestError, Sampling
from onboard.inference.text import Detokenizer, StopFinder


def generate(
    engine: Engine, prompt: Prompt, sampling: Sampling, *, max_prompt_tokens: int
) -> Iterator[Delta | Done | None]:
    """Yield an answer's deltas, then its Done; None where the engine worked but has nothing to say yet.

    Args:
        engine: a loaded engine.
        prompt: what to continue.
        sampling: how; `max_tokens` is cut to what is left of the engine's context.
        max_prompt_tokens: longest prompt to accept.

    Raises:
        RequestError: the prompt is not usable, or too long.
    """
    prompt_tokens = engine.encode(prompt)
    room = _check_length(len(prompt_tokens), max_prompt_tokens, engine.context_tokens)
    max_tokens = min(sampling.max_tokens, room)
    detokenizer, stops = Detokenizer(engine.decode), StopFinder(sampling.stop)
    num_tokens, finish_reason = 0, "length"
    for token in engine.continue_tokens(prompt_tokens, sampling):
        if token is None:
            yield None
            continue
        num_tokens += 1
        if engine.is_end(token):
            finish_reason = "stop"
            yield Delta(tokens=(token,), text="")
            break
        yield Delta(tokens=(token,), text=stops.push(detokenizer.push(token)))
        if stops.found:
            finish_reason = "stop"
            break
        if num_tokens >= max_tokens:
            break
    if tail := stops.push(detokenizer.finish()) + stops.finish():
        yield Delta(tokens=(), text=tail)
    if stops.found:
        finish_reason = "stop"
    yield Done(finish_reason=finish_reason, prompt_tokens=len(prompt_tokens), completion_tokens=num_tokens)


def _check_length(num_prompt_tokens: int, max_prompt_tokens: int, context_tokens: int) -> int:
    """Return how many tokens are left for the answer; raises RequestError if none."""
    if num_prompt_tokens == 0:
        raise RequestError("the prompt is empty")
    most = min(max_prompt_tokens, context_tokens - 1)
    if num_prompt_tokens > most:
        raise RequestError(
            f"the prompt is {num_prompt_tokens} tokens long; this endpoint takes at most {most}",
            kind="too_long",
        )
    return context_tokens - num_prompt_tokens
