"""What processes of one machine say to each other: one of them may have been taken over, or be somebody else."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from groundsegment.emulator import control as emulator_control
from groundsegment.errors import TwinError
from groundsegment.twin import _parse
from onboard.control_socket import ControlSocket, _reply
from onboard.errors import OnboardError
from onboard.inference import control_server
from onboard.inference.confinement.quarters import Quarters
from onboard.inference.control import ServingControl
from onboard.inference.engine import Prompt, RequestError, SeamError, decode_line, sampling_from
from onboard.inference.errors import ServingError
from onboard.inference.workers import EngineWorker, Generation, WorkerLostError, _greet
from tests.fuzz import good
from tests.fuzz.in_file import home, in_file
from tests.fuzz.target import Form, Target


class _RefusedError(Exception):
    """Whoever listens said no, or hung up."""


def _now(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what waits for nobody."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


# The daemon's own socket: `skyloadd status`, `revert`, `import`, `scrub`.

_KEY = "5" * 64


async def _echo(asked: dict[str, Any]) -> dict[str, Any]:
    """What the daemon's operations do with what they are asked, as far as it is parsing."""
    if asked.get("digest") is not None:
        str(asked["digest"])
    try:
        bytes.fromhex(str(asked.get("sha256", "")))
    except ValueError:
        raise OnboardError("import: no digest") from None
    return {}


class _Daemon:
    def __init__(self) -> None:
        self._socket: ControlSocket | None = None

    def __call__(self, data: bytes) -> None:
        """Ask one line."""
        if self._socket is None:
            self._socket = ControlSocket(
                Path(), dict.fromkeys(("status", "revert", "import", "report", "scrub"), _echo)
            )
            self._socket._key = _KEY
        if not json.loads(json.dumps(_now(self._socket._answer(data))))["ok"]:
            raise _RefusedError


# The seam to an engine, which a model may have taken over; and the socket of the serving process.


def _seam(data: bytes) -> None:
    message = decode_line(data)
    Prompt.from_json(message)
    sampling_from(message)


class _Nobody:
    """Stands for a child process, a writer, quarters: whatever is asked of it is done at once."""

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_named: None


class _Child(_Nobody):
    async def wait(self) -> str:
        """It has ended."""
        return "ended"


class _Engine:
    """A supervisor that hears an engine with a request and a question of health open. One line a case, then the end."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, data: bytes) -> None:
        """Hear it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._hear(data))

    async def _hear(self, data: bytes) -> None:
        worker: Any = EngineWorker.__new__(EngineWorker)
        loop = asyncio.get_running_loop()
        generation, health = Generation("r1", worker), loop.create_future()
        worker.__dict__.update(
            _child=_Child(), _quarters=_Nobody(), _writer=_Nobody(), _lost=loop.create_future(), _is_stopping=False,
            _open={"r1": generation}, _health={"h1": health}, on_change=lambda: None, flip=None,
        )  # fmt: skip
        reader = asyncio.StreamReader(loop=loop)
        reader.feed_data(data.replace(b"\n", b" ") + b"\n")
        reader.feed_eof()
        await worker._read(reader)
        assert worker._lost.done(), "whoever waits for it waits for ever"
        assert health.done(), "the question of health stays open"
        is_lost = isinstance(health.exception(), WorkerLostError)
        if "seam" in worker._lost.result():
            assert is_lost
            raise _RefusedError


async def _greeted(data: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data.replace(b"\n", b" ") + b"\n")
    reader.feed_eof()
    accepted: asyncio.Queue[Any] = asyncio.Queue()
    accepted.put_nowait((reader, _Nobody()))
    await _greet(accepted)


class _Loop:
    """Runs a coroutine function a case, on one loop for all."""

    def __init__(self, work: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, data: bytes) -> None:
        """Run it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._work(data))


async def _serving_hears(data: bytes) -> None:
    """The serving process is asked something by who knows its key; nothing is loaded."""
    said: list[Any] = []
    server: Any = control_server.ControlServer.__new__(control_server.ControlServer)
    server._supervisor, server._tally, server._endpoint = _Supervisor(), _Tally(), ""
    server._shut_down, server._started_at = (lambda: None), 0.0
    writer = SimpleNamespace(is_closing=lambda: False, write=lambda line: said.append(json.loads(line)))
    await server._reply(writer, decode_line(data))
    assert len(said) == 1
    if not said[0]["ok"]:
        raise _RefusedError


class _Supervisor:
    """Loads nothing, and says yes."""

    serving = None
    is_serving = False
    models = ()
    swap_ms = 0.0

    async def flip(self, _release: str) -> float:
        """Yes."""
        return 0.0

    async def drain(self, _release: str, *, timeout_s: float) -> None:
        """Yes."""
        assert isinstance(timeout_s, float)

    async def unload(self, _release: str) -> None:
        """Yes."""

    def reload(self, _release: str) -> None:
        """Yes."""

    async def load(self, release: str, **_more: Any) -> Any:
        """No."""
        raise ServingError(release, kind="load_failed")

    async def probe(self, _release: str, prompts: list[Prompt], *, max_tokens: int) -> list[Any]:
        """Nothing to say."""
        assert isinstance(max_tokens, int)
        return [SimpleNamespace(tokens=(), text="", seconds=0.0) for _ in prompts]


class _Tally:
    num_requests = num_failed = num_in_flight = 0

    async def answer(self, *_arguments: object) -> Any:
        """No."""
        raise ServingError("no model", kind="unavailable")
        yield


async def _daemon_hears(data: bytes) -> None:
    """The daemon hears its serving process, with a call open; then that is gone."""
    reader = asyncio.StreamReader()
    control: Any = ServingControl.__new__(ServingControl)
    reply = asyncio.get_running_loop().create_future()
    control._writer, control._replies, control._events = _Nobody(), {1: reply}, asyncio.Queue()
    reader.feed_data(data.replace(b"\n", b" ") + b"\n")
    reader.feed_eof()
    await control._read(reader)
    assert reply.done(), "whoever asked waits for ever"
    last = None
    while not control._events.empty():
        last = control._events.get_nowait()
    assert last is None, "nobody is told that it is gone"
    if reply.exception() is not None:
        raise _RefusedError


# The ground's.


def _emulator_asked(data: bytes) -> None:
    answer = emulator_control._answer(data, lambda request: {"op": str(request.get("op"))})
    json.dumps(answer)
    if not answer["ok"]:
        raise _RefusedError


_REHEARSAL: Any = SimpleNamespace(
    release_digest=b"\x11" * 32, prompts=("a", "b"), judging=SimpleNamespace(reference=None)
)
_PRINTED = {
    "digest": "11" * 32,
    "answers": [{"tokens": [1, 2], "text": "x"}, {"tokens": [3], "text": "y"}],
    "quality": {"reference": None, "text": "22" * 32, "num_tokens": 100, "perplexity": 12.5},
}


def _confined(_path: Path) -> None:
    Quarters(home() / "quarters").report()


_RELEASE = {"release": "11" * 32}
_ASKED = [
    {"type": "load", **_RELEASE, "directory": "/r", "name": "n", "timeout_s": 5},
    {"type": "probe", **_RELEASE, "prompts": [{"messages": [{"role": "user", "content": "x"}]}], "max_tokens": 4},
    {"type": "flip", **_RELEASE},
    {"type": "drain", **_RELEASE, "timeout_s": 1.5},
    {"type": "ask", "prompt": "x", "max_tokens": 3, "stop": ["a"]},
    {"type": "status"},
]
_SAID = [
    {"type": "delta", "id": "r1", "tokens": [1, 2], "text": "x"},
    {"type": "done", "id": "r1", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 4},
    {"type": "error", "id": "r1", "message": "x", "kind": "invalid"},
    {"type": "health", "id": "h1", "state": "ready", "num_active": 1, "stalled_s": 0.5},
    {"type": "flipped", "where": "w", "offset": 4096, "bit": 3},
]
_EVENTS = [
    {"id": 1, "ok": True, "swap_ms": 3.5},
    {"id": 1, "ok": False, "error": "x", "kind": "busy"},
]


def _lines(messages: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(message).encode() for message in messages]


TARGETS: dict[str, Target] = {
    "daemon-socket": Target(
        parse=_Daemon(),
        refusals=(_RefusedError,),
        seeds=_lines(
            [{"op": "revert", "digest": "11", "key": _KEY}, {"op": "import", "sha256": "22" * 32, "key": _KEY}]
        ),
        form=Form.JSON,
    ),
    "daemon-reply": Target(
        parse=_reply,
        refusals=(ValueError,),
        seeds=[b'{"ok": false, "error": "x", "hint": "", "exit_code": 3}'],
        form=Form.JSON,
    ),
    "seam": Target(parse=_seam, refusals=(SeamError, RequestError), seeds=good.SEAM_LINES, form=Form.JSON),
    "engine": Target(parse=_Engine(), refusals=(_RefusedError,), seeds=_lines(_SAID), form=Form.JSON),
    "engine-greeting": Target(
        parse=_Loop(_greeted),
        refusals=(ServingError,),
        seeds=_lines([{"type": "ready", "engine": "x", "context_tokens": 2048}]),
        form=Form.JSON,
    ),
    "serving-socket": Target(
        parse=_Loop(_serving_hears),
        refusals=(_RefusedError, SeamError),
        seeds=_lines(_ASKED[2:4] + _ASKED[5:]),
        form=Form.JSON,
    ),
    "serving-replies": Target(
        parse=_Loop(_daemon_hears), refusals=(_RefusedError,), seeds=_lines(_EVENTS), form=Form.JSON
    ),
    "emulator-socket": Target(
        parse=_emulator_asked, refusals=(_RefusedError,), seeds=[b'{"op": "statistics"}'], form=Form.JSON
    ),
    "twin": Target(
        parse=lambda data: _parse(data.decode("utf-8", "replace"), _REHEARSAL),
        refusals=(TwinError,),
        seeds=_lines([_PRINTED]),
        form=Form.JSON,
    ),
    "confinement-report": Target(
        parse=in_file("quarters.json", _confined), refusals=(), seeds=[b'{"locks": {}}'], form=Form.JSON
    ),
}
