"""tokenizer.json and its configuration, rebuilt from the vocabulary that a GGUF file carries.

Byte-level BPE only ("gpt2" in GGUF's words), with the text splitting that the file names. Uses the
`tokenizers` library; knows nothing of weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundsegment.errors import InputError

_CONTROL, _USER_DEFINED = 3, 4
# How text is cut before merging; facts about each vocabulary, by the name GGUF gives it.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"qwen2": _QWEN2_SPLIT}
_PLAIN = {"default", "gpt-2"}
_DIGIT_BY_DIGIT = {"smollm"}


def check_tokenizer(metadata: Mapping[str, Any]) -> None:
    """Refuse a vocabulary that cannot be rebuilt exactly.

    Raises:
        InputError: another kind of tokenizer than byte-level BPE, or an unknown way of splitting text.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    known = _PLAIN | _DIGIT_BY_DIGIT | set(_SPLITS)
    if kind != "gpt2" or split not in known:
        raise InputError(
            f"the GGUF file's tokenizer ({kind}, {split}) is not one that can be rebuilt",
            hint=f"byte-level BPE with {', '.join(sorted(known))} can; otherwise stage the GGUF file itself",
        )


def write_tokenizer(metadata: Mapping[str, Any], directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json; `metadata` must hold the arrays."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    _build(metadata, tokens).save(str(directory / "tokenizer.json"), pretty=False)

    def token(key: str) -> str | None:
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[token_id] if token_id is not None else None

    config = {
        # The class that reads tokenizer.json as it is; left out, Qwen2 brings its own way of splitting text.
        "tokenizer_class": "TokenizersBackend",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "chat_template": metadata.get("tokenizer.chat_template"),
        "model_max_length": metadata.get(f"{metadata['general.architecture']}.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    present = {key: value for key, value in config.items() if value is not None}
    text = json.dumps(present, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _build(metadata: Mapping[str, Any], tokens: list[str]) -> Any:  # noqa: ANN401 - a tokenizers.Tokenizer
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise InputError("the GGUF file's vocabulary holds a token twice", hint="download the file again")
    merges = [_pair(merge) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata.get("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    marked = list(zip(tokens, kinds, strict=True))
    special = [AddedToken(token, special=True, normalized=False) for token, kind in marked if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == _USER_DEFINED])
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise InputError(f"the GGUF file's merge {merge!r} is not a pair", hint="download the file again")
    return left, right


def _pre_tokenizer(split: str) -> Any:  # noqa: ANN401 - a tokenizers pre-tokenizer
    from tokenizers import Regex, pre_tokenizers

    if split in _SPLITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[split]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split in _DIGIT_BY_DIGIT:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level
