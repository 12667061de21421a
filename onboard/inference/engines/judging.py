"""How well an engine's model foresees a text, and how far its next-token probabilities are from another's. torch.

The text is cut into rows of 256 tokens; some of them, spread evenly from its begin to its end, are looked at, each by
itself. Perplexity is that of all tokens of a row but the first; the divergence is KL(other || model) after each token.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Protocol

import torch
from torch.nn import functional

from onboard.inference.engine import Prompt

ROW_TOKENS = 256
_TEXT_BYTES_MAX = 16 << 20
_CHUNK_TOKENS = 64  # of distributions in float32 at a time: vocabularies have 250,000 entries


class JudgingError(Exception):
    """The text or the models do not go together."""


class Foreseeing(Protocol):
    """An engine as it is needed here."""

    def encode(self, prompt: Prompt) -> Any:  # noqa: ANN401 - a sequence of token ids
        """Return the prompt's token ids."""

    def foresee(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits after each token, (T, V)."""


def judge(model: Foreseeing, reference: Foreseeing | None, text: bytes, *, max_tokens: int) -> dict[str, Any]:
    """Return what `onboard.inference.judge` prints.

    Raises:
        JudgingError: the text is too short or no text, or the models have other tokens.
    """
    rows = _rows(model, text, max_tokens)
    if reference is not None and _rows(reference, text, max_tokens) != rows:
        raise JudgingError("the model that is compared with has another tokenizer")
    sums = [0.0, 0.0, 0.0]
    for row in rows:
        sums = [total + value for total, value in zip(sums, _judge_row(model, reference, row), strict=True)]
    surprise, surprise_there, divergence = sums
    num_tokens = len(rows) * len(rows[0])
    num_foreseen = num_tokens - len(rows)
    return {
        "text": hashlib.sha256(text).hexdigest(),
        "num_tokens": num_tokens,
        "perplexity": math.exp(surprise / num_foreseen),
        "reference": None
        if reference is None
        else {"perplexity": math.exp(surprise_there / num_foreseen), "divergence": max(0.0, divergence / num_tokens)},
    }


def _rows(model: Foreseeing, text: bytes, max_tokens: int) -> list[list[int]]:
    try:
        words = text[:_TEXT_BYTES_MAX].decode("utf-8", errors="strict" if len(text) <= _TEXT_BYTES_MAX else "ignore")
    except UnicodeDecodeError as error:
        raise JudgingError(f"the text is not UTF-8 ({error.reason})") from error
    tokens = list(model.encode(Prompt(text=words)))
    there, wanted = len(tokens) // ROW_TOKENS, max(1, max_tokens // ROW_TOKENS)
    if not there:
        raise JudgingError(f"{len(tokens)} tokens of text are too few, {ROW_TOKENS} are needed")
    chosen = sorted({round(place * (there - 1) / max(1, wanted - 1)) for place in range(min(wanted, there))})
    return [tokens[row * ROW_TOKENS : (row + 1) * ROW_TOKENS] for row in chosen]


def _judge_row(model: Foreseeing, reference: Foreseeing | None, row: list[int]) -> tuple[float, float, float]:
    """Return the row's surprise, the reference's, and the divergence, all in nats."""
    logits = model.foresee(row)
    logits_there = None if reference is None else reference.foresee(row)
    if logits_there is not None and logits_there.shape != logits.shape:
        raise JudgingError("the model that is compared with has another vocabulary")
    ahead = torch.tensor(row[1:])
    surprise = surprise_there = divergence = 0.0
    for at in range(0, len(row), _CHUNK_TOKENS):
        part = slice(at, at + _CHUNK_TOKENS)
        found = functional.log_softmax(logits[part].float(), dim=-1)
        surprise += _surprise(found, ahead[part])
        if logits_there is not None:
            there = functional.log_softmax(logits_there[part].float(), dim=-1)
            surprise_there += _surprise(there, ahead[part])
            divergence += float((there.exp() * (there - found)).sum())
    return surprise, surprise_there, divergence


def _surprise(probabilities: torch.Tensor, ahead: torch.Tensor) -> float:
    return -float(probabilities[: len(ahead)].gather(1, ahead[:, None]).sum())
