"""Small random LoRA adapters in PEFT's layout, made without torch; the same bytes for the same arguments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundsegment.models.safetensors_file import read_header
from protocol.adapters.header import Source
from tests.fakes.models import to_bf16_bytes, write_json, write_safetensors

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
