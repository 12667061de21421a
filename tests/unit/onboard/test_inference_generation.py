"""One answer, and the worker that gives several in turn, with an engine of bytes instead of a model."""

import itertools
import json
import socket
import threading
import time

import pytest

from onboard.inference.engine import Delta, Done, Prompt, RequestError, Sampling, decode_line
from onboard.inference.generation import generate
from onboard.inference.weights import WeightsPart
from onboard.inference.worker import FLIPPED_EXIT_CODE, Worker


class ByteEngine:
    """Repeats its prompt for ever, one byte a token; byte 0 ends an answer."""

    name = "bytes"
    context_tokens = 64

    def __init__(self):
        self.memory, self.num_reads = bytearray(range(256)) * 40, 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def weights(self):
        def read(offset, size):
            self.num_reads += 1
            return memoryview(self.memory)[offset : offset + size]

        return [WeightsPart(name="memory", size_bytes=len(self.memory), read=read)]

    def load(self, directory, base=None):
        if directory is None:
            raise ValueError("there is nothing to load")

    def encode(self, prompt):
        return list(prompt.text.encode())

    def decode(self, tokens):
        return bytes(token for token in tokens if token).decode(errors="replace")

    def is_end(self, token):
        return token == 0

    def continue_tokens(self, prompt, sampling):
        yield None
        assert self.may_go_on.wait(45)
        yield from itertools.cycle(prompt)


def answer(text, *, max_prompt_tokens=50, **sampling):
    items = list(generate(ByteEngine(), Prompt(text=text), Sampling(**sampling), max_prompt_tokens=max_prompt_tokens))
    deltas = [item for item in items if isinstance(item, Delta)]
    return "".join(delta.text for delta in deltas), [t for delta in deltas for t in delta.tokens], items[-1]


def test_length_ends_an_answer():
    text, tokens, done = answer("abc", max_tokens=5)
    assert (text, bytes(tokens)) == ("abcab", b"abcab")
    assert done == Done(finish_reason="length", prompt_tokens=3, completion_tokens=5)


def test_the_ending_token_is_counted_and_not_shown():
    text, tokens, done = answer("ab\0", max_tokens=9)
    assert (text, tokens[-1]) == ("ab", 0)
    assert done == Done(finish_reason="stop", prompt_tokens=3, completion_tokens=3)


def test_a_stop_string_across_tokens_ends_an_answer_and_is_not_shown():
    text, tokens, done = answer("abcd", max_tokens=20, stop=("da",))
    assert (text, bytes(tokens)) == ("abc", b"abcda")
    assert done.finish_reason == "stop"


def test_held_back_text_is_shown_when_no_stop_came_of_it():
    assert answer("abcd", max_tokens=4, stop=("da",))[0] == "abcd"


def test_half_a_character_at_the_end_is_shown_as_replacement():
    assert answer("é", max_tokens=3)[0] == "é\ufffd"


def test_an_answer_ends_where_the_context_ends():
    assert answer("x" * 50, max_tokens=500)[2].completion_tokens == 14


@pytest.mark.parametrize(("text", "kind"), [("", "invalid"), ("x" * 51, "too_long"), ("x" * 64, "too_long")])
def test_prompts_that_do_not_fit_are_refused(text, kind):
    with pytest.raises(RequestError) as caught:
        answer(text, max_tokens=1)
    assert caught.value.kind == kind


class Talk:
    """A worker in a thread and the supervisor's end of its socket."""

    def __init__(self, directory="anywhere", num_parallel=2, weights_period_s=0.0):
        self.here, self.there = socket.socketpair()
        self.left, self.codes = threading.Event(), []
        self.engine = ByteEngine()
        worker = Worker(
            self.engine,
            self.there,
            num_parallel=num_parallel,
            max_prompt_tokens=50,
            weights_period_s=weights_period_s,
            leave=self.leave,
        )
        threading.Thread(target=worker.run, args=(directory,), daemon=True).start()
        self.lines = self.here.makefile("rb")

    def leave(self, code):
        self.codes.append(code)
        self.left.set()

    def say(self, type_, **fields):
        self.here.sendall(json.dumps({"type": type_, **fields}).encode() + b"\n")

    def hear(self):
        return decode_line(self.lines.readline())

    def hear_until(self, *ends):
        heard = []
        while True:
            heard.append(self.hear())
            if (heard[-1]["type"], heard[-1].get("id")) in ends:
                return heard

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.here.close()
        assert self.left.wait(45), "a worker whose supervisor is gone must leave"
        self.there.close()


def test_a_worker_says_ready_and_answers():
    with Talk() as talk:
        assert talk.hear() == {"type": "ready", "engine": "bytes", "context_tokens": 64}
        talk.say("generate", id="1", prompt="ab", max_tokens=3)
        heard = talk.hear_until(("done", "1"))
        assert "".join(message["text"] for message in heard[:-1]) == "aba"
        assert heard[-1]["completion_tokens"] == 3


def test_a_worker_that_cannot_load_says_why():
    with Talk(directory=None) as talk:
        assert talk.hear() == {"type": "failed", "reason": "ValueError: there is nothing to load"}


def test_a_worker_whose_weights_change_in_memory_says_where_and_leaves():
    with Talk(weights_period_s=1e-4) as talk:
        talk.hear()
        talk.say("generate", id="1", prompt="ab", max_tokens=3)
        talk.hear_until(("done", "1"))
        while talk.engine.num_reads < 2:  # learned, and being compared
            time.sleep(0.001)
        talk.engine.memory[5000] ^= 16
        assert talk.hear() == {"type": "flipped", "where": "memory", "offset": 4096, "bit": 8 * (5000 - 4096) + 4}
        assert talk.left.wait(45)
    assert talk.codes[0] == FLIPPED_EXIT_CODE


def test_a_worker_that_need_not_compares_no_weights():
    with Talk() as talk:
        talk.hear()
        talk.engine.memory[5000] ^= 16
        talk.say("generate", id="1", prompt="ab", max_tokens=3)
        assert talk.hear_until(("done", "1"))
    assert FLIPPED_EXIT_CODE not in talk.codes


def test_a_short_answer_does_not_wait_for_a_long_one():
    with Talk() as talk:
        talk.hear()
        talk.engine.may_go_on.clear()
        talk.say("generate", id="long", prompt="ab", max_tokens=60)
        talk.say("generate", id="short", prompt="ab", max_tokens=2)
        talk.say("health", id="both")  # answered once both are queued, however busy the machine
        talk.hear_until(("health", "both"))
        talk.engine.may_go_on.set()
        heard = talk.hear_until(("done", "long"))
        assert ("done", "short") in [(message["type"], message["id"]) for message in heard]


def test_cancelling_frees_the_place_of_an_answer():
    with Talk(num_parallel=1) as talk:
        talk.hear()
        talk.say("generate", id="a", prompt="ab", max_tokens=60)
        talk.say("cancel", id="a")
        talk.say("generate", id="b", prompt="ab", max_tokens=1)
        talk.say("cancel", id="nobody")
        heard = talk.hear_until(("done", "b"))
        ends = {message["id"]: message["finish_reason"] for message in heard if message["type"] == "done"}
        assert ends["b"] == "length"
        assert ends["a"] in ("cancelled", "length")  # it may have been faster than the cancel


@pytest.mark.parametrize(
    "fields", [{}, {"prompt": "a", "tokens": [1]}, {"prompt": 3}, {"prompt": "a", "max_tokens": "many"}]
)
def test_a_bad_request_is_answered_with_an_error(fields):
    with Talk() as talk:
        talk.hear()
        talk.say("generate", id="1", **({"max_tokens": 1} | fields))
        assert talk.hear()["kind"] == "invalid"
        talk.say("health", id="2")
        assert talk.hear()["state"] == "ready"


def test_a_worker_leaves_when_the_supervisor_talks_nonsense():
    with Talk() as talk:
        talk.hear()
        talk.here.sendall(b"nonsense\n")
        assert talk.left.wait(45)
