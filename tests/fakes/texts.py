"""Text for models that know only a few words."""

import random
from pathlib import Path

_SENTENCES = (
    "the satellite answers from orbit and the ground station listens to every pass",
    "what is the capital of France hello world model update release contact frame symbol block",
)
_WORDS = " ".join(_SENTENCES).split()


def write_text(path: Path, *, num_words: int = 3000, seed: int = 0) -> Path:
    """Write words that the tiny models' tokenizer knows, in any order; returns the path."""
    rng = random.Random(seed)
    path.write_text(" ".join(rng.choice(_WORDS) for _ in range(num_words)), encoding="utf-8")
    return path
