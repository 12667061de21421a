"""Commands: obeyed once, only if signed, only if meant for us; always answered."""

import asyncio

import pytest

from onboard.commands import Commander, Reply, parse_question
from onboard.errors import UnknownError
from onboard.installer.changeover import Reverted
from onboard.installer.core import Fate
from onboard.installer.serving import Fault, ServingProblem
from onboard.store.record import KnownRelease, OnboardRecord, RecordStore
from onboard.telemetry import Telemetry
from protocol.command import Operation
from protocol.errors import DecodeError
from protocol.message import MessageKind
from protocol.objects import object_handle
from tests.fakes.updates import FakeGround

QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature_milli": 700, "seed": 3}
DIGEST = bytes(range(32))


class FakeOnboard:
    """Installer, serving and messages of one satellite, as a command sees them."""

    def __init__(self, directory, ground):
        self.ground = ground
        self.path = directory / "trust.record"
        RecordStore(self.path).create(OnboardRecord())
        self.said, self.reverted, self.cancelled, self.asked = [], [], [], []
        self.problem = self.interrupted = None
        self.boot()

    def boot(self):
        self.store = RecordStore(self.path)
        self.store.load()
        self.commander = Commander(
            satellite=self.ground.satellite,
            root=lambda: self.ground.root,
            store=self.store,
            installer=self,
            ask=self.ask,
            messages=self,
            telemetry=Telemetry(lambda: 0.0),
        )

    def say(self, kind, *, re, body, is_kept=True):
        self.said.append((kind, re, dict(body)))

    async def revert(self, digest, *, why):
        if self.problem:
            raise self.problem
        self.reverted.append(digest)
        return Reverted(known=KnownRelease(digest=DIGEST, name="first", sequence=0), interrupted=self.interrupted)

    async def cancel(self, handle):
        self.cancelled.append(handle)

    async def ask(self, question):
        if self.problem:
            raise self.problem
        self.asked.append(question)
        return Reply(text="Hi", release=DIGEST, num_tokens=2, seconds=0.25)

    def receive(self, data) -> Fate:
        async def run():
            fate = self.commander.receive(object_handle(data), data)
            while self.commander._tasks:
                await asyncio.sleep(0)
            return fate

        return asyncio.run(run())


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


def test_revert_and_cancel_say_what_came_of_them(onboard, ground):
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}))
    onboard.receive(ground.command(Operation.REVERT, {"digest": DIGEST}))
    onboard.receive(ground.command(Operation.CANCEL, {"update": b"123456"}))
    assert onboard.reverted == [None, DIGEST]
    assert onboard.cancelled == [b"123456"]
    assert all(kind is MessageKind.RESULT and body["ok"] for kind, _, body in onboard.said)


@pytest.mark.parametrize(
    "problem", [UnknownError("no such release"), ServingProblem("nobody serves", fault=Fault.SERVING)]
)
def test_what_cannot_be_done_is_said_too(onboard, ground, problem):
    onboard.problem = problem
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}))
    onboard.receive(ground.command(Operation.ASK, QUESTION))
    assert onboard.said[0][2] == {"ok": False, "text": str(problem)}
    assert onboard.said[1][2] == {"error": str(problem)}


def test_a_command_is_obeyed_once_in_all_lives(onboard, ground):
    data = ground.command(Operation.REVERT, {"digest": None})
    onboard.receive(data)
    onboard.receive(data)
    onboard.boot()
    onboard.receive(data)
    assert onboard.reverted == [None]


def test_the_counter_is_durable_before_anything_is_done(onboard, ground):
    seen = []

    async def revert(digest, *, why):
        store = RecordStore(onboard.path)
        seen.append(store.load().command_highest)
        return Reverted(known=KnownRelease(digest=DIGEST, name="first", sequence=0))

    onboard.revert = revert
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, counter=7))
    assert seen == [7]


def test_order_on_the_link_is_free_and_old_counters_are_not_obeyed(onboard, ground):
    late = ground.command(Operation.REVERT, {"digest": None}, counter=5)
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, counter=9))
    onboard.receive(late)
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, counter=200))
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, counter=20))
    assert len(onboard.reverted) == 3


def test_commands_of_strangers_and_for_others_are_not_obeyed(onboard, ground):
    stranger = FakeGround(seed=b"somebody else")
    onboard.receive(stranger.command(Operation.REVERT, {"digest": None}))
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}, satellite="SAT-2"))
    onboard.receive(b"SKC1 rubbish")
    assert onboard.reverted == onboard.said == []
    assert onboard.store.record.command_highest == 0


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


def test_too_many_questions_are_refused_in_words_and_keep_no_revert_out(onboard, ground):
    async def run():
        never = asyncio.Event()

        async def wait(question):
            await never.wait()

        onboard.commander._ask = wait
        commands = [ground.command(Operation.ASK, QUESTION) for _ in range(33)]
        commands.append(ground.command(Operation.REVERT, {"digest": None}))
        fates = [onboard.commander.receive(object_handle(data), data) for data in commands]
        while not onboard.reverted:
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
    onboard.receive(ground.command(Operation.REVERT, {"digest": None}))
    assert "oops" in onboard.said[0][2]["error"]
    assert "oops" in onboard.said[1][2]["text"]
