"""The bench's models, made once and kept: `python -m bench.codec.data`, seeded, resumable, whole directories or none.

    smollm2      SmolLM2-135M-Instruct out of its GGUF file, as a Qwen2 bf16 checkpoint
    quick/v1,v2  stand-ins without training: off the 4-bit grid by noise; drifted by a light fine-tune's distance
    v1           off the 4-bit grid by noise of half a step each way, then healed by a short distillation from smollm2
    v2           v1 after a light full fine-tune
    lora         an adapter of rank 16 on all linear layers of v1, as PEFT writes it
    v2-lora      v1 with the adapter merged
    *-int4       v1, v2 and v2-lora as int4, calibrated by GPTQ
    aware        points of the curves of update-aware quantization (bench/codec/curves.py)

`train.txt` and `held-out.txt` are the text, `models.json` holds perplexities on the held-out one.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.codec import checkpoints, noise
from bench.codec.text import Corpus, collect
from groundsegment.models.fetch import find_gguf
from groundsegment.models.gguf_import import import_gguf, plan_import

DIRECTORY = Path(__file__).resolve().parent.parent.parent / ".cache" / "codec"
SEED = 2026
HEAL_STEPS, HEAL_RATE = 30, 2e-5
TUNE_STEPS, TUNE_RATE = 200, 1e-5
LORA_STEPS, LORA_RATE, LORA_RANK, LORA_ALPHA = 60, 2e-4, 16, 32
HELD_OUT_SEQUENCES = 24
_TRAIN_SEQUENCES, _TRAIN_TOKENS = 1200, 128


def start(directory: Path) -> Path:
    """Import the model everything else comes from."""
    out = directory / "smollm2"
    if not out.exists():
        import_gguf(plan_import(find_gguf("smollm2", directory)), out)
    return out


def quick(directory: Path) -> None:
    """Make the stand-ins."""
    out = directory / "quick"
    if (out / "v2").exists():
        return
    like = start(directory)
    checkpoints.save(out / "v1", noise.leave_grid(checkpoints.load(like), seed=SEED), like)
    old = checkpoints.load(out / "v1")
    checkpoints.save(out / "v2", noise.drift(old, relative_rms=0.0015, seed=SEED + 1), like)


def corpus(directory: Path) -> Corpus:
    """Collect the text, or return what was collected when the models were made."""
    path = directory / "corpus.json"
    if not path.exists():
        found = collect(SEED)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"train": found.train, "held_out": found.held_out, "digest": found.digest}))
        part.replace(path)
        for name, paragraphs in (("train", found.train), ("held-out", found.held_out)):
            (directory / f"{name}.txt").write_text("\n\n".join(paragraphs))
    kept = json.loads(path.read_text())
    return Corpus(train=tuple(kept["train"]), held_out=tuple(kept["held_out"]), digest=kept["digest"])


def trained(directory: Path) -> None:
    """Heal v1, fine-tune v2 from it, train and merge an adapter on it."""
    from bench.codec import training

    origin = start(directory)

    def heal() -> Any:
        checkpoints.save(directory / "noised", noise.leave_grid(checkpoints.load(origin), seed=SEED), origin)
        model = training.load_model(directory / "noised")
        shutil.rmtree(directory / "noised")
        schedule = training.Schedule(steps=HEAL_STEPS, rate=HEAL_RATE, seed=SEED)
        loss = training.distillation_loss(training.load_model(origin))
        training.train(model, _sequences(directory), schedule, loss_of=loss, snapshot=directory / "v1.snapshot")
        return model

    def tune() -> Any:
        model = training.load_model(directory / "v1")
        schedule = training.Schedule(steps=TUNE_STEPS, rate=TUNE_RATE, seed=SEED + 1)
        snapshot = directory / "v2.snapshot"
        training.train(model, _sequences(directory), schedule, loss_of=training.next_token_loss, snapshot=snapshot)
        return model

    def adapt() -> Any:
        model = training.load_model(directory / "v1")
        adapters = training.attach_adapters(model, rank=LORA_RANK, alpha=LORA_ALPHA, seed=SEED)
        schedule = training.Schedule(steps=LORA_STEPS, rate=LORA_RATE, seed=SEED + 2)
        snapshot = directory / "v2-lora.snapshot"
        training.train(model, _sequences(directory), schedule, loss_of=training.next_token_loss, snapshot=snapshot)
        training.save_adapters(directory / "lora", adapters, rank=LORA_RANK, alpha=LORA_ALPHA)
        training.merge_adapters(model, adapters)
        return model

    _judge(directory, "smollm2")
    for name, make in {"v1": heal, "v2": tune, "v2-lora": adapt}.items():
        _once(directory, name, make)
        _judge(directory, name)


def calibrated_releases(directory: Path) -> None:
    """Quantize all three by GPTQ."""
    from bench.codec import calibrated

    corpus(directory)
    for name in ("v1", "v2", "v2-lora"):
        out = directory / f"{name}-int4"
        if not out.exists():
            calibrated.release(directory, name, "int4", "gptq", out)


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.codec.data", description=__doc__)
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    parser.add_argument("--only", choices=["quick", "trained", "calibrated", "aware"])
    arguments = parser.parse_args()
    make(arguments.directory, arguments.only)


def make(directory: Path, only: str | None = None) -> None:
    """Make what is missing of one stage, or of all that the bench needs."""
    from bench.codec import curves

    # All curves take an hour and a half of a core; those that the figures need, half an hour.
    few = partial(curves.make, only=("int8", "int4"))
    stages = {"trained": trained, "calibrated": calibrated_releases, "aware": curves.make if only else few}
    for name, stage in {"quick": quick, **stages}.items():
        if name == only or (only is None and name in stages):
            stage(directory)


def _sequences(directory: Path) -> Any:
    from bench.codec import training

    return training.encode(
        start(directory), corpus(directory).train, num_sequences=_TRAIN_SEQUENCES, length=_TRAIN_TOKENS
    )


def _once(directory: Path, name: str, make_model: Callable[[], Any]) -> None:
    if (directory / name).exists():
        return
    from bench.codec import training

    checkpoints.save(directory / name, dict(training.weights_of(make_model())), start(directory))
    (directory / f"{name}.snapshot").unlink(missing_ok=True)


def _judge(directory: Path, name: str) -> None:
    """Add a model's perplexity on held-out text to models.json."""
    path = directory / "models.json"
    known = json.loads(path.read_text()) if path.exists() else {"perplexity": {}}
    if name in known["perplexity"]:
        return
    from bench.codec import training

    ids = training.encode(start(directory), corpus(directory).held_out, num_sequences=HELD_OUT_SEQUENCES)
    known["perplexity"][name] = round(training.perplexity(training.load_model(directory / name), ids), 4)
    known["corpus"] = corpus(directory).digest
    known["held_out_tokens"] = ids.numel()
    path.write_text(json.dumps(known, indent=2) + "\n")
    print(f"  {name}: perplexity {known['perplexity'][name]}", flush=True)


if __name__ == "__main__":
    main()
