"""Small random LoRA adapters in PEFT's layout, made without torch; the same bytes for the same arguments."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from groundsegment.models.safetensors_file import read_header
from protocol.adapters import base_note
from protocol.adapters.header import Source
from protocol.adapters.merge import Adapter, Merge
from protocol.adapters.names import NOTE_NAME
from protocol.manifest import AdapterEntry, AdapterUse
from tests.fakes.models import safetensors_header, to_bf16_bytes, write_json, write_safetensors
from tests.fakes.updates import FakeGround, FakeUpdate, digest_of, file_entries

CONFIG: Mapping[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
"""What peft 0.17 writes."""


def make_tiny_adapter(
    directory: Path,
    base: Path,
    *,
    seed: int,
    rank: int = 4,
    gain: float = 0.5,
    modules: Sequence[str] = ("q_proj", "v_proj", "down_proj"),
    dtype: str = "F32",
    **settings: Any,
) -> Path:
    """Write a random adapter for the layers of a base that have these names.

    Args:
        directory: made if missing; files in it are overwritten.
        base: a model directory, quantized or not.
        seed: decides every value.
        rank: of it.
        gain: how large the change is, against the weights.
        modules: last parts of the names of the layers that it changes.
        dtype: of its factors: BF16 or F32.
        settings: of adapter_config.json, other than usual.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for path in sorted(base.glob("*.safetensors")):
        for info in read_header(path)[0]:
            layer = info.name.removesuffix(".weight")
            if layer == info.name or layer.rpartition(".")[2] not in modules:
                continue
            rows, columns = info.shape
            factors = {"A": rng.normal(0, 1, (rank, columns)), "B": rng.normal(0, gain / columns, (rows, rank))}
            for letter, value in factors.items():
                name = f"base_model.model.{layer}.lora_{letter}.weight"
                as_float = value.astype("<f4")
                raw = to_bf16_bytes(as_float) if dtype == "BF16" else as_float.tobytes()
                tensors[name] = (dtype, value.shape, raw)
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    write_json(directory / "adapter_config.json", {**CONFIG, "r": rank, "target_modules": list(modules), **settings})
    return directory


def file_source(path: Path) -> Source:
    """Return a file as what `protocol.adapters` reads."""
    data = path.read_bytes()
    return bytes_source(data)


def bytes_source(data: bytes) -> Source:
    """Return bytes as what `protocol.adapters` reads."""

    def read(offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(data)
        return data[offset : offset + size]

    return Source(size_bytes=len(data), read=read)


def smallest_release() -> dict[str, bytes]:
    """Return a base of one layer in some hundred bytes, which no engine loads."""
    weight, scale = np.arange(-16, 16, dtype="<f4") / 8, b"\0\0\x80\x3f" * 2
    tensors = {
        "l.weight": ("BF16", (8, 4), to_bf16_bytes(weight.reshape(8, 4))),
        "n.weight": ("F32", (2,), scale),
    }
    header = safetensors_header({name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()})
    weights = header + b"".join(raw for _, _, raw in tensors.values())
    return {"config.json": b'{"model_type": "tiny"}', "model.safetensors": weights}


def smallest_adapter(gain: float = 1.0) -> dict[str, bytes]:
    """Return an adapter of `smallest_release`, rank 1."""
    factors = {
        "base_model.model.l.lora_A.weight": ("F32", (1, 4), np.array([1, -2, 0, 0.5], "<f4") * np.float32(gain)),
        "base_model.model.l.lora_B.weight": ("F32", (8, 1), np.linspace(-1, 1, 8).astype("<f4")),
    }
    header = safetensors_header({name: (dtype, shape) for name, (dtype, shape, _) in factors.items()})
    weights = header + b"".join(value.tobytes() for _, _, value in factors.values())
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}


def merged_files(adapter: Mapping[str, bytes], base: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a base with an adapter merged into them."""
    parsed = Adapter.read(adapter["adapter_config.json"], bytes_source(adapter["adapter_model.safetensors"]))
    merge = Merge.plan(parsed, {name: bytes_source(data) for name, data in base.items()})
    return {name: b"".join(merge.blocks(name)) for name in base}


def make_adapter_update(
    ground: FakeGround, adapter: Mapping[str, bytes], base: dict[str, bytes], use: AdapterUse, **options: Any
) -> FakeUpdate:
    """Cut, sign and wrap an adapter; its `files` are what is to be in the release's directory."""
    if use is AdapterUse.MERGE:
        files, entry = merged_files(adapter, base), AdapterEntry.to_merge(file_entries(dict(adapter)))
        update = ground.make_update(dict(adapter), signed_files=files, **options)
    else:
        files = {**adapter, NOTE_NAME: base_note.encode(digest_of(base))}
        update, entry = ground.make_update(files, **options), AdapterEntry(use=use)
    signed = ground.sign_again(update, base=digest_of(base), adapter=entry)
    return replace(signed, files=files)
