"""Two steps for dangerous commands: every way to get around the first one, or to use it twice, has its own refusal."""

from dataclasses import replace

import pytest

from onboard.commands import ArmingOptions
from protocol.arming import ARMED_MAX, BLIND_GAP
from protocol.command import Operation
from tests.fakes.commanding import DIGEST, FakeOnboard
from tests.fakes.updates import FakeGround

REVERT, NONE = Operation.REVERT, {"digest": None}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def onboard(tmp_path, ground):
    return FakeOnboard(tmp_path, ground)


def allow_blind(onboard):
    onboard.options = ArmingOptions(expires_s=600.0, may_be_blind=True)
    onboard.boot()


DANGEROUS = [
    (Operation.REVERT, {"digest": DIGEST}),
    (Operation.ACTIVATE, {"update": b"123456"}),
    (Operation.FORGET, {"release": DIGEST}),
]


@pytest.mark.parametrize(("operation", "args"), DANGEROUS)
def test_a_dangerous_command_by_itself_is_refused_and_its_counter_is_used(onboard, ground, operation, args):
    onboard.receive(ground.command(operation, args))

    assert onboard.refusals == ["not-armed"]
    assert onboard.reverted == onboard.activated == onboard.forgotten == []
    assert onboard.store.record.command_highest == 1
    assert onboard.said[-1][2]["refusal"] == "not-armed"


def test_arming_alone_does_nothing_and_is_answered_with_a_nonce_of_its_own(onboard):
    first, second = (onboard.arm(REVERT, NONE) for _ in range(2))

    assert first["nonce"] != second["nonce"]
    assert len(first["nonce"]) == 16
    assert onboard.reverted == []


FIRES = {
    "not-armed": lambda armed: {**armed, "arm": 77},
    "wrong-nonce": lambda armed: {**armed, "nonce": bytes(16)},
    "blind-forbidden": lambda armed: {**armed, "nonce": b""},
}


@pytest.mark.parametrize("refusal", FIRES)
def test_a_fire_that_does_not_go_with_its_arm_is_refused_and_the_arm_stays(onboard, ground, refusal):
    armed = onboard.arm(REVERT, NONE)
    onboard.receive(ground.command(REVERT, NONE, **FIRES[refusal](armed)))
    assert onboard.refusals == [refusal]
    assert onboard.reverted == []

    onboard.receive(ground.command(REVERT, NONE, **armed))
    assert onboard.reverted == [None]


@pytest.mark.parametrize(("operation", "args"), [(REVERT, {"digest": DIGEST}), (Operation.FORGET, {"release": DIGEST})])
def test_what_was_armed_fires_nothing_else(onboard, ground, operation, args):
    armed = onboard.arm(REVERT, NONE)
    onboard.receive(ground.command(operation, args, **armed))

    assert onboard.refusals == ["other-intent"]
    assert onboard.reverted == onboard.forgotten == []


def test_an_arm_is_used_up_by_its_fire(onboard, ground):
    armed = onboard.arm(REVERT, NONE)
    for _ in range(2):
        onboard.receive(ground.command(REVERT, NONE, **armed))

    assert onboard.reverted == [None]
    assert onboard.refusals == ["not-armed"]


@pytest.mark.parametrize(
    ("age_s", "boots", "is_good"),
    [
        (599.0, 0, True),
        (601.0, 0, False),
        (0.0, 1, True),  # a power cut between the two steps
        (599.0, 1, True),
        (601.0, 1, False),
        (0.0, 2, False),
    ],
)
def test_an_arm_is_good_for_a_while_in_its_life_and_the_next(onboard, ground, age_s, boots, is_good):
    armed = onboard.arm(REVERT, NONE)
    for _ in range(boots):
        onboard.boot()
    onboard.now_s += age_s
    onboard.receive(ground.command(REVERT, NONE, **armed))

    assert onboard.reverted == ([None] if is_good else [])
    assert onboard.refusals == ([] if is_good else ["arm-expired"])


def test_a_power_cut_before_the_answer_is_sent_leaves_an_arm_that_nobody_can_fire(onboard, ground):
    onboard.receive(ground.arm(REVERT, NONE))
    onboard.said.clear()
    onboard.boot()
    onboard.receive(ground.command(REVERT, NONE, arm=1, nonce=bytes(range(16))))

    assert onboard.refusals == ["wrong-nonce"]


def test_only_so_many_are_armed_at_once_and_the_oldest_gives_way(onboard, ground):
    arms = [onboard.arm(REVERT, NONE) for _ in range(ARMED_MAX + 1)]
    for armed in arms:
        onboard.receive(ground.command(REVERT, NONE, **armed))

    assert onboard.refusals == ["not-armed"]
    assert len(onboard.reverted) == ARMED_MAX


@pytest.mark.parametrize("operation", [Operation.ASK, Operation.CANCEL, Operation.ARM])
def test_what_is_not_dangerous_is_not_armed(onboard, ground, operation):
    onboard.receive(ground.command(Operation.ARM, {"op": operation.value, "intent": bytes(32)}))

    assert onboard.refusals == ["not-dangerous"]
    assert onboard.store.record.armed == ()


def test_what_is_not_dangerous_is_not_fired(onboard, ground):
    onboard.receive(ground.command(Operation.CANCEL, {"update": b"123456"}, arm=1, nonce=bytes(16)))

    assert onboard.refusals == ["not-dangerous"]
    assert onboard.cancelled == []


@pytest.mark.parametrize(
    "args", [{}, {"op": "revert"}, {"op": "revert", "intent": bytes(31)}, {"op": "x", "intent": 1}]
)
def test_an_arm_that_is_none_is_refused(onboard, ground, args):
    onboard.receive(ground.command(Operation.ARM, args))

    assert onboard.refusals == ["malformed"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_it_is_allowed_a_pair_goes_blind_in_any_order(onboard, ground, order):
    allow_blind(onboard)
    pair = [
        ground.arm(REVERT, NONE, counter=5),
        ground.command(REVERT, NONE, counter=5 + BLIND_GAP, arm=5),
    ]
    for index in order:
        onboard.receive(pair[index])

    assert onboard.reverted == [None]
    for data in pair:
        onboard.receive(data)
    assert onboard.reverted == [None]
    assert onboard.refusals == ["replayed", "replayed"]


def test_where_it_is_not_allowed_a_blind_fire_that_overtook_its_arm_is_told_why(onboard, ground):
    onboard.receive(ground.command(REVERT, NONE, counter=9, arm=1))
    assert onboard.refusals == ["blind-forbidden"]
    onboard.receive(ground.arm(REVERT, NONE, counter=1))
    assert onboard.reverted == []


def test_few_blind_fires_wait_for_their_arms_and_the_oldest_gives_way(onboard, ground):
    allow_blind(onboard)
    for arm in (10, 20, 30, 40, 50):
        onboard.receive(ground.command(REVERT, NONE, counter=arm + BLIND_GAP, arm=arm))
    onboard.receive(ground.arm(REVERT, NONE, counter=10))
    assert onboard.reverted == []
    onboard.receive(ground.arm(REVERT, NONE, counter=20))
    assert onboard.reverted == [None]


def test_commands_that_were_numbered_in_turn_are_no_blind_pair(onboard, ground):
    allow_blind(onboard)
    onboard.arm(REVERT, NONE, counter=5)
    onboard.receive(ground.command(REVERT, NONE, counter=4 + BLIND_GAP, arm=5))

    assert onboard.refusals == ["blind-forbidden"]
    assert onboard.reverted == []


def test_what_a_stranger_arms_is_not_armed(onboard):
    onboard.receive(FakeGround(seed=b"somebody else").arm(REVERT, NONE))

    assert onboard.refusals == ["forged"]
    assert onboard.store.record.armed == ()


def test_an_arm_is_durable_before_it_is_answered(onboard, ground):
    answered = []
    say = onboard.say

    def look(kind, *, re, body, is_kept=True):
        onboard.store.load()
        answered.append([entry.counter for entry in onboard.store.record.armed])
        say(kind, re=re, body=body, is_kept=is_kept)

    onboard.say = look
    onboard.receive(ground.arm(REVERT, NONE))

    assert answered == [[1]]


def test_an_arm_of_a_later_life_fires_nothing_in_an_earlier_one(onboard, ground):
    armed = onboard.arm(REVERT, NONE)
    onboard.store.store(replace(onboard.store.record, boot_count=0))
    onboard.receive(ground.command(REVERT, NONE, **armed))

    assert onboard.refusals == ["arm-expired"]
