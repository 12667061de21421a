"""Rules of the protocol that are not byte layouts: ranges, block layout, FEC, delta arithmetic, exchange, counters."""

import itertools
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.blocks import block_layout, symbols_needed
from protocol.command import WINDOW_SIZE, CounterWindow
from protocol.errors import DecodeError, VerificationError
from protocol.exchange import Inbox, Outbox
from protocol.fec import BlockEncoder, solve
from protocol.frame import FrameKind
from protocol.limits import BLOCK_SIZE_MAX, BLOCK_SYMBOLS_MAX, OBJECT_SIZE_MAX, SYMBOLS_MAX
from protocol.link_keys import unwrap_release_key, wrap_release_key
from protocol.objects import ObjectKind, object_prefix
from protocol.ranges import RangeSet
from protocol.segment import add_bytes, subtract_bytes

spans = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(spans, max_size=12), st.integers(0, 80))
def test_a_range_set_is_a_set_of_numbers(ranges, stop):
    ranged = RangeSet(ranges)
    plain = {number for start, end in ranges for number in range(start, end)}
    assert list(ranged.numbers()) == sorted(plain)
    assert len(ranged) == len(plain)
    assert all((number in ranged) == (number in plain) for number in range(80))
    assert set(ranged.missing(stop).numbers()) == set(range(stop)) - plain
    pairs = list(ranged)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(pairs))


@given(st.integers(1, OBJECT_SIZE_MAX), st.sampled_from([8, 64, 512, 1280, 8192]))
def test_blocks_tile_an_object_without_a_small_tail(size_bytes, symbol_size):
    num_symbols = symbols_needed(size_bytes, symbol_size)
    try:
        layout = block_layout(num_symbols, symbol_size)
    except DecodeError:
        assert num_symbols > SYMBOLS_MAX
        return
    counts = [layout.symbols_of(block) for block in range(layout.num_blocks)]
    assert sum(counts) == num_symbols
    assert max(counts) - min(counts) <= 1
    assert max(counts) <= BLOCK_SYMBOLS_MAX
    assert max(counts) * symbol_size <= BLOCK_SIZE_MAX
    starts = [layout.offset_of(block) for block in range(layout.num_blocks)]
    assert starts == [sum(counts[:block]) * symbol_size for block in range(layout.num_blocks)]


@given(st.integers(0, 2**24), st.integers(0, 10000))
def test_impossible_layouts_are_refused(num_symbols, symbol_size):
    try:
        layout = block_layout(num_symbols, symbol_size)
    except DecodeError:
        return
    assert 0 < layout.padded_size < OBJECT_SIZE_MAX + symbol_size


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 2**32), st.sampled_from([FrameKind.RAPTORQ, FrameKind.PLAIN]))
def test_any_k_symbols_and_two_more_rebuild_a_block(num_source, seed, kind):
    rng = random.Random(seed)
    data = rng.randbytes(num_source * 16)
    encoder = BlockEncoder(kind, data, 16)
    symbols = dict(enumerate(encoder.symbols(0, 3 * num_source)))
    kept = rng.sample(sorted(symbols), min(num_source + 2, len(symbols)))
    solved = solve(kind, num_source, 16, [(esi, symbols[esi]) for esi in kept])
    if kind is FrameKind.RAPTORQ or len({esi % num_source for esi in kept}) == num_source:
        assert solved == data
    else:
        assert solved is None
    first = rng.randrange(3 * num_source)
    assert encoder.symbols(first, 2) == [encoder.symbols(first, 1)[0], encoder.symbols(first + 1, 1)[0]]


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(-2, 2**25), st.binary(max_size=24)), max_size=40))
def test_hostile_symbols_never_break_the_seam(num_source, symbols):
    try:
        result = solve(FrameKind.RAPTORQ, num_source, 16, symbols)
    except DecodeError:
        return
    assert result is None or len(result) == num_source * 16


@given(st.binary(min_size=1, max_size=300), st.randoms())
def test_subtracting_and_adding_bytes_are_inverse(new, rng):
    old = rng.randbytes(len(new))
    delta = subtract_bytes(new, old)
    assert delta == bytes((a - b) % 256 for a, b in zip(new, old, strict=True))
    assert add_bytes(delta, old) == new


@given(st.lists(st.integers(1, 200), max_size=60))
def test_a_counter_is_new_once_and_never_after_the_window_passed(counters):
    window, used = CounterWindow(), set()
    for counter in counters:
        expected = counter not in used and counter > window.highest - WINDOW_SIZE
        assert window.is_new(counter) == expected
        if expected:
            window = window.with_used(counter)
            used.add(counter)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6000), min_size=1, max_size=4), st.integers(0, 2**32), st.floats(0, 0.6))
def test_small_objects_arrive_whole_over_a_lossy_link(sizes, seed, loss):
    rng = random.Random(seed)
    objects = {}
    outbox, inbox, now = Outbox(retry_s=1.0), Inbox(), 0.0
    for size in sizes:
        body = rng.randbytes(size)
        data = object_prefix(ObjectKind.MESSAGE, size + 8) + body
        objects[outbox.put(data, now)] = data
    arrived = {}
    for _ in range(200):
        if not len(outbox):
            break
        frames = [frame for frame in outbox.frames_to_send(now) if rng.random() >= loss]
        rng.shuffle(frames)
        for frame in frames:
            data = inbox.receive(frame)
            if data is not None:
                assert frame.handle not in arrived, "an object is handed over once"
                arrived[frame.handle] = data
        if rng.random() >= loss:
            for handle in inbox.complete():
                outbox.acknowledge(handle)
        now = outbox.next_deadline() or now
    assert arrived == objects


def test_a_new_contact_does_not_wait_for_pauses_that_grew_in_silence():
    outbox, now = Outbox(retry_s=1.0), 0.0
    outbox.put(object_prefix(ObjectKind.MESSAGE, 20) + bytes(12), now)
    for _ in range(8):
        assert outbox.frames_to_send(now)
        now = outbox.next_deadline()
    outbox.frames_to_send(now)
    assert outbox.next_deadline() > now + 30
    outbox.hurry(now)
    assert outbox.frames_to_send(now)
    assert outbox.next_deadline() == now + 1.0


def test_a_release_key_opens_only_for_its_satellite_and_release():
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    secret, public = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    wrapped = wrap_release_key(b"k" * 32, public, satellite="SAT-1", release_digest=bytes(32))
    assert len(wrapped) == 80
    assert unwrap_release_key(wrapped, secret, satellite="SAT-1", release_digest=bytes(32)) == b"k" * 32
    for satellite, digest, key in (
        ("SAT-2", bytes(32), secret),
        ("SAT-1", b"1" * 32, secret),
        ("SAT-1", bytes(32), b"2" * 32),
    ):
        with pytest.raises(VerificationError):
            unwrap_release_key(wrapped, key, satellite=satellite, release_digest=digest)
