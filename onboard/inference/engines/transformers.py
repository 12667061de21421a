"""The embedded default engine: Hugging Face transformers on torch, on the CPU unless told otherwise.

Loads a directory in Hugging Face layout (safetensors in any shards; compressed-tensors int8 and int4), one with
a single GGUF file, or a LoRA adapter with its base (`lora`). It never runs code of the release and never
unpickles: `trust_remote_code` is off, safetensors only, no network. Each answer keeps its own key-value cache
and is computed with batch size one, so greedy tokens depend on release and prompt alone (and on CPU and dtype:
ground twin and satellite should use the same; the default is the dtype the release names, see docs/serving.md
for measurements).

It does not know stop strings, text streaming or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig

from onboard.inference.engine import Prompt, RequestError, Sampling
from onboard.inference.engines.int8 import keep_int8
from onboard.inference.engines.lora import AdapterSwitch, load_adapter
from onboard.inference.weights import WeightsPart

_PREFILL_CHUNK_TOKENS = 256
"""A long prompt is read in steps, so that other answers move on and memory stays small."""


class TransformersEngine:
    """One causal language model and its tokenizer."""

    def __init__(self, *, num_threads: int, dtype: str, device: str, max_context_tokens: int) -> None:
        torch.set_num_threads(num_threads)
        if torch.get_num_interop_threads() != 1:  # settable once in a process, which may hold two models
            torch.set_num_interop_threads(1)
        transformers.utils.logging.disable_progress_bar()
        self._dtype = dtype
        self._num_int8 = 0
        self._adapter: AdapterSwitch | None = None
        self._device = device
        self._max_context_tokens = max_context_tokens
        self._model: Any = None
        self._tokenizer: Any = None
        self._end_tokens: frozenset[int] = frozenset()
        self._vocabulary_size = 0
        self._context_tokens = 0

    @property
    def name(self) -> str:
        """Engine and versions, for people."""
        kind = f"{self._num_int8} int8 layers" if self._num_int8 else self._dtype
        adapted = f", {self._adapter.num_layers} adapted" if self._adapter is not None else ""
        return f"transformers {transformers.__version__}, torch {torch.__version__}, {kind}{adapted}"

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._context_tokens

    def load(self, directory: Path, base: Path | None = None) -> None:
        """Load tokenizer and weights, with a base the adapter in `directory`; raises what the loader raises."""
        self._load_model(base or directory)
        if base is not None:
            self._adapter = load_adapter(self._model, directory, base)

    def _load_model(self, directory: Path) -> None:
        common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        dtype = "auto" if self._dtype == "auto" else getattr(torch, self._dtype)
        if (gguf_file := _lone_gguf(directory)) is not None:
            common["gguf_file"] = gguf_file
            dtype = torch.bfloat16 if dtype == "auto" else dtype  # a GGUF file names none
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **common)
        self._model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, attn_implementation="sdpa", **common
        )
        self._num_int8 = keep_int8(self._model)
        self._model = self._model.to(self._device).eval()
        config = self._model.config.get_text_config()
        self._vocabulary_size = int(config.vocab_size)
        self._context_tokens = min(self._max_context_tokens, int(config.max_position_embeddings))
        self._end_tokens = self._find_end_tokens(directory)

    def _find_end_tokens(self, directory: Path) -> frozenset[int]:
        """Collect the ending tokens of tokenizer, model config and generation config."""
        found = [self._tokenizer.eos_token_id, self._model.config.eos_token_id]
        if (directory / "generation_config.json").exists():
            found.append(GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id)
        ends: set[int] = set()
        for value in found:
            ends.update(value if isinstance(value, list) else [] if value is None else [value])
        return frozenset(ends)

    def weights(self) -> Sequence[WeightsPart]:
        """Every piece of memory that a parameter or buffer lies in, once."""
        found: dict[int, WeightsPart] = {}
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            storage = tensor.untyped_storage()
            if storage.data_ptr() and storage.data_ptr() not in found:
                found[storage.data_ptr()] = WeightsPart(
                    name=name, size_bytes=storage.nbytes(), read=partial(_read_bytes, _bytes_of(tensor))
                )
        return tuple(found.values())

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Return the prompt's token ids; raises RequestError."""
        if prompt.tokens is not None:
            if max(prompt.tokens) >= self._vocabulary_size:
                raise RequestError(f"token ids must be below {self._vocabulary_size}")
            return prompt.tokens
        if prompt.messages is None:
            return list(self._tokenizer.encode(prompt.text))
        try:
            text = self._chat_text([dict(message) for message in prompt.messages])
        except Exception as error:  # templates are programs of the release and raise what they like
            raise RequestError(f"the model's chat template refuses these messages: {error}") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _chat_text(self, messages: list[dict[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            return "\n".join([*lines, "assistant:"])
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, special tokens left out."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def is_end(self, token: int) -> bool:
        """Say whether `token` ends an answer."""
        return token in self._end_tokens

    def continue_tokens(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int | None]:
        """Yield tokens after `prompt`; None between the steps of reading a long prompt."""
        cache = DynamicCache(config=self._model.config)
        chunks = [prompt[at : at + _PREFILL_CHUNK_TOKENS] for at in range(0, len(prompt), _PREFILL_CHUNK_TOKENS)]
        for chunk in chunks[:-1]:
            self._forward(chunk, cache, sampling)
            yield None
        choose = _Chooser(sampling)
        tokens: Sequence[int] = chunks[-1]
        while True:
            token = choose(self._forward(tokens, cache, sampling))
            yield token
            tokens = [token]

    def foresee(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits after each of some tokens, (T, V), with nothing before them."""
        if self._adapter is not None:
            self._adapter.is_on = True
        with torch.inference_mode():
            logits: torch.Tensor = self._model(input_ids=torch.tensor([tokens], device=self._device)).logits[0]
            return logits

    def _forward(self, tokens: Sequence[int], cache: DynamicCache, sampling: Sampling) -> torch.Tensor:
        """Read `tokens` into the cache; return the logits after the last."""
        if self._adapter is not None:  # answers are stepped in turn: each step says whose it is
            self._adapter.is_on = not sampling.is_plain
        # Entered per step, not around the generator: a generator would leave it on for its caller.
        with torch.inference_mode():
            ids = torch.tensor([tokens], device=self._device)
            output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits: torch.Tensor = output.logits[0, -1]
            return logits


class _Chooser:
    """Picks the next token from logits: the largest, or drawn with its own seeded generator."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._generator = torch.Generator().manual_seed(sampling.seed % (1 << 63))

    def __call__(self, logits: torch.Tensor) -> int:
        if self._temperature <= 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        if self._top_p < 1:
            probabilities = _keep_top(probabilities, self._top_p)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that a tensor lies in, as bytes, where they are."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _read_bytes(data: torch.Tensor, offset: int, size: int) -> memoryview:
    return memoryview(data[offset : offset + size].cpu().numpy())


def _keep_top(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero all but the likeliest tokens that together reach `top_p`; the likeliest always stays."""
    ordered, order = probabilities.sort(descending=True)
    outside = ordered.cumsum(0) - ordered >= top_p
    ordered[outside] = 0.0
    return torch.zeros_like(probabilities).scatter_(0, order, ordered)


def _lone_gguf(directory: Path) -> str | None:
    """Return the name of the directory's GGUF file if it is the model; raises ValueError for several."""
    if any(directory.glob("*.safetensors")):
        return None
    files = sorted(path.name for path in directory.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{len(files)} GGUF files; a release holds one: {', '.join(files[:4])}")
    if not files:
        raise ValueError("the release holds neither safetensors nor a GGUF file")
    return files[0]
