"""Commands: obeyed once, only if signed, only if meant for us; always answered."""

import asyncio

import pytest

from onboard.commands import parse_question
from onboard.errors import UnknownError
from onboard.installer.changeover import Reverted
from onboard.installer.core import Fate
from onboard.installer.serving import Fault, ServingProblem
from onboard.store.record import KnownRelease, RecordStore
from protocol.command import Operation
from protocol.errors import DecodeError
from protocol.message import MessageKind
from protocol.objects import object_handle
from tests.fakes.commanding import DIGEST, FakeOnboard
from tests.fakes.updates import FakeGround

QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature_milli": 700, "seed": 3}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def onboard(tmp_path, ground):
    return FakeOnboard(tmp_path, ground)


def test_a_question_is_answered_with_release_and_numbers(onboard, ground):
    data = ground.command(Operation.ASK, QUESTION)
    assert onboard.receive(data) is Fate.USED
    body = {"text": "Hi", "release": DIGEST, "tokens": 2, "seconds_milli": 250}
    assert onboard.said == [(MessageKind.ANSWER, object_handle(data), body)]
    assert (onboard.asked[0].temperature, onboard.asked[0].seed) == (0.7, 3)


def test_what_came_of_a_command_is_said(onboard, ground):
    onboard.fire(Operation.REVERT, {"digest": None})
    onboard.fire(Operation.REVERT, {"digest": DIGEST})
    onboard.fire(Operation.ACTIVATE, {"update": b"123456"})
    onboard.fire(Operation.FORGET, {"release": DIGEST})
    onboard.receive(ground.command(Operation.CANCEL, {"update": b"123456"}))
    assert onboard.reverted == [None, DIGEST]
    assert onboard.cancelled == onboard.activated == [b"123456"]
    assert onboard.forgotten == [DIGEST]
    assert len(onboard.said) == 5
    assert all(kind is MessageKind.RESULT and body["ok"] for kind, _, body in onboard.said)


@pytest.mark.parametrize(
    "problem", [UnknownError("no such release"), ServingProblem("nobody serves", fault=Fault.SERVING)]
)
def test_what_cannot_be_done_is_said_too(onboard, ground, problem):
    onboard.problem = problem
    onboard.fire(Operation.REVERT, {"digest": None})
    onboard.receive(ground.command(Operation.ASK, QUESTION))
    assert onboard.said[0][2] == {"ok": False, "text": str(problem)}
    assert onboard.said[1][2] == {"error": str(problem)}


def test_a_command_is_obeyed_once_in_all_lives(onboard, ground):
    data = onboard.fire(Operation.REVERT, {"digest": None})
    onboard.receive(data)
    onboard.boot()
    onboard.receive(data)
    assert onboard.reverted == [None]
    assert onboard.refusals == ["replayed", "replayed"]


def test_the_counter_is_durable_before_anything_is_done(onboard, ground):
    seen = []

    async def revert(digest, *, why):
        store = RecordStore(onboard.path)
        record = store.load()
        seen.append((record.command_highest, record.armed))
        return Reverted(known=KnownRelease(digest=DIGEST, name="first", sequence=0))

    onboard.revert = revert
    armed = onboard.arm(Operation.REVERT, {"digest": None}, counter=6)
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, **armed))
    assert seen == [(7, ())]


def test_order_on_the_link_is_free_and_old_counters_are_not_obeyed(onboard, ground):
    for counter in (9, 5, 200, 20):
        onboard.receive(ground.command(Operation.CANCEL, {"update": b"123456"}, counter=counter))
    assert len(onboard.cancelled) == 3
    assert onboard.refusals == ["replayed"]


def test_commands_of_strangers_and_for_others_are_not_obeyed(onboard, ground):
    stranger = FakeGround(seed=b"somebody else")
    onboard.receive(stranger.command(Operation.CANCEL, {"update": b"123456"}))
    onboard.receive(ground.command(Operation.CANCEL, {"update": b"123456"}, satellite="SAT-2"))
    onboard.receive(b"SKC1 rubbish")
    assert onboard.cancelled == onboard.said == []
    assert onboard.refusals == ["forged", "other-satellite", "malformed"]
    assert onboard.store.record.command_highest == 0


@pytest.mark.parametrize("at", [16, 79, 120, -1], ids=["signature", "its end", "statement", "its end"])
def test_a_command_that_was_altered_under_our_keys_name_is_forged(onboard, ground, at):
    data = bytearray(ground.command(Operation.CANCEL, {"update": b"123456"}))
    data[at] ^= 1
    onboard.receive(bytes(data))
    assert (onboard.cancelled, onboard.said, onboard.refusals) == ([], [], ["forged"])


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": "Hello"},
        {"max_tokens": 0},
        {"max_tokens": 10**6},
        {"temperature_milli": -1},
        {"seed": "x"},
        {"extra": 1},
    ],
)
def test_questions_are_checked(change):
    with pytest.raises(DecodeError):
        parse_question({**QUESTION, **change})


def test_too_many_questions_are_refused_in_words_and_keep_no_command_out(onboard, ground):
    async def run():
        never = asyncio.Event()

        async def wait(question):
            await never.wait()

        onboard.commander._ask = wait
        commands = [ground.command(Operation.ASK, QUESTION) for _ in range(33)]
        commands.append(ground.command(Operation.CANCEL, {"update": b"123456"}))
        fates = [onboard.commander.receive(object_handle(data), data) for data in commands]
        while not onboard.cancelled:
            await asyncio.sleep(0)
        await onboard.commander.close()
        return fates, commands

    fates, commands = asyncio.run(run())
    assert set(fates) == {Fate.USED}
    (refused, (kind, _, result)) = onboard.said
    assert refused[:2] == (MessageKind.ANSWER, object_handle(commands[32]))
    assert "later" in refused[2]["error"]
    assert (kind, result["ok"]) == (MessageKind.RESULT, True)


def test_a_bug_of_ours_is_answered_too(onboard, ground):
    onboard.problem = ZeroDivisionError("oops")
    onboard.receive(ground.command(Operation.ASK, QUESTION))
    onboard.fire(Operation.REVERT, {"digest": None})
    assert "oops" in onboard.said[0][2]["error"]
    assert "oops" in onboard.said[1][2]["text"]
