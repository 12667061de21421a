"""The bench's models, made once: `python -m bench.codec.data`. Seeded, resumable, whole directories or none."""

import argparse
from pathlib import Path

from bench.codec import checkpoints, noise
from groundsegment.models.fetch import find_gguf
from groundsegment.models.gguf_import import import_gguf, plan_import

DIRECTORY = Path(__file__).resolve().parent.parent.parent / ".cache" / "codec"
SEED = 2026


def start(directory: Path) -> Path:
    """Import SmolLM2-135M-Instruct as a Qwen2 bf16 checkpoint."""
    out = directory / "smollm2"
    if not out.exists():
        import_gguf(plan_import(find_gguf("smollm2", directory)), out)
    return out


def quick(directory: Path) -> None:
    """Make stand-ins without training: v1 off the 4-bit grid, v2 drifted from it by a light fine-tune's distance."""
    out = directory / "quick"
    if (out / "v2").exists():
        return
    like = start(directory)
    old = noise.leave_grid(checkpoints.load(like), seed=SEED)
    checkpoints.save(out / "v1", old, like)
    old = checkpoints.load(out / "v1")
    checkpoints.save(out / "v2", noise.drift(old, relative_rms=0.0015, seed=SEED + 1), like)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.codec.data", description=__doc__)
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    parser.add_argument("--only", choices=["quick"])
    arguments = parser.parse_args()
    quick(arguments.directory)


if __name__ == "__main__":
    main()
