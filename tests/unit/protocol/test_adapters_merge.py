"""A merged release is what the rule says, file by file, from any base that has a rule; others are refused."""

import hashlib
import json

import numpy as np
import pytest

from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import scan_release
from protocol.adapters import rule
from protocol.adapters.errors import AdapterError
from protocol.adapters.header import read_tensors
from protocol.adapters.merge import Adapter, Merge, find_targets
from protocol.adapters.names import RULE
from tests.fakes.adapters import (
    bytes_source,
    file_source,
    make_tiny_adapter,
    merged_files,
    smallest_adapter,
    smallest_release,
)
from tests.fakes.models import make_tiny_qwen2, write_json, write_safetensors


@pytest.fixture
def base(tmp_path):
    return make_tiny_qwen2(tmp_path / "base", seed=1, num_shards=2)


def sources(directory):
    return {path.name: file_source(path) for path in sorted(directory.iterdir())}


def adapter_of(directory):
    config = (directory / "adapter_config.json").read_bytes()
    return Adapter.read(config, file_source(directory / "adapter_model.safetensors"))


def merged(adapter_directory, base_directory):
    merge = Merge.plan(adapter_of(adapter_directory), sources(base_directory))
    return merge, {name: b"".join(merge.blocks(name)) for name in merge.base}


def tensors_of(data_by_name):
    found = {}
    for name, data in data_by_name.items():
        if name.endswith(".safetensors"):
            for tensor in read_tensors(bytes_source(data), name).values():
                found[tensor.name] = tensor, data[tensor.offset : tensor.end]
    return found


def files_of(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def reference(adapter_directory, layer):
    """W + scale * B A with numpy's own product, as float64."""
    factors = tensors_of(files_of(adapter_directory))
    values = []
    for letter in "BA":
        tensor, raw = factors[f"base_model.model.{layer}.lora_{letter}.weight"]
        values.append(rule.widen(raw, tensor.dtype).reshape(tensor.shape))
    settings = json.loads((adapter_directory / "adapter_config.json").read_bytes())
    return settings["lora_alpha"] / settings["r"] * (values[0] @ values[1])


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_weights_of_the_layers_are_merged_and_every_other_byte_stays(tmp_path, base, dtype):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2, dtype=dtype)
    merge, files = merged(adapter, base)
    old, new = tensors_of(files_of(base)), tensors_of(files)
    assert {name: len(data) for name, data in files.items()} == {n: len(d) for n, d in files_of(base).items()}
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {target.weight.name for targets in merge.targets.values() for target in targets}
    assert len(changed) == 6
    assert all(files[n] == d for n, d in files_of(base).items() if not n.endswith(".safetensors"))
    for name in changed:
        raw = old[name][1]
        exact = rule.widen(raw, "BF16") + reference(adapter, name.removesuffix(".weight")).reshape(-1)
        got = rule.widen(new[name][1], "BF16")
        assert (np.abs(got - exact) <= np.abs(exact) * 2.0**-8 + 1e-9).all(), name
        assert (got != rule.widen(raw, "BF16")).mean() > 0.5, name


def test_the_rule_is_pinned():
    """A difference here is another rule: it needs another number, and what flies under this one must not change."""
    files = merged_files(smallest_adapter(), smallest_release())
    assert RULE == 1
    assert (
        hashlib.sha256(files["model.safetensors"]).hexdigest()
        == "7db134b91a6e3e0bd04a476d239fe92f7cfcd7534933db24168bf0a3433f40f9"
    )


def test_the_size_of_a_block_does_not_matter(tmp_path, base, monkeypatch):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2)
    whole = merged(adapter, base)[1]
    monkeypatch.setattr("protocol.adapters.merge._BLOCK_VALUES", 100)
    monkeypatch.setattr("protocol.adapters.merge._COPY_SIZE", 77)
    assert merged(adapter, base)[1] == whole


def test_an_adapter_of_zeros_changes_no_bit(tmp_path, base):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2, gain=0.0)
    assert merged(adapter, base)[1] == files_of(base)


def test_an_int8_base_is_merged_on_its_own_grid(tmp_path, base):
    quantize(plan_quantize(scan_release(base), format_name="int8"), tmp_path / "int8")
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2)
    _, files = merged(adapter, tmp_path / "int8")
    old, new = tensors_of(files_of(tmp_path / "int8")), tensors_of(files)
    changed = sorted(name for name in old if old[name] != new[name])
    assert len(changed) == 6
    for name in changed:
        tensor, codes = old[name]
        assert tensor.dtype == "I8"
        scale = rule.widen(old[f"{name}_scale"][1], "BF16")[:, None]
        t = reference(adapter, name.removesuffix(".weight"))
        exact = np.frombuffer(codes, np.int8).reshape(tensor.shape) + t / scale
        got = np.frombuffer(new[name][1], np.int8).reshape(tensor.shape)
        assert (np.abs(np.clip(exact, -128, 127) - got) <= 0.5 + 1e-6).all()


def test_an_int4_base_can_only_be_served_beside(tmp_path, base):
    quantize(plan_quantize(scan_release(base), format_name="int4", group_columns=32), tmp_path / "int4")
    adapter = adapter_of(make_tiny_adapter(tmp_path / "lora", base, seed=2))
    assert len(find_targets(adapter, sources(tmp_path / "int4"))) == 6
    with pytest.raises(AdapterError, match="4-bit codes") as caught:
        Merge.plan(adapter, sources(tmp_path / "int4"))
    assert "beside" in caught.value.hint


def test_an_adapter_of_another_base_is_refused(tmp_path, base):
    larger = make_tiny_qwen2(tmp_path / "larger", seed=1, hidden=64)
    deeper = make_tiny_qwen2(tmp_path / "deeper", seed=1, layers=3)
    with pytest.raises(AdapterError, match=r"the adapter is for \[64"):
        find_targets(adapter_of(make_tiny_adapter(tmp_path / "a", larger, seed=2)), sources(base))
    with pytest.raises(AdapterError, match="has no layer"):
        find_targets(adapter_of(make_tiny_adapter(tmp_path / "b", deeper, seed=2)), sources(base))
    with pytest.raises(AdapterError, match="no safetensors"):
        find_targets(adapter_of(tmp_path / "b"), {})


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({}, "no factors"),
        ({"base_model.model.x.lora_A.weight": ("F32", (4, 8), bytes(128))}, "one of its two"),
        ({"base_model.model.x.lora_embedding_A": ("F32", (4, 8), bytes(128))}, "no factor"),
        ({"base_model.model.x.lora_magnitude_vector": ("F32", (8,), bytes(32))}, "no factor"),
        ({"x.weight": ("F32", (8,), bytes(32))}, "no factor"),
    ],
)
def test_hostile_weights_are_refused(tmp_path, base, tensors, word):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2)
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    with pytest.raises(AdapterError, match=word):
        adapter_of(adapter)


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (("F32", (3, 8), bytes(96)), ("F32", (8, 4), bytes(128)), "its rank is 4"),
        (("F32", (4, 8), bytes(128)), ("F32", (4, 8), bytes(128)), "its rank is 4"),
        (("I8", (4, 8), bytes(32)), ("F32", (8, 4), bytes(128)), "I8 of shape"),
        (("F32", (4, 0), b""), ("F32", (8, 4), bytes(128)), r"F32 of shape \[4, 0\]"),
        (("F32", (4, 8, 1), bytes(128)), ("F32", (8, 4), bytes(128)), "F32 of shape"),
    ],
)
def test_factors_that_do_not_go_together_are_refused(tmp_path, base, a, b, word):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2)
    names = {"base_model.model.x.lora_A.weight": a, "base_model.model.x.lora_B.weight": b}
    write_safetensors(adapter / "adapter_model.safetensors", names)
    with pytest.raises(AdapterError, match=word):
        adapter_of(adapter)


def test_a_rank_pattern_in_the_tensors_alone_is_refused(tmp_path, base):
    adapter = make_tiny_adapter(tmp_path / "lora", base, seed=2)
    settings = json.loads((adapter / "adapter_config.json").read_bytes())
    write_json(adapter / "adapter_config.json", settings | {"r": 5})
    with pytest.raises(AdapterError, match="its rank is 5"):
        adapter_of(adapter)
