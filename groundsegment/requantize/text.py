"""Text files cut into sequences of tokens, spread evenly over the text."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundsegment.errors import InputError

_TEXT_BYTES_MAX = 64 << 20


def read_sequences(path: Path, model: Path, *, num_tokens: int, length: int) -> NDArray[np.int64]:
    """Return about `num_tokens` tokens of a text as rows of `length`.

    Args:
        path: a UTF-8 text file.
        model: the model's directory, for its tokenizer.json.
        num_tokens: at most; the rows are then spread evenly from the text's begin to its end.
        length: tokens in a row.

    Raises:
        InputError: no such text, no tokenizer, or fewer than two rows of it.
    """
    from tokenizers import Tokenizer

    tokenizer = model / "tokenizer.json"
    if not tokenizer.is_file():
        raise InputError(f"{model}: no tokenizer.json", hint="the new model must come with its tokenizer")
    try:
        text = path.read_bytes()[:_TEXT_BYTES_MAX].decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})", hint="give plain text") from error
    tokens = np.array(Tokenizer.from_file(str(tokenizer)).encode(text, add_special_tokens=False).ids, np.int64)
    rows = len(tokens) // length
    if rows < 2:
        hint = f"give at least {2 * length} tokens, some {8 * length // 1000 + 1} kB; more is better"
        raise InputError(f"{path}: {len(tokens)} tokens are too few", hint=hint)
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, max(2, num_tokens // length))).astype(np.int64))
    return tokens[: rows * length].reshape(rows, length)[chosen]
