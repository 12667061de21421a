"""Contacts of one link, whatever happens: losses, recordings, garbage, power cuts on board, restored depots.

The satellite only goes forward, never further than the ground went, and takes no frame of an older contact. The ground
never uses a number twice. Once the link is there, they find each other within a contact.
"""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from groundsegment.downlink import Downlink
from groundsegment.uplink.wire.link_contacts import SILENCE_S, LinkContacts
from onboard.receiver.intake import Intake
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.report import Report
from tests.fakes.contact_store import ContactStore
from tests.fakes.contacts import contact_key

LINK_KEY = bytes(range(32))
STATION = 2


class Contacts(RuleBasedStateMachine):
    """One station's link."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.rng, self.now = random.Random(seed), 1000.0
        self.store = ContactStore(LINK_KEY)
        self.backup, self.is_restored = self.store.backup(), False
        self.recorded = []  # contact, datagram
        self.durable = self.highest = self.sequence = 0
        self.numbers = set()
        self.start_satellite()
        self.start_ground()
        self.begin_contact()

    def start_satellite(self):
        self.up, self.down = FrameCodec(Direction.UP, LINK_KEY), FrameCodec(Direction.DOWN, LINK_KEY)
        for codec in (self.up, self.down):
            codec.set_contact(STATION, self.durable)
        self.intake, self.reached = Intake(self.up), self.durable

    def start_ground(self):
        self.downlink = Downlink(
            contact_key=contact_key(LINK_KEY, STATION),
            station=STATION,
            satellite="SAT-1",
            identity_public=bytes(32),
            session=self.rng.randbytes(6),
        )
        self.contacts = LinkContacts(self.store, "SAT-1", STATION, self.downlink, is_answered=True)

    def take(self, data):
        """A datagram arrives on board; whether it was taken."""
        batch = self.intake.sort([(data, None)], self.now)
        for station, number in batch.contacts.items():
            assert number > self.down.contact(station)
            self.down.set_contact(station, number)
        return bool(batch.heard)

    @rule()
    def begin_contact(self):
        before = len(self.store.used)
        self.contacts.begin(self.now)
        self.highest = max(self.highest, self.contacts.number)
        for number in self.store.used[before:]:
            assert self.is_restored or number not in self.numbers
            self.numbers.add(number)

    @rule()
    def start_another_process(self):
        self.start_ground()
        self.begin_contact()

    @rule(is_heard=st.booleans(), is_answered=st.booleans())
    def say_hello(self, is_heard, is_answered):
        self.now += 0.3
        data = self.downlink.hello(self.now)
        self.recorded.append((self.contacts.number, data))
        if is_heard and self.take(data):
            assert self.up.contact(STATION) == self.contacts.number
            if is_answered:
                self.answer()

    def answer(self):
        self.sequence += 1
        frame = Frame(
            kind=FrameKind.REPORT,
            handle=b"sessn1",
            sequence=self.sequence,
            payload=Report().encode(),
            station=STATION,
        )
        heard = self.downlink.statistics().frames_received
        self.downlink.receive(self.down.encode(frame))
        assert self.downlink.statistics().frames_received == heard + 1
        self.look()

    def look(self):
        self.contacts.look(self.now)
        self.highest = max(self.highest, self.contacts.number)

    @rule(seconds=st.sampled_from([1.0, SILENCE_S + 1, 700.0]))
    def wait(self, seconds):
        self.now += seconds
        self.look()

    @rule(data=st.data())
    def play_a_recording(self, data):
        if self.recorded:
            number, datagram = data.draw(st.sampled_from(self.recorded))
            before = self.up.contact(STATION)
            is_taken = self.take(datagram)
            assert not is_taken or number >= before

    @rule(num=st.integers(1, 100))
    def hear_garbage(self, num):
        forger = FrameCodec(Direction.UP, self.rng.randbytes(32), station=STATION)
        for number in range(num):
            frame = Frame(kind=FrameKind.REPORT, handle=b"forger", sequence=number, payload=b"forged")
            assert not self.take(forger.encode(frame))

    @rule()
    def write_down_what_is_known_on_board(self):
        self.durable = self.up.contact(STATION)

    @rule()
    def cut_the_power(self):
        self.start_satellite()

    @rule()
    def back_up_the_depot(self):
        self.backup = self.store.backup()

    @rule()
    def restore_the_depot(self):
        self.store.restore(self.backup)
        self.is_restored = True
        self.start_another_process()

    @invariant()
    def the_satellite_only_goes_forward_and_no_further_than_the_ground(self):
        assert self.durable <= self.reached <= self.up.contact(STATION) <= self.highest
        assert self.up.contact(STATION) == self.down.contact(STATION)
        self.reached = self.up.contact(STATION)

    def teardown(self):
        """The link is there, and noise with it: within a contact they talk."""
        if not hasattr(self, "store"):
            return
        self.begin_contact()
        for _ in range(40):
            self.hear_garbage(3)
            heard = self.downlink.statistics().frames_received
            self.say_hello(is_heard=True, is_answered=True)
            if self.downlink.statistics().frames_received > heard:
                return
            self.wait(SILENCE_S / 2)
        raise AssertionError(f"ground at {self.contacts.number}, satellite at {self.up.contact(STATION)}")


Contacts.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestContacts = Contacts.TestCase
