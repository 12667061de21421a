"""The cut: segments of at most 4 MiB at whole rows and groups, every byte once, whatever the size of the tensors."""

import pickle
from itertools import islice, pairwise

import pytest

from groundsegment.packer.tensors.catalogue import parts_of
from groundsegment.packer.tensors.cut import cut, pieces_of
from groundsegment.packer.tensors.jobs import BaseRef
from groundsegment.packer.tensors.layouts import nibble_layout_of
from groundsegment.packer.tensors.matching import Match, Run
from groundsegment.packer.tensors.parts import PartKind
from protocol.codec.payload import PIECES_MAX
from protocol.limits import MIB, SEGMENT_SIZE_MAX
from tests.fakes.tensor_files import awq, bf16, gptq, sparse_safetensors, write_safetensors

NAME = "m.safetensors"


def sparse(tmp_path, shapes):
    return parts_of(sparse_safetensors(tmp_path / NAME, shapes), NAME)


def matched(parts, shift=0):
    """Each part's counterpart at the same place, moved by `shift`."""
    return {
        part: Match(
            runs=(
                Run(
                    first=0,
                    num_units=part.num_units,
                    refs=tuple(BaseRef(file="old", offset=member.offset + shift) for member in part.members),
                ),
            ),
            base_name=part.name,
            reason="test",
        )
        for part in parts
    }


def test_a_large_matrix_becomes_even_slabs_of_whole_rows(tmp_path):
    parts = sparse(tmp_path, {"a": ("BF16", (50_000, 576))})
    pieces = [piece for job in cut(parts, {}) for piece in job.pieces if piece.kind is PartKind.FLOATS]
    assert sum(piece.rows for piece in pieces) == 50_000
    assert {piece.columns for piece in pieces} == {576}
    sizes = [piece.size_bytes for piece in pieces]
    assert max(sizes) <= SEGMENT_SIZE_MAX
    assert min(sizes) > 0.95 * max(sizes) - 576 * 2 * len(pieces)
    assert len(sizes) == -(-sum(sizes) // SEGMENT_SIZE_MAX)


def test_small_tensors_are_gathered_in_one_segment(tmp_path):
    parts = sparse(tmp_path, {f"a{i}": ("BF16", (200, 300)) for i in range(100)})
    jobs = list(cut(parts, {}))
    sizes = [job.size_bytes for job in jobs]
    assert max(sizes) <= SEGMENT_SIZE_MAX
    assert min(sizes[:-1]) > SEGMENT_SIZE_MAX - 2 * 200 * 300
    assert sum(sizes) == (tmp_path / NAME).stat().st_size


def test_what_is_left_before_a_large_tensor_travels_with_its_first_slab(tmp_path):
    parts = sparse(tmp_path, {"norm": ("BF16", (576,)), "a": ("BF16", (8192, 1024))})
    jobs = list(cut(parts, {}))
    assert [piece.parts[0] for piece in jobs[0].pieces] == ["(header)", "norm", "a"]
    assert min(job.size_bytes for job in jobs) > 3 * MIB


def test_a_row_longer_than_a_segment_is_cut_inside(tmp_path):
    parts = sparse(tmp_path, {"a": ("F32", (2, 3_000_000))})
    pieces = [piece for job in cut(parts, {}) for piece in job.pieces if piece.kind is PartKind.FLOATS]
    assert {piece.rows for piece in pieces} == {1}
    assert sum(piece.columns for piece in pieces) == 6_000_000
    assert all(piece.columns * 4 == piece.size_bytes <= SEGMENT_SIZE_MAX for piece in pieces)


@pytest.mark.parametrize("shape", [(2**40,), (2**22, 2**13), (1, 2**36), (2**36, 1)])
def test_the_largest_tensors_are_cut_lazily(tmp_path, shape):
    parts = sparse(tmp_path, {"a": ("U8", shape)})
    for job in islice(cut(parts, matched(parts)), 50):
        assert job.size_bytes <= SEGMENT_SIZE_MAX
    last = list(pieces_of(parts[1], None, piece_bytes=2**38))[-1]
    assert last.extents[0].offset + last.extents[0].size_bytes == (tmp_path / NAME).stat().st_size


@pytest.mark.parametrize("maker", [gptq, awq])
def test_groups_are_never_cut(tmp_path, maker):
    path = write_safetensors(tmp_path / NAME, maker("a", inputs=4096, outputs=2048, group=128, seed=1))
    parts = parts_of(path, NAME)
    pieces = [piece for job in cut(parts, {}) for piece in job.pieces if piece.kind is PartKind.NIBBLES]
    assert [len(piece.extents) for piece in pieces] == [3, 3]
    for piece in pieces:
        codes, scales, zeros = (extent.size_bytes for extent in piece.extents)
        assert piece.rows % 128 == 0
        assert (codes, scales, zeros) == (piece.rows * 1024, piece.rows // 128 * 4096, piece.rows // 128 * 1024)


def test_base_offsets_move_along_with_every_extent(tmp_path):
    path = write_safetensors(tmp_path / NAME, gptq("a", inputs=4096, outputs=2048, group=128, seed=1))
    parts = parts_of(path, NAME)
    for job in cut(parts, matched(parts, shift=1000)):
        for piece in job.pieces:
            assert all(extent.base == BaseRef(file="old", offset=extent.offset + 1000) for extent in piece.extents)


def test_tiny_neighbours_are_one_piece(tmp_path):
    shapes = {f"s{i}": ("I64", (2,)) for i in range(50)} | {f"b{i}": ("BF16", (64,)) for i in range(50)}
    parts = sparse(tmp_path, shapes)
    (job,) = cut(parts, {})
    assert [(piece.kind, piece.size_bytes) for piece in job.pieces] == [
        (PartKind.BYTES, parts[0].size_bytes + 800),
        (PartKind.FLOATS, 6400),
    ]
    assert job.pieces[1].parts == tuple(f"b{i}" for i in range(50))
    assert (job.pieces[1].rows, job.pieces[1].columns) == (1, 3200)
    (job,) = cut(parts, matched(parts, shift=8))
    assert [piece.extents[0].base.offset for piece in job.pieces] == [8, parts[51].offset + 8]


def test_vectors_are_joined_only_to_the_base_s(tmp_path):
    parts = sparse(tmp_path, {f"b{i}": ("BF16", (576,)) for i in range(5)})
    (job,) = cut(parts, {})
    assert [len(piece.parts) for piece in job.pieces] == [1] * 6
    (job,) = cut(parts, matched(parts))
    assert [len(piece.parts) for piece in job.pieces] == [1, 5]


def test_neighbours_whose_old_values_are_elsewhere_stay_apart(tmp_path):
    parts = sparse(tmp_path, {"a": ("BF16", (64,)), "b": ("BF16", (64,))})
    matches = matched(parts[:2]) | matched(parts[2:], shift=64)
    (job,) = cut(parts, matches)
    assert [piece.parts for piece in job.pieces] == [("(header)",), ("a",), ("b",)]
    (job,) = cut(parts, matched(parts[:2]))
    assert [piece.has_base for piece in job.pieces] == [True, True, False]


@pytest.mark.parametrize("has_base", [False, True])
def test_small_matrices_of_codes_become_a_taller_one(tmp_path, has_base):
    shapes = {}
    for suffix, kind, columns in (("weight_packed", "I32", 8), ("weight_scale", "BF16", 2)):
        shapes |= {f"{name}.{suffix}": (kind, (16 * rows, columns)) for rows, name in enumerate("abc", 1)}
    parts = sparse(tmp_path, shapes)
    (job,) = cut(parts, matched(parts) if has_base else {})
    assert [(piece.parts, piece.rows, piece.columns) for piece in job.pieces[1:]] == [
        (("a.weight_packed", "b.weight_packed", "c.weight_packed"), 96, 64)
    ]
    assert nibble_layout_of(job.pieces[1]).sizes == [96 * 32, 96 * 4]


@pytest.mark.parametrize(
    "change",
    [
        {"b.weight_packed": ("I32", (16, 12)), "b.weight_scale": ("BF16", (16, 3))},  # wider
        {"b.weight_scale": ("BF16", (16, 1))},  # other groups
        {"a.more": ("BF16", (1,))},  # scales that do not follow each other
    ],
)
def test_other_matrices_of_codes_stay_apart(tmp_path, change):
    codes = {f"{name}.weight_packed": ("I32", (16, 8)) for name in "ab"}
    more = {name: value for name, value in change.items() if name == "a.more"}
    scales = {"a.weight_scale": ("BF16", (16, 2))} | more | {"b.weight_scale": ("BF16", (16, 2))}
    parts = sparse(tmp_path, codes | scales | change)
    (job,) = cut(parts, matched(parts))
    assert [piece.parts for piece in job.pieces if piece.packed] == [("a.weight_packed",), ("b.weight_packed",)]


def test_neighbours_with_a_family_s_scales_between_them_stay_apart(tmp_path):
    shapes = {"a.weight_packed": ("I32", (16, 8)), "s1": ("I64", (2,)), "a.weight_scale": ("BF16", (16, 2))}
    parts = sparse(tmp_path, shapes | {"s2": ("I64", (2,))})
    (job,) = cut(parts, {})
    assert [piece.parts for piece in job.pieces] == [("(header)",), ("a.weight_packed",), ("s1",), ("s2",)]


def test_only_whole_parts_are_joined(tmp_path):
    parts = sparse(tmp_path, {"a": ("I64", (40,)), "b": ("I64", (2,))})
    pieces = [piece for job in cut(parts, {}, segment_bytes=150) for piece in job.pieces]
    assert all(len(piece.parts) == 1 for piece in pieces)


def test_a_segment_has_no_more_pieces_than_a_payload(tmp_path):
    kinds = ("BF16", "F16")
    parts = sparse(tmp_path, {f"a{i}": (kinds[i % 2], (4,)) for i in range(PIECES_MAX + 10)})
    jobs = list(cut(parts, {}))
    assert [len(job.pieces) for job in jobs] == [PIECES_MAX, 11]


def test_jobs_can_be_sent_to_workers(tmp_path):
    path = write_safetensors(tmp_path / NAME, {"a": bf16((8, 64), 1)})
    jobs = list(cut(parts_of(path, NAME), {}))
    assert pickle.loads(pickle.dumps(jobs)) == jobs


def test_no_segment_spans_two_files(tmp_path):
    first = write_safetensors(tmp_path / "a.safetensors", {"a": bf16((8, 64), 1)})
    second = write_safetensors(tmp_path / "b.safetensors", {"b": bf16((8, 64), 1)})
    jobs = list(cut([*parts_of(first, first.name), *parts_of(second, second.name)], {}))
    assert [job.file for job in jobs] == ["a.safetensors", "b.safetensors"]
    assert all(one.offset == 0 for one, _ in pairwise(jobs))
