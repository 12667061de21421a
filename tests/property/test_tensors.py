"""Whatever tensors a release has, and whatever its base: every byte once, whole rows and groups, and the same again."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundsegment.models.safetensors_file import DTYPE_BITS
from groundsegment.packer.tensors.catalogue import parts_of, reader
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.layouts import float_layout, integer_layout, nibble_layout_of
from groundsegment.packer.tensors.matching import match, removed, why_unmatched
from groundsegment.packer.tensors.parts import PartKind
from tests.fakes.tensor_files import gptq, pack_quantized

NAME = "m.safetensors"
SUFFIXES = ("weight", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_shape")
SUFFIXES += ("weight_zero_point", "_weight_qdata", "_weight_scale", "SCB", "bias")


@st.composite
def tensor_lists(draw):
    """Names that quantizers use, with types and shapes that mostly do not go together."""
    names = draw(
        st.lists(
            st.builds("{}.{}".format, st.sampled_from("abc"), st.sampled_from(SUFFIXES)),
            min_size=1,
            max_size=8,
            unique=True,
        )
    )
    tensors = {}
    for name in names:
        dtype = draw(st.sampled_from(["BF16", "F16", "F32", "I8", "U8", "I32", "I64", "F8_E4M3", "BOOL", "F4"]))
        shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 8, 16, 33]), max_size=2)))
        if dtype == "F4":
            shape = (*shape, 2)
        tensors[name] = (dtype, shape)
    if draw(st.booleans()):
        tensors |= {name: value[:2] for name, value in gptq("q", inputs=64, outputs=16, group=32, seed=1).items()}
    if draw(st.booleans()):
        packed = pack_quantized("p", rows=16, columns=64, group=32, seed=1, zeros=draw(st.booleans()))
        tensors |= {name: value[:2] for name, value in packed.items()}
    return tensors


def write(path: Path, tensors, fill: bytes) -> Path:
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BITS[dtype]
        for axis in shape:
            size *= axis
        size //= 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    data = (fill * (at // len(fill) + 1))[:at]
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def runs(sizes):
    found = sorted(sizes)
    assert all(offset + size == after for (offset, size), (after, _) in pairwise(found))
    return found[0][0], found[-1][0] + found[-1][1]


@settings(max_examples=40, deadline=None)
@given(tensors=tensor_lists(), base=tensor_lists(), segment_bytes=st.integers(200, 5000), fill=st.binary(min_size=1))
def test_every_byte_is_in_one_part_and_in_one_piece(tensors, base, segment_bytes, fill):
    with tempfile.TemporaryDirectory() as place:
        path, old = write(Path(place) / NAME, tensors, fill), write(Path(place) / "old.safetensors", base, fill[::-1])
        parts, base_parts = parts_of(path, NAME), parts_of(old, NAME)
        read, base_read = reader({NAME: path}), reader({NAME: old})
        matches = match(parts, base_parts, read, base_read)
        assert list(match(parts, base_parts, read, base_read).items()) == list(matches.items())
        size, old_size = path.stat().st_size, old.stat().st_size
    members = [(member.offset, member.size_bytes) for part in parts for member in part.members]
    assert runs(members) == (0, size)
    assert set(matches) | set(why_unmatched(parts, base_parts, matches)) == set(parts)
    assert set(removed(base_parts, matches)) <= set(base_parts)
    jobs = list(cut(parts, matches, segment_bytes=segment_bytes))
    pieces = [piece for job in jobs for piece in job.pieces]
    extents = [(x.offset, x.size_bytes) for piece in pieces for x in piece.extents]
    assert runs(extents) == (0, size)
    largest_unit = max(part.unit_bytes for part in parts)
    assert all(job.size_bytes <= max(segment_bytes, largest_unit) for job in jobs)
    for piece in pieces:
        check_piece(piece, old_size)


def check_piece(piece, old_size):
    bases = [extent.base for extent in piece.extents]
    assert all(bases) or not any(bases)
    for extent in piece.extents:
        assert extent.base is None or extent.base.offset + extent.size_bytes <= old_size
    if piece.kind is PartKind.FLOATS:
        assert float_layout(piece).format.size * piece.rows * piece.columns == piece.size_bytes
    if piece.kind is PartKind.INTEGERS:
        assert integer_layout(piece).bits // 8 * piece.rows * piece.columns == piece.size_bytes
    if piece.kind is PartKind.NIBBLES:
        assert nibble_layout_of(piece).sizes == [extent.size_bytes for extent in piece.extents]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"GGUF\x03\0\0\0"]), name=st.sampled_from("ab"))
@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_any_bytes_are_catalogued(content, head, name, suffix):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"{name}{suffix}"
        path.write_bytes(head + content)
        parts = parts_of(path, path.name)
    assert sum(part.size_bytes for part in parts) == len(head + content)
