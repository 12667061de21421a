"""Leaf hashes and parity: whatever is flipped, what is repaired is right, and what parity covers is repaired."""

import contextlib
import hashlib
import random

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st

from onboard.scrub.blocks import ZONE_BLOCKS, BlockMap
from onboard.scrub.core import (
    LEAF_SIZE,
    find_flip,
    flipped_bits,
    leaf_hash,
    solve_group,
    syndrome_of,
    with_flipped,
)
from onboard.scrub.damage import Flip
from onboard.scrub.guard import GuardHead
from onboard.scrub.ledger import Ledger
from protocol.damage import DamageReport, LostRange
from protocol.errors import DecodeError
from protocol.manifest import FileEntry, release_digest

SIZES = st.lists(st.integers(0, 40 * LEAF_SIZE), max_size=6)


class Group:
    """Blocks with their parity behind them; the last data block is short."""

    def __init__(self, seed, num_blocks, last_size):
        rng = random.Random(seed)
        self.blocks = [rng.randbytes(LEAF_SIZE) for _ in range(num_blocks - 1)] + [rng.randbytes(last_size)]
        self.blocks.append(syndrome_of(self.blocks).to_bytes(LEAF_SIZE, "little"))
        self.hashes = dict(enumerate(map(leaf_hash, self.blocks)))

    def solve(self, damaged, **options):
        bad = {number: data for number, data in enumerate(damaged) if leaf_hash(data) != self.hashes[number]}
        solved = solve_group(bad, self.hashes, syndrome_of(damaged), **options)
        assert all(data == self.blocks[number] for number, data in solved.blocks.items())
        assert sorted([*solved.blocks, *solved.lost]) == sorted(bad)
        return solved


GROUPS = st.builds(Group, st.integers(0, 2**32), st.integers(1, 32), st.integers(1, LEAF_SIZE))


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.data())
def test_a_block_that_is_wholly_lost_comes_back(group, data):
    number = data.draw(st.integers(0, len(group.blocks) - 1))
    damaged = list(group.blocks)
    damaged[number] = bytes(len(damaged[number]))
    assert group.solve(damaged, searches_max=0).lost == ()


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.data())
def test_a_few_flips_anywhere_in_a_group_are_undone_without_a_search(group, data):
    total = [(number, bit) for number, block in enumerate(group.blocks) for bit in (0, 8 * len(block) - 1)]
    places = st.tuples(st.integers(0, len(group.blocks) - 1), st.integers(0, 8 * LEAF_SIZE - 1)) | st.sampled_from(
        total
    )
    flips = data.draw(st.lists(places, min_size=1, max_size=6, unique_by=lambda place: place[1]))  # none cancel out
    damaged = list(group.blocks)
    for number, bit in flips:
        damaged[number] = with_flipped(damaged[number], bit % (8 * len(damaged[number])))
    bits = [bit % (8 * len(group.blocks[number])) for number, bit in flips]
    solved = group.solve(damaged, searches_max=0)
    assert solved.lost == () or len(set(bits)) < len(bits)


@settings(max_examples=10, deadline=None)
@given(GROUPS.filter(lambda group: len(group.blocks) > 2), st.data())
def test_flips_that_cancel_out_in_the_parity_are_searched_for(group, data):
    first, second = data.draw(st.permutations(range(len(group.blocks) - 1)))[:2]
    bit = data.draw(st.integers(0, 8 * min(len(group.blocks[first]), len(group.blocks[second])) - 1))
    damaged = list(group.blocks)
    for number in (first, second):
        damaged[number] = with_flipped(damaged[number], bit)
    assert syndrome_of(damaged) == 0
    assert group.solve(damaged, searches_max=0).lost
    assert group.solve(damaged).lost == ()


@settings(max_examples=40, deadline=None)
@given(GROUPS, st.data())
def test_whatever_is_damaged_nothing_wrong_is_called_repaired(group, data):
    damaged = list(group.blocks)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for number in data.draw(st.sets(st.integers(0, len(group.blocks) - 1), min_size=1, max_size=4)):
        start = rng.randrange(len(damaged[number]))
        junk = rng.randbytes(rng.randint(1, len(damaged[number]) - start))
        damaged[number] = damaged[number][:start] + junk + damaged[number][start + len(junk) :]
    group.solve(damaged, searches_max=0)  # asserts it


@settings(max_examples=15, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_one_flipped_bit_is_found_by_the_hash_alone(data, draw):
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    damaged = with_flipped(data, bit)
    assert find_flip(damaged, hashlib.sha256(data).digest()[:8]) == bit
    assert list(flipped_bits(data, damaged)) == [bit]


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_every_byte_is_in_one_block_and_every_block_in_one_group(sizes):
    block_map = BlockMap(sizes)
    spans = list(block_map.spans(range(block_map.num_blocks)))
    assert [(span.file, span.size) for span in spans] == [(file, size) for file, size in enumerate(sizes) if size]
    for zone in range(block_map.num_zones):
        groups = [block_map.group(zone, number) for number in range(block_map.num_groups(zone))]
        assert sorted(block for group in groups for block in group) == list(block_map.zone(zone))
        assert max(map(len, groups)) <= 32
    assert sum(block_map.num_groups(zone) for zone in range(block_map.num_zones)) == block_map.num_parity


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3 * ZONE_BLOCKS))
def test_zones_of_a_large_release_do_not_share_parity(num_blocks):
    block_map = BlockMap([num_blocks * LEAF_SIZE])
    parity = [block_map.parity(zone) for zone in range(block_map.num_zones)]
    assert [number for part in parity for number in part] == list(range(block_map.num_parity))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_blocks_as_ranges_cover_those_blocks_and_no_other_byte(sizes, data):
    block_map = BlockMap(sizes)
    chosen = sorted(data.draw(st.sets(st.integers(0, max(block_map.num_blocks - 1, 0)), max_size=20)))
    chosen = [block for block in chosen if block < block_map.num_blocks]
    expected = {(span.file, span.offset + at) for span in map(block_map.where, chosen) for at in (0, span.size - 1)}
    ranges = block_map.ranges(chosen)
    assert sum(size for _, _, size in ranges) == sum(block_map.where(block).size for block in chosen)
    for file, at in expected:
        assert any(file == f and offset <= at < offset + size for f, offset, size in ranges)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
LEDGER = Ledger(release=b"r" * 32, lost=((b"d" * 32, (LostRange(file=1, offset=0, size=9),)),)).with_memory_flip(
    b"d" * 32, Flip(file="w", offset=4096, num_bits=1, bits=(7,)), boot=1, uptime_s=2
)
FILES = tuple(FileEntry(name=name, size_bytes=5, sha256=bytes(32)) for name in ("a.json", "b.bin"))
HEAD = GuardHead(digest=release_digest(FILES), files=FILES, num_listed=2)
BODY = DamageReport(release=b"d" * 32, lost=(LostRange(file=1, offset=0, size=9),)).to_body()


@settings(max_examples=80, deadline=None)
@given(st.data(), VALUES)
def test_what_is_not_ours_is_refused_by_name_and_nothing_else_happens(data, junk):
    parsers = {
        Ledger.decode: msgpack.unpackb(LEDGER.encode()),
        GuardHead.decode: msgpack.unpackb(HEAD.encode()),
        lambda packed: DamageReport.from_body(msgpack.unpackb(packed)): BODY,
    }
    parse, good = data.draw(st.sampled_from(list(parsers.items())))
    assert parse(msgpack.packb(good)) is not None
    spoiled = dict(good)
    name = data.draw(st.sampled_from([*spoiled, "more"]))
    if data.draw(st.booleans()) and isinstance(spoiled.get(name), list) and spoiled[name]:
        spoiled[name] = [junk, *spoiled[name][1:]]
    else:
        spoiled[name] = junk
    with contextlib.suppress(DecodeError):
        parse(msgpack.packb(spoiled))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_ledger_and_no_guard_are_refused(data):
    for parse in (Ledger.decode, GuardHead.decode):
        with contextlib.suppress(DecodeError):
            parse(data)
