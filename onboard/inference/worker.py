"""An engine worker: one process, one release, one engine, spoken to over the seam in engine.py.

Two threads. The reader takes lines from the socket, answers health, and queues the rest; the engine thread
(the main one) steps up to `--parallel` answers in turn, one token each, so a short question does not wait for
a long answer. Each answer has its own cache and is computed alone: the same request gives the same tokens
whatever else runs. When the socket closes the process ends, so a dead supervisor leaves no worker behind.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onboard.inference.engine import (
    MAX_LINE_BYTES,
    WEIGHTS_PERIOD,
    Delta,
    Done,
    Engine,
    Prompt,
    RequestError,
    SeamError,
    decode_line,
    encode_line,
    sampling_from,
)
from onboard.inference.generation import generate
from onboard.inference.weights import WeightsFlip, WeightsWatch, watch_weights

FLIPPED_EXIT_CODE = 20


@dataclass(slots=True, kw_only=True)
class _Session:
    """One answer in progress."""

    request_id: str
    steps: Iterator[Delta | Done | None]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Serves one connection with one engine until the connection ends."""

    def __init__(
        self,
        engine: Engine,
        connection: socket.socket,
        *,
        num_parallel: int,
        max_prompt_tokens: int,
        weights_period_s: float = 0.0,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._num_parallel = num_parallel
        self._max_prompt_tokens = max_prompt_tokens
        self._weights_period_s = weights_period_s
        self._leave = leave
        self._inbox: queue.SimpleQueue[_Session] = queue.SimpleQueue()
        self._sessions: dict[str, _Session] = {}
        self._send_lock = threading.Lock()
        self._state = "loading"
        self._progress_at = time.monotonic()

    def run(self, directory: Path, base: Path | None = None) -> None:
        """Load the release, say so, and answer. Returns only when the release cannot be loaded."""
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._engine.load(directory, base)
        except Exception as error:  # noqa: BLE001 - whatever a release does to a loader is the release's failure
            traceback.print_exc()
            self._say("failed", reason=f"{type(error).__name__}: {error}"[:2000])
            return
        self._state = "ready"
        if self._weights_period_s:
            threading.Thread(target=self._watch_weights, daemon=True).start()
        self._say("ready", engine=self._engine.name, context_tokens=self._engine.context_tokens)
        self._answer_forever()

    def _watch_weights(self) -> None:
        """Compare the weights with what they were after loading; when they differ, no more answer comes from them."""
        watch = WeightsWatch(self._engine.weights())
        watch_weights(watch, self._hear_of_flip, period_s=self._weights_period_s, wait=time.sleep)

    def _hear_of_flip(self, flip: WeightsFlip) -> None:
        self._say("flipped", where=flip.where, offset=flip.offset, bit=flip.bit)
        self._leave(FLIPPED_EXIT_CODE)

    def _answer_forever(self) -> None:
        active: list[_Session] = []
        while True:
            while not active or (len(active) < self._num_parallel and not self._inbox.empty()):
                active.append(self._inbox.get())
                self._progress_at = time.monotonic()
            for session in list(active):
                if not self._step(session):
                    active.remove(session)
                    self._sessions.pop(session.request_id, None)
                self._progress_at = time.monotonic()

    def _step(self, session: _Session) -> bool:
        """Advance one answer; returns False when it has ended."""
        if session.cancelled.is_set():
            self._say_done(
                session.request_id,
                Done(
                    finish_reason="cancelled",
                    prompt_tokens=session.prompt_tokens,
                    completion_tokens=session.completion_tokens,
                ),
            )
            return False
        try:
            step = next(session.steps)
        except RequestError as error:
            self._say("error", id=session.request_id, kind=error.kind, message=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - one request's failure is not the others'
            traceback.print_exc()
            self._say("error", id=session.request_id, kind="internal", message=f"{type(error).__name__}: {error}")
            return False
        if isinstance(step, Done):
            self._say_done(session.request_id, step)
            return False
        if step is not None:
            session.completion_tokens += len(step.tokens)
            self._say("delta", id=session.request_id, tokens=list(step.tokens), text=step.text)
        return True

    def _say_done(self, request_id: str, done: Done) -> None:
        self._say(
            "done",
            id=request_id,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
        )

    def _say(self, type_: str, **fields: object) -> None:
        line = encode_line(type_, fields)
        with self._send_lock:
            try:
                self._connection.sendall(line)
            except OSError:
                self._leave(0)

    def _read(self) -> None:
        """Take lines until the supervisor is gone, then end the process, whatever the engine is doing."""
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES + 1):
                    self._handle(decode_line(line))
        except (OSError, SeamError) as error:
            print(f"the supervisor's socket: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log
        self._leave(0)

    def _handle(self, message: dict[str, Any]) -> None:
        request_id = str(message.get("id", ""))
        if message["type"] == "generate":
            self._enqueue(request_id, message)
        elif message["type"] == "cancel":
            if session := self._sessions.get(request_id):
                session.cancelled.set()
        elif message["type"] == "health":
            num_active = len(self._sessions)
            stalled_s = time.monotonic() - self._progress_at if num_active else 0.0
            self._say("health", id=request_id, state=self._state, num_active=num_active, stalled_s=stalled_s)
        else:
            raise SeamError(f"unknown message {message['type']!r}")

    def _enqueue(self, request_id: str, message: dict[str, Any]) -> None:
        try:
            prompt, sampling = Prompt.from_json(message), sampling_from(message)
        except RequestError as error:
            self._say("error", id=request_id, kind=error.kind, message=str(error))
            return
        steps = generate(self._engine, prompt, sampling, max_prompt_tokens=self._max_prompt_tokens)
        session = _Session(request_id=request_id, steps=steps)
        if not self._sessions:
            self._progress_at = time.monotonic()
        self._sessions[request_id] = session
        self._inbox.put(session)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line that engine.py describes, and the embedded engine's own options."""
    parser = argparse.ArgumentParser(prog="onboard.inference.worker", description="One engine, one release.")
    parser.add_argument("--release-dir", type=Path, required=True)
    parser.add_argument("--base-dir", type=Path, help="the model that the release is an adapter of")
    parser.add_argument("--socket", required=True, help="Unix socket of the supervisor, to connect to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--parallel", type=int, default=4, help="answers stepped in turn")
    parser.add_argument("--max-prompt-tokens", type=int, default=4096)
    parser.add_argument("--max-context-tokens", type=int, default=8192)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", default="cpu")
    period_s = float(os.environ.get(WEIGHTS_PERIOD, "0"))
    parser.add_argument("--weights-period-s", type=float, default=period_s, help="compare the weights once in so long")
    return parser.parse_args(arguments)


def main() -> None:
    """Connect, load, answer."""
    arguments = parse_arguments()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(arguments.socket)
    # Set before the imports below read them: no thread pools of their own, and no network, ever.
    os.environ.update(
        OMP_NUM_THREADS=str(arguments.threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TQDM_DISABLE="1",
    )
    from onboard.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(
        num_threads=arguments.threads,
        dtype=arguments.dtype,
        device=arguments.device,
        max_context_tokens=arguments.max_context_tokens,
    )
    worker = Worker(
        engine,
        connection,
        num_parallel=arguments.parallel,
        max_prompt_tokens=arguments.max_prompt_tokens,
        weights_period_s=arguments.weights_period_s,
    )
    worker.run(arguments.release_dir, arguments.base_dir)
    sys.exit(1)


if __name__ == "__main__":
    main()
