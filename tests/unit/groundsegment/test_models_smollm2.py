"""Real weights: SmolLM2 imported and quantized answers as it should, by the judgement of transformers.

Needs the model: from the cache (SKYLOAD_CACHE), or from the network once. Skipped where neither has it.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundsegment.errors import InputError
from groundsegment.models.bfloat16 import from_bfloat16
from groundsegment.models.fetch import find_gguf
from groundsegment.models.gguf_import import import_gguf, plan_import
from groundsegment.models.quantize import plan_quantize, quantize
from groundsegment.models.release import scan_release
from groundsegment.models.rounding import unpack_nibbles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

TEXTS = [
    "What is the capital of France?",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass",
    "I'm sure they've 12 reasons, can't we'll... 2024-11-22T06:00:00Z 0x1F",
    "  twelve   spaces  \t\n \n",
    "Ünïcödé 漢字 🚀 naïve Ω≈ç√",
]
QUESTIONS = ["What is the capital of France?", "What is 2 + 2?"]


@pytest.fixture(scope="module")
def gguf() -> Path:
    cache = Path(os.environ.get("SKYLOAD_CACHE", "~/.cache/skyload")).expanduser()
    try:
        return find_gguf("smollm2", cache)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def models(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("smollm2")
    import_gguf(plan_import(gguf), root / "bf16")
    import_gguf(plan_import(gguf, dtype="float32"), root / "f32")
    for name in ("int8", "int4"):
        quantize(plan_quantize(scan_release(root / "bf16"), format_name=name), root / name)
    yield {name: root / name for name in ("bf16", "f32", "int8", "int4")}
    shutil.rmtree(root)  # a gigabyte, which pytest would keep


def load(directory: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, **options).eval()


def tokenizer_of(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)


def answer(model: Any, tokenizer: Any, question: str) -> str:
    import torch

    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)
    return str(tokenizer.decode(tokens[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_logits_are_those_of_the_llama_in_the_file(gguf, models):
    import torch

    reference = load(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ids = tokenizer_of(models["f32"])("".join(TEXTS), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = reference(ids).logits
        exact = load(models["f32"], dtype=torch.float32)(ids).logits
        rounded = load(models["bf16"], dtype=torch.float32)(ids).logits
    assert (exact - expected).abs().max() < 1e-4
    assert (rounded.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95


def test_the_tokens_are_those_of_the_tokenizer_in_the_file(gguf, models):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    ours = tokenizer_of(models["bf16"])
    for text in TEXTS:
        assert ours(text)["input_ids"] == reference(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text
    chat = [{"role": "user", "content": "Hi"}]
    options = {"add_generation_prompt": True, "tokenize": False}
    assert ours.apply_chat_template(chat, **options) == reference.apply_chat_template(chat, **options)


@pytest.mark.parametrize(("name", "num_bits"), [("int8", 8), ("int4", 4)])
def test_transformers_sees_the_weights_that_were_written(models, name, num_bits):
    import torch

    source = scan_release(models[name])
    tensors = {tensor.name: tensor for tensor in source.tensors()}
    stem = "model.layers.7.mlp.down_proj.weight"
    raw = source.path_of("model.safetensors").read_bytes()

    def stored(suffix: str, dtype: str) -> np.ndarray:
        info = tensors[stem + suffix]
        count = info.size_bytes // np.dtype(dtype).itemsize
        return np.frombuffer(raw, dtype, count, info.offset).reshape(info.shape)

    scales = from_bfloat16(stored("_scale", "<u2").astype(np.uint16))
    codes = stored("", "i1") if num_bits == 8 else unpack_nibbles(stored("_packed", "<i4"), 1536)
    expected = codes * np.repeat(scales, 1536 // scales.shape[1], axis=1)
    model = load(models[name])
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))  # compressed-tensors unpacks on the first use
    found = model.model.layers[7].mlp.down_proj.weight.float().numpy()
    assert np.abs(found - expected).max() <= np.abs(expected).max() / 256  # a product rounded to bfloat16


def test_int8_keeps_the_answers_and_int4_loses_some(models):
    answers = {}
    for name in ("bf16", "int8", "int4"):
        model, tokenizer = load(models[name]), tokenizer_of(models[name])
        answers[name] = [answer(model, tokenizer, question) for question in QUESTIONS]
    assert "Paris" in answers["bf16"][0]
    assert answers["int8"] == answers["bf16"]
    assert answers["int4"] != answers["bf16"]
