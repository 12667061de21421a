"""What comes in by HTTP and by files of people: requests, plans, profiles, scenarios, prompts."""

import asyncio
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
import yaml

from groundsegment.emulator.profile import parse_profile, profile_names, profile_text
from groundsegment.errors import GroundError
from groundsegment.planner.contact_plan import load_contact_plan, parse_contact_plan
from groundsegment.simulation.scenario_file import load_scenario
from groundsegment.staging.canary import read_prompts
from onboard.errors import OnboardError
from onboard.inference.endpoint import make_app
from onboard.inference.metrics import Tally
from onboard.inference.openai_api import ApiError, ApiLimits, parse_ask
from onboard.inference.patience import HEAD_BYTES_MAX, patient_protocol
from onboard.inference.supervisor import Limits, Supervisor
from onboard.rehearse import _read_prompts
from tests.fuzz import good
from tests.fuzz.in_file import in_file
from tests.fuzz.target import Form, Target

_GROUND = (GroundError,)


class _RefusedError(Exception):
    """The endpoint said no."""


class _Wire(asyncio.Transport):
    """A client: what is written to it is kept."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 8000)})
        self.written = bytearray()
        self._is_closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Errors(logging.Handler):
    """What the server logs as an error of its own is a finding."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._last: logging.LogRecord | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._last = record

    def check(self) -> None:
        """Raise what was logged since."""
        last, self._last = self._last, None
        error = last and last.exc_info and last.exc_info[1]
        # uvicorn says 400 to a damaged body and closes; the application's own answer then comes too late.
        if last is not None and not isinstance(error, h11.LocalProtocolError):
            raise AssertionError(last.getMessage()) from error


class _Http:
    """The endpoint's own server, one connection a case; no model serves, so whatever is asked properly gets a 503."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errors = _Errors(logging.ERROR)

    def __call__(self, data: bytes) -> None:
        """Send it, hang up, and look at the answer."""
        if not data:
            raise _RefusedError  # asyncio hands nobody no bytes
        if self._loop is None:
            self._open()
        assert self._loop is not None
        self._wire = _Wire()
        self._loop.run_until_complete(self._converse(data))
        status = bytes(self._wire.written).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._errors.check()
        assert not status.startswith(b"HTTP/1.1 500"), "an error of our own"
        if not status.startswith((b"HTTP/1.1 2", b"HTTP/1.1 503")):
            raise _RefusedError

    def _open(self) -> None:
        self._loop = asyncio.new_event_loop()
        logging.getLogger("uvicorn.error").addHandler(self._errors)
        logging.getLogger("uvicorn.error").propagate = False
        limits = Limits(num_parallel=1, max_waiting=1)
        supervisor = Supervisor(command=(), run_directory=Path("/nowhere"), num_threads=1, limits=limits)
        app = make_app(supervisor, Tally(supervisor), limits=ApiLimits(body_bytes=2000))
        self._config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            http=patient_protocol(10.0),
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            limit_concurrency=64,
        )
        self._config.load()
        self._state = uvicorn.server.ServerState()
        self._class: Any = self._config.http_protocol_class

    async def _converse(self, data: bytes) -> None:
        protocol = self._class(self._config, self._state, {}, _loop=self._loop)
        protocol.connection_made(self._wire)
        protocol.data_received(data)
        await self._settle()
        protocol.connection_lost(None)
        await self._settle()
        for task in list(self._state.tasks):
            task.cancel()
            self._state.tasks.discard(task)

    async def _settle(self) -> None:
        for _ in range(40):
            await asyncio.sleep(0)
            if not self._state.tasks:
                return


def _request(line: str, body: bytes = b"", head: str = "") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{line} HTTP/1.1\r\nHost: sat\r\n{head}{length}\r\n".encode() + body


_JSON = "Content-Type: application/json\r\n"
_CHUNKED = b'a\r\n{"prompt":\r\n4;x=y\r\n"a"}\r\n0\r\n\r\n'
_REQUESTS = [
    _request("POST /v1/chat/completions", good.CHATS[0], _JSON),
    _request("POST /v1/completions", good.COMPLETIONS[0], _JSON + "Authorization: Bearer x\r\n"),
    _request("POST /v1/completions", b"", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n") + _CHUNKED,
    _request("GET /v1/models") + _request("GET /health", b"", "Connection: close\r\n"),
    _request("GET /metrics?x=1&y=%00", b"", "Accept-Encoding: gzip\r\nCookie: a=b\r\n"),
]


def _plan(data: bytes) -> None:
    """A contact plan's content, from the tree that its YAML makes; times written as such become times."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise GroundError("not a case: no YAML makes it") from None
    plan = parse_contact_plan(content, name="plan", source="plan.yaml", now_s=0.0)
    for _, contact in zip(range(3), plan.from_time(0.0), strict=False):
        str(contact)


def _plan_file(path: Path) -> None:
    plan = load_contact_plan(path, now_s=0.0)
    for _, contact in zip(range(3), plan.from_time(0.0), strict=False):
        str(contact)


_SMALL_PROFILE = profile_text(min(profile_names(), key=lambda name: len(profile_text(name)))).encode()
_SCENARIO = (
    b"days: 2\nscale: 32\nupdates:\n- {name: model, size: 5GB}\npasses: {a: {per_day: 4, mean_s: 435}}\n"
    b"link: {up: {rate_bps: 1_000_000}, down: {rate_bps: 9000}}\n"
)

TARGETS: dict[str, Target] = {
    "http": Target(parse=_Http(), refusals=(_RefusedError,), seeds=_REQUESTS, form=Form.TEXT, size_max=1 << 12),
    "chat": Target(
        parse=partial(parse_ask, is_chat=True, limits=ApiLimits()),
        refusals=(ApiError,),
        seeds=good.CHATS,
        form=Form.JSON,
    ),
    "completion": Target(
        parse=partial(parse_ask, is_chat=False, limits=ApiLimits()),
        refusals=(ApiError,),
        seeds=good.COMPLETIONS,
        form=Form.JSON,
    ),
    "contact-plan": Target(
        parse=_plan,
        refusals=_GROUND,
        seeds=[json.dumps(yaml.safe_load(each), default=str).encode() for each in good.CONTACT_PLANS],
        form=Form.JSON,
    ),
    "contact-plan-file": Target(
        parse=in_file("plan.yaml", _plan_file), refusals=_GROUND, seeds=good.CONTACT_PLANS, form=Form.TEXT
    ),
    "link-profile": Target(
        parse=lambda data: parse_profile(data.decode("utf-8", "replace"), name="link", source="link.yaml"),
        refusals=_GROUND,
        seeds=[_SMALL_PROFILE],
        form=Form.TEXT,
    ),
    "scenario": Target(
        parse=in_file("scenario.yaml", lambda path: load_scenario(str(path))),
        refusals=_GROUND,
        seeds=[_SCENARIO],
        form=Form.TEXT,
    ),
    "canary-prompts": Target(
        parse=in_file("prompts.json", read_prompts),
        refusals=_GROUND,
        seeds=[b'["What is a satellite?", "1 + 1 ="]'],
        form=Form.JSON,
    ),
    "rehearsal-prompts": Target(
        parse=in_file("rehearsal.json", _read_prompts),
        refusals=(OnboardError,),
        seeds=[b'["What?", {"messages": [{"role": "user", "content": "x"}]}]'],
        form=Form.JSON,
    ),
}
