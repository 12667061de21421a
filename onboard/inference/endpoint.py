"""The local HTTP endpoint: OpenAI's chat and plain completions, models, health and metrics.

A thin shell: bytes in, `openai_api` reads them, the supervisor answers, JSON or server-sent events out. When
the client hangs up, its answer is cancelled. Headers are sent with the first token, so whatever fails before
it gets a proper status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from onboard.inference.answers import Started
from onboard.inference.engine import Delta, Done, Sampling
from onboard.inference.errors import ServingError
from onboard.inference.metrics import Tally
from onboard.inference.openai_api import (
    ApiError,
    ApiLimits,
    Ask,
    Voice,
    api_error,
    model_object,
    parse_ask,
    usage_object,
)
from onboard.inference.supervisor import Supervisor

_T = TypeVar("_T")
_BODY_TIMEOUT_S = 30.0
_Items = AsyncGenerator[Started | Delta | Done, None]


def make_app(supervisor: Supervisor, tally: Tally, *, limits: ApiLimits) -> FastAPI:
    """Build the ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    room = _Room(supervisor=supervisor, tally=tally, limits=limits, started_s=int(time.time()))
    app.add_api_route("/v1/chat/completions", room.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", room.completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", room.models, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models/{name:path}", room.model, methods=["GET"], response_model=None)
    app.add_api_route("/health", room.health, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", room.metrics, methods=["GET"], response_model=None)
    app.add_exception_handler(ApiError, _show_api_error)
    app.add_exception_handler(HTTPException, _show_http_error)
    return app


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """The routes and what they need."""

    supervisor: Supervisor
    tally: Tally
    limits: ApiLimits
    started_s: int

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(request, is_chat=True)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(request, is_chat=False)

    async def models(self) -> Response:
        """GET /v1/models: the release that serves, and its base if it is an adapter."""
        data = [model_object(voice.name, voice.release, self.started_s) for voice in self._voices()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, name: str) -> Response:
        """GET /v1/models/NAME."""
        for voice in self._voices():
            if voice.name == name:
                return JSONResponse(model_object(voice.name, voice.release, self.started_s))
        raise ApiError(f"the model {name!r} does not serve", status=404, code="model_not_found", param="model")

    def _voices(self) -> tuple[Started, ...]:
        serving = self.supervisor.serving
        return () if serving is None else serving.voices

    async def health(self) -> Response:
        """GET /health: 200 while a model would answer now, else 503."""
        serving = self.supervisor.serving
        if serving is None or not self.supervisor.is_serving:
            return JSONResponse({"status": "unavailable"}, status_code=503, headers={"Retry-After": "5"})
        return JSONResponse({"status": "ok", "model": serving.name, "release": serving.release})

    async def metrics(self) -> Response:
        """GET /metrics: Prometheus text."""
        return Response(self.tally.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(self, request: Request, *, is_chat: bool) -> Response:
        try:
            body = await _read_body(request, self.limits.body_bytes)
        except ClientDisconnect:  # nobody is there to be told, and it is no error to be logged
            return Response(status_code=499)
        ask = parse_ask(body, is_chat=is_chat, limits=self.limits)
        items = self.tally.answer("chat" if is_chat else "completions", ask.prompt, _with_seed(ask))
        try:
            if ask.stream:
                return await _stream(ask, items, request)
            return JSONResponse(await _or_hang_up(_collect(ask, items), request))
        except ServingError as error:
            raise api_error(error) from error
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            if not ask.stream:
                await items.aclose()


def _with_seed(ask: Ask) -> Sampling:
    """Fix the seed of a request that leaves it open, so that the answer can be taken up after a crash."""
    return ask.sampling if ask.has_seed else replace(ask.sampling, seed=secrets.randbits(62))


def _voice(ask: Ask, started: Started) -> Voice:
    return Voice(
        is_chat=ask.is_chat,
        answer_id=("chatcmpl-" if ask.is_chat else "cmpl-") + secrets.token_hex(12),
        created_s=int(time.time()),
        model=started.name,
        release=started.release,
    )


async def _collect(ask: Ask, items: _Items) -> dict[str, Any]:
    """Return the whole answer."""
    texts: list[str] = []
    voice: Voice | None = None
    async for item in items:
        match item:
            case Started():
                voice = _voice(ask, item)
            case Delta():
                texts.append(item.text)
            case Done():
                assert voice is not None
                usage = usage_object(item.prompt_tokens, item.completion_tokens)
                return voice.whole("".join(texts), item.finish_reason, usage)
    raise AssertionError("an answer ends with Done")


async def _stream(ask: Ask, items: _Items, request: Request) -> Response:
    """Return a streaming response once there is something to send."""
    try:
        started = await _or_hang_up(anext(items), request)
        assert isinstance(started, Started)
    except BaseException:
        await items.aclose()
        raise
    chunks = _chunks(ask, _voice(ask, started), items)
    return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _chunks(ask: Ask, voice: Voice, items: _Items) -> AsyncIterator[bytes]:
    first = True
    try:
        async for item in items:
            if isinstance(item, Delta) and item.text:
                yield _event(voice.chunk(item.text, first=first))
                first = False
            elif isinstance(item, Done):
                yield _event(voice.chunk("", first=first, finish_reason=item.finish_reason))
                if ask.include_usage:
                    yield _event(voice.usage_chunk(usage_object(item.prompt_tokens, item.completion_tokens)))
        yield b"data: [DONE]\n\n"
    except ServingError as error:
        yield _event(api_error(error).body())
    finally:
        await items.aclose()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


async def _read_body(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise ApiError(f"the body is over {most_bytes} bytes", status=413, code="body_too_large")
    except TimeoutError:
        raise ApiError(f"the body did not arrive within {_BODY_TIMEOUT_S:.0f} s", status=408) from None
    return bytes(body)


async def _or_hang_up(work: Awaitable[_T], request: Request) -> _T:
    """Await `work`; cancel it and raise ClientDisconnect if the client hangs up first."""
    working = asyncio.ensure_future(work)
    hanging_up = asyncio.ensure_future(request.receive())  # the body is read: only http.disconnect can come
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, hanging_up):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ServingError, StopAsyncIteration):
            await working
        with contextlib.suppress(asyncio.CancelledError):
            await hanging_up


async def _show_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _show_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{error.detail}: {request.method} {request.url.path}"
    return await _show_api_error(request, ApiError(text, status=error.status_code))
