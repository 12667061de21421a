"""Receipts from events: signed, stamped, verifiable by anybody; refusals do not push out what counts."""

from dataclasses import replace

import pytest

from onboard import telemetry as events
from onboard.installer.book import UpdateBook
from onboard.messages import MESSAGES_MAX, MessageBox
from onboard.receipts import ReceiptWriter
from onboard.store.record import OnboardRecord, RecordedUpdate, RecordStore
from onboard.telemetry import Telemetry
from protocol.receipt import ReceiptState, open_receipt
from protocol.report import Reason, UpdateState
from tests.unit.onboard.test_messages import KEY, PUBLIC

RELEASE, SERVING = bytes(range(32)), bytes(range(32, 64))
UPDATE = RecordedUpdate(handle=b"update", version=4, sequence=3, release=RELEASE, state=UpdateState.RECEIVING)


class Life:
    def __init__(self, directory):
        self.telemetry = Telemetry(lambda: 0.0)
        self.record = OnboardRecord(boot_count=5, current=SERVING).with_pending(UPDATE)
        self.counter = 0
        self.box = MessageBox(
            directory / "messages",
            satellite="SAT-1",
            public_key=PUBLIC,
            sign=KEY.sign,
            take_counter=self.take,
            telemetry=self.telemetry,
            now=lambda: 0.0,
            stamp=lambda: {"serving": self.record.current, "boot": 5, "uptime_s": 60, "utc": None},
        )
        self.box.load()
        self.telemetry.on_told = ReceiptWriter(lambda: self.record, self.box).hear

    def take(self):
        self.counter += 1
        return self.counter

    def receipts(self):
        return [open_receipt(entry.data, public_key=PUBLIC) for entry in self.box._objects.values()]


@pytest.fixture
def life(tmp_path):
    return Life(tmp_path)


def test_an_accepted_update_is_receipted_with_release_and_sequence(life):
    life.telemetry.emit(events.UPDATE_ACCEPTED, about=b"update", sequence=3)
    (receipt,) = life.receipts()

    assert (receipt.state, receipt.update) == (ReceiptState.ACCEPTED, b"update")
    assert (receipt.release, receipt.sequence, receipt.serving, receipt.boot) == (RELEASE, 3, SERVING, 5)


def test_a_refused_one_says_why(life):
    life.telemetry.emit(events.UPDATE_REFUSED, about=b"hostil", reason="UNSIGNED", error="targets: no signature")
    (receipt,) = life.receipts()

    assert (receipt.state, receipt.reason, receipt.text) == (ReceiptState.REFUSED, "unsigned", "targets: no signature")
    assert receipt.release is None


def test_refusals_are_few_and_push_out_nothing_that_is_kept(life, tmp_path):
    life.telemetry.emit(events.UPDATE_ACCEPTED, about=b"update", sequence=3)
    for number in range(3 * MESSAGES_MAX):
        life.telemetry.emit(events.UPDATE_REFUSED, about=number.to_bytes(6, "big"), reason="UNSIGNED", error="x")

    states = [receipt.state for receipt in life.receipts()]
    assert states.count(ReceiptState.ACCEPTED) == 1
    assert states.count(ReceiptState.REFUSED) == events.UPDATE_REFUSED.throttle
    assert [receipt.state for receipt in Life(tmp_path).receipts()] == [ReceiptState.ACCEPTED]


@pytest.mark.parametrize("event", [events.REVERTED, events.RETURNED])
def test_what_serves_now_is_signed_when_it_changes(life, event):
    life.telemetry.emit(event, release=SERVING.hex()[:16], name="v1")
    (receipt,) = life.receipts()

    assert (receipt.state, receipt.release, receipt.serving) == (ReceiptState.SERVING, SERVING, SERVING)


def test_other_events_make_no_receipt(life):
    life.telemetry.emit(events.UPDATE_VERIFIED, about=b"update")

    assert life.receipts() == []


@pytest.mark.parametrize("state", [UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED])
def test_how_an_update_ended_verifies_as_a_receipt(life, tmp_path, state):
    store = RecordStore(tmp_path / "trust.record")
    store.create(life.record)
    reason = Reason.NONE if state is UpdateState.CONFIRMED else Reason.CANARY_FAILED
    UpdateBook(store, life.box).report_end(
        replace(UPDATE, state=state, reason=reason), canary={"agreeing": 1, "expected": 1, "permille": 1000}
    )
    (receipt,) = life.receipts()

    assert (receipt.state.value, receipt.reason) == (state.name.lower(), reason.name.lower())
    assert (receipt.release, receipt.uptime_s, receipt.utc_s) == (RELEASE, 60, None)
