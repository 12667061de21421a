"""What a station makes of what others send, from reports alone."""

import pytest

from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.lane import Lane
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.report import SOLVED, OpenBlock, Report

SESSION = b"sessn1"
K, NUM = 1000, 9
ITEMS = [OutgoingObject(handle=b"metada", num_symbols=2, symbol_size=8, bundle=None)] + [
    OutgoingObject(handle=b"bundl%d" % number, num_symbols=K, symbol_size=8, bundle=number) for number in range(NUM)
]


class Ground:
    """Station number i of three, and what it is told."""

    def __init__(self, index, count=3):
        self.link = Uplink(UplinkOptions(loss=LossEstimate.of_mean(0.001, 20_000)))
        self.link.add_update(ITEMS, lane=Lane(index=index, count=count))
        self.link.begin_contact(0.0)
        self.have, self.received, self.echo = {}, 0, (bytes(6), 0, 0)

    def send(self, now, budget=100):
        """All of it arrives."""
        runs = self.link.frames_to_send(now, budget)
        for run in runs:
            number = self.number(run)
            if number is not None:
                self.have[number] = self.have.get(number, 0) + run.count
            self.received += run.count
            self.echo = run.handle, run.block, run.first_esi + run.count - 1
        return [self.number(run) for run in runs for _ in range(run.count)]

    def number(self, run):
        return next(item.bundle for item in ITEMS if item.handle == run.handle)

    def hear(self, now, others=()):
        """`others` is what other stations have sent of the bundles so far."""
        there = {number: self.have.get(number, 0) + dict(others).get(number, 0) for number in range(NUM)}
        blocks = tuple(
            OpenBlock(handle=ITEMS[1 + number].handle, block=0, have=have if have < K else SOLVED)
            for number, have in there.items()
            if have
        )
        handle, block, esi = self.echo
        self.link.receive_report(
            Report(
                complete=(ITEMS[0].handle,), open_blocks=blocks, frames_received=self.received,
                echo_handle=handle, echo_block=block, echo_esi=esi,
            ),
            session=SESSION, now=now,
        )  # fmt: skip


@pytest.mark.parametrize(("index", "own"), [(0, [0, 1, 2]), (1, [3, 4, 5]), (2, [6, 7, 8])])
def test_each_station_begins_with_its_own_share_front_to_back(index, own):
    ground = Ground(index)
    ground.hear(0.0)

    order = list(dict.fromkeys(ground.send(0.0, 3 * K - 100)))

    assert order == own


def test_before_a_report_says_what_others_did_only_untouched_blocks_of_the_own_share_are_sent():
    ground = Ground(1)

    assert set(ground.send(0.0, 20 * K)) - {None} == {3, 4, 5}


def test_help_goes_where_most_is_left_and_from_the_back():
    ground = Ground(2)
    others = {0: K, 1: K, 3: K, 4: 400}  # left: 1000 of the first share, 1600 of the second
    ground.have = dict.fromkeys(range(6, 9), K)
    ground.hear(0.0, others)
    ground.hear(4.0, others)

    assert list(dict.fromkeys(ground.send(4.0, 2500)))[:2] == [5, 4]


def test_a_share_is_watched_before_it_is_helped_for_its_owner_may_be_sending_all_of_it():
    ground = Ground(1)
    ground.have = dict.fromkeys(range(3, 9), K)
    ground.hear(0.0)
    assert not ground.send(0.0, 10)  # whoever began when we did could not have been noticed yet

    ground.hear(1.9)
    assert not ground.send(1.9, 10)
    ground.hear(2.0)
    assert ground.send(2.0, 10)


def test_helpers_of_one_share_begin_at_different_places():
    first = []
    for index in (1, 2):
        ground = Ground(index)
        ground.have = dict.fromkeys(range(3, 9), K)
        ground.hear(0.0)
        ground.hear(4.0)
        first.append(ground.send(4.0, 10)[0])

    assert first == [2, 1]


def watch(ground, rate, until_s, block, *, begins=0):
    """Another station sends so many symbols a second of a block; a report every half second."""
    for step in range(int(2 * until_s) + 1):
        now = step / 2
        ground.hear(now, {block: begins + round(rate * now)} if now else {block: begins})
        ground.send(now, 0)


def test_what_another_has_under_way_is_left_to_it():
    def sent(rate):
        ground = Ground(1)  # block 2 is the last of the first station's share
        ground.have = dict.fromkeys([0, 1, *range(3, 9)], K)
        watch(ground, rate, 4.0, 2, begins=200)
        return len(ground.send(4.0, 5000))

    there = 200 + 4 * 100
    assert sent(0) == pytest.approx(K - 200, abs=30)
    # Half a second's worth is unheard of yet, and two more will have been sent before we are noticed.
    assert sent(100) == pytest.approx(K - there - 250, abs=40)


def test_nobody_waits_for_long_for_who_has_gone():
    ground = Ground(1)
    ground.have = dict.fromkeys([0, 1, *range(3, 9)], K)
    watch(ground, 100, 4.0, 2)
    for step in range(40):
        ground.hear(4.5 + step / 2, {2: 400})

    assert len(ground.send(25.0, 5000)) == pytest.approx(K - 400, abs=30)


def test_a_station_that_is_alone_mistakes_nothing_of_its_own_for_others():
    ground = Ground(0)
    for step in range(60):
        ground.hear(step / 10)
        ground.send(step / 10, 100)

    queue = ground.link._queues[ITEMS[0].handle]
    assert all(block.foreign == 0 for block in queue.cargo.bundle_blocks)
