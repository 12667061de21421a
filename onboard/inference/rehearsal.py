"""One release, some prompts, its greedy answers, how good it is: what the ground's twin asks before anything is signed.

The worker is the same process with the same engine that will serve on board, so the answers are the ones the
canary must see there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onboard.inference.answers import greedy_answer
from onboard.inference.children import start_child
from onboard.inference.confinement.policy import BEST_EFFORT, program
from onboard.inference.control import Answer
from onboard.inference.engine import Prompt, RequestError
from onboard.inference.errors import ServingError
from onboard.inference.workers import DEFAULT_ENGINE_COMMAND, TRIAL_OOM_SCORE, EngineWorker, WorkerSpec
from onboard.store.bases import base_directory_of

JUDGE_COMMAND = program("onboard.inference.judge")


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
                confinement=replace(BEST_EFFORT, readable=_led_to(release_dir)),
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


async def judge_release(
    release_dir: Path,
    text: Path,
    *,
    max_tokens: int,
    reference: Path | None = None,
    num_threads: int = 1,
    command: Sequence[str] = JUDGE_COMMAND,
) -> dict[str, Any]:
    """Say how good a release is on a text, in a process of its own; may take long, so there is no limit of time.

    Args:
        release_dir: the release's files; its base is found where `base_directory_of` says.
        text: UTF-8.
        max_tokens: of the text.
        reference: directory of a model that it is compared with.
        num_threads: CPU threads of the engine.
        command: of the judge, without its options.

    Raises:
        ServingError: the release does not load, or text and models do not go together.
    """
    argv = [*command, "--release-dir", str(release_dir), "--text", str(text), "--max-tokens", str(max_tokens)]
    argv += ["--threads", str(num_threads)]
    for option, directory in (("--base-dir", base_directory_of(release_dir)), ("--reference-dir", reference)):
        if directory is not None:
            argv += [option, str(directory)]
    with tempfile.TemporaryDirectory(prefix="skyload-judge-") as directory_of_log:
        log = Path(directory_of_log) / "judge.log"
        child = await start_child(argv, log_path=log, oom_score=TRIAL_OOM_SCORE, keep_stdout=True)
        try:
            assert child.stdout is not None
            found: dict[str, Any] = json.loads(await child.stdout.readline())
        except ValueError:
            raise ServingError(f"no figures of its quality: {await child.wait()}", kind="load_failed") from None
        finally:
            child.kill()
            await child.wait()
    return found


def _led_to(release_dir: Path) -> tuple[str, ...]:
    """What links in a release and its base lead to: on the ground, and only there, a base is linked and not copied."""
    base = base_directory_of(release_dir)
    paths = [path for directory in (release_dir, base) if directory is not None for path in directory.glob("*")]
    return tuple(str(path.resolve()) for path in paths if path.is_symlink())
