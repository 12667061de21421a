"""How good a release is, as its manifest says it: measured by the ground's twin on what it had rebuilt. Pure.

A map in the manifest, only there if a text was given:

    text        bin32        SHA-256 of the text's bytes
    tokens      int          tokens of it that were looked at
    perplexity  int          of the release on them, in thousandths
    reference   nil | [perplexity: int, divergence: int]
                             the model that it was compared with: its perplexity in thousandths; the divergence (KL) of
                             the release's next-token probabilities from its, in millionths of a nat a token

Integers, so that every machine reads the same figures. They are for people: nothing on board depends on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from protocol.packing import Fields

_UNIT = "manifest quality"
_DIGEST_SIZE = 32
_PERPLEXITY_MIN = 1000  # of a model that is certain and right
_FIGURE_MAX = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReference:
    """The model that a release was compared with.

    Attributes:
        perplexity_milli: its own on the same tokens, in thousandths.
        divergence_micro: of the release's next-token probabilities from its, in millionths of a nat a token.
    """

    perplexity_milli: int
    divergence_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a release is on a text that it was not made on.

    Attributes:
        text_sha256: of the text's bytes, 32 bytes.
        num_tokens: tokens of it that were looked at.
        perplexity_milli: of the release on them, in thousandths.
        reference: what it was compared with; None for nothing.
    """

    text_sha256: bytes
    num_tokens: int
    perplexity_milli: int
    reference: QualityReference | None = None

    @property
    def loss(self) -> float | None:
        """By how much the perplexity is above the reference's: 0.01 is 1 %; None without a reference."""
        return None if self.reference is None else self.perplexity_milli / self.reference.perplexity_milli - 1

    def as_map(self) -> dict[str, Any]:
        """Return the map."""
        reference = self.reference
        return {
            "text": self.text_sha256,
            "tokens": self.num_tokens,
            "perplexity": self.perplexity_milli,
            "reference": None if reference is None else [reference.perplexity_milli, reference.divergence_micro],
        }

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Self:
        """Undo `as_map`.

        Raises:
            DecodeError: it is none.
        """
        fields = Fields(value, unit=_UNIT)
        reference = None if fields.is_none("reference") else _reference(fields.items("reference", length_max=2))
        quality = cls(
            text_sha256=fields.data("text", size=_DIGEST_SIZE),
            num_tokens=fields.integer("tokens", lowest=1, highest=_FIGURE_MAX),
            perplexity_milli=fields.integer("perplexity", lowest=_PERPLEXITY_MIN, highest=_FIGURE_MAX),
            reference=reference,
        )
        fields.finish()
        return quality


def _reference(items: list[Any]) -> QualityReference:
    fields = Fields(dict(zip(("perplexity", "divergence"), items, strict=False)), unit=_UNIT)
    return QualityReference(
        perplexity_milli=fields.integer("perplexity", lowest=_PERPLEXITY_MIN, highest=_FIGURE_MAX),
        divergence_micro=fields.integer("divergence", highest=_FIGURE_MAX),
    )
