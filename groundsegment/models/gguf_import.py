"""A GGUF file of a Llama or Qwen2 model, dequantized into a Qwen2 checkpoint in Hugging Face layout.

A Llama is a Qwen2 whose query, key and value biases are zero. GGUF stores a Llama's query and key rows in
another order (pairs of a rotation side by side); they are put back. Values are dequantized a block of
rows at a time, so memory does not grow with the model. It is driven by `skyload model import` and knows
nothing of where the file came from.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import to_bfloat16
from groundsegment.models.gguf_file import GgufFile, read_gguf
from groundsegment.models.gguf_tokenizer import check_tokenizer, write_tokenizer
from groundsegment.models.output_directory import check_output, check_space, whole_directory
from groundsegment.models.safetensors_file import CheckpointWriter, TensorSpec
from groundsegment.models.tensor_info import TensorInfo

SHARD_BYTES = 4 << 30
_BLOCK_VALUES = 2 << 20
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_STAGE_HINT = "stage the GGUF file itself; engines of the llama.cpp family serve it as it is"

Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What an import will read and write.

    Attributes:
        source: the GGUF file.
        config: the checkpoint's config.json.
        targets: GGUF tensor to checkpoint tensor.
        bias_specs: zero biases that a Llama does not have.
        dtype: of everything written.
    """

    source: Path
    gguf: GgufFile
    config: dict[str, Any]
    targets: tuple[tuple[TensorInfo, TensorSpec], ...]
    bias_specs: tuple[TensorSpec, ...]
    dtype: Dtype

    @property
    def specs(self) -> list[TensorSpec]:
        """Return all tensors of the checkpoint."""
        return [spec for _, spec in self.targets] + list(self.bias_specs)

    @property
    def input_bytes(self) -> int:
        """Return how many bytes of weights will be read."""
        return sum(tensor.size_bytes for tensor, _ in self.targets)

    @property
    def output_bytes(self) -> int:
        """Return how many bytes of weights will be written."""
        return sum(spec.size_bytes for spec in self.specs)


def plan_import(source: Path, *, dtype: Dtype = "bfloat16") -> ImportPlan:
    """Read the file's header and decide every tensor of the checkpoint.

    Raises:
        InputError: the file holds something that a Qwen2 checkpoint cannot say.
    """
    gguf = read_gguf(source, keep_arrays=True)
    architecture = gguf.metadata.get("general.architecture")
    if architecture not in {"llama", "qwen2"}:
        raise InputError(f"{source}: architecture {architecture!r} is neither llama nor qwen2", hint=_STAGE_HINT)
    check_tokenizer(gguf.metadata)
    code = "BF16" if dtype == "bfloat16" else "F32"
    targets = tuple(
        (tensor, TensorSpec(name=_checkpoint_name(source, tensor.name), dtype=code, shape=tensor.shape))
        for tensor in gguf.tensors
    )
    written = {spec.name: spec for _, spec in targets}
    config = _config(source, gguf, written, dtype)
    biases = tuple(
        TensorSpec(name=spec.name.replace(".weight", ".bias"), dtype=code, shape=spec.shape[:1])
        for spec in written.values()
        if re.search(r"\.[qkv]_proj\.weight$", spec.name) and spec.name.replace(".weight", ".bias") not in written
    )
    return ImportPlan(source=source, gguf=gguf, config=config, targets=targets, bias_specs=biases, dtype=dtype)


def import_gguf(
    plan: ImportPlan, out: Path, *, force: bool = False, progress: Callable[[int], None] | None = None
) -> None:
    """Write the checkpoint.

    Args:
        plan: what to write.
        out: the directory that appears when all is done.
        force: replace a model that is there already.
        progress: called with the number of weight bytes just read from the GGUF file.
    """
    check_output(out, force=force)
    check_space(out, plan.output_bytes)
    with whole_directory(out, force=force) as directory:
        _write_json(directory / "config.json", plan.config)
        _write_json(directory / "generation_config.json", _generation_config(plan.gguf.metadata))
        write_tokenizer(plan.gguf.metadata, directory)
        with CheckpointWriter(directory, plan.specs, shard_bytes=SHARD_BYTES) as writer:
            for spec in plan.bias_specs:
                writer.write(spec.name, bytes(spec.size_bytes))
            for tensor, spec in plan.targets:
                for values, num_read in _values(plan, tensor):
                    stored = to_bfloat16(values) if plan.dtype == "bfloat16" else values
                    writer.write(spec.name, stored.tobytes())
                    if progress:
                        progress(num_read)


def _values(plan: ImportPlan, tensor: TensorInfo) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield blocks of rows in the checkpoint's order as float32 (R, C), with the bytes read for each."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    columns = tensor.shape[-1]
    num_rows = tensor.num_values // columns
    row_bytes = tensor.size_bytes // num_rows
    head_rows = _rotated_head_rows(plan, tensor)
    step = max(1, _BLOCK_VALUES // columns)
    if head_rows:
        step = max(head_rows, step // head_rows * head_rows)
    kind = GGMLQuantizationType[tensor.dtype]
    with plan.source.open("rb") as file:
        file.seek(tensor.offset)
        for first in range(0, num_rows, step):
            count = min(step, num_rows - first)
            block = file.read(count * row_bytes)
            if len(block) != count * row_bytes:
                raise InputError(f"{plan.source}: became shorter while it was read", hint="run the command again")
            raw = np.frombuffer(block, np.uint8).reshape(count, row_bytes)
            values = np.asarray(dequantize(raw, kind), np.float32).reshape(count, columns)
            yield (_unrotate(values, head_rows) if head_rows else values), raw.nbytes


def _rotated_head_rows(plan: ImportPlan, tensor: TensorInfo) -> int:
    """Return the rows per head of a tensor that GGUF keeps in its own order, or 0."""
    is_rotated = re.search(r"\.attn_[qk]\.weight$", tensor.name) is not None
    if plan.gguf.metadata["general.architecture"] != "llama" or not is_rotated:
        return 0
    heads: int = plan.config["num_attention_heads"]
    return int(plan.config["hidden_size"]) // heads


def _unrotate(values: NDArray[np.float32], head_rows: int) -> NDArray[np.float32]:
    """Put rows of whole heads from GGUF's order (0, h/2, 1, h/2+1, ...) back to (0, 1, ..., h-1)."""
    rows, columns = values.shape
    pairs = values.reshape(rows // head_rows, head_rows // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _checkpoint_name(source: Path, name: str) -> str:
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    match = _LAYER.fullmatch(name)
    if match and match[2] in _LAYER_NAMES:
        return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}"
    raise InputError(f"{source}: a Qwen2 checkpoint has no place for tensor {name}", hint=_STAGE_HINT)


def _config(source: Path, gguf: GgufFile, written: Mapping[str, TensorSpec], dtype: Dtype) -> dict[str, Any]:
    metadata = gguf.metadata
    prefix = metadata["general.architecture"]

    def field(name: str) -> Any:  # noqa: ANN401 - int or float by key
        try:
            return metadata[f"{prefix}.{name}"]
        except KeyError:
            raise InputError(f"{source}: no {prefix}.{name}", hint="download the file again") from None

    heads, hidden = field("attention.head_count"), field("embedding_length")
    head_width = metadata.get(f"{prefix}.attention.key_length", hidden // heads)
    rotated = metadata.get(f"{prefix}.rope.dimension_count", head_width)
    if hidden % heads or head_width != hidden // heads or rotated != head_width or head_width % 2:
        raise InputError(f"{source}: its heads are not like a Qwen2's", hint=_STAGE_HINT)
    if f"{prefix}.rope.scaling.type" in metadata:
        raise InputError(f"{source}: it scales its rotary positions", hint=_STAGE_HINT)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": field("feed_forward_length"),
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get(f"{prefix}.attention.head_count_kv", heads),
        "max_position_embeddings": field("context_length"),
        # The file holds a float32 of what was written as a short decimal: 1e-05, not 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(field("attention.layer_norm_rms_epsilon")))),
        "rope_theta": metadata.get(f"{prefix}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "lm_head.weight" not in written,
        "use_sliding_window": False,
        "vocab_size": written["model.embed_tokens.weight"].shape[0],
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        "torch_dtype": dtype,
    }


def _generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    ids = {
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {"do_sample": False} | {key: value for key, value in ids.items() if value is not None}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
