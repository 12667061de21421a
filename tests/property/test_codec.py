"""The weight codec keeps the promises of all codecs, on payloads: what was encoded comes back to the bit, whatever the
bits are; and any payload, spoiled or made up, becomes exactly raw_size bytes or a DecodeError, in bounded memory.
No deadlines: a busy machine is no bug."""

import contextlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.codec import floats, integers, plain
from protocol.codec.floats import FloatFormat, FloatLayout
from protocol.codec.integers import IntegerLayout
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import NO_BASE, VALUES_MAX, Extent, Piece, Stream, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.limits import MIB, SEGMENT_SIZE_MAX

BASE = np.random.default_rng(9).integers(0, 256, 20_000, np.uint8)
WHOLE = {
    TransformKind.BYTES_DELTA: TransformKind.BYTES,
    TransformKind.FLOATS_DELTA: TransformKind.FLOATS,
    TransformKind.INTEGERS_DELTA: TransformKind.INTEGERS,
}


def read_base(file, offset, size):
    return BASE[offset : offset + size].tobytes()


@st.composite
def byte_runs(draw, *, unit):
    """Bytes of 1 to 600 items: any at all, few different ones, or like the base."""
    count = draw(st.integers(1, 600)) * unit
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return draw(
        st.sampled_from(
            [
                rng.integers(0, 256, count).astype(np.uint8),
                rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), count),
                np.zeros(count, np.uint8),
                BASE[:count] + (rng.random(count) < 0.1),
            ]
        )
    )


@st.composite
def jobs(draw):
    """(transform, layout, new bytes of one or two extents)."""
    transform = draw(st.sampled_from(list(WHOLE) + list(WHOLE.values())))
    columns = draw(st.integers(0, 40))
    layout, unit = None, 1
    if WHOLE.get(transform, transform) is TransformKind.FLOATS:
        layout = FloatLayout(format=draw(st.sampled_from(FloatFormat)), columns=columns)
        unit = layout.format.size
    elif WHOLE.get(transform, transform) is TransformKind.INTEGERS:
        layout = IntegerLayout(bits=draw(st.sampled_from([8, 16, 32])), is_signed=draw(st.booleans()), columns=columns)
        unit = layout.bits // 8
    return transform, layout, draw(st.lists(byte_runs(unit=unit), min_size=1, max_size=2))


def payload_of(job):
    """Return the payload of a job; its extents lie one after another with a gap, in the file and in the base."""
    transform, layout, news = job
    module = {TransformKind.BYTES: plain, TransformKind.FLOATS: floats, TransformKind.INTEGERS: integers}[
        WHOLE.get(transform, transform)
    ]
    extents, at = [], 100
    for new in news:
        base = {"base_file": 0, "base_offset": at % 977} if transform.needs_base else {}
        extents.append(Extent(offset=at, size=new.size, **base))
        at += new.size + 7
    olds = [BASE[extent.base_offset :][: extent.size] for extent in extents] if transform.needs_base else None
    parameters, streams = module.encode(news, olds, layout)
    return TensorPayload(
        pieces=(Piece(transform=transform, extents=tuple(extents), parameters=parameters, streams=streams),)
    )


def check(payload, raw_size):
    """Decode what may be spoiled: exactly that many bytes or a DecodeError."""
    with contextlib.suppress(DecodeError):
        assert sum(run.size for _, run in rebuild(payload, raw_size, read_base)) == raw_size


@settings(deadline=None)
@given(jobs())
def test_a_payload_rebuilds_to_the_bytes_it_was_made_of(job):
    payload = payload_of(job)
    assert TensorPayload.decode(payload.encode()) == payload
    runs = rebuild(payload.encode(), payload.raw_size, read_base)
    assert [(offset, run.tobytes()) for offset, run in runs] == [
        (extent.offset, new.tobytes()) for extent, new in zip(payload.pieces[0].extents, job[2], strict=True)
    ]


@settings(deadline=None)
@given(jobs(), st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=3), st.integers(0))
def test_a_spoiled_payload_is_a_decode_error_or_as_long_as_it_should_be(job, changes, cut):
    payload = payload_of(job)
    data = bytearray(payload.encode())
    for at, change in changes:
        # Half of the changes hit the head, where most of the meaning is.
        data[at % min(len(data), 80 if at % 2 else len(data))] ^= change
    check(bytes(data), payload.raw_size)
    check(bytes(data[: cut % len(data)]), payload.raw_size)
    check(bytes(data) + b"\0", payload.raw_size)


@settings(deadline=None)
@given(jobs(), jobs())
def test_streams_of_another_piece_are_a_decode_error_or_as_long_as_they_should_be(one, other):
    mine, theirs = payload_of(one).pieces[0], payload_of(other).pieces[0]
    for piece in (replace(mine, streams=theirs.streams), replace(mine, parameters=theirs.parameters)):
        payload = TensorPayload(pieces=(piece,))
        check(payload.encode(), payload.raw_size)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 2**22))
def test_any_bytes_are_a_payload_or_a_decode_error(data, raw_size):
    check(data, raw_size)
    check(b"\x02\x01" + data, raw_size)


streams = st.builds(
    Stream, coder=st.sampled_from(Coder), count=st.integers(0, 3000) | st.just(VALUES_MAX), data=st.binary(max_size=40)
)


@settings(deadline=None)
@given(
    transform=st.sampled_from(TransformKind),
    parameters=st.binary(max_size=30),
    coded=st.lists(streams, max_size=5),
    sizes=st.lists(st.integers(1, 1000) | st.just(SEGMENT_SIZE_MAX // 4), min_size=1, max_size=4),
)
@example(transform=TransformKind.FLOATS, parameters=b"\0\1\0\0\0\1\1\1\1\0", coded=[], sizes=[2])
def test_any_parameters_and_streams_are_a_decode_error_or_fit(transform, parameters, coded, sizes):
    base_file = 0 if transform.needs_base else NO_BASE
    extents = tuple(
        Extent(offset=at * SEGMENT_SIZE_MAX, size=size, base_file=base_file) for at, size in enumerate(sizes)
    )
    piece = Piece(transform=transform, extents=extents, parameters=parameters, streams=tuple(coded))
    check(TensorPayload(pieces=(piece,)).encode(), sum(sizes))


@pytest.mark.parametrize("transform", TransformKind)
@pytest.mark.parametrize("coder", Coder)
@settings(max_examples=5, deadline=None)
@given(parameters=st.binary(max_size=20))
def test_giant_counts_take_no_giant_memory(transform, coder, parameters):
    stream = Stream(coder=coder, count=VALUES_MAX, data=b"\0\0\0\0")
    base_file = 0 if transform.needs_base else NO_BASE
    piece = Piece(
        transform=transform,
        extents=(Extent(offset=0, size=4096, base_file=base_file),),
        parameters=parameters,
        streams=(stream,) * 200,
    )
    tracemalloc.start()
    check(TensorPayload(pieces=(piece,)).encode(), 4096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB
