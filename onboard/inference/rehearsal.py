"""One release, some prompts, its greedy answers: what the ground's twin asks before anything is signed.

The worker is the same process with the same engine that will serve on board, so the answers are the ones the
canary must see there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onboard.inference.answers import greedy_answer
from onboard.inference.control import Answer
from onboard.inference.engine import Prompt, RequestError
from onboard.inference.errors import ServingError
from onboard.inference.workers import DEFAULT_ENGINE_COMMAND, EngineWorker, WorkerSpec


async def answer_prompts(
    release_dir: Path,
    prompts: Sequence[Mapping[str, Any]],
    max_tokens: int,
    engine_command: Sequence[str] = (),
    *,
    num_threads: int = 1,
    load_timeout_s: float = 300.0,
    answer_timeout_s: float = 600.0,
) -> list[Answer]:
    """Start one worker on a directory, answer prompts greedily, stop it.

    Args:
        release_dir: the release's files.
        prompts: each {"messages": [...]}, or {"prompt": text}, or {"tokens": [ids]}.
        max_tokens: longest answer.
        engine_command: program and arguments of the engine worker; empty is the embedded one.
        num_threads: CPU threads of the engine.
        load_timeout_s: longest time to load the release.
        answer_timeout_s: longest time for one answer.

    Raises:
        ServingError: the release does not load or does not answer, or a prompt is not one.
    """
    try:
        parsed = [Prompt.from_json(prompt) for prompt in prompts]
    except RequestError as error:
        raise ServingError(str(error), kind=error.kind) from error
    with tempfile.TemporaryDirectory(prefix="skyload-rehearsal-") as directory:
        worker = await EngineWorker.start(
            WorkerSpec(
                release="rehearsal",
                directory=release_dir,
                command=tuple(engine_command) or DEFAULT_ENGINE_COMMAND,
                run_directory=Path(directory),
                num_threads=num_threads,
                load_timeout_s=load_timeout_s,
            )
        )
        try:
            probes = [
                await greedy_answer(worker, prompt, max_tokens=max_tokens, timeout_s=answer_timeout_s)
                for prompt in parsed
            ]
        finally:
            await worker.stop()
    return [Answer(tokens=probe.tokens, text=probe.text, seconds=probe.seconds) for probe in probes]
