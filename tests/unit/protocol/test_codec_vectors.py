"""Golden segments become the same bytes on every machine and with every later version."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from protocol.codec.contexts.contextual import Context
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from tests.vectors import make_codec

GOLDEN = make_codec.read((Path(make_codec.__file__).parent / "codec.json").read_text())
CONTEXTUAL = {
    TransformKind.FLOATS,
    TransformKind.FLOATS_DELTA,
    TransformKind.INTEGERS,
    TransformKind.INTEGERS_DELTA,
}


def rebuilt(segment, payload=None):
    raw_size = sum(len(run) for _, run in segment.runs)
    runs = rebuild(
        payload or segment.payload, raw_size, lambda file, offset, size: segment.base[offset : offset + size]
    )
    return tuple((offset, np.asarray(run).tobytes()) for offset, run in runs)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_segment_becomes_the_bytes_it_always_became(name):
    assert rebuilt(GOLDEN[name]) == GOLDEN[name].runs


@pytest.mark.parametrize("name", make_codec.SEGMENTS)
def test_todays_encoder_makes_what_becomes_the_same_bytes(name):
    made = make_codec.SEGMENTS[name]()
    assert (made.base, made.runs) == (GOLDEN[name].base, GOLDEN[name].runs)
    assert rebuilt(made) == GOLDEN[name].runs


def test_golden_segments_have_every_transform_and_context_and_coder():
    pieces = [piece for segment in GOLDEN.values() for piece in TensorPayload.decode(segment.payload).pieces]
    assert {piece.transform for piece in pieces} == set(TransformKind)
    assert {stream.coder for piece in pieces for stream in piece.streams} == set(Coder)
    said = {piece.parameters[1] for piece in pieces if piece.transform in CONTEXTUAL}
    assert {context & 0x3F for context in said} == set(Context)
    assert {context & 0xC0 for context in said} == {0, 0x40, 0x80}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_segment_without_its_last_byte_is_refused(name):
    segment = GOLDEN[name]
    with contextlib.suppress(DecodeError):
        assert rebuilt(segment, segment.payload[:-1]) is None
