"""The quality gate: what a release is judged by is checked before anything is packed, its figures before it is signed.

The figures come from the twin: of the very bytes that it rebuilt from the bundles, and of nothing that staging read.
"""

from collections.abc import Iterator
from pathlib import Path

from groundsegment.errors import InputError
from groundsegment.requantize.report import REPORT_NAME
from groundsegment.twin import Judging
from protocol.quality import Quality


def check_judging(judging: Judging) -> None:
    """Find out early what the twin would find out late.

    Raises:
        InputError: no such text or model, or a limit without a model to compare with.
    """
    if not judging.held_out.is_file():
        raise InputError(
            f"--held-out: {judging.held_out} is not a file",
            hint="give a text that no model was trained or calibrated on",
        )
    if judging.max_loss is not None and judging.reference is None:
        hint = "--reference DIR: the model in full precision, or as one would send it without --fit"
        raise InputError("--max-perplexity-loss needs a model to compare with", hint=hint)
    if judging.reference is not None and not (judging.reference / "config.json").is_file():
        raise InputError(f"--reference: {judging.reference} is no model directory", hint="a Hugging Face directory")


def unjudged(path: Path, judging: Judging | None) -> Iterator[str]:
    """Say so where a lossy choice was made for few bytes and nobody asks what it cost."""
    if judging is None and (path / REPORT_NAME).is_file():
        yield (
            "requantized for few bytes, and no figures of its quality are signed: --held-out FILE judges what will be "
            "rebuilt, --reference DIR compares it"
        )


def check_quality(quality: Quality, judging: Judging) -> None:
    """Hold what the twin found against the operator's limit.

    Raises:
        InputError: the release loses more than it may.
    """
    loss, reference = quality.loss, quality.reference
    if judging.max_loss is None or loss is None or reference is None or loss <= judging.max_loss:
        return
    raise InputError(
        f"rebuilt from its bundles, the release has perplexity {quality.perplexity_milli / 1000:.3f}, "
        f"{100 * loss:.2f} % above {judging.reference} ({reference.perplexity_milli / 1000:.3f}); "
        f"at most {100 * judging.max_loss:g} % was asked for",
        hint="nothing was signed; spend more bytes (--fit, model requantize --max-loss), or allow more",
    )
