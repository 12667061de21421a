"""BYTES_MATCHES: bytes found in the base's, and what is refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import matches
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import Extent, Piece, Stream, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.limits import MIB, ZSTD_WINDOW_MAX

OLD = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
NEW = np.concatenate([OLD[1000:3000], OLD[:900]])
BASE, TEXT = OLD.tobytes(), NEW.tobytes()
PARAMETERS, (STREAM,) = matches.encode([NEW], OLD, level=15)


def rebuilt(parameters=PARAMETERS, coded=(STREAM,), size=NEW.size, num_extents=1, base=BASE):
    extents = tuple(Extent(offset=size * i, size=size, base_file=0, base_offset=7) for i in range(num_extents))
    piece = Piece(transform=TransformKind.BYTES_MATCHES, extents=extents, parameters=parameters, streams=tuple(coded))
    payload = TensorPayload(pieces=(piece,))
    asked = []

    def read_base(file, offset, count):
        asked.append((file, offset, count))
        return base[:count]

    ((offset, run),) = rebuild(payload.encode(), payload.raw_size, read_base)
    assert asked == [(0, 7, OLD.size)]
    return offset, run.tobytes()


def test_bytes_that_the_base_has_elsewhere_cost_next_to_nothing():
    assert len(STREAM.data) < 40
    assert rebuilt() == (0, TEXT)


@given(old=st.binary(min_size=1, max_size=300), new=st.binary(min_size=1, max_size=300), cut=st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_any_bytes_come_back_from_any_others(old, new, cut):
    news = [np.frombuffer(new + old[cut:], np.uint8)]
    window = np.frombuffer(old, np.uint8)
    parameters, coded = matches.encode(news, window, level=3)
    (back,) = matches.decode(parameters, coded, [news[0].size], [window])
    assert back.tobytes() == news[0].tobytes()


def test_what_lies_at_the_far_end_of_a_large_window_is_found():
    window = np.random.default_rng(2).integers(0, 256, 2 * MIB, np.uint8)
    parameters, coded = matches.encode([window[:50_000]], window, level=3)
    assert len(coded[0].data) < 100
    (back,) = matches.decode(parameters, coded, [50_000], [window])
    assert np.array_equal(back, window[:50_000])


def frame(data=TEXT, **changes):
    return Stream(coder=Coder.ZSTD, count=len(data), data=zstandard.ZstdCompressor(**changes).compress(data))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"parameters": b""},
        {"parameters": b"\0" * 4},
        {"parameters": PARAMETERS + b"\0"},
        {"parameters": (ZSTD_WINDOW_MAX + 1).to_bytes(4, "big")},
        {"num_extents": 2},
        {"coded": ()},
        {"coded": (STREAM, STREAM)},
        {"coded": (Stream(coder=Coder.RAW, count=NEW.size, data=TEXT),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size - 1, data=STREAM.data),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size, data=STREAM.data[:-1]),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size, data=STREAM.data + b"\0"),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size, data=b"no frame"),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size, data=frame(bytes(10**6)).data),)},
        {"coded": (Stream(coder=Coder.ZSTD, count=NEW.size, data=frame(write_content_size=False).data),)},
        {"size": NEW.size + 1},
        {"base": BASE[:-1]},
    ],
    ids=str,
)
def test_what_does_not_fit_is_a_decode_error(spoilt):
    with pytest.raises(DecodeError):
        rebuilt(**spoilt)


def test_a_frame_that_claims_more_than_there_is_to_be_gets_no_memory():
    stream = Stream(coder=Coder.ZSTD, count=NEW.size, data=frame(bytes(16 * MIB)).data)
    tracemalloc.start()
    with pytest.raises(DecodeError, match="where 2900 belong"):
        matches.decode(PARAMETERS, (stream,), [NEW.size], [OLD])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MIB


@pytest.mark.parametrize("num_pieces", [4, 5])
def test_all_windows_of_a_segment_are_bounded_before_the_base_is_read(num_pieces):
    pieces = tuple(
        Piece(
            transform=TransformKind.BYTES_MATCHES,
            extents=(Extent(offset=number, size=1, base_file=0),),
            parameters=ZSTD_WINDOW_MAX.to_bytes(4, "big"),
            streams=(replace(STREAM, count=1),),
        )
        for number in range(num_pieces)
    )
    asked = []
    expected = "where 1 belong" if num_pieces == 4 else "windows of"
    with pytest.raises(DecodeError, match=expected):
        rebuild(TensorPayload(pieces=pieces).encode(), num_pieces, lambda *ask: asked.append(ask) or bytes(ask[2]))
    assert len(asked) == (num_pieces == 4)


@pytest.mark.parametrize(("size", "num_extents"), [(ZSTD_WINDOW_MAX + 1, 1), (ZSTD_WINDOW_MAX, 2)])
def test_more_of_the_base_than_one_window_is_refused_before_it_is_read(size, num_extents):
    piece = Piece(
        transform=TransformKind.BYTES_MATCHES,
        extents=tuple(Extent(offset=9 * number, size=9, base_file=0) for number in range(num_extents)),
        parameters=size.to_bytes(4, "big"),
        streams=(replace(STREAM, count=9 * num_extents),),
    )
    payload = TensorPayload(pieces=(piece,)).encode()
    with pytest.raises(DecodeError, match="matches "):
        rebuild(payload, 9 * num_extents, lambda *asked: pytest.fail(f"read {asked}"))
