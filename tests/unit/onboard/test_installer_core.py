"""The table of states over its whole product, and the decisions beside it."""

import itertools
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.installer.core import (
    FINAL,
    REASON_TEXT,
    TRANSITIONS,
    Input,
    OnBoard,
    Step,
    is_unfinished,
    judge_canary,
    next_state,
    next_step,
    release_to_return_to,
    releases_to_delete,
)
from protocol.canary import Canary, CanaryPrompt
from protocol.errors import MisuseError
from protocol.report import Reason, UpdateState

PRODUCT = list(itertools.product(UpdateState, Input))


@pytest.mark.parametrize(("state", "happened"), PRODUCT)
def test_every_pair_is_in_the_table_or_a_bug_of_ours(state, happened):
    if (state, happened) in TRANSITIONS:
        assert next_state(state, happened) is TRANSITIONS[state, happened]
    else:
        with pytest.raises(MisuseError):
            next_state(state, happened)


def test_final_states_have_no_way_out_and_all_others_can_be_cancelled():
    for state in UpdateState:
        ways_out = [happened for happened in Input if (state, happened) in TRANSITIONS]
        if state in FINAL:
            assert ways_out == []
        elif is_unfinished(state):
            assert TRANSITIONS[state, Input.CANCELLED] is UpdateState.CANCELLED


def test_every_state_is_reached_from_none_and_every_unfinished_one_can_end():
    def reachable(start):
        found, queue = {start}, [start]
        while queue:
            state = queue.pop()
            for (before, _), after in TRANSITIONS.items():
                if before is state and after not in found:
                    found.add(after)
                    queue.append(after)
        return found

    assert reachable(UpdateState.NONE) == set(UpdateState)
    for state in UpdateState:
        if is_unfinished(state):
            assert UpdateState.CONFIRMED in reachable(state)
            assert UpdateState.REJECTED in reachable(state)


def test_confirmed_is_reached_only_through_a_trial():
    assert [pair for pair, after in TRANSITIONS.items() if after is UpdateState.CONFIRMED] == [
        (UpdateState.TRIAL, Input.TRIAL_PASSED)
    ]


@pytest.mark.parametrize("state", UpdateState)
@pytest.mark.parametrize("is_trying", [True, False])
@pytest.mark.parametrize("attempts", [0, 2, 3, 9])
def test_the_next_step_never_begins_a_trial_too_many(state, is_trying, attempts):
    step = next_step(state, attempts=attempts, attempts_max=3, is_complete=True, is_trying=is_trying)
    assert step is not Step.TRY or attempts < 3
    if not is_unfinished(state):
        assert step is Step.NOTHING


def test_an_interrupted_trial_is_recovered_only_when_nobody_runs_it():
    facts = {"attempts": 1, "attempts_max": 3, "is_complete": True}
    assert next_step(UpdateState.TRIAL, is_trying=True, **facts) is Step.NOTHING
    assert next_step(UpdateState.TRIAL, is_trying=False, **facts) is Step.RECOVER


def canary(*expected, permille=1000):
    prompts = tuple(CanaryPrompt(text="?", expected=tuple(tokens)) for tokens in expected)
    return Canary(prompts=prompts, agreement_permille=permille)


@pytest.mark.parametrize(
    ("expected", "answers", "permille"),
    [
        ([[1, 2, 3, 4]], [[1, 2, 3, 4]], 1000),
        ([[1, 2, 3, 4]], [[1, 2, 9, 4]], 500),  # what follows a difference counts for nothing
        ([[1, 2, 3, 4]], [[9, 2, 3, 4]], 0),
        ([[1, 2], [3, 4]], [[1, 2], [9, 9]], 500),  # over all prompts together
        ([[1, 2], [3, 4]], [[1, 2]], 500),  # an answer that did not come
        ([[1, 2, 3]], [[1, 2]], 666),
        ([], [], 1000),
        ([[]], [[5]], 1000),
    ],
)
def test_agreement_is_leading_tokens_over_all_prompts(expected, answers, permille):
    assert judge_canary(canary(*expected), answers).agreement_permille == permille


def test_the_contract_decides_how_much_agreement_is_enough():
    answers = [[1, 2, 9, 9]]
    assert judge_canary(canary([1, 2, 3, 4], permille=500), answers).is_passed
    assert not judge_canary(canary([1, 2, 3, 4], permille=501), answers).is_passed


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4),
    st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4),
)
def test_agreement_is_a_share_and_full_only_for_all_expected_tokens(expected, answers):
    verdict = judge_canary(canary(*expected), answers)
    assert 0 <= verdict.agreement_permille <= 1000
    padded = [*answers, *([[]] * len(expected))]
    is_full = all(answer[: len(tokens)] == tokens for tokens, answer in zip(expected, padded, strict=False))
    assert (verdict.agreement_permille == 1000) == is_full


def board(*sequences):
    return [OnBoard(digest=bytes([sequence] * 32), sequence=sequence) for sequence in sequences]


@given(
    st.lists(st.integers(0, 9), unique=True, max_size=8),
    st.integers(0, 9),
    st.integers(1, 5),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_what_serves_or_is_needed_is_never_deleted(sequences, serving, keep, floor, needed):
    on_board = board(*sequences)
    serving_digest, needed_digest = bytes([serving] * 32), bytes([needed] * 32)
    goners = releases_to_delete(on_board, serving=serving_digest, needed={needed_digest, None}, keep=keep, floor=floor)
    assert serving_digest not in goners
    assert needed_digest not in goners
    stay = [release for release in on_board if release.digest not in goners]
    assert len(stay) <= keep + 1


def test_the_latest_used_releases_stay():
    on_board = board(5, 3, 4, 1)
    assert releases_to_delete(on_board, serving=bytes([5] * 32), needed=(), keep=2, floor=0) == (
        bytes([4] * 32),
        bytes([1] * 32),
    )


def test_a_release_below_the_floor_is_not_worth_keeping():
    assert releases_to_delete(board(5, 3), serving=bytes([5] * 32), needed=(), keep=3, floor=4) == (bytes([3] * 32),)


def test_we_return_to_the_release_before_and_never_below_the_floor():
    on_board = board(5, 4, 3)
    leaving, previous = bytes([5] * 32), bytes([3] * 32)
    assert release_to_return_to(on_board, leaving={leaving}, previous=previous, floor=0).sequence == 3
    assert release_to_return_to(on_board, leaving={leaving}, previous=previous, floor=4).sequence == 4
    assert release_to_return_to(on_board, leaving={leaving}, previous=previous, floor=5) is None


def test_the_golden_release_is_the_last_resort_whatever_the_floor_and_never_goes():
    on_board = board(5, 4, 1)
    five, four, golden = (bytes([n] * 32) for n in (5, 4, 1))
    back = partial(release_to_return_to, on_board, previous=golden, golden=golden)
    assert back(leaving={five}, floor=0).digest == four
    assert back(leaving={five}, floor=5).digest == golden
    assert back(leaving={five, four}, floor=0).digest == golden
    assert back(leaving={five, four, golden}, floor=0) is None
    assert releases_to_delete(on_board, serving=five, needed=(), keep=1, floor=5, golden=golden) == (four,)
    assert releases_to_delete(on_board, serving=five, needed=(), keep=2, floor=0, golden=golden) == ()


def test_every_reason_has_words():
    assert set(REASON_TEXT) == set(Reason)
