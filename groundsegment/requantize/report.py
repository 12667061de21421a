"""What was given up for how many bytes: the figures that go with every lossy choice. Pure.

Sizes are the entropy of the differences given the old values, within 1-3 % of what the weight codec sends. Perplexity
and divergence are those of the codes as written, on text that nothing was fitted to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

REPORT_NAME = "requantize.json"  # beside the weights; it does not fly


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One release that could be sent.

    Attributes:
        name: of the way it was made.
        delta_bytes: what the delta to the base takes, estimated.
        perplexity: on held-out text.
        divergence: of its next-token probabilities from the new float model's, nats a token, on the same text.
        changed: share of the codes that differ from the base's.
        price: nats a token that a bit had to gain; 0 where no price was set.
    """

    name: str
    delta_bytes: int
    perplexity: float
    divergence: float
    changed: float
    price: float = 0.0


_AS_GOOD = 0.002  # perplexities closer than this do not tell two quantizations apart


def cheapest_of_the_best(points: Sequence[Point]) -> Point:
    """Return the one of fewest bytes among those as good as the best: what one would send without this."""
    best = min(point.perplexity for point in points)
    return min(
        (point for point in points if point.perplexity <= best * (1 + _AS_GOOD)), key=lambda point: point.delta_bytes
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `requantize` tells, and saves beside the release.

    Attributes:
        format: int4 or int8.
        group_columns: columns that share a scale; 0 for a whole row.
        base: the base's path.
        new: the new model's path.
        num_calibration_tokens: what codes were chosen on.
        num_held_out_tokens: what the figures are from; 0 where no text was given and calibration text had to do.
        new_perplexity: of the new model before it was quantized.
        nothing: the base's codes with the new model's other tensors: sending nothing for the matrices.
        naive: rounding to nearest, with scales of its own.
        gptq: calibrated anew by GPTQ, with scales of its own.
        fresh: the same, then polished: as good as a fresh calibration gets here.
        curve: what was found on the way, from few bytes to many.
        chosen: what was written.
    """

    format: str
    group_columns: int
    base: str
    new: str
    num_calibration_tokens: int
    num_held_out_tokens: int
    new_perplexity: float
    nothing: Point
    naive: Point
    gptq: Point
    fresh: Point
    curve: Sequence[Point]
    chosen: Point

    @property
    def reference(self) -> Point:
        """Return what one would send without this: the cheapest of the best."""
        return cheapest_of_the_best([self.naive, self.gptq, self.fresh])

    @property
    def share(self) -> float:
        """Return the chosen delta's bytes over those of the reference."""
        return self.chosen.delta_bytes / max(1, self.reference.delta_bytes)

    @property
    def loss(self) -> float:
        """Return by how much the perplexity is above the reference's; below 0 where it is better."""
        return self.chosen.perplexity / self.reference.perplexity - 1

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        return {**asdict(self), "reference": asdict(self.reference), "share": self.share, "loss": self.loss}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Undo `as_json`.

        Raises:
            KeyError, TypeError: it is none.
        """
        known = {field.name: value[field.name] for field in fields(cls)}
        for name in ("nothing", "naive", "gptq", "fresh", "chosen"):
            known[name] = Point(**known[name])
        return cls(**known | {"curve": [Point(**entry) for entry in known["curve"]]})
