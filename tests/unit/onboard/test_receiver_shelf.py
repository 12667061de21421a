"""Who gets room on board and who gives way: shares of the inbox, the oldest that nobody signed for first."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onboard.config import INBOX_BYTES_MIN
from onboard.receiver.core import CoreOptions, ReceiverCore
from onboard.receiver.events import ReportStatus
from onboard.receiver.objects import object_cost
from onboard.receiver.shelf import SMALL_COST_MAX
from onboard.store.shape import ObjectShape
from protocol.frame import Frame, FrameKind
from protocol.limits import MIB, OBJECT_SIZE_MAX
from protocol.report import Report

BUNDLE, SMALL = 16 * MIB // 1280, 40


def core_with(owners=None, **options):
    """`owners`: which update each object belongs to."""
    return ReceiverCore(
        session=b"sessn!",
        options=CoreOptions(**options),
        is_complete=lambda _: False,
        update_of=({} if owners is None else owners).get,
    )


def offer(core, name, num_symbols=BUNDLE, now=0.0, esi=0):
    """A frame of an object comes; whether it was taken."""
    frame = Frame(kind=FrameKind.RAPTORQ, handle=name, num_symbols=num_symbols, payload=bytes(1280), block=0, esi=esi)
    return core.receive_symbol(frame, now) is not None


def names(prefix, num):
    return [prefix + number.to_bytes(4, "big") for number in range(num)]


def open_names(core):
    return {entry.shape.handle for entry in core._shelf}


def test_unsigned_objects_have_half_of_the_inbox_and_the_oldest_gives_way_to_the_newest():
    core, unsigned = core_with(inbox_bytes_max=512 * MIB), names(b"un", 40)
    assert all(offer(core, name) for name in unsigned)
    statistics = core.statistics()

    assert statistics.open_bytes <= 256 * MIB
    assert open_names(core) == set(unsigned[-statistics.open_objects :])
    assert statistics.drops == {"unsigned": 40 - statistics.open_objects}
    assert statistics.objects_dropped == 40 - statistics.open_objects


def test_what_has_gone_is_told():
    core = core_with(inbox_bytes_max=512 * MIB)
    for name in names(b"un", 40):
        offer(core, name)
    told = Report.decode(core.report_frame(ReportStatus()).payload)
    gone = {entry.handle for entry in told.open_blocks if entry.have == 0}

    assert gone == set(names(b"un", 40)) - open_names(core)


def test_a_flood_of_unsigned_objects_moves_nothing_that_an_update_waits_for():
    wanted = dict.fromkeys(names(b"up", 8), b"update")
    core = core_with(wanted, inbox_bytes_max=512 * MIB)
    assert all(offer(core, name) for name in wanted)
    for number, name in enumerate(names(b"un", 1000)):
        offer(core, name, num_symbols=1 + number * 7 % 50_000)

    assert set(wanted) <= open_names(core)
    assert core.statistics().open_objects <= 64
    assert core.statistics().open_bytes <= 512 * MIB


def test_one_update_leaves_room_for_another():
    owners = dict.fromkeys(names(b"up", 40), b"big") | dict.fromkeys(names(b"ur", 2), b"urgent")
    core = core_with(owners, inbox_bytes_max=512 * MIB)
    taken = sum(offer(core, name) for name in names(b"up", 40))
    refused = core.statistics().symbols_refused

    assert all(offer(core, name) for name in names(b"ur", 2))
    assert refused == {"update": 40 - taken}
    assert core.statistics().drops == {}


def test_a_signed_object_pushes_out_unsigned_ones():
    owners = dict.fromkeys(names(b"up", 20), b"update")
    core = core_with(owners, inbox_bytes_max=300 * MIB)
    for name in names(b"un", 10):
        offer(core, name)
    num_unsigned = core.statistics().open_objects
    taken = [name for name in owners if offer(core, name)]

    assert len(taken) >= 7
    assert set(taken) <= open_names(core)
    assert core.statistics().drops["unsigned"] >= 10 - num_unsigned + 2


def test_small_objects_find_room_whatever_large_ones_take():
    core = core_with(dict.fromkeys(names(b"up", 60), b"a"), inbox_bytes_max=512 * MIB)
    for name in [*names(b"up", 60), *names(b"un", 60)]:
        offer(core, name)

    assert all(offer(core, name, num_symbols=SMALL) for name in names(b"sm", 8))


def test_a_crowd_of_small_objects_pushes_out_its_own_kind():
    core = core_with(inbox_bytes_max=512 * MIB)
    offer(core, b"large!")
    for number, name in enumerate(names(b"sm", 500)):
        offer(core, name, num_symbols=SMALL)
        offer(core, b"large!", esi=number + 1)

    assert b"large!" in open_names(core)
    assert core.statistics().open_objects == 64


def test_an_honest_object_gets_in_and_stays_though_hundreds_of_newcomers_come_for_each_of_its_symbols():
    core, num_taken = core_with(inbox_bytes_max=512 * MIB), 0
    for number in range(100):
        now = number / 125
        for flood in range(100):
            offer(core, b"f" + (number * 100 + flood).to_bytes(5, "big"), SMALL, now)
            if flood == number % 100:
                num_taken += offer(core, b"honest", 4000, now, esi=number)
    statistics = core.statistics()

    assert num_taken >= 95
    assert statistics.objects_dropped <= 64 + 50
    assert statistics.symbols_refused["quota"] > 9_800


def test_what_an_update_waits_for_gets_room_at_once_in_a_flood():
    owners = dict.fromkeys(names(b"up", 5), b"update")
    core = core_with(owners, inbox_bytes_max=512 * MIB)
    for name in names(b"un", 2000):
        offer(core, name)

    assert all(offer(core, name) for name in owners)


def test_what_becomes_wanted_stays_and_what_is_wanted_no_more_gives_way():
    owners = {}
    core = core_with(owners, inbox_bytes_max=512 * MIB)
    early, *flood = names(b"un", 60)
    offer(core, early)
    owners[early] = b"update"
    core.offer_again()
    for name in flood[:30]:
        offer(core, name)
    assert early in open_names(core)

    del owners[early]
    core.offer_again()
    for name in flood[30:]:
        offer(core, name)
    assert early not in open_names(core)


@pytest.mark.parametrize("is_signed", [True, False])
def test_the_smallest_inbox_takes_the_largest_object_signed_or_not(is_signed):
    core = core_with({b"object": b"up"} if is_signed else {}, inbox_bytes_max=INBOX_BYTES_MIN)
    assert offer(core, b"object", num_symbols=OBJECT_SIZE_MAX // 1280)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_quota_is_ever_exceeded(seed):
    rng = random.Random(seed)
    bytes_max, num_max = rng.choice([INBOX_BYTES_MIN, 200 * MIB, 512 * MIB]), rng.choice([2, 5, 64])
    owners = {name: rng.choice([None, None, b"a", b"b"]) for name in names(b"ob", 30)}
    core = core_with(owners, inbox_bytes_max=bytes_max, open_objects_max=num_max)
    sizes = {name: rng.choice([1, SMALL, 2000, BUNDLE, 50_000]) for name in owners}
    for _ in range(150):
        name = rng.choice(list(owners))
        before = {handle for handle in open_names(core) if owners[handle] is not None}
        offer(core, name, num_symbols=sizes[name], esi=rng.randrange(50))
        assert before <= open_names(core), "signed ones stay"
        check_shares(core, owners, bytes_max, num_max)


def check_shares(core, owners, bytes_max, num_max):
    entries = list(core._shelf)
    assert core.statistics().open_bytes == sum(object_cost(entry.shape) for entry in entries) <= bytes_max
    assert len(entries) <= num_max
    large = [entry for entry in entries if entry.cost > SMALL_COST_MAX]
    assert sum(entry.cost for entry in large) <= bytes_max - bytes_max // 8
    largest = object_cost(ObjectShape(handle=b"object", kind=FrameKind.RAPTORQ, num_symbols=52_429, symbol_size=1280))
    for owner in (b"a", b"b"):
        own = sum(entry.cost for entry in large if owners[entry.shape.handle] == owner)
        assert own <= max(bytes_max * 3 // 4, largest + MIB)
    unsigned = sum(entry.cost for entry in large if owners[entry.shape.handle] is None)
    assert unsigned <= max(bytes_max // 2, largest + MIB)
