"""A process that says how good a release is on a text: perplexity, and how far it is from another model. It then ends.

Only the ground's twin starts it, on what it has rebuilt: nothing of a satellite judges. The engine is the one that
flies, with the same kernels and the same precision, so what is measured is what will answer.

    python -m onboard.inference.judge --release-dir DIR [--base-dir DIR] [--reference-dir DIR] --text FILE
                                      --max-tokens N [--threads N] [--dtype auto]

prints one JSON object: {"text": SHA-256 of the text, hexadecimal, "num_tokens": int, "perplexity": float,
"reference": null | {"perplexity": float, "divergence": float}}. What is wrong with the inputs is its last line on
standard error, and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="onboard.inference.judge", description="How good a release is on a text.")
    parser.add_argument("--release-dir", type=Path, required=True)
    parser.add_argument("--base-dir", type=Path, help="the model that the release is an adapter of")
    parser.add_argument("--reference-dir", type=Path, help="the model that it is compared with")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--max-tokens", type=int, required=True, help="of the text, spread evenly over it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    return parser.parse_args(arguments)


def main() -> None:
    """Load, judge, print."""
    arguments = parse_arguments()
    os.environ.update(
        OMP_NUM_THREADS=str(arguments.threads),
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TQDM_DISABLE="1",
    )
    from onboard.inference.engines.judging import JudgingError, judge
    from onboard.inference.engines.transformers import TransformersEngine

    def load(directory: Path, base: Path | None = None) -> TransformersEngine:
        engine = TransformersEngine(
            num_threads=arguments.threads, dtype=arguments.dtype, device="cpu", max_context_tokens=1 << 16
        )
        engine.load(directory, base)
        return engine

    try:
        release = load(arguments.release_dir, arguments.base_dir)
        reference = load(arguments.reference_dir) if arguments.reference_dir else None
        found = judge(release, reference, arguments.text.read_bytes(), max_tokens=arguments.max_tokens)
    except (JudgingError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
