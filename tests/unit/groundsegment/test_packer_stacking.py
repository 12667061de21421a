"""Four-bit matrices that changed little share a piece, wherever they lie; all others have one of their own."""

import numpy as np
import pytest

from groundsegment.packer import stacking
from groundsegment.packer.stacking import Source, encode_pieces
from groundsegment.packer.tensors.gathering import Gathered
from groundsegment.packer.tensors.jobs import BaseRef, BaseWindow, PieceExtent, PieceJob
from groundsegment.packer.tensors.parts import Packed, Packing, PartKind, Role
from groundsegment.packer.transforms import Effort
from protocol.codec.fourbit.nibble_layout import NibbleLayout
from protocol.codec.kinds import TransformKind
from protocol.codec.payload import TensorPayload
from protocol.codec.rebuild import rebuild
from protocol.limits import SEGMENT_SIZE_MAX, ZSTD_WINDOW_MAX

EFFORT = Effort.of_level(3)
GROUP, COLUMNS = 32, 256


def matrix(at, rows, *, group=GROUP, changed=0.004, still=0, has_base=True, seed=0):
    """A matrix at some place of the file, its base bytes a hundred bytes further; its first rows perhaps unchanged."""
    rng = np.random.default_rng(rows + seed)
    olds = [rng.integers(0, 256, rows * COLUMNS // 2, np.uint8)]
    olds.append((0x3C00 + rng.integers(0, 60, rows * COLUMNS // group)).astype("<u2").view(np.uint8))
    news = [old.copy() for old in olds]
    places = rng.random(news[0].size) < changed
    places[: still * COLUMNS // 2] = False
    news[0][places] ^= 1
    extents = []
    for role, new in zip((Role.CODES, Role.SCALES), news, strict=True):
        base = BaseRef(file="old", offset=at + 100) if has_base else None
        extents.append(PieceExtent(role=role, offset=at, size_bytes=new.size, base=base))
        at += new.size + 20
    packed = Packed(packing=Packing.ROW, group_rows=1, group_columns=group, scale_dtype="BF16")
    piece = PieceJob(
        parts=(f"at {at}",),
        kind=PartKind.NIBBLES,
        dtype="U4",
        rows=rows,
        columns=COLUMNS,
        packed=packed,
        extents=tuple(extents),
    )
    return Source(piece=piece, news=news, olds=olds if has_base else None)


def encode(*sources):
    """Encode and rebuild; returns the pieces."""
    pieces = encode_pieces(sources, {"old": 3}, EFFORT)
    payload = TensorPayload(pieces=tuple(pieces))
    olds, news = {}, {}
    for source in sources:
        for index, extent in enumerate(source.piece.extents):
            news[extent.offset] = source.news[index].tobytes()
            if source.olds is not None:
                olds[extent.base.offset] = source.olds[index].tobytes()
    runs = rebuild(payload.encode(), payload.raw_size, lambda file, at, size: olds[at][:size])
    assert {offset: run.tobytes() for offset, run in runs} == news
    return pieces


def slabs_of(piece):
    return len(NibbleLayout.decode(piece.parameters)[0].slabs)


def test_matrices_that_changed_little_share_a_piece_wherever_they_lie():
    (piece,) = encode(matrix(0, 64), matrix(100_000, 96), matrix(300_000, 8))
    assert piece.transform is TransformKind.NIBBLES_DELTA
    assert slabs_of(piece) == 3
    assert [extent.offset for extent in piece.extents][::2] == [0, 100_000, 300_000]


@pytest.mark.parametrize(
    ("other", "transform"),
    [
        ({"changed": 0}, TransformKind.SAME),
        ({"changed": 0.3}, TransformKind.NIBBLES_DELTA),
        ({"still": 48, "changed": 0.05}, TransformKind.NIBBLES_DELTA),
        ({"group": 64}, TransformKind.NIBBLES_DELTA),
        ({"has_base": False}, TransformKind.NIBBLES),
    ],
    ids=str,
)
def test_a_matrix_of_another_kind_or_fate_has_a_piece_of_its_own(other, transform):
    pieces = encode(matrix(0, 64), matrix(100_000, 96, **other), matrix(300_000, 128))
    assert len(pieces) == 2
    assert slabs_of(pieces[0]) == 2
    assert pieces[1].transform is transform
    assert pieces[1].extents[0].offset == 100_000


def test_a_stack_is_cut_where_a_piece_could_not_name_its_extents(monkeypatch):
    monkeypatch.setattr(stacking, "EXTENTS_MAX", 5)
    pieces = encode(*(matrix(100_000 * at, 64, seed=at) for at in range(5)))
    assert [len(piece.extents) for piece in pieces] == [4, 4, 2]


def test_no_segment_looks_for_matches_in_more_of_the_base_than_a_decoder_reads():
    gathered, room = Gathered(), []
    for number in range(5):
        extent = PieceExtent(role=Role.VALUES, offset=100 * number, size_bytes=1)
        window = BaseWindow(file="old", offset=0, size_bytes=ZSTD_WINDOW_MAX)
        piece = PieceJob(
            parts=("a",), kind=PartKind.BYTES, dtype="U8", rows=1, columns=1, extents=(extent,), window=window
        )
        room.append(gathered.has_room(piece, SEGMENT_SIZE_MAX))
        gathered.add(piece, is_whole=True)
    assert room == [True] * 4 + [False]
    gathered.take()
    assert gathered.has_room(piece, SEGMENT_SIZE_MAX)
