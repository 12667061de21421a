"""Lanes: stations that never talk never send the same symbol, and every symbol is somebody's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundsegment.uplink.sender.block_sender import BlockSender
from groundsegment.uplink.sender.lane import STRIPE, Lane
from protocol.frame import FrameKind
from protocol.limits import BLOCK_SYMBOLS_MAX, ESI_MAX, STATIONS_MAX

COUNTS = st.integers(1, STATIONS_MAX)
ESIS = st.integers(0, ESI_MAX)
SETTINGS = settings(max_examples=40, deadline=None)


@st.composite
def lanes(draw):
    count = draw(COUNTS)
    return Lane(index=draw(st.integers(0, count - 1)), count=count)


@SETTINGS
@given(count=COUNTS, esi=ESIS)
def test_every_symbol_is_of_exactly_one_lane(count, esi):
    owners = [index for index in range(count) if Lane(index=index, count=count).owns(esi)]

    assert owners == [esi // STRIPE % count]


@SETTINGS
@given(lane=lanes(), esi=ESIS)
def test_counting_and_finding_agree(lane, esi):
    assert lane.num_below(lane.nth(lane.num_below(esi))) == lane.num_below(esi)
    found = lane.at_or_after(esi)
    assert lane.owns(found)
    assert found >= esi
    assert not any(lane.owns(between) for between in range(esi, found))
    assert lane.num_below(esi + 1) - lane.num_below(esi) == lane.owns(esi)


@SETTINGS
@given(lane=lanes(), esi=ESIS, count=st.integers(1, 500))
def test_a_run_has_no_gap_and_stays_in_its_lane(lane, esi, count):
    first, length = lane.run(esi, count)

    assert first == lane.at_or_after(esi)
    assert 1 <= length <= count
    assert all(lane.owns(first + step) for step in range(length))
    assert length == count or not lane.owns(first + length)


@SETTINGS
@given(lane=lanes(), num_source=st.integers(1, BLOCK_SYMBOLS_MAX))
def test_a_lane_holds_a_block_three_times_before_it_starts_over(lane, num_source):
    end = lane.end_esi(num_source)

    assert lane.num_below(end) >= 3 * num_source
    assert end > num_source + 60_000 - lane.count * STRIPE  # stations are not worse off than one alone, all together
    assert end <= ESI_MAX + 1
    assert end <= max(num_source + 60_000, lane.count * max(3 * num_source + STRIPE, 1024))


def test_one_lane_alone_is_all_symbols_in_order():
    lane = Lane()

    assert [lane.run(esi, 1000) for esi in (0, 1000)] == [(0, 1000), (1000, 1000)]
    assert lane.num_below(12345) == lane.nth(12345) == 12345


def a_block(lane, num_source, esi=0):
    return BlockSender((b"object", 0), num_source, FrameKind.RAPTORQ, lane, next_esi=esi, reserved_esi=esi)


@SETTINGS
@given(
    count=st.integers(1, 5),
    num_source=st.integers(1, 300),
    takes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300), st.booleans()), max_size=40),
)
def test_no_symbol_is_sent_twice_by_anybody_through_any_restarts(count, num_source, takes):
    blocks = [a_block(Lane(index=index, count=count), num_source) for index in range(count)]
    kept, sent = [0] * count, set()
    for number, wanted, is_killed in takes:
        index = number % count
        if is_killed:
            blocks[index] = a_block(blocks[index].lane, num_source, kept[index])
        left = wanted
        if blocks[index].lane.num_below(blocks[index].next_esi) + 300 > 1024:
            break  # it may start over
        while left:
            first, length = blocks[index].take(left)
            if first + length > kept[index]:
                kept[index] = blocks[index].reserved_esi
            assert first + length <= kept[index]
            new = set(range(first, first + length))
            assert not new & sent
            assert all(blocks[index].lane.owns(esi) for esi in new)
            sent |= new
            left -= length


@pytest.mark.parametrize("count", [1, 3])
def test_a_lane_that_is_used_up_starts_over_and_says_so_first(count):
    block = a_block(Lane(index=count - 1, count=count), 100)
    end = block.lane.end_esi(100)
    block.next_esi = block.reserved_esi = end

    first, length = block.take(10)

    assert (first, length) == (block.lane.first_esi, 10)
    assert first + length <= block.reserved_esi < end
    assert first < end
