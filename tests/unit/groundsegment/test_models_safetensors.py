"""safetensors files: what the writer writes other readers read, and what the reader refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from groundsegment.errors import InputError
from groundsegment.models.safetensors_file import CheckpointWriter, SafetensorsWriter, TensorSpec, read_header


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(begin: int, end: int, *, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_the_reference_reader_reads_what_was_written_in_blocks(tmp_path):
    values = {
        "b": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a": np.arange(7, dtype=np.int8),
        "c": np.arange(2, dtype=np.int64),
    }
    codes = {"b": "F32", "a": "I8", "c": "I64"}
    specs = [TensorSpec(name=name, dtype=codes[name], shape=value.shape) for name, value in values.items()]
    writer = SafetensorsWriter(tmp_path / "x.safetensors", specs)
    writer.write("a", values["a"][:3].tobytes())
    writer.write("b", values["b"][:2].tobytes())
    writer.write("c", values["c"].tobytes())
    writer.write("b", values["b"][2:].tobytes())
    assert not writer.is_complete()
    writer.write("a", values["a"][3:].tobytes())
    writer.close()
    read = load_file(tmp_path / "x.safetensors")
    assert {name: value.tolist() for name, value in read.items()} == {k: v.tolist() for k, v in values.items()}
    tensors, metadata = read_header(tmp_path / "x.safetensors")
    assert [tensor.name for tensor in tensors] == ["c", "b", "a"]
    assert metadata == {"format": "pt"}


def test_wide_types_come_first_so_that_all_are_aligned(tmp_path):
    specs = [
        TensorSpec(name="codes", dtype="I8", shape=(3,)),
        TensorSpec(name="scale", dtype="BF16", shape=(1,)),
        TensorSpec(name="shape", dtype="I64", shape=(2,)),
        TensorSpec(name="packed", dtype="I32", shape=(1,)),
    ]
    with CheckpointWriter(tmp_path, specs, shard_bytes=1 << 30) as writer:
        for spec in specs:
            writer.write(spec.name, bytes(spec.size_bytes))
    widths = {"codes": 1, "scale": 2, "shape": 8, "packed": 4}
    for tensor in read_header(tmp_path / "model.safetensors")[0]:
        assert tensor.offset % widths[tensor.name] == 0


def test_shards_hold_at_most_what_they_should_and_have_an_index(tmp_path):
    specs = [TensorSpec(name=f"t{number}", dtype="U8", shape=(60,)) for number in range(5)]
    with CheckpointWriter(tmp_path, specs, shard_bytes=130) as writer:
        for spec in specs:
            writer.write(spec.name, bytes(60))
    assert writer.file_names == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 300
    for name, shard in index["weight_map"].items():
        assert name in {tensor.name for tensor in read_header(tmp_path / shard)[0]}


def test_forgetting_a_block_is_our_own_mistake(tmp_path):
    writer = SafetensorsWriter(tmp_path / "x", [TensorSpec(name="a", dtype="U8", shape=(2,))])
    writer.write("a", b"1")
    with pytest.raises(AssertionError):
        writer.close()
    with pytest.raises(AssertionError):
        writer.write("a", b"23")
    writer.abandon()


@pytest.mark.parametrize(
    ("header", "data", "complaint"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"1", "twice"),
        ({"a": entry(0, 1), "b": entry(2, 3)}, b"123", "starts at"),
        ({"a": entry(0, 2), "b": entry(1, 3)}, b"123", "starts at"),
        ({"a": entry(0, 2)}, b"1", "promises"),
        ({"a": entry(0, 2)}, b"123", "promises"),
        ({"a": entry(0, 2, dtype="OBJECT")}, b"12", "unknown type"),
        ({"a": entry(0, 2, dtype="F32", shape=[1])}, b"12", "expected 4"),
        ({"a": entry(0, 1, dtype="F4", shape=[1])}, b"1", "expected 0.5"),
        ({"a": entry(0, 2, shape=[-2])}, b"12", "unusable shape"),
        ({"a": entry(0, 2, shape=[True, 2])}, b"12", "unusable shape"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 0]}}, b"12", "spans -2"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0]}}, b"12", "unusable"),
        ({"a": [1]}, b"", "not described"),
        ({"a": entry(0, 2) | {"extra": 1}}, b"12", "not described"),
        ({"__metadata__": {"a": 1}}, b"", "text to text"),
        ([1], b"", "not a JSON object"),
        (b"{", b"12345678", "not usable JSON"),
        (b"\xff\xfe", b"12345678", "not usable JSON"),
        (b"[" * 100_000, b"", "not usable JSON"),
    ],
)
def test_a_broken_header_is_refused(tmp_path, header, data, complaint):
    path = write_raw(tmp_path / "x.safetensors", header, data)
    with pytest.raises(InputError, match=complaint) as caught:
        read_header(path)
    assert caught.value.hint


@pytest.mark.parametrize("raw", [b"", b"\1\0\0", b"\xff" * 16, (2**40).to_bytes(8, "little") + b"{}"])
def test_an_impossible_header_length_is_refused(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="does not fit"):
        read_header(path)
