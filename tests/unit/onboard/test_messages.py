"""Messages survive a restart until they are acknowledged, and what is said once is said once."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onboard import messages
from onboard.errors import StoreFailedError
from onboard.messages import MessageBox, Sort
from onboard.store.disk import replace_file
from onboard.telemetry import Telemetry
from protocol.envelope import key_id
from protocol.exchange import Inbox
from protocol.message import Message, MessageKind
from protocol.objects import object_handle

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
FEW = 5
PUBLIC = KEY.public_key().public_bytes_raw()


class Life:
    """One life of the daemon, as far as messages go."""

    counter = 0

    def __init__(self, directory):
        def take():
            Life.counter += 1
            return Life.counter

        self.box = MessageBox(
            directory,
            satellite="SAT-1",
            public_key=PUBLIC,
            sign=KEY.sign,
            take_counter=take,
            telemetry=Telemetry(lambda: 0.0),
            now=lambda: 0.0,
        )
        self.box.load()

    def received(self):
        """What the ground makes of the frames that are due."""
        inbox, messages = Inbox(), []
        for frame in self.box.frames_to_send(1e9):
            data = inbox.receive(frame)
            if data is not None:
                messages.append((object_handle(data), Message.open(data, public_keys={key_id(PUBLIC): PUBLIC})))
        return messages


@pytest.fixture
def few(monkeypatch):
    """Few places, so that a flood is short."""
    monkeypatch.setattr(messages, "PLACES", dict.fromkeys(Sort, FEW))


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "messages"


def test_a_message_is_sent_again_by_the_next_life_until_it_is_acknowledged(directory):
    Life(directory).box.say(MessageKind.RECEIPT, re=b"123456", body={"state": "confirmed"})
    second = Life(directory)
    ((handle, message),) = second.received()
    assert (message.kind, message.re, message.body) == (MessageKind.RECEIPT, b"123456", {"state": "confirmed"})
    second.box.acknowledge(handle)
    assert second.received() == []
    assert Life(directory).received() == []


def test_events_do_not_outlive_the_daemon(directory):
    Life(directory).box.say(MessageKind.EVENT, body={"name": "x"}, is_kept=False)
    assert Life(directory).received() == []


def test_what_is_said_once_is_said_once_in_all_lives_even_when_it_was_acknowledged(directory):
    first = Life(directory)
    first.box.say_once("receipt-1", MessageKind.RECEIPT, re=b"123456", body={})
    for handle, _ in first.received():
        first.box.acknowledge(handle)
    second = Life(directory)
    second.box.say_once("receipt-1", MessageKind.RECEIPT, re=b"123456", body={})
    assert second.received() == []
    second.box.say_once("receipt-2", MessageKind.RECEIPT, re=b"123456", body={})
    assert len(second.received()) == 1


def test_a_torn_file_is_thrown_away(directory):
    Life(directory).box.say(MessageKind.RESULT, body={"ok": True, "text": "x"})
    (path,) = directory.glob("*.ska")
    path.write_bytes(path.read_bytes()[:-1])
    assert Life(directory).received() == []
    assert not list(directory.glob("*.ska"))


def test_a_very_long_answer_is_cut_to_fit(directory):
    life = Life(directory)
    life.box.say(MessageKind.ANSWER, body={"text": "\N{SATELLITE}" * 100_000, "tokens": 1})
    ((_, message),) = life.received()
    assert len(message.body["text"].encode()) <= 48 * 1024


def test_a_disk_that_refuses_costs_durability_and_not_the_message(directory):
    life = Life(directory)
    directory.rename(directory.with_name("gone"))
    life.box.say(MessageKind.ANSWER, body={"text": "hello"})
    assert len(life.received()) == 1


def say(life, sort, number):
    """Say one message of a sort."""
    kind, body, is_kept = {
        Sort.VERDICT: (MessageKind.RECEIPT, {"state": "confirmed"}, True),
        Sort.SERVING: (MessageKind.RECEIPT, {"state": "serving"}, True),
        Sort.RESULT: (MessageKind.RESULT, {"ok": True}, True),
        Sort.DAMAGE: (MessageKind.DAMAGE, {}, True),
        Sort.ANSWER: (MessageKind.ANSWER, {}, True),
        Sort.PASSING: (MessageKind.RECEIPT, {"state": "refused"}, False),
    }[sort]
    life.box.say(kind, body={**body, "text": str(number)}, is_kept=is_kept)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("flood", Sort)
def test_a_flood_of_one_sort_pushes_out_nothing_of_another(directory, flood):
    """Whoever has a stolen command key asks as often as he likes: no receipt gives way to an answer."""
    life, others = Life(directory), [sort for sort in Sort if sort is not flood]
    for sort in others:
        say(life, sort, "first")
    for number in range(FEW + 3):
        say(life, flood, number)
    texts = [message.body["text"] for _, message in life.received()]
    assert texts.count("first") == len(others)
    assert len(texts) == len(others) + FEW
    assert "2" not in texts
    assert "3" in texts


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("flood", [sort for sort in Sort if sort is not Sort.PASSING])
def test_the_next_life_gives_each_sort_the_same_places(directory, flood):
    first = Life(directory)
    for number in range(FEW):
        say(first, flood, number)
    others = [sort for sort in Sort if sort not in {flood, Sort.PASSING}]
    for sort in others:
        say(first, sort, "first")
    life = Life(directory)
    for number in range(3):
        say(life, flood, f"new {number}")
    texts = [message.body["text"] for _, message in life.received()]
    assert texts.count("first") == len(others)
    assert len(texts) == len(others) + FEW
    assert len(list(directory.glob("*.ska"))) == len(texts)


def test_what_says_how_an_update_ended_is_sent_before_a_flood_of_answers(directory):
    life = Life(directory)
    for sort in reversed(Sort):
        say(life, sort, sort.name)
    assert [message.body["text"] for _, message in life.received()] == [sort.name for sort in Sort]


@pytest.mark.usefixtures("few")
def test_a_ground_that_never_acknowledges_does_not_fill_the_disk(directory):
    life = Life(directory)
    for number in range(FEW + 8):
        life.box.say(MessageKind.ANSWER, body={"text": str(number)})
    assert len(list(directory.glob("*.ska"))) == FEW
    assert next(message.body["text"] for _, message in life.received()) == "8"


def test_what_was_not_kept_is_said_again_by_the_next_life(directory, monkeypatch):
    first = Life(directory)

    def refuse(path, data):
        if path.suffix == ".ska":
            raise StoreFailedError("write: Input/output error")
        replace_file(path, data)

    monkeypatch.setattr(messages, "replace_file", refuse)
    first.box.say_once("receipt-1", MessageKind.RECEIPT, re=b"123456", body={})
    assert len(first.received()) == 1
    second = Life(directory)
    second.box.say_once("receipt-1", MessageKind.RECEIPT, re=b"123456", body={})
    assert len(second.received()) == 1


def test_a_file_that_cannot_be_read_keeps_nobody_from_starting(directory):
    Life(directory).box.say(MessageKind.RECEIPT, body={"state": "confirmed"})
    (directory / "0123456789abcdef.ska").mkdir()
    assert len(Life(directory).received()) == 1


def test_what_a_cut_left_half_written_is_deleted(directory):
    Life(directory)
    (directory / "0123456789abcdef.ska.new").write_bytes(b"half")
    Life(directory)
    assert list(directory.iterdir()) == []


def test_messages_are_sent_in_the_order_they_were_said_however_the_clock_jumped(directory):
    first = Life(directory)
    for number in range(3):
        first.box.say(MessageKind.RESULT, body={"ok": True, "text": str(number)})
    for at, path in enumerate(sorted(directory.glob("*.ska"))):
        os.utime(path, (at, at))
    assert [message.body["text"] for _, message in Life(directory).received()] == ["0", "1", "2"]


def test_a_text_that_is_no_unicode_is_sent_all_the_same(directory):
    life = Life(directory)
    life.box.say(MessageKind.ANSWER, body={"text": "broken \ud800"})
    ((_, message),) = life.received()
    assert message.body["text"] == "broken ?"
