"""The OpenAI wire format: what a request may say, what an answer and an error look like. Pure.

Accepted fields are those this endpoint honours. A field it knows but cannot honour is accepted only with the
value that means "off" (`n` 1, penalties 0, no tools, ...); anything else is refused with a 400 that names it,
so that nobody gets an answer made in another way than asked. Two deliberate differences: without
`temperature` the answer is greedy, and `model` may be any name, because a swap must not fail the requests of
a client that knows the old one; the answer says which model it came from. Only NAME/base has a meaning, whatever
NAME is: an adapter's base without the adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onboard.inference.answers import BASE_SUFFIX
from onboard.inference.engine import Prompt, Sampling
from onboard.inference.errors import ServingError

_MAX_STOPS = 8
_MAX_STOP_CHARS = 256
_MAX_SEED = (1 << 63) - 1
_COMPLETION_DEFAULT_TOKENS = 16  # what the OpenAI reference says for /v1/completions


class ApiError(Exception):
    """A request that gets an error object for an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        type_ = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            type_ = "rate_limit_error"
        return {"error": {"message": str(self), "type": type_, "param": self.param, "code": self.code}}


def api_error(error: ServingError) -> ApiError:
    """Translate what serving says into what HTTP says."""
    match error.kind:
        case "invalid":
            return ApiError(str(error))
        case "too_long":
            return ApiError(str(error), param="messages", code="context_length_exceeded")
        case "busy":
            return ApiError(str(error), status=429, code="queue_full", retry_after_s=1)
        case "unavailable":
            return ApiError(str(error), status=503, code="no_model", retry_after_s=5)
        case "timeout":
            return ApiError(str(error), status=504, code="timeout")
        case kind:
            return ApiError(str(error), status=500, code=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Maxima of one request."""

    body_bytes: int = 1 << 20
    max_tokens: int = 4096
    default_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as this endpoint understood it; `seed` None means any."""

    is_chat: bool
    prompt: Prompt
    sampling: Sampling
    has_seed: bool
    stream: bool
    include_usage: bool


def parse_ask(body: bytes, *, is_chat: bool, limits: ApiLimits) -> Ask:
    """Read the body of /v1/chat/completions or /v1/completions.

    Raises:
        ApiError: with status 400 and the field at fault.
    """
    fields = _fields(body)
    known = _CHAT_FIELDS if is_chat else _COMPLETION_FIELDS
    for name, value in fields.items():
        if name not in known:
            raise ApiError(f"unrecognized request argument: {name}", param=name, code="unknown_parameter")
        if not known[name](value):
            raise ApiError(f"this endpoint does not support this value of {name}", param=name, code="unsupported_value")
    stream = fields.get("stream", False)
    return Ask(
        is_chat=is_chat,
        prompt=_chat_prompt(fields) if is_chat else _completion_prompt(fields),
        sampling=Sampling(
            max_tokens=_max_tokens(fields, is_chat=is_chat, limits=limits),
            temperature=float(fields.get("temperature", 0.0)),
            top_p=float(fields.get("top_p", 1.0)),
            seed=fields.get("seed", 0),
            stop=_stops(fields.get("stop", [])),
            is_plain=fields.get("model", "").endswith(BASE_SUFFIX),
        ),
        has_seed="seed" in fields,
        stream=stream,
        include_usage=bool(fields.get("stream_options", {}).get("include_usage", False)),
    )


def _fields(body: bytes) -> dict[str, Any]:
    """Parse a body; fields that are null count as absent."""
    try:
        text = body.decode("utf-8")
        fields = json.loads(text)
        json.dumps(fields, ensure_ascii=False).encode()  # refuses what is not text: lone surrogates
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not valid JSON text: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    return {name: value for name, value in fields.items() if value is not None}


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any], bool]:
    def check(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (low < value if above else low <= value) and value <= high

    return check


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(*allowed: object) -> Callable[[Any], bool]:
    # `in` alone would take True for 1
    return lambda value: any(type(value) is type(item) and value == item for item in allowed)


def _anything(_value: object) -> bool:
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_stream_options(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(flag, bool) for flag in value.values())


_SHARED_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "max_tokens": _integer(1, _MAX_SEED),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, above=True),
    "seed": _integer(-_MAX_SEED - 1, _MAX_SEED),
    "stop": _anything,  # looked at in _stops
    "stream": _is_flag,
    "stream_options": _is_stream_options,
    "n": _one_of(1),
    "presence_penalty": _one_of(0, 0.0),
    "frequency_penalty": _one_of(0, 0.0),
    "logit_bias": _one_of({}),
    "user": _anything,
    "metadata": _anything,
}
_CHAT_FIELDS = {
    **_SHARED_FIELDS,
    "messages": _anything,  # looked at in _chat_prompt
    "max_completion_tokens": _integer(1, _MAX_SEED),
    "logprobs": _one_of(False),
    "top_logprobs": _one_of(0),
    "response_format": _one_of({"type": "text"}),
    "tools": _one_of([]),
    "tool_choice": _one_of("none", "auto"),
    "parallel_tool_calls": _is_flag,
    "modalities": _one_of(["text"]),
    "store": _one_of(False),
    "service_tier": _one_of("auto", "default"),
    "safety_identifier": _anything,
}
_COMPLETION_FIELDS = {
    **_SHARED_FIELDS,
    "prompt": _anything,  # looked at in _completion_prompt
    "best_of": _one_of(1),
    "echo": _one_of(False),
    "suffix": _one_of(""),
}


def _max_tokens(fields: Mapping[str, Any], *, is_chat: bool, limits: ApiLimits) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    default = limits.default_tokens if is_chat else _COMPLETION_DEFAULT_TOKENS
    value = int(fields.get(name, min(default, limits.max_tokens)))
    if value > limits.max_tokens:
        raise ApiError(f"{name} is {value}; this endpoint gives at most {limits.max_tokens}", param=name)
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > _MAX_STOPS
        or not all(isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_CHARS for stop in stops)
    ):
        raise ApiError(
            f"stop must be a string or up to {_MAX_STOPS} strings of 1 to {_MAX_STOP_CHARS} characters", param="stop"
        )
    return tuple(stops)


def _chat_prompt(fields: Mapping[str, Any]) -> Prompt:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("messages must be a list that is not empty", param="messages")
    return Prompt(messages=tuple(_message(item, f"messages[{at}]") for at, item in enumerate(messages)))


def _message(item: object, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise ApiError(f"{where} must be an object", param=where)
    role, content = item.get("role"), item.get("content")
    if role == "developer":  # OpenAI's newer word; chat templates know the older one
        role = "system"
    if role not in ("system", "user", "assistant"):
        raise ApiError(f"{where}.role must be system, developer, user or assistant", param=f"{where}.role")
    for name in item.keys() - {"role", "content", "name", "refusal"}:
        if item[name] is not None and item[name] != []:
            raise ApiError(f"{where}.{name} is not supported", param=f"{where}.{name}", code="unknown_parameter")
    return {"role": role, "content": _content(content, where)}


def _content(content: object, where: str) -> str:
    """Return the text of a message: a string, or the text parts of a list joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) and content else [None]
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(f"{where}.content must be a string or text parts", param=f"{where}.content")
        texts.append(part["text"])
    return "".join(texts)


def _completion_prompt(fields: Mapping[str, Any]) -> Prompt:
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]  # a batch of one
    if isinstance(prompt, str) and prompt:
        return Prompt(text=prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        return Prompt(tokens=tuple(prompt))
    raise ApiError("prompt must be one string or one list of token ids, not empty", param="prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Who answers one request: builds the objects that go out.

    Attributes:
        is_chat: chat or plain completion.
        answer_id: unique, with OpenAI's prefix.
        created_s: Unix time.
        model: name of the release.
        release: its digest.
    """

    is_chat: bool
    answer_id: str
    created_s: int
    model: str
    release: str

    def whole(self, text: str, finish_reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return the answer in one piece."""
        if self.is_chat:
            content: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            content = {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return self._object(choices=[choice], usage=usage, stream=False)

    def chunk(self, text: str, *, first: bool = False, finish_reason: str | None = None) -> dict[str, Any]:
        """Return one chunk of a stream."""
        if self.is_chat:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            if finish_reason is None:
                delta["content"] = text
            content: dict[str, Any] = {"delta": delta}
        else:
            content = {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return self._object(choices=[choice], usage=None, stream=True)

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last chunk of a stream that was asked for usage."""
        return self._object(choices=[], usage=usage, stream=True)

    def _object(self, *, choices: list[dict[str, Any]], usage: dict[str, int] | None, stream: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if stream else "chat.completion") if self.is_chat else "text_completion"
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": f"fp_{self.release[:16]}",
            "choices": choices,
            "usage": usage,
        }


def usage_object(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def model_object(name: str, release: str, created_s: int) -> dict[str, Any]:
    """Return an entry of /v1/models; `digest` is ours."""
    return {"id": name, "object": "model", "created": created_s, "owned_by": "skyload", "digest": release}
