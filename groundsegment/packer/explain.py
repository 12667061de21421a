"""What was chosen for every tensor and why, in numbers: `stage --explain`. Pure.

A line for each part of the release, largest to send first, and their totals by kind of value, by what they are to the
model, and by layer. The bytes of all lines and `overhead_bytes` add up to the bytes of the bundles.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from groundsegment.packer.plan import Survey
from groundsegment.packer.tally import PartTally, Tally, Totals
from groundsegment.packer.tensors.parts import Packing, Part, PartKind
from protocol.codec.kinds import TransformKind

_K = TypeVar("_K", bound=Hashable)


class Use(StrEnum):
    """What a part is to the model, as its name tells."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    NORM = "norm"
    ADAPTER = "adapter"
    OTHER = "other tensors"
    FILES = "files and headers"


_LAYER = re.compile(r"(?:^|\.)(?:layers?|blk|blocks?|h)\.(\d+)\.")
# The first that is found counts: `post_attention_layernorm` is a norm, `mlp.experts.3` are experts.
_USES = (
    (Use.ADAPTER, re.compile(r"lora_")),
    (Use.NORM, re.compile(r"norm|\bln_")),
    (Use.EXPERTS, re.compile(r"expert|_exps\b")),
    (Use.ATTENTION, re.compile(r"attn|attention|\b[qkvo]_proj\b")),
    (Use.MLP, re.compile(r"mlp|ffn|feed_forward|\bfc[12]\b|(?:up|gate|down)_proj")),
    (Use.EMBEDDING, re.compile(r"embed|embd|\bwte\b|\bwpe\b|lm_head|^output\.weight")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What became of one part.

    Attributes:
        file: it is of.
        name: of the tensor, or what a family's names have in common, or words in parentheses.
        kind: of its values, in words.
        use: what it is to the model.
        layer: of the model; None outside of them.
        by_transform: how its pieces were stored.
        reason: how its counterpart in the base was found, or why there is none; empty without a base.
        base_name: of that counterpart; empty if there is none.
        raw_bytes: of it.
        coded_bytes: to send.
    """

    file: str
    name: str
    kind: str
    use: Use
    layer: int | None
    by_transform: dict[TransformKind, Totals]
    reason: str
    base_name: str
    raw_bytes: int
    coded_bytes: int

    @property
    def is_unchanged(self) -> bool:
        """Whether the base has every byte of it."""
        return set(self.by_transform) == {TransformKind.SAME}

    @property
    def share(self) -> float:
        """Of its bytes, how much is sent."""
        return self.coded_bytes / max(1, self.raw_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All lines and their sums.

    Attributes:
        lines: one for each part, most bytes to send first.
        removed: names of the base's tensors that the release has no more.
        overhead_bytes: of rows, tags and heads of bundles.
        is_exact: whether everything was encoded, not a sample.
    """

    lines: tuple[Line, ...]
    removed: tuple[str, ...]
    overhead_bytes: int
    is_exact: bool

    @property
    def by_kind(self) -> dict[str, Totals]:
        """Totals of each kind of value, largest to send first."""
        return _largest_first(_sums(self.lines, lambda line: line.kind))

    @property
    def by_use(self) -> dict[Use, Totals]:
        """Totals of what parts are to the model, largest to send first."""
        return _largest_first(_sums(self.lines, lambda line: line.use))

    @property
    def by_layer(self) -> dict[int | None, Totals]:
        """Totals of each layer, in order; None for what is in none."""
        sums = _sums(self.lines, lambda line: line.layer)
        return {layer: sums[layer] for layer in sorted(sums, key=lambda layer: -1 if layer is None else layer)}


def explain(survey: Survey, tally: Tally, *, payload_bytes: int, is_exact: bool) -> Explanation:
    """Say what became of every part.

    Args:
        survey: what the release and its base are made of.
        tally: what became of them.
        payload_bytes: of all bundles.
        is_exact: whether the tally is of everything.
    """
    lines = [_line(survey, entry) for entry in tally.parts]
    lines.sort(key=lambda line: (-line.coded_bytes, -line.raw_bytes, line.file, line.name))
    return Explanation(
        lines=tuple(lines),
        removed=tuple(part.name for part in survey.removed if part.kind is not PartKind.BYTES),
        overhead_bytes=payload_bytes - tally.coded_bytes,
        is_exact=is_exact,
    )


def use_of(name: str) -> Use:
    """Return what a tensor is to the model."""
    if name.startswith("("):
        return Use.FILES
    return next((use for use, words in _USES if words.search(name)), Use.OTHER)


def layer_of(name: str) -> int | None:
    """Return the layer that a tensor is of."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def kind_of(part: Part) -> str:
    """Return what the values of a part are, in words."""
    packed = part.packed
    if part.kind is PartKind.BYTES:
        return "bytes"
    if packed is None:
        return part.dtype
    group = packed.group_rows * packed.group_columns
    words = ["int4", *([packed.packing] if packed.packing is not Packing.ROW else []), *([f"g{group}"] * (group > 1))]
    return " ".join(words)


def _line(survey: Survey, entry: PartTally) -> Line:
    part = entry.part
    match = survey.matches.get(part)
    return Line(
        file=part.file,
        name=part.name,
        kind=kind_of(part),
        use=use_of(part.name),
        layer=layer_of(part.name),
        by_transform=entry.by_transform,
        reason=match.reason if match else survey.unmatched.get(part, ""),
        base_name=match.base_name if match else "",
        raw_bytes=entry.raw_bytes,
        coded_bytes=entry.coded_bytes,
    )


def _sums(lines: Sequence[Line], key: Callable[[Line], _K]) -> dict[_K, Totals]:
    sums: dict[_K, Totals] = defaultdict(Totals)
    for line in lines:
        sums[key(line)] = sums[key(line)].plus(line.raw_bytes, line.coded_bytes)
    return dict(sums)


def _largest_first(sums: dict[_K, Totals]) -> dict[_K, Totals]:
    return dict(sorted(sums.items(), key=lambda item: -item[1].coded_bytes))
