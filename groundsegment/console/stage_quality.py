"""`skyload stage --held-out`: what a release is judged by, and the words for what came out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundsegment.twin import Judging
    from protocol.quality import Quality


def judging_of(
    held_out: Path | None, reference: Path | None, *, max_tokens: int, max_loss: str | None
) -> "Judging | None":
    """Put the options together.

    Raises:
        InputError: they do not go together.
    """
    from groundsegment.errors import InputError
    from groundsegment.planner.quantities import parse_share
    from groundsegment.twin import Judging

    if held_out is None:
        if reference is not None or max_loss is not None:
            hint = "--held-out FILE: a text that no model was trained or calibrated on"
            raise InputError("--reference and --max-perplexity-loss need a text to judge by", hint=hint)
        return None
    return Judging(
        held_out=held_out,
        max_tokens=max_tokens,
        reference=reference,
        max_loss=None if max_loss is None else parse_share(max_loss, option="--max-perplexity-loss"),
    )


def quality_words(quality: "Quality") -> str:
    """Say in a line how good a release is."""
    words = f"perplexity {quality.perplexity_milli / 1000:.3f} on {quality.num_tokens} tokens"
    loss, reference = quality.loss, quality.reference
    if loss is None or reference is None:
        return words
    how = "above" if loss >= 0 else "below"
    return (
        f"{words}, {100 * abs(loss):.2f} % {how} the reference's {reference.perplexity_milli / 1000:.3f}, "
        f"divergence {reference.divergence_micro / 1e6:.4f} nats a token"
    )


def quality_as_json(quality: "Quality | None") -> dict[str, Any] | None:
    """The same as an object; None if nothing was judged."""
    if quality is None:
        return None
    reference = quality.reference
    return {
        "text_sha256": quality.text_sha256.hex(),
        "num_tokens": quality.num_tokens,
        "perplexity": quality.perplexity_milli / 1000,
        "loss": None if quality.loss is None else round(quality.loss, 6),
        "reference": None
        if reference is None
        else {
            "perplexity": reference.perplexity_milli / 1000,
            "divergence": reference.divergence_micro / 1e6,
        },
    }
