"""The payload of a TENSOR segment: what rebuild checks, the plain transforms, and partition by class."""

import zlib

import numpy as np
import pytest

from protocol.codec import plain
from protocol.codec.contexts.partition import CHUNK_SIZE, check_firsts, partition, unpartition
from protocol.codec.kinds import Coder, TransformKind
from protocol.codec.payload import NO_BASE, Extent, Piece, Stream, TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.errors import DecodeError
from protocol.segment import TAG_SIZE, SegmentCodec, SegmentRow, expand

TEXT = np.frombuffer(b"the quick brown fox " * 200, np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, 4000, np.uint8)
BASE = {3: NOISE.tobytes()}


def read_base(file, offset, size):
    return BASE[file][offset : offset + size]


def bytes_piece(values, offset=0):
    parameters, coded = plain.encode([values], None, level=8)
    extent = Extent(offset=offset, size=values.size)
    return Piece(transform=TransformKind.BYTES, extents=(extent,), parameters=parameters, streams=coded)


def rebuilt(*pieces, raw_size=None):
    payload = TensorPayload(pieces=pieces)
    runs = rebuild(payload.encode(), raw_size or payload.raw_size, read_base)
    return [(offset, run.tobytes()) for offset, run in runs]


@pytest.mark.parametrize("values", [TEXT, NOISE, np.zeros(5, np.uint8), NOISE[:1]])
def test_bytes_come_back(values):
    assert rebuilt(bytes_piece(values, 70)) == [(70, values.tobytes())]


def test_text_travels_as_zstd_and_skewed_noise_as_pco():
    assert plain.encode([TEXT], None)[1][0].coder is Coder.ZSTD
    assert (
        plain.encode([np.random.default_rng(2).binomial(20, 0.5, 9000).astype(np.uint8)], None)[1][0].coder is Coder.PCO
    )
    assert plain.encode([NOISE], None)[1][0].coder is Coder.RAW


def test_the_bytes_of_the_base_come_back_and_cost_a_piece_head():
    piece = Piece(transform=TransformKind.SAME, extents=(Extent(offset=9, size=100, base_file=3, base_offset=50),))
    assert rebuilt(piece) == [(9, NOISE[50:150].tobytes())]
    assert len(TensorPayload(pieces=(piece,)).encode()) == 11


def test_a_difference_to_the_base_comes_back_over_several_extents():
    news = [NOISE[:1000] + 1, NOISE[2000:2500].copy()]
    parameters, coded = plain.encode(news, [NOISE[:1000], NOISE[2000:2500]])
    piece = Piece(
        transform=TransformKind.BYTES_DELTA,
        extents=(
            Extent(offset=5000, size=1000, base_file=3, base_offset=0),
            Extent(offset=0, size=500, base_file=3, base_offset=2000),
        ),
        parameters=parameters,
        streams=coded,
    )
    assert rebuilt(piece) == [(0, news[1].tobytes()), (5000, news[0].tobytes())]
    assert sum(len(stream.data) for stream in coded) < 300


def test_extents_must_not_overlap():
    with pytest.raises(DecodeError, match="overlap"):
        rebuilt(bytes_piece(TEXT, 0), bytes_piece(TEXT, TEXT.size - 1))
    rebuilt(bytes_piece(TEXT, 0), bytes_piece(TEXT, TEXT.size))


def test_sizes_must_add_up_to_the_row():
    with pytest.raises(DecodeError, match="expected"):
        rebuilt(bytes_piece(TEXT), raw_size=TEXT.size + 1)


def test_a_base_that_is_too_short_is_noticed():
    extent = Extent(offset=0, size=100, base_file=3, base_offset=NOISE.size - 99)
    with pytest.raises(DecodeError, match="the base has no"):
        rebuilt(Piece(transform=TransformKind.SAME, extents=(extent,)))


def test_streams_may_not_claim_more_values_than_the_bytes_could_have():
    stream = Stream(coder=Coder.CONSTANT, count=8 * 2**20, data=b"\0")
    piece = Piece(transform=TransformKind.BYTES, extents=(Extent(offset=0, size=2**20),), streams=(stream,))
    with pytest.raises(DecodeError, match="values for"):
        rebuilt(piece)


@pytest.mark.parametrize(
    ("transform", "parameters", "num_streams"),
    [
        (TransformKind.BYTES, b"", 0),
        (TransformKind.BYTES, b"", 2),
        (TransformKind.BYTES, b"x", 1),
        (TransformKind.SAME, b"", 1),
        (TransformKind.SAME, b"x", 0),
        (TransformKind.BYTES_DELTA, b"", 0),
    ],
)
def test_plain_pieces_have_no_parameters_and_exactly_their_streams(transform, parameters, num_streams):
    stream = Stream(coder=Coder.CONSTANT, count=10, data=b"\0")
    base = {"base_file": 3} if transform.needs_base else {"base_file": NO_BASE}
    piece = Piece(
        transform=transform,
        extents=(Extent(offset=0, size=10, **base),),
        parameters=parameters,
        streams=(stream,) * num_streams,
    )
    with pytest.raises(DecodeError):
        rebuilt(piece)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, 3 * CHUNK_SIZE + 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_partition_is_undone_and_keeps_the_order_within_a_class(size, dtype):
    rng = np.random.default_rng(zlib.crc32(f"{size}".encode()))
    values = rng.integers(0, 200, size).astype(dtype)
    classes = rng.choice([0, 1, 3, 4], size).astype(np.uint8)
    parts = partition(values, classes, range(5))
    assert [part.tolist() for part in parts] == [values[classes == number].tolist() for number in range(5)]
    back = unpartition(parts, classes, range(5))
    assert back.dtype == dtype
    assert back.tolist() == values.tolist()


def test_neighbouring_keys_may_share_a_class():
    keys = np.array([7, 2, 9, 0, 8, 255], np.uint8)
    values = np.arange(6, dtype=np.uint8)
    parts = partition(values, keys, [0, 5, 9])
    assert [part.tolist() for part in parts] == [[3, 1], [0, 4], [2, 5]]
    assert unpartition(parts, keys, [0, 5, 9]).tolist() == values.tolist()


def test_values_are_sorted_by_key_in_chunks_of_64_ki_which_every_decoder_must_know():
    places = np.arange(140_000, dtype=np.uint32)
    keys = (places % 2).astype(np.uint8)
    (part,) = partition(places, keys, [0])
    chunks = [range(0, 65536), range(65536, 131072), range(131072, 140_000)]
    assert part.tolist() == [place for chunk in chunks for key in (0, 1) for place in chunk if place % 2 == key]


def test_parts_that_do_not_fit_their_classes_are_refused():
    classes = np.array([0, 1, 1], np.uint8)
    one, two = np.zeros(1, np.uint8), np.zeros(2, np.uint8)
    with pytest.raises(DecodeError, match="has only"):
        unpartition([two, one], classes, [0, 1])
    with pytest.raises(DecodeError, match="belong"):
        unpartition([two, two], classes, [0, 1])
    for firsts in ([], [1, 2], [0, 0], [0, 5, 4], [0, 256]):
        with pytest.raises(DecodeError, match="begin"):
            check_firsts(firsts)


def tensor_row(**fields):
    defaults = {"number": 1, "codec": SegmentCodec.TENSOR, "file": 0, "offset": 0, "raw_size": 100, "stored_size": 60}
    return SegmentRow(**(defaults | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"base_file": 0},
        {"base_offset": 1},
        {"stored_size": 8 + TAG_SIZE},
        {"stored_size": 100 + 256 * 1024 + 1},
    ],
)
def test_a_tensor_row_names_no_base_and_has_a_bounded_size(fields):
    assert SegmentRow.decode(tensor_row().encode()) == tensor_row()
    with pytest.raises(DecodeError):
        SegmentRow.decode(tensor_row(**fields).encode())


def test_a_tensor_segment_is_not_expanded():
    with pytest.raises(DecodeError, match="rebuilt"):
        expand(tensor_row(), b"x", None)


def test_extents_that_follow_each_other_cost_little():
    extents = tuple(Extent(offset=1000 + 50 * at, size=40, base_file=3, base_offset=2 * 50 * at) for at in range(40))
    near = tuple(Extent(offset=1000 + 50 * at, size=40, base_file=3, base_offset=50 * at) for at in range(40))
    sizes = []
    for each in (extents, near):
        payload = TensorPayload(pieces=(Piece(transform=TransformKind.SAME, extents=each),))
        assert TensorPayload.decode(payload.encode()) == payload
        sizes.append(len(payload.encode()))
    assert sizes[1] < 3 * 40 + 12 < sizes[0]


@pytest.mark.parametrize(("num_extents", "num_streams"), [(512, 0), (1, 255)])
def test_heads_are_bounded_before_anything_is_made_of_them(num_extents, num_streams):
    piece = Piece(
        transform=TransformKind.BYTES,
        extents=(Extent(offset=0, size=1),) * num_extents,
        streams=(Stream(coder=Coder.RAW, count=0, data=b""),) * num_streams,
    )
    with pytest.raises(DecodeError, match="more than"):
        TensorPayload.decode(TensorPayload(pieces=(piece,) * 300).encode())
