"""The catalogue: every byte of a file in one part, and what is not understood is bytes, never an error."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from groundsegment.errors import InputError
from groundsegment.packer.tensors.catalogue import GGUF_TYPES, catalogue, parts_of, reader
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.layouts import gguf_layout
from groundsegment.packer.tensors.parts import PartKind
from groundsegment.packer.tensors.quantization import Quantization, parse, quantization_of
from tests.fakes.tensor_files import bf16, int8, sparse_safetensors, write_safetensors


def runs_of(parts):
    return sorted((member.offset, member.size_bytes) for part in parts for member in part.members)


def assert_partition(parts, path):
    runs = runs_of(parts)
    assert [offset for offset, _ in runs[:1]] == ([0] if path.stat().st_size else [])
    assert all(offset + size == after for (offset, size), (after, _) in pairwise(runs))
    assert sum(size for _, size in runs) == path.stat().st_size


def write_gguf(path, types=("Q8_0", "Q4_K"), *, num_tokens=2000, name="tiny", alignment=32):
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.data_alignment = alignment
    writer.add_custom_alignment(alignment)
    writer.add_array("tokenizer.ggml.tokens", [f"token-{i}" for i in range(num_tokens)])
    writer.add_array("tokenizer.ggml.token_type", list(range(num_tokens)))
    writer.add_tensor("output_norm.weight", np.ones(7, np.float32))
    for number, kind in enumerate(types):
        quantization = GGMLQuantizationType[kind]
        row_bytes = {"Q8_0": 34 * 8, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "Q4_0": 18 * 8, "Q4_1": 20 * 8}[kind]
        blocks = np.random.default_rng(number).integers(0, 256, (4, row_bytes), np.uint8)
        writer.add_tensor(f"blk.{number}.weight", blocks, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_type_of_safetensors_has_its_kind(tmp_path):
    kinds = {
        **dict.fromkeys(["BF16", "F16", "F32", "F8_E4M3", "F8_E5M2"], PartKind.FLOATS),
        **dict.fromkeys(["I8", "U8", "BOOL", "I16", "U16", "I32", "U32", "F8_E8M0"], PartKind.INTEGERS),
        **dict.fromkeys(["F64", "I64", "C64", "F6_E2M3"], PartKind.BYTES),
        "F4": PartKind.NIBBLES,
    }
    path = sparse_safetensors(tmp_path / "x.safetensors", {kind: (kind, (4, 8)) for kind in kinds})
    parts = parts_of(path, path.name)
    assert {part.name: part.kind for part in parts if part.stored_dtype} == kinds
    assert_partition(parts, path)


def test_shapes_become_rows_and_columns_and_empty_tensors_nothing(tmp_path):
    tensors = {
        "matrix": bf16((6, 4), 1),
        "experts": bf16((3, 2, 4), 1),
        "vector": bf16((5,), 1),
        "scalar": bf16((), 1),
        "empty": ("BF16", (0, 3), b""),
    }
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    parts = parts_of(path, path.name)
    assert {part.name: (part.rows, part.columns) for part in parts[1:]} == {
        "matrix": (6, 4),
        "experts": (6, 4),
        "vector": (1, 5),
        "scalar": (1, 1),
    }
    assert_partition(parts, path)


@pytest.mark.parametrize("types", [("Q8_0", "Q4_K"), ("Q4_0", "Q4_1", "Q5_K", "Q6_K")])
def test_gguf_blocks_are_understood_and_padding_is_bytes(tmp_path, types):
    path = write_gguf(tmp_path / "x.gguf", types, alignment=128)
    parts = parts_of(path, path.name)
    assert [part.dtype for part in parts if part.kind is PartKind.GGUF] == list(types)
    assert {part.rows for part in parts if part.kind is PartKind.GGUF} == {4}
    assert [part.columns for part in parts if part.kind is PartKind.GGUF] == [256] * len(types)
    assert [part.kind for part in parts if part.name == "(after output_norm.weight)"] == [PartKind.BYTES]
    assert_partition(parts, path)


def test_the_codec_is_told_which_blocks_and_how_long_rows_are(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", ("Q8_0", "Q6_K"))
    pieces = [piece for job in cut(parts_of(path, path.name), {}) for piece in job.pieces]
    layouts = [layout for piece in pieces if (layout := gguf_layout(piece)) is not None]
    assert [(layout.block_type.name, layout.columns) for layout in layouts] == [("Q8_0", 256), ("Q6_K", 256)]


def test_long_metadata_are_parts_of_their_own(tmp_path):
    path = write_gguf(tmp_path / "x.gguf")
    parts = {part.name: part for part in parts_of(path, path.name)}
    raw = path.read_bytes()
    types = parts["(tokenizer.ggml.token_type)"]
    assert raw[types.offset :][: types.size_bytes] == np.arange(2000, dtype="<i4").tobytes()
    tokens = parts["(tokenizer.ggml.tokens)"]
    assert raw[tokens.offset + 8 :][:7] == b"token-0"


def test_short_metadata_stay_together(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", num_tokens=20)
    parts = parts_of(path, path.name)
    assert [part.name for part in parts[:2]] == ["(header)", "output_norm.weight"]


def test_types_that_the_codec_does_not_know_are_bytes(tmp_path):
    assert "IQ2_XS" not in GGUF_TYPES
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    blocks = np.zeros((2, 74), np.uint8)
    writer.add_tensor("a", blocks, raw_dtype=GGMLQuantizationType.IQ2_XS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = parts_of(tmp_path / "x.gguf", "x.gguf")
    assert [part.kind for part in parts if part.name == "a"] == [PartKind.BYTES]
    assert_partition(parts, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", b""),
        ("x.safetensors", b"\xff" * 40),
        ("x.safetensors", (2).to_bytes(8, "little") + b"{}tail that no tensor owns"),
        ("x.safetensors", (20).to_bytes(8, "little") + b"[" * 20),
        ("x.gguf", b"GGUF\x03\x00\x00\x00" + b"\xff" * 16),
        ("x.gguf", b"GGUF"),
        ("tokenizer.json", b'{"a": 1}'),
    ],
)
def test_whatever_is_odd_is_one_part_of_bytes(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    parts = parts_of(path, name)
    assert [(part.kind, part.name, part.size_bytes) for part in parts] == (
        [(PartKind.BYTES, "(all)", len(content))] if content else []
    )


def test_a_truncated_gguf_is_bytes(tmp_path):
    path = write_gguf(tmp_path / "x.gguf")
    raw = path.read_bytes()
    for size in range(0, len(raw), 997):
        path.write_bytes(raw[:size])
        assert_partition(parts_of(path, path.name), path)


def test_huge_tensors_are_only_arithmetic(tmp_path):
    path = sparse_safetensors(tmp_path / "x.safetensors", {"a": ("BF16", (2**20, 2**12)), "b": ("BF16", (2**32 + 8,))})
    parts = parts_of(path, path.name)
    assert [(part.rows, part.columns) for part in parts[1:]] == [(2**20, 2**12), (1, 2**32 + 8)]
    assert_partition(parts, path)


def test_a_release_is_catalogued_file_by_file_in_order_of_names(tmp_path):
    write_safetensors(tmp_path / "b.safetensors", {"x": int8((2, 2), 1)})
    (tmp_path / "a.json").write_text("{}")
    parts = catalogue({"b.safetensors": tmp_path / "b.safetensors", "a.json": tmp_path / "a.json"})
    assert [(part.file, part.name) for part in parts] == [
        ("a.json", "(all)"),
        ("b.safetensors", "(header)"),
        ("b.safetensors", "x"),
    ]


def test_the_name_in_the_release_counts_not_the_path(tmp_path):
    path = write_safetensors(tmp_path / "0af3", {"x": int8((2, 2), 1)})
    parts = parts_of(path, "model.safetensors")
    assert {part.file for part in parts} == {"model.safetensors"}
    assert [part.name for part in parts] == ["(header)", "x"]
    assert reader({"model.safetensors": path})("model.safetensors", 8, 2) == b'{"'


def test_a_file_that_shrank_meanwhile_is_the_operator_s_to_know(tmp_path):
    path = write_safetensors(tmp_path / "x", {"x": int8((2, 2), 1)})
    with pytest.raises(InputError, match="changed while it was read"):
        reader({"x": path})("x", path.stat().st_size - 2, 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}}, (4, 128)),
        ({"quantization_config": {"quant_method": "awq", "w_bit": 4, "q_group_size": 64}}, (4, 64)),
        ({"quantization_config": {"config_groups": {"g": {"weights": {"num_bits": 8, "group_size": None}}}}}, (8, 0)),
        ({"quantization_config": {"config_groups": {"g": 3, "h": {"weights": [1]}}}}, (0, 0)),
        ({"quantization_config": {"bits": True, "group_size": -1}}, (0, 0)),
        ({"quantization_config": [1]}, (0, 0)),
        ({}, (0, 0)),
        ([1], (0, 0)),
    ],
)
def test_configs_of_all_spellings_are_hints(tmp_path, config, expected):
    path: Path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = quantization_of({"config.json": path})
    assert (found.num_bits, found.group_size) == expected


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False), ("yes", False)])
def test_groups_out_of_order_are_said_by_desc_act(value, expected):
    assert parse({"quant_method": "gptq", "desc_act": value}).is_reordered is expected


def test_a_config_that_is_not_json_is_no_hint(tmp_path):
    for text in ("", "{", "[" * 100_000, "\0"):
        (tmp_path / "config.json").write_text(text)
        assert quantization_of({"config.json": tmp_path / "config.json"}) == Quantization()
