"""A canary comes back as it was signed, its answers in few bytes, and nothing else is taken for one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canary import TOKEN_MAX, Canary, CanaryPrompt, pack_tokens, unpack_tokens
from protocol.errors import DecodeError
from protocol.limits import CANARY_PROMPTS_MAX, CANARY_TOKENS_MAX
from tests.property.strategies import canaries

tokens = st.integers(0, TOKEN_MAX) | st.integers(0, 300)


@given(canaries)
def test_it_comes_back(canary):
    assert Canary.from_map(canary.as_map()) == canary


@given(st.lists(tokens, max_size=CANARY_TOKENS_MAX))
def test_answers_come_back(answer):
    assert unpack_tokens(pack_tokens(answer)) == tuple(answer)


@given(st.binary(max_size=40))
def test_there_is_one_way_to_say_an_answer(packed):
    try:
        answer = unpack_tokens(packed)
    except DecodeError:
        return
    assert pack_tokens(answer) == packed


@pytest.mark.parametrize(
    ("token", "packed"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (151_935, "ffa209"),
        (TOKEN_MAX, "ffffffff07"),
    ],
)
def test_a_token_takes_seven_bits_a_byte(token, packed):
    assert pack_tokens([token]).hex() == packed


@pytest.mark.parametrize("packed", ["80", "01ff", "8000", "808000", "ffffffff08", "ffffffffff01", "80" * 9])
def test_answers_that_were_not_packed_so_are_refused(packed):
    with pytest.raises(DecodeError):
        unpack_tokens(bytes.fromhex(packed))


def test_an_answer_is_bounded():
    assert len(unpack_tokens(bytes(CANARY_TOKENS_MAX))) == CANARY_TOKENS_MAX
    with pytest.raises(DecodeError, match="expected tokens"):
        unpack_tokens(bytes(CANARY_TOKENS_MAX + 1))


@pytest.mark.parametrize("token", [-1, TOKEN_MAX + 1])
def test_a_token_that_would_not_be_accepted_is_not_packed(token):
    with pytest.raises(DecodeError):
        pack_tokens([token])


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 0},
        {"max_tokens": CANARY_TOKENS_MAX + 1},
        {"timeout_s": 0},
        {"timeout_s": 86401},
        {"agreement_permille": 1001},
        {"agreement_permille": True},
        {"prompts": [["a", b""]] * (CANARY_PROMPTS_MAX + 1)},
        {"prompts": [["a", [1]]]},
        {"prompts": [["a"]]},
        {"prompts": [["a", b"\x80"]]},
        {"prompts": [[1, b""]]},
        {"more": 1},
    ],
)
def test_what_is_no_canary_is_refused(change):
    good = replace(Canary(), prompts=(CanaryPrompt(text="What is it?", expected=(1, 2)),)).as_map()
    assert Canary.from_map(good).prompts[0].expected == (1, 2)
    with pytest.raises(DecodeError):
        Canary.from_map({**good, **change})
