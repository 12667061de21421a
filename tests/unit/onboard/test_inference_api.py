"""The OpenAI wire format: what is taken, what is refused and how it is named."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.inference.errors import ServingError
from onboard.inference.openai_api import ApiError, ApiLimits, Voice, api_error, parse_ask

LIMITS = ApiLimits(max_tokens=100, default_tokens=40)
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields):
    body = json.dumps({"model": "m", "messages": HELLO} | fields).encode()
    return parse_ask(body, is_chat=True, limits=LIMITS)


def completion(**fields):
    return parse_ask(json.dumps({"prompt": "hello"} | fields).encode(), is_chat=False, limits=LIMITS)


def refused(**fields):
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value.param


def test_defaults_are_greedy_and_bounded():
    ask = chat()
    assert (ask.sampling.temperature, ask.sampling.top_p, ask.sampling.max_tokens) == (0.0, 1.0, 40)
    assert (ask.stream, ask.has_seed, ask.include_usage) == (False, False, False)
    assert completion().sampling.max_tokens == 16


def test_every_honoured_field_arrives():
    ask = chat(
        temperature=0.5,
        top_p=0.9,
        seed=-7,
        stop=["a", "b"],
        max_completion_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    sampling = ask.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.stop) == (0.5, 0.9, -7, ("a", "b"))
    assert (sampling.max_tokens, ask.has_seed, ask.stream, ask.include_usage) == (9, True, True, True)


def test_null_means_absent():
    assert chat(temperature=None, stop=None, n=None, tools=None) == chat()


def test_fields_that_mean_off_are_taken():
    neutral = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False}
    assert chat(**neutral, tools=[], response_format={"type": "text"}, user="u", store=False) == chat()
    assert completion(best_of=1, echo=False) == completion()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("presence_penalty", 0.5),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("max_tokens", 0),
        ("max_tokens", 101),
        ("max_tokens", 1.5),
        ("stop", [""]),
        ("stop", ["x"] * 9),
        ("stop", 5),
        ("seed", "x"),
        ("stream", "yes"),
        ("stream_options", [1]),
        ("messages", []),
        ("messages", "hello"),
        ("moonbeam", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name, value):
    assert refused(**{name: value}) == name


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ("hello", "messages[0]"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content"),
        ({"role": "assistant", "content": "x", "tool_calls": [1]}, "messages[0].tool_calls"),
    ],
)
def test_a_bad_message_is_refused_by_its_place(message, where):
    assert refused(messages=[message]) == where


def test_text_parts_are_joined_and_developer_is_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = chat(messages=[{"role": "developer", "content": parts}])
    assert ask.prompt.messages == ({"role": "system", "content": "ab"},)


def test_completions_take_text_or_tokens_and_no_batches():
    assert completion(prompt=["one"]).prompt.text == "one"
    assert completion(prompt=[[1, 2]]).prompt.tokens == (1, 2)
    assert completion(prompt=[5]).prompt.tokens == (5,)
    for bad in (["a", "b"], [], "", [1, "a"], [-1], [True]):
        with pytest.raises(ApiError, match="prompt"):
            completion(prompt=bad)


NAMES = st.sampled_from(["messages", "prompt", "stop", "role", "content", "stream_options", "n", "type", "text"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_understood_or_refused(body):
    for is_chat in (True, False):
        with contextlib.suppress(ApiError):
            parse_ask(body, is_chat=is_chat, limits=LIMITS)


def test_a_body_that_is_not_text_is_refused():
    for body in (b'"\\ud800"', b'{"model":"\\ud800"}', b"\xff", b"[" * 100_000):
        with pytest.raises(ApiError, match="JSON"):
            parse_ask(body, is_chat=True, limits=LIMITS)


@pytest.mark.parametrize(
    ("kind", "status", "retries"),
    [
        ("invalid", 400, None),
        ("too_long", 400, None),
        ("busy", 429, 1),
        ("unavailable", 503, 5),
        ("timeout", 504, None),
        ("worker_lost", 500, None),
        ("internal", 500, None),
    ],
)
def test_each_kind_of_failure_has_its_status(kind, status, retries):
    error = api_error(ServingError("x", kind=kind))
    assert (error.status, error.retry_after_s) == (status, retries)
    assert error.body()["error"]["message"] == "x"


def test_the_first_chunk_has_the_role_and_the_last_the_reason():
    voice = Voice(is_chat=True, answer_id="i", created_s=1, model="m", release="ab" * 32)
    assert voice.chunk("hi", first=True)["choices"][0]["delta"] == {"role": "assistant", "content": "hi"}
    assert voice.chunk("", finish_reason="stop")["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
