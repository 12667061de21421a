"""Quantized checkpoints: what is written, what is left alone, and how little memory it takes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from groundsegment.errors import InputError
from groundsegment.models import quantize as quantize_module
from groundsegment.models.bfloat16 import from_bfloat16
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import scan_release
from groundsegment.models.rounding import unpack_nibbles
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2, safetensors_header


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_qwen2(tmp_path / "tiny", seed=1, hidden=64, intermediate=96, num_shards=2)


def read_tensor(directory: Path, name: str) -> np.ndarray:
    source = scan_release(directory)
    info = next(tensor for tensor in source.tensors() if tensor.name == name)
    kinds = {"BF16": "<u2", "I8": "i1", "I32": "<i4", "I64": "<i8"}
    with source.path_of(info.file).open("rb") as file:
        file.seek(info.offset)
        values = np.frombuffer(file.read(info.size_bytes), kinds[info.dtype]).reshape(info.shape)
    return from_bfloat16(values.astype(np.uint16)) if info.dtype == "BF16" else values


def relative_error(directory: Path, original: Path, name: str, values: np.ndarray) -> float:
    before = read_tensor(original, name)
    return float(np.linalg.norm(values - before) / np.linalg.norm(before))


def test_int8_is_one_byte_a_weight_and_one_scale_a_row(tiny, tmp_path):
    plan = plan_quantize(scan_release(tiny), format_name="int8")
    seen: list[int] = []
    quantize(plan, tmp_path / "out", progress=seen.append)
    assert sum(seen) == plan.input_bytes
    name = "model.layers.1.mlp.down_proj.weight"
    codes, scales = read_tensor(tmp_path / "out", name), read_tensor(tmp_path / "out", f"{name}_scale")
    assert (codes.dtype, codes.shape, scales.shape) == (np.int8, (64, 96), (64, 1))
    assert relative_error(tmp_path / "out", tiny, name, codes * scales) < 0.01


def test_int4_is_packed_in_words_with_a_scale_a_group(tiny, tmp_path):
    quantize(plan_quantize(scan_release(tiny), format_name="int4"), tmp_path / "out")
    name = "model.layers.0.mlp.down_proj.weight"
    words, scales = (read_tensor(tmp_path / "out", f"{name}_{part}") for part in ("packed", "scale"))
    assert (words.dtype, words.shape, scales.shape) == (np.int32, (64, 12), (64, 3))
    assert read_tensor(tmp_path / "out", f"{name}_shape").tolist() == [64, 96]
    values = unpack_nibbles(words, 96) * np.repeat(scales, 32, axis=1)
    assert relative_error(tmp_path / "out", tiny, name, values) < 0.15


@pytest.mark.parametrize("format_name", ["int8", "int4"])
def test_everything_else_is_copied_byte_for_byte(tiny, tmp_path, format_name):
    quantize(plan_quantize(scan_release(tiny), format_name=format_name), tmp_path / "out")
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"):
        assert np.array_equal(read_tensor(tmp_path / "out", name), read_tensor(tiny, name))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tiny / name).read_bytes()
    config = json.loads((tmp_path / "out/config.json").read_text())
    settings = config.pop("quantization_config")
    assert config == json.loads((tiny / "config.json").read_text())
    assert settings["quant_method"] == "compressed-tensors"
    with safe_open(tmp_path / "out/model.safetensors", "np") as file:  # the reference reader accepts it
        assert "model.norm.weight" in set(file.keys())


def test_the_result_does_not_depend_on_the_size_of_blocks(tiny, tmp_path, monkeypatch):
    plan = plan_quantize(scan_release(tiny), format_name="int4")
    quantize(plan, tmp_path / "whole")
    monkeypatch.setattr(quantize_module, "_BLOCK_VALUES", 700)
    monkeypatch.setattr(quantize_module, "_COPY_BYTES", 100)
    quantize(plan, tmp_path / "blocks")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "blocks/model.safetensors").read_bytes()


def test_a_large_result_is_sharded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize_module, "SHARD_BYTES", 20_000)
    quantize(plan_quantize(scan_release(tiny), format_name="int8"), tmp_path / "out")
    source = scan_release(tmp_path / "out")
    assert sum(file.name.startswith("model-0") for file in source.files) > 3


def test_routers_of_experts_are_not_rounded(tmp_path):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1)
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    assert raw.count(b"layers.0.mlp.up_proj.weight") == 1
    # The header's padding takes up the difference in length.
    size = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + size].replace(b"layers.0.mlp.up_proj.weight", b"layers.0.mlp.gate.weight").ljust(size)
    path.write_bytes(raw[:8] + header + raw[8 + size :])
    plan = plan_quantize(scan_release(directory), format_name="int8")
    assert "model.layers.0.mlp.gate.weight" in {info.name for info in plan.others}
    assert "model.layers.0.mlp.gate" in plan.config["quantization_config"]["ignore"]


def test_a_group_that_does_not_fit_is_refused_with_one_that_does(tiny):
    with pytest.raises(InputError, match="96 columns") as caught:
        plan_quantize(scan_release(tiny), format_name="int4", group_columns=64)
    assert "32" in caught.value.hint
    with pytest.raises(InputError):
        plan_quantize(scan_release(tiny), format_name="int4", group_columns=0)


def test_what_is_quantized_already_is_refused(tiny, tmp_path):
    quantize(plan_quantize(scan_release(tiny), format_name="int8"), tmp_path / "out")
    with pytest.raises(InputError, match="quantized already"):
        plan_quantize(scan_release(tmp_path / "out"), format_name="int4")
    make_tiny_gguf(tmp_path / "m.gguf", seed=1)
    with pytest.raises(InputError, match="a GGUF file") as caught:
        plan_quantize(scan_release(tmp_path / "m.gguf"), format_name="int4")
    assert "model import" in caught.value.hint


def test_integers_are_nothing_to_quantize(tmp_path):
    directory = make_tiny_qwen2(tmp_path / "m", seed=1)
    raw = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(raw.replace(b'"BF16"', b'"I16" '))
    with pytest.raises(InputError, match="no matrix"):
        plan_quantize(scan_release(directory), format_name="int8")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    directory = make_tiny_qwen2(tmp_path / "big", seed=1)
    shape = (16384, 16384)
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("up", "down")]
    header = safetensors_header(dict.fromkeys(names, ("BF16", shape)))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * 2 * shape[0] * shape[1])  # a gigabyte of zeros that takes no space
    code = (
        "import sys; from pathlib import Path;"
        "from groundsegment.models.release import scan_release;"
        "from groundsegment.models.quantize import plan_quantize, quantize;"
        "plan = plan_quantize(scan_release(Path(sys.argv[1])), format_name=sys.argv[3]);"
        "quantize(plan, Path(sys.argv[2]));"
        # Not ru_maxrss: a child inherits that from whoever forked it, here a pytest that may hold torch.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    for format_name in ("int8", "int4"):
        arguments = [sys.executable, "-c", code, directory, tmp_path / format_name, format_name]
        peak_kb = int(subprocess.run(arguments, capture_output=True, check=True).stdout)
        shutil.rmtree(tmp_path / format_name)  # pytest keeps what tests leave behind
        assert peak_kb < 200_000, f"{format_name}: {peak_kb} kB"
