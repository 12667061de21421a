"""The seam in front of an engine: what a worker is told, what it says, what an engine must be able to do.

One worker process serves one release. It is started as

    ENGINE_COMMAND --release-dir DIR --socket PATH [--base-dir DIR] [--threads N]

connects to the Unix socket PATH at once, and from then on both sides speak JSON lines (UTF-8, one object a
line, at most MAX_LINE_BYTES). When the socket closes, the worker ends itself. `--base-dir` is given for a release
that is a LoRA adapter (adapter_config.json, adapter_model.safetensors): the model that it is served with.

    worker says       ready    {engine, context_tokens}      loaded; sent once, before any answer
                      failed   {reason}                      cannot be loaded; the worker then exits
                      delta    {id, tokens, text}            new token ids, and text that became certain
                      done     {id, finish_reason, prompt_tokens, completion_tokens}
                      error    {id, kind, message}           this request cannot be answered
                      health   {id, state, num_active, stalled_s}    state: loading, ready
                      flipped  {where, offset, bit | null}   its weights changed in memory; the worker then exits

    worker is told    generate {id, messages | prompt | tokens, max_tokens, temperature, top_p, seed, stop, is_plain}
                      cancel   {id}                          answered by done, finish_reason "cancelled"
                      health   {id}                          answered even while the engine computes

Every message carries its name in "type". `tokens` of a delta may come before their text: text waits until it
is whole UTF-8 and cannot be the beginning of a stop string. The token that ends an answer is in `tokens` and
counted; its text is not in `text`. `stalled_s` says how long the engine made no progress though it has work.

`is_plain` asks the base without its adapter; it means nothing to a release that is none, and may be left out.
A request with temperature 0 is greedy and depends on nothing but release, prompt and max_tokens; one with a
seed depends on these and the seed. The supervisor and the canary rely on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from onboard.inference.weights import WeightsPart

WEIGHTS_PERIOD = "SKYLOAD_WEIGHTS_PERIOD_S"
"""In a worker's environment: seconds in which it compares all its weights in memory once; 0 or absent: never."""
MAX_LINE_BYTES = 4 << 20
"""A request body of 1 MiB grows at most threefold when JSON escapes it; the rest is slack."""


class SeamError(Exception):
    """The other side of the socket broke the rules above."""


class RequestError(Exception):
    """This request cannot be answered, whoever answers it.

    Attributes:
        kind: "invalid", "too_long" or "internal".
    """

    def __init__(self, message: str, *, kind: str = "invalid") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to continue a prompt.

    Attributes:
        max_tokens: most tokens to generate, the ending one included; at least 1.
        temperature: 0 is greedy.
        top_p: smallest probability mass to draw from, above 0 and at most 1.
        seed: what the drawing starts from; without meaning for greedy requests.
        stop: texts that end the answer; they are not part of it.
        is_plain: by the base alone, if the release is an adapter.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    is_plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What to continue: exactly one of a conversation, a text, or token ids."""

    messages: tuple[Mapping[str, str], ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the one field of a `generate` message that this prompt is."""
        if self.messages is not None:
            return {"messages": [dict(message) for message in self.messages]}
        if self.text is not None:
            return {"prompt": self.text}
        assert self.tokens is not None
        return {"tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Prompt:
        """Read the prompt of a message.

        Raises:
            RequestError: none or several of the three fields, or one of a wrong shape.
        """
        given = [name for name in ("messages", "prompt", "tokens") if message.get(name) is not None]
        if len(given) != 1:
            raise RequestError("exactly one of messages, prompt and tokens must be given")
        value = message[given[0]]
        if given[0] == "prompt":
            if not isinstance(value, str):
                raise RequestError("prompt must be a string")
            return cls(text=value)
        if not isinstance(value, list) or not value:
            raise RequestError(f"{given[0]} must be a list that is not empty")
        if given[0] == "tokens":
            if not all(type(token) is int and token >= 0 for token in value):
                raise RequestError("tokens must be token ids")
            return cls(tokens=tuple(value))
        return cls(messages=tuple(_chat_message(item) for item in value))


def _chat_message(item: object) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise RequestError("each message must be an object with role and content")
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise RequestError("each message must have a role and a content, both strings")
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A step of an answer: new token ids, and the text that became certain with them. Either may be empty."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of an answer.

    Attributes:
        finish_reason: "stop" (ending token or stop string), "length" or "cancelled".
        prompt_tokens: token ids the prompt became.
        completion_tokens: token ids generated, the ending one included.
    """

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has its release loaded."""

    engine: str
    context_tokens: int


def encode_line(type_: str, fields: Mapping[str, Any]) -> bytes:
    """Return one message as its line."""
    return json.dumps({"type": type_, **fields}, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """Parse one line.

    Raises:
        SeamError: not a JSON object with a "type".
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SeamError(f"a line of {len(line)} bytes is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise SeamError("a line is not an object with a type")
    return message


def generate_fields(request_id: str, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    """Return the fields of a `generate` message."""
    return {
        "id": request_id,
        **prompt.to_json(),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        **({"is_plain": True} if sampling.is_plain else {}),
    }


def sampling_from(message: Mapping[str, Any]) -> Sampling:
    """Read the sampling fields of a `generate` message.

    Raises:
        RequestError: a field is of the wrong type.
    """
    try:
        return Sampling(
            max_tokens=max(1, int(message["max_tokens"])),
            temperature=float(message.get("temperature", 0.0)),
            top_p=float(message.get("top_p", 1.0)),
            seed=int(message.get("seed", 0)),
            stop=tuple(str(text) for text in message.get("stop") or ()),
            is_plain=message.get("is_plain") is True,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # JSON has infinities in Python
        raise RequestError(f"sampling fields: {error!r}") from None


class Engine(Protocol):
    """What a worker drives. One thread uses it; several answers may be in progress, stepped in turn."""

    @property
    def name(self) -> str:
        """Engine and versions, for people."""

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""

    def load(self, directory: Path, base: Path | None = None) -> None:
        """Load the release in `directory`, an adapter of `base` if that is given; raises what stops it, with words."""

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Return the prompt's token ids; raises RequestError."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens` without ending tokens, with U+FFFD where bytes are not whole UTF-8."""

    def is_end(self, token: int) -> bool:
        """Say whether `token` ends an answer."""

    def weights(self) -> Sequence[WeightsPart]:
        """Say which bytes of memory hold the weights; nothing if they cannot be shown."""

    def continue_tokens(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int | None]:
        """Yield tokens after `prompt`, endlessly; None where nothing is new but others may have a turn."""
