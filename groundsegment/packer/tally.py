"""The tally: what became of every tensor, added up segment by segment. A few numbers for each, whatever its size."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from groundsegment.packer.outcomes import PieceOutcome, split
from groundsegment.packer.plan import Survey
from groundsegment.packer.tensors.jobs import PieceJob, SegmentJob
from groundsegment.packer.tensors.parts import Part
from protocol.codec.kinds import TransformKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What one transform was used for.

    Attributes:
        num_pieces: that it was given.
        raw_bytes: what they turn into.
        coded_bytes: what they take in the bundles, without the rows of segments.
    """

    num_pieces: int = 0
    raw_bytes: int = 0
    coded_bytes: int = 0

    def plus(self, raw_bytes: int, coded_bytes: int, num_pieces: int = 1) -> "Totals":
        """Return the totals with more pieces."""
        return Totals(
            num_pieces=self.num_pieces + num_pieces,
            raw_bytes=self.raw_bytes + raw_bytes,
            coded_bytes=self.coded_bytes + coded_bytes,
        )


@dataclass(slots=True)
class PartTally:
    """What became of one part.

    Attributes:
        part: which.
        by_transform: how its pieces were stored.
    """

    part: Part
    by_transform: dict[TransformKind, Totals] = field(default_factory=dict)

    @property
    def raw_bytes(self) -> int:
        """Bytes counted so far."""
        return sum(totals.raw_bytes for totals in self.by_transform.values())

    @property
    def coded_bytes(self) -> int:
        """Bytes that they take in the bundles."""
        return sum(totals.coded_bytes for totals in self.by_transform.values())

    def add(self, transform: TransformKind, raw_bytes: int, coded_bytes: int) -> None:
        """Count a piece."""
        self.by_transform[transform] = self.by_transform.get(transform, Totals()).plus(raw_bytes, coded_bytes)


class Tally:
    """See the module.

    Args:
        survey: of the release that is packed.
    """

    def __init__(self, survey: Survey) -> None:
        self._parts = {(part.file, part.name): PartTally(part) for part in survey.parts}
        self.num_segments = 0
        self.raw_bytes = 0

    @property
    def parts(self) -> Sequence[PartTally]:
        """What became of each part, in order of the release."""
        return tuple(self._parts.values())

    @property
    def by_transform(self) -> dict[TransformKind, Totals]:
        """What each transform was used for."""
        sums: dict[TransformKind, Totals] = defaultdict(Totals)
        for entry in self._parts.values():
            for transform, totals in entry.by_transform.items():
                sums[transform] = sums[transform].plus(totals.raw_bytes, totals.coded_bytes, totals.num_pieces)
        return dict(sorted(sums.items()))

    @property
    def coded_bytes(self) -> int:
        """Bytes of all pieces: all there is to send but rows, tags and heads."""
        return sum(entry.coded_bytes for entry in self._parts.values())

    def add(self, job: SegmentJob, outcomes: Sequence[PieceOutcome]) -> None:
        """Count a segment."""
        self.num_segments += 1
        self.raw_bytes += job.size_bytes
        for piece, outcome in zip(job.pieces, outcomes, strict=True):
            self._add_piece(job.file, piece, outcome)

    def _add_piece(self, file: str, piece: PieceJob, outcome: PieceOutcome) -> None:
        entries = [self._parts[file, name] for name in piece.parts]
        if len(entries) == 1:
            entries[0].add(outcome.transform, outcome.raw_bytes, outcome.coded_bytes)
            return
        raw_sizes = [entry.part.size_bytes for entry in entries]  # tiny neighbours, each of them whole
        for entry, raw, coded in zip(entries, raw_sizes, split(outcome.coded_bytes, raw_sizes), strict=True):
            entry.add(outcome.transform, raw, coded)
