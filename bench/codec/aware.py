"""Update-aware quantization as it would fly: bytes on the link against perplexity, int8 and int4.

On board is v1, quantized (int8: rounded; int4: calibrated by GPTQ); new is v2, the full fine-tune. What is compared is
the fresh release, v2 quantized in the same way and sent as a lossless delta, with the release that `skyload model
requantize --max-loss` makes on the grid that is on board. Sizes are whole releases through the packer. Perplexities are
on text that nothing was trained, calibrated or chosen on, by the same code for both.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.codec import ours

MAX_LOSS = 0.005
_BUDGET_SHARE = 0.48  # estimates are within 3 % of what is sent, and half is promised
FORMATS = ("int8", "int4")


def make(directory: Path) -> None:
    """Write what is missing of the releases; from minutes to an hour of a core each, resumable."""
    from groundsegment.models.quantize import plan_quantize, quantize
    from groundsegment.models.release import scan_release

    for name in ("v1", "v2"):
        out = directory / f"{name}-int8"
        if not out.exists():
            quantize(plan_quantize(scan_release(directory / name), format_name="int8"), out)
    for form in FORMATS:
        if not (directory / f"v2-{form}-aware").exists():
            _requantize(directory, form)


def _requantize(directory: Path, form: str) -> None:
    """Ask for a small loss; where none is small enough, for the best that takes half of the fresh delta."""
    from groundsegment.errors import InputError
    from groundsegment.requantize.options import Effort, Goal, Options
    from groundsegment.requantize.requantize import requantize

    base = directory / f"v1-{form}"
    budget_bytes = int(_BUDGET_SHARE * _delta_bytes(directory / f"v2-{form}", base))
    for goal in (Goal(max_loss=MAX_LOSS), Goal(budget_bytes=budget_bytes)):
        options = Options(
            goal=goal,
            calibration=directory / "train.txt",
            held_out=directory / "held-out.txt",
            old=directory / "v1",
            effort=Effort(num_calibration_tokens=8192, num_held_out_tokens=6144, num_steps=3, num_threads=1),
        )
        try:
            requantize(directory / "v2", base, directory / f"v2-{form}-aware", options)
        except InputError as error:
            print(f"  {form}: {error}", file=sys.stderr, flush=True)
        else:
            return


def figures(directory: Path, kept: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Any]:
    """Return bytes and perplexities of each format whose releases are there.

    Args:
        directory: of the models.
        kept: returns what is known under a name, or computes it.
    """
    found = {}
    for form in FORMATS:
        release, fresh, base = (directory / f"{name}-{form}" for name in ("v2", "v2", "v1"))
        release = release.with_name(f"{release.name}-aware")
        if not (release.exists() and fresh.exists() and base.exists()):
            continue
        report = json.loads((release / "requantize.json").read_text())
        fresh_point = report["naive"] if form == "int8" else report.get("gptq", report["fresh"])
        found[form] = {
            "bytes": kept(f"aware {_stamp(release, base)}", lambda new=release, old=base: _delta_bytes(new, old)),
            "lossless_bytes": kept(f"aware {_stamp(fresh, base)}", lambda new=fresh, old=base: _delta_bytes(new, old)),
            "ppl": round(report["chosen"]["perplexity"], 4),
            "naive_ppl": round(fresh_point["perplexity"], 4),
        }
    return found


def _delta_bytes(new: Path, old: Path) -> int:
    return ours.pack(new, old).stored_bytes


def _stamp(*releases: Path) -> str:
    facts = [(release / "model.safetensors").stat() for release in releases]
    named = zip(releases, facts, strict=True)
    return " ".join(f"{release.name} {fact.st_size} {fact.st_mtime_ns}" for release, fact in named)
