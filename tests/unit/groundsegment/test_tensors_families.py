"""Quantized matrices: each quantizer's codes find their scales and zero points, and are cut with exactly these."""

import json

import pytest

from groundsegment.packer.tensors import cut
from groundsegment.packer.tensors.catalogue import catalogue, parts_of
from groundsegment.packer.tensors.layouts import nibble_layout_of
from groundsegment.packer.tensors.parts import Packing, PartKind, Role
from groundsegment.packer.tensors.quantization import Quantization
from tests.fakes.tensor_files import awq, bf16, f16, gptq, int8, pack_quantized, words, write_safetensors

NAME = "model.safetensors"


def family_of(tmp_path, tensors, *, metadata=None, quantization=None):
    path = write_safetensors(tmp_path / NAME, tensors, metadata)
    parts = parts_of(path, NAME, *([quantization] if quantization else []))
    lead = next(iter(tensors))
    return next(part for part in parts if part.name == lead), parts


def roles(part):
    return [(member.name.rpartition(".")[2], member.role) for member in part.members]


def test_gptq_is_cut_along_the_inputs_group_by_group(tmp_path):
    part, parts = family_of(tmp_path, gptq("a.q_proj", inputs=256, outputs=64, group=32, seed=1))
    assert part.kind is PartKind.NIBBLES
    assert roles(part) == [("qweight", Role.CODES), ("scales", Role.SCALES), ("qzeros", Role.ZEROS)]
    assert (part.rows, part.columns, part.unit_rows, part.num_units) == (256, 64, 32, 8)
    assert (part.packed.packing, part.packed.group_rows, part.packed.group_columns) == (Packing.GPTQ, 32, 1)
    assert [member.unit_bytes for member in part.members] == [32 * 64 // 2, 64 * 2, 64 // 2]
    assert [each.kind for each in parts if each.name.endswith("g_idx")] == [PartKind.INTEGERS]


def test_gptq_of_eight_bits_holds_bytes_by_themselves(tmp_path):
    part, parts = family_of(tmp_path, gptq("a", inputs=64, outputs=16, group=32, seed=1, num_bits=8))
    assert (part.kind, part.dtype, len(part.members)) == (PartKind.INTEGERS, "U8", 1)
    assert (part.rows, part.columns) == (16, 64)
    assert {(each.name, each.dtype) for each in parts} >= {("a.qzeros", "U8"), ("a.scales", "F16")}


def test_awq_is_told_from_gptq_by_its_shapes_alone(tmp_path):
    part, _ = family_of(tmp_path, awq("a", inputs=256, outputs=64, group=128, seed=1))
    assert part.packed.packing is Packing.AWQ
    assert (part.rows, part.columns, part.unit_rows, part.num_units) == (256, 64, 128, 2)
    assert [member.unit_bytes for member in part.members] == [128 * 64 // 2, 64 * 2, 64 // 2]


@pytest.mark.parametrize("zeros", [False, True])
def test_compressed_tensors_int4_is_cut_along_the_rows(tmp_path, zeros):
    tensors = pack_quantized("a", rows=64, columns=256, group=64, seed=1, zeros=zeros)
    part, _ = family_of(tmp_path, tensors)
    assert part.packed.packing is Packing.ROW
    assert (part.rows, part.columns, part.packed.group_columns) == (64, 256, 64)
    # Eight rows of zero points share an int32, so that only every eighth row is a place to cut at.
    assert part.unit_rows == (8 if zeros else 1)
    assert len(part.members) == (3 if zeros else 2)


def test_zero_points_of_a_last_int32_that_is_not_full_stay_by_themselves(tmp_path):
    part, parts = family_of(tmp_path, pack_quantized("a", rows=12, columns=64, group=32, seed=1, zeros=True))
    assert len(part.members) == 2
    assert [each.kind for each in parts if each.name == "a.weight_zero_point"] == [PartKind.NIBBLES]


def test_the_stored_shape_tells_eight_bits_from_four(tmp_path):
    part, _ = family_of(tmp_path, pack_quantized("a", rows=16, columns=64, group=32, seed=1, num_bits=8))
    assert (part.kind, part.dtype, part.columns) == (PartKind.INTEGERS, "U8", 64)


def test_experts_of_one_tensor_are_rows_one_below_the_other(tmp_path):
    tensors = {"a.weight_packed": words((4, 16, 8), 1), "a.weight_scale": bf16((4, 16, 2), 2)}
    part, _ = family_of(tmp_path, tensors)
    assert (part.rows, part.columns, part.num_units, len(part.members)) == (64, 64, 64, 2)


def test_one_scale_a_row_may_have_one_axis_or_two(tmp_path):
    for shape in ((64,), (64, 1)):
        tensors = {"a.weight_packed": words((64, 8), 1), "a.weight_scale": bf16(shape, 2)}
        part, _ = family_of(tmp_path, tensors)
        assert (part.packed.group_columns, [member.unit_bytes for member in part.members]) == (64, [32, 2])


@pytest.mark.parametrize(
    "scale", [bf16((1,), 2), bf16((64, 3), 2), bf16((2, 64), 2), ("F64", (64, 1), bytes(512)), int8((64, 1), 2)]
)
def test_scales_that_do_not_fit_the_rows_stay_by_themselves(tmp_path, scale):
    part, parts = family_of(tmp_path, {"a.weight_packed": words((64, 8), 1), "a.weight_scale": scale})
    assert (part.kind, len(part.members)) == (PartKind.NIBBLES, 1)
    assert {each.name for each in parts} == {"(header)", "a.weight_packed", "a.weight_scale"}


@pytest.mark.parametrize("name", ["a.weight", "a._weight_qdata"])
def test_int8_codes_are_integers_and_their_scales_floats(tmp_path, name):
    part, parts = family_of(tmp_path, {name: int8((48, 32), 1), f"{name}_scale": bf16((48, 1), 2)})
    assert (part.kind, part.dtype, part.rows, part.columns) == (PartKind.INTEGERS, "I8", 48, 32)
    assert [each.kind for each in parts] == [PartKind.BYTES, PartKind.INTEGERS, PartKind.FLOATS]


def test_torchao_int4_has_scales_across_its_rows_and_its_codes_go_alone(tmp_path):
    tensors = {
        "a._weight_qdata": int8((16, 32), 1),
        "a._weight_scale": bf16((2, 16), 2),
        "a._weight_zero_point": bf16((2, 16), 3),
    }
    part, parts = family_of(tmp_path, tensors, metadata={"a.weight": json.dumps({"_type": "Int4Tensor", "_data": {}})})
    assert (part.kind, part.columns, len(part.members)) == (PartKind.NIBBLES, 64, 1)
    assert [each.kind for each in parts if each.name != part.name and each.stored_dtype] == [PartKind.FLOATS] * 2


def test_odd_metadata_is_no_hint_and_no_error(tmp_path):
    tensors = {"a._weight_qdata": int8((16, 32), 1)}
    part, _ = family_of(tmp_path, tensors, metadata={"a.weight": "[" * 5000, "tensor_names": "3", "b": '{"_type": 7}'})
    assert part.kind is PartKind.INTEGERS


@pytest.mark.parametrize(
    "change",
    [
        {"a.scales": f16((3, 64), 5)},  # 256 inputs do not make three groups
        {"a.scales": f16((8, 60), 5)},
        {"a.qzeros": words((8, 9), 5)},
        {"a.qweight": words((32, 64, 1), 5)},
    ],
)
def test_shapes_that_do_not_fit_make_no_family(tmp_path, change):
    tensors = gptq("a", inputs=256, outputs=64, group=32, seed=1) | change
    _, parts = family_of(tmp_path, tensors)
    assert all(len(part.members) == 1 for part in parts)


def test_groups_out_of_order_make_no_family(tmp_path):
    hint = Quantization(method="gptq", num_bits=4, group_size=32, is_reordered=True)
    part, _ = family_of(tmp_path, gptq("a", inputs=256, outputs=64, group=32, seed=1), quantization=hint)
    assert (part.kind, len(part.members)) == (PartKind.NIBBLES, 1)
    packed = pack_quantized("b", rows=8, columns=64, group=32, seed=1) | {"b.weight_g_idx": words((64,), 3)}
    part, _ = family_of(tmp_path, packed)
    assert len(part.members) == 1


def test_a_group_that_no_segment_holds_makes_no_family(tmp_path):
    tensors = gptq("a", inputs=32768, outputs=512, group=32768, seed=1)
    part, _ = family_of(tmp_path, tensors)
    assert (len(part.members), part.num_units) == (1, 4096)


def test_codes_alone_are_cut_too_and_say_their_rows(tmp_path):
    part, _ = family_of(tmp_path, {"a.qweight": words((64, 32), 1)})
    assert (part.rows, part.columns, part.packed.scale_dtype) == (512, 32, "")
    pieces = list(cut.pieces_of(part, None, piece_bytes=1000))
    assert len(pieces) > 2
    assert sum(piece.rows for piece in pieces) == 512
    assert all(piece.rows * piece.columns == 2 * piece.size_bytes for piece in pieces)


def test_scales_in_another_shard_leave_the_codes_alone(tmp_path):
    tensors = gptq("a", inputs=256, outputs=64, group=32, seed=1)
    codes = {"a.qweight": tensors.pop("a.qweight")}
    write_safetensors(tmp_path / "1.safetensors", codes)
    write_safetensors(tmp_path / "2.safetensors", tensors)
    parts = {part.name: part for part in catalogue({f"{i}.safetensors": tmp_path / f"{i}.safetensors" for i in (1, 2)})}
    assert parts["a.qweight"].kind is PartKind.NIBBLES
    assert parts["a.qzeros"].kind is PartKind.NIBBLES
    assert parts["a.scales"].kind is PartKind.FLOATS
    assert all(len(part.members) == 1 for part in parts.values())


def test_the_config_settles_what_shapes_leave_open(tmp_path):
    codes = {"a.qweight": words((64, 8), 1)}
    write_safetensors(tmp_path / NAME, codes)
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    paths = {name: tmp_path / name for name in ("config.json", NAME)}
    assert {part.name: part for part in catalogue(paths)}["a.qweight"].packed.packing is Packing.AWQ


@pytest.mark.parametrize(
    "tensors",
    [
        gptq("a", inputs=512, outputs=64, group=32, seed=1),
        awq("a", inputs=512, outputs=64, group=64, seed=1),
        pack_quantized("a", rows=80, columns=256, group=32, seed=1),
        pack_quantized("a", rows=80, columns=256, group=32, seed=1, zeros=True),
    ],
)
def test_every_slab_has_exactly_the_scales_of_its_codes(tmp_path, tensors):
    part, _ = family_of(tmp_path, tensors)
    pieces = list(cut.pieces_of(part, None, piece_bytes=3000))
    assert len(pieces) > 2
    assert sum(piece.rows for piece in pieces) == part.rows
    for piece in pieces:
        layout = nibble_layout_of(piece)
        assert layout is not None
        assert layout.sizes == [extent.size_bytes for extent in piece.extents]
