"""Which transform a piece gets, and that a sample of it is enough to say."""

import numpy as np
import pytest

from groundsegment.packer import choosing, transforms
from groundsegment.packer.choosing import encode_piece
from groundsegment.packer.tensors.jobs import BaseRef, PieceExtent, PieceJob
from groundsegment.packer.tensors.parts import PartKind, Role
from groundsegment.packer.transforms import LEVEL_MAX, LEVEL_MIN, Effort
from protocol.codec.kinds import TransformKind
from protocol.codec.rebuild import rebuild_piece

RNG = np.random.default_rng(7)
ROWS, COLUMNS = 2048, 512  # a MiB of int8: tried by a sample
EFFORT = Effort.of_level(3)
CODES = RNG.normal(0, 30, (ROWS, COLUMNS)).round().clip(-127, 127).astype(np.int8).view(np.uint8).reshape(-1)
STATE = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = STATE


def job(rows=ROWS, columns=COLUMNS, *, kind=PartKind.INTEGERS, dtype="I8", has_base=True):
    size = rows * columns
    base = BaseRef(file="old", offset=5) if has_base else None
    extent = PieceExtent(role=Role.VALUES, offset=100, size_bytes=size, base=base)
    return PieceJob(parts=("a",), kind=kind, dtype=dtype, rows=rows, columns=columns, extents=(extent,))


def encode(new, old=None, **facts):
    piece = encode_piece(
        job(has_base=old is not None, **facts), [new], None if old is None else [old], {"old": 3}, EFFORT
    )
    ((offset, made),) = rebuild_piece(piece, lambda file, at, size: old.tobytes())
    assert (offset, made.tobytes()) == (100, new.tobytes())
    return piece


def nudged(values, share=0.03):
    changed = values.copy()
    changed[RNG.random(values.size) < share] += 1
    return changed


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (None, TransformKind.INTEGERS),
        (CODES, TransformKind.SAME),
        (nudged(CODES), TransformKind.INTEGERS_DELTA),
        (RNG.permutation(CODES), TransformKind.INTEGERS),
    ],
    ids=["no base", "unchanged", "near", "unrelated"],
)
def test_what_the_base_is_decides(old, expected):
    piece = encode(CODES, old)
    assert piece.transform is expected
    refs = {(extent.base_file, extent.base_offset) for extent in piece.extents}
    assert refs == ({(3, 5)} if expected.needs_base else {(0xFFFF, 0)})


def test_what_repeats_goes_as_bytes():
    text = np.frombuffer((b"weights and biases of the model " * (ROWS * COLUMNS // 32)), np.uint8)
    assert encode(text).transform is TransformKind.BYTES


def test_a_change_in_one_place_does_not_hide_that_all_others_are_near():
    old = nudged(CODES, 0.001)
    middle = slice(CODES.size * 7 // 16, CODES.size * 9 // 16)
    old[middle] = RNG.permutation(old[middle])
    piece = encode(CODES, old)
    assert piece.transform is TransformKind.INTEGERS_DELTA


@pytest.fixture
def tried(monkeypatch):
    """What was encoded: (transform, bytes), in order."""
    sizes = []

    def ways_of(piece, window=None):
        return tuple(
            transforms.Way(
                transform=way.transform,
                encode=lambda news, olds, effort, least, way=way: (
                    sizes.append((way.transform, sum(map(len, news)))) or way.encode(news, olds, effort, least)
                ),
            )
            for way in transforms.ways_of(piece, window)
        )

    monkeypatch.setattr(choosing, "ways_of", ways_of)
    return sizes


def test_a_large_piece_is_encoded_once_and_tried_by_a_sample(tried):
    encode(CODES, RNG.permutation(CODES))
    assert [transform for transform, size in tried if size == CODES.size] == [TransformKind.INTEGERS]
    sampled = [(transform, size) for transform, size in tried if size != CODES.size]
    assert {transform for transform, _ in sampled} == {TransformKind.INTEGERS, TransformKind.INTEGERS_DELTA}
    assert all(size <= CODES.size // 4 for _, size in sampled)


@pytest.mark.parametrize("rows", [ROWS, ROWS // 8])
def test_what_frequencies_and_matches_leave_no_doubt_of_is_not_tried(tried, rows):
    codes = CODES[: rows * COLUMNS]
    assert encode(codes, nudged(codes), rows=rows).transform is TransformKind.INTEGERS_DELTA
    assert tried == [(TransformKind.INTEGERS_DELTA, codes.size)]


def test_differences_that_repeat_go_as_bytes():
    repeated = np.tile(CODES[: 64 * COLUMNS], ROWS // 64)
    assert encode(CODES + repeated, CODES).transform is TransformKind.BYTES_DELTA


def test_numbers_are_tried_whole_where_a_difference_hides_how_few_they_are(tried):
    assert encode(np.zeros_like(CODES), CODES).transform in {TransformKind.INTEGERS, TransformKind.BYTES}
    assert TransformKind.INTEGERS in {transform for transform, _ in tried}


def test_zstd_is_pushed_only_where_it_is_near_what_numbers_take(monkeypatch):
    levels = []
    encode_bytes = transforms.streams.encode_bytes
    monkeypatch.setattr(
        transforms.streams, "encode_bytes", lambda data, level: levels.append(level) or encode_bytes(data, level=level)
    )
    effort = Effort.of_level(LEVEL_MAX)
    repeated = np.tile(CODES[: 128 * COLUMNS], ROWS // 128)
    facts = (job(has_base=False), [repeated], None, {}, effort)
    assert encode_piece(*facts).transform is TransformKind.BYTES
    assert LEVEL_MAX in levels
    levels.clear()
    encode_piece(job(), [CODES], [nudged(CODES)], {"old": 3}, effort)
    assert set(levels) == {LEVEL_MIN}


@pytest.mark.parametrize("shape", [(1, ROWS * COLUMNS), (3, 400_001), (ROWS * COLUMNS, 1), (2, 2)])
def test_any_shape_can_be_tried(shape):
    rows, columns = shape
    values = np.resize(CODES, rows * columns)
    assert encode(values, nudged(values, 0.01), rows=rows, columns=columns).transform in TransformKind


def test_the_same_bytes_always_take_the_same_way():
    old = nudged(CODES)
    assert encode(CODES, old) == encode(CODES, old)


def test_effort_rises_with_the_level():
    efforts = [Effort.of_level(level) for level in range(LEVEL_MIN, LEVEL_MAX + 1)]
    for name in ("zstd_level", "pcodec_level"):
        levels = [getattr(effort, name) for effort in efforts]
        assert levels == sorted(levels)
        assert levels[0] < levels[-1]
    assert efforts[-1].pcodec_level <= 12
