"""Small and large model directories for tests, made without torch.

- `make_tiny_qwen2`: a loadable random Qwen2 release of some 100 kB with its own tokenizer and chat template.
  Greedy answers are readable ASCII, differ from seed to seed, and never end by themselves.
- `make_tiny_gguf`: a small Llama in a GGUF file, with what a Qwen2 checkpoint of it must hold.
- `make_synthetic_release`: a many-shard int8 release of any size for memory and speed tests. It is shaped
  like a quantized model but no engine would answer sensibly with it.

All write the same bytes for the same arguments.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "the satellite answers from orbit and the ground station listens to every pass",
    "what is the capital of France? the capital of France is Paris.",
    "user assistant system hello world model update release contact frame symbol block",
)
_BLOCK_BYTES = 1 << 20
_MASK_BYTES = 1 << 16


def make_tiny_qwen2(
    directory: Path,
    *,
    seed: int,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 64,
    num_shards: int = 1,
    nudge: float = 0.0,
) -> Path:
    """Write a random Qwen2 model that transformers loads and that answers something.

    Args:
        directory: made if missing; files in it are overwritten.
        seed: decides every weight.
        hidden: width; a multiple of `heads`.
        layers: number of decoder layers.
        heads: query heads.
        kv_heads: key and value heads; divides `heads`.
        intermediate: width of the feed-forward part.
        num_shards: weight files; 1 writes model.safetensors, more write shards and an index.
        nudge: relative size of a random change to all weights, like a light fine-tune of the same seed.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tiny_tokenizer(directory)
    vocabulary = tokenizer.get_vocab_size()
    config = _qwen2_config(
        vocabulary=vocabulary,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        intermediate=intermediate,
    )
    write_json(directory / "config.json", config)
    end_id, im_end_id = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)
    write_json(
        directory / "generation_config.json",
        {"do_sample": False, "eos_token_id": im_end_id, "pad_token_id": end_id, "bos_token_id": end_id},
    )
    weights = _tiny_weights(
        tokenizer,
        seed=seed,
        hidden=hidden,
        layers=layers,
        kv_width=hidden // heads * kv_heads,
        intermediate=intermediate,
        nudge=nudge,
    )
    tensors = {name: ("BF16", value.shape, to_bf16_bytes(value)) for name, value in weights}
    _write_shards(directory, tensors, num_shards)
    return directory


def make_synthetic_release(
    directory: Path, size_bytes: int, seed: int, *, shard_bytes: int = 256 << 20, tensor_bytes: int = 16 << 20
) -> Path:
    """Write a release of about `size_bytes` in shards, in bounded memory and near the disk's speed.

    The codes are int8 with a normal distribution, so that about a tenth of the bytes is redundant, as in real
    int8 weights; no stretch repeats.

    Args:
        directory: made if missing; files in it are overwritten.
        size_bytes: of all weights together, to within two tensors.
        seed: decides every byte.
        shard_bytes: largest weight file.
        tensor_bytes: size of one weight matrix; smaller for releases under 64 tensors.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tiny_tokenizer(directory)
    columns = 1024
    rows = max(8, min(tensor_bytes, shard_bytes, size_bytes // 8) // columns)
    per_tensor = rows * columns + 2 * rows
    num_tensors = max(1, round(size_bytes / per_tensor))
    per_shard = max(1, shard_bytes // per_tensor)
    num_shards = math.ceil(num_tensors / per_shard)
    config = _qwen2_config(
        vocabulary=tokenizer.get_vocab_size(),
        hidden=columns,
        layers=num_tensors,
        heads=8,
        kv_heads=8,
        intermediate=rows,
    )
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    write_json(directory / "config.json", config)
    blocks = _int8_blocks(np.random.default_rng(seed))
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        numbers = range(shard * per_shard, min(num_tensors, (shard + 1) * per_shard))
        name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        stems = [f"model.layers.{number}.mlp.up_proj" for number in numbers]
        header: dict[str, tuple[str, tuple[int, ...]]] = {}
        for stem in stems:
            header[f"{stem}.weight"] = ("I8", (rows, columns))
            header[f"{stem}.weight_scale"] = ("BF16", (rows, 1))
        weight_map.update(dict.fromkeys(header, name))
        with (directory / name).open("wb") as file:
            file.write(safetensors_header(header))
            for _ in stems:
                _stream_int8(file, rows * columns, blocks)
                file.write(to_bf16_bytes(np.full((rows, 1), 0.01, np.float32)))
    total = num_tensors * per_tensor
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    return directory


def make_tiny_gguf(
    path: Path, *, seed: int, heads: int = 4, kv_heads: int = 2, matrix_type: str = "Q8_0"
) -> dict[str, NDArray[np.float32]]:
    """Write a one-layer Llama as GGUF, rows of query and key in GGUF's order.

    Args:
        path: the file.
        seed: decides every weight.
        heads: query heads, of 16 each.
        kv_heads: key and value heads.
        matrix_type: GGUF type of the matrices.

    Returns:
        Every tensor that a Hugging Face Llama checkpoint of it holds, by its name there, as the file's values.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import dequantize, quantize

    hidden, width, kv_width = heads * 16, heads * 32, kv_heads * 16
    tokenizer = write_tiny_tokenizer(path.parent)
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    merges = json.loads((path.parent / "tokenizer.json").read_text())["model"]["merges"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_chat_template(CHAT_TEMPLATE)
    rng = np.random.default_rng(seed)
    layer = {
        "attn_q": ("self_attn.q_proj", (hidden, hidden)),
        "attn_k": ("self_attn.k_proj", (kv_width, hidden)),
        "attn_v": ("self_attn.v_proj", (kv_width, hidden)),
        "attn_output": ("self_attn.o_proj", (hidden, hidden)),
        "ffn_gate": ("mlp.gate_proj", (width, hidden)),
        "ffn_up": ("mlp.up_proj", (width, hidden)),
        "ffn_down": ("mlp.down_proj", (hidden, width)),
        "attn_norm": ("input_layernorm", (hidden,)),
        "ffn_norm": ("post_attention_layernorm", (hidden,)),
    }
    shapes = {"token_embd.weight": ("model.embed_tokens.weight", (len(tokens), hidden))}
    shapes["output_norm.weight"] = ("model.norm.weight", (hidden,))
    for name, (target, shape) in layer.items():
        shapes[f"blk.0.{name}.weight"] = (f"model.layers.0.{target}.weight", shape)
    kind = GGMLQuantizationType[matrix_type]
    expected: dict[str, NDArray[np.float32]] = {}
    for name, (target, shape) in shapes.items():
        value = rng.normal(0, 0.05, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, value)
            expected[target] = value
            continue
        raw = quantize(value, kind)
        expected[target] = dequantize(raw, kind)
        rows = [_gguf_row(row, head_rows=16) for row in range(shape[0])]
        is_rotated = name.startswith(("blk.0.attn_q", "blk.0.attn_k"))
        writer.add_tensor(name, raw[rows] if is_rotated else raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def _gguf_row(row: int, *, head_rows: int) -> int:
    """Return which row of a Hugging Face matrix GGUF keeps at `row`: the two halves of a head take turns."""
    head, place = divmod(row, head_rows)
    return head * head_rows + (place % 2) * (head_rows // 2) + place // 2


def write_tiny_tokenizer(directory: Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json of a byte-level BPE with ChatML marks; return it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s?\w+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(text, special=True) for text in (END_OF_TEXT, IM_START, IM_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "bos_token": END_OF_TEXT,
            "eos_token": IM_END,
            "pad_token": END_OF_TEXT,
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 512,
        },
    )
    return tokenizer


def safetensors_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return length and header of a safetensors file with these (dtype, shape), data in this order."""
    width = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * width[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a small safetensors file whole."""
    with path.open("wb") as file:
        file.write(safetensors_header({name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}))
        for _, _, raw in tensors.values():
            file.write(raw)


def to_bf16_bytes(value: NDArray[np.float32]) -> bytes:
    """Round float32 to bfloat16, nearest even, as little-endian bytes; no NaN handling."""
    bits = np.ascontiguousarray(value, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def _qwen2_config(
    *, vocabulary: int, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int
) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
        "transformers_version": "5.0.0",
    }


def _tiny_weights(
    tokenizer: Tokenizer,
    *,
    seed: int,
    hidden: int,
    layers: int,
    kv_width: int,
    intermediate: int,
    nudge: float,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng, nudge_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])

    def normal(rows: int, columns: int, gain: float) -> NDArray[np.float32]:
        value = rng.normal(0.0, gain / math.sqrt(columns), (rows, columns))
        change = nudge_rng.normal(0.0, gain / math.sqrt(columns), (rows, columns))
        return (value + nudge * change).astype(np.float32)

    embedding = normal(tokenizer.get_vocab_size(), hidden, 1.0)
    # A zero row has logit 0 and is never the greatest: greedy answers stay printable and never end early.
    embedding[[i for i in range(len(embedding)) if not _is_printable(tokenizer, i)]] *= 0.0
    yield "model.embed_tokens.weight", embedding
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv_width, hidden),
        "self_attn.v_proj": (kv_width, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    for layer in range(layers):
        stem = f"model.layers.{layer}."
        yield f"{stem}input_layernorm.weight", np.ones(hidden, np.float32)
        yield f"{stem}post_attention_layernorm.weight", np.ones(hidden, np.float32)
        for name, (rows, columns) in shapes.items():
            # A gain above 1 lets the layers outweigh the tied embedding, or the model would echo its input.
            yield f"{stem}{name}.weight", normal(rows, columns, 2.0)
            if name[-6:] in {"q_proj", "k_proj", "v_proj"}:
                yield f"{stem}{name}.bias", np.zeros(rows, np.float32)
    yield "model.norm.weight", np.ones(hidden, np.float32)


def _is_printable(tokenizer: Tokenizer, token_id: int) -> bool:
    text = tokenizer.decode([token_id], skip_special_tokens=True)
    return bool(text) and text.isascii() and text.isprintable()


def _write_shards(directory: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], num_shards: int) -> None:
    if num_shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        mine = names[shard::num_shards]
        write_safetensors(directory / file_name, {name: tensors[name] for name in mine})
        weight_map.update(dict.fromkeys(mine, file_name))
    total = sum(len(raw) for _, _, raw in tensors.values())
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _int8_blocks(rng: np.random.Generator) -> Iterator[NDArray[np.int8]]:
    """Yield endless blocks of normal int8 codes: one block under masks that keep its distribution.

    A mask flips the sign side and the low four bits, near uniform at this spread, so blocks look alike to an
    entropy coder and share nothing that a match finder could use.
    """
    spread = 36.0  # order-0 entropy of 7.2 bits a byte
    codes = np.clip(np.rint(rng.normal(0.0, spread, _BLOCK_BYTES)), -127, 127).astype(np.int8)
    rows = codes.reshape(-1, _MASK_BYTES)
    while True:
        noise = rng.integers(0, 256, _MASK_BYTES, dtype=np.uint8)
        mask = (noise & 0x0F) ^ np.where(noise & 0x10, 0xFF, 0).astype(np.uint8)
        # Rows share a mask, which a match finder cannot use either: their codes differ.
        yield (rows ^ mask.view(np.int8)).reshape(-1)


def _stream_int8(file: BinaryIO, size_bytes: int, blocks: Iterator[NDArray[np.int8]]) -> None:
    left = size_bytes
    while left:
        block = next(blocks)[:left]
        file.write(block.tobytes())
        left -= len(block)
