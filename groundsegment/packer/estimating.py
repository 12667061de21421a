"""Estimates: what a packing would come to, from a sample of its segments. Writes nothing.

Segments are sorted by what they mostly hold (which matrix of a layer, whatever the layer; as what; with or without a
base), for those shrink alike. Each sort gives samples in proportion to its bytes, at least one, evenly spread; a sort's
own samples speak for the rest of it. So an embedding that changed is not taken for a layer that did not.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groundsegment.packer.encoding import EncodeJob, encode_segment
from groundsegment.packer.outcomes import PieceOutcome
from groundsegment.packer.packing import Sources
from groundsegment.packer.plan import PackPlan
from groundsegment.packer.tally import Tally
from groundsegment.packer.tensors.jobs import PieceJob, SegmentJob
from groundsegment.packer.workers import Workers, run_in_order
from protocol.bundle import HEADER_SIZE
from protocol.codec.kinds import TransformKind
from protocol.segment import ROW_SIZE

NUM_SAMPLES_DEFAULT = 48
_NUMBER = re.compile(r"\d+")

OnProgress = Callable[[int, int], None]
_Sort = tuple[str, str, bool, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a packing would come to.

    Attributes:
        payload_bytes: of all bundles.
        error_bytes: its standard error, as far as the samples differ; 0 if all segments were looked at.
        num_bundles: likewise estimated.
        num_sampled: segments that were encoded.
        num_segments: in all.
        tally: what would become of every tensor; exact where it was sampled.
    """

    payload_bytes: int
    error_bytes: int
    num_bundles: int
    num_sampled: int
    num_segments: int
    tally: Tally


def estimate(
    plan: PackPlan,
    sources: Sources,
    *,
    workers: Workers | None = None,
    num_samples: int = NUM_SAMPLES_DEFAULT,
    on_progress: OnProgress = lambda done, total: None,
) -> Estimate:
    """Encode a sample of a plan's segments, and say what all would come to.

    Args:
        plan: what would be packed.
        sources: where its files are.
        workers: who encodes.
        num_samples: segments at most.
        on_progress: called with the raw bytes encoded so far, and of how many.
    """
    chosen = _choose(plan, num_samples)
    samples = _measure(plan, sources, chosen, workers or Workers(), on_progress)
    tally, sizes = Tally(plan.survey), []
    known = _Ratios(list(samples.values()))
    overhead = sum(sample.overhead for sample in samples.values()) / max(1, len(samples))
    for segment in plan.segments():
        sample = samples.get(segment.number)
        outcomes = sample.outcomes if sample else [known.guess(piece) for piece in segment.job.pieces]
        tally.add(segment.job, outcomes)
        coded = sum(outcome.coded_bytes for outcome in outcomes)
        sizes.append(coded + (sample.overhead if sample else round(overhead)))
    payload_bytes, num_bundles = _fill(sizes, plan.bundle_size_bytes)
    return Estimate(
        payload_bytes=payload_bytes,
        error_bytes=known.error_bytes,
        num_bundles=num_bundles,
        num_sampled=len(samples),
        num_segments=plan.num_segments,
        tally=tally,
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    job: SegmentJob
    outcomes: Sequence[PieceOutcome]
    overhead: int
    """Bytes in the bundle that are no piece's: row, tag, head of the payload."""


def _sort_of(piece: PieceJob) -> _Sort:
    return piece.kind, piece.dtype, piece.has_base, _NUMBER.sub("#", piece.parts[0])


def _choose(plan: PackPlan, num_samples: int) -> list[int]:
    """Return the numbers of the segments to look at, rising."""
    if plan.num_segments <= num_samples:
        return list(range(plan.num_segments))
    numbers: dict[_Sort, list[int]] = defaultdict(list)
    raw_bytes: dict[_Sort, int] = defaultdict(int)
    for segment in plan.segments():
        sort = _sort_of(max(segment.job.pieces, key=lambda piece: piece.size_bytes))
        numbers[sort].append(segment.number)
        raw_bytes[sort] += segment.raw_size
    total = sum(raw_bytes.values())
    chosen: list[int] = []
    for sort in sorted(numbers, key=lambda sort: -raw_bytes[sort])[:num_samples]:
        count = min(len(numbers[sort]), max(1, round(num_samples * raw_bytes[sort] / total)))
        chosen += [numbers[sort][(2 * i + 1) * len(numbers[sort]) // (2 * count)] for i in range(count)]
    return sorted(chosen)


def _measure(
    plan: PackPlan, sources: Sources, chosen: Sequence[int], workers: Workers, on_progress: OnProgress
) -> dict[int, _Sample]:
    wanted = set(chosen)
    jobs: list[EncodeJob] = [sources.job(plan, segment) for segment in plan.segments() if segment.number in wanted]
    samples = {}
    raw_bytes = sum(job.segment.raw_size for job in jobs)
    done = 0
    on_progress(done, raw_bytes)
    with workers.started(raw_bytes, sources.all_files) as executor:
        for job, encoded in run_in_order(executor, encode_segment, jobs, num_workers=workers.count):
            coded = sum(outcome.coded_bytes for outcome in encoded.pieces)
            overhead = ROW_SIZE + encoded.row.stored_size - coded
            samples[job.segment.number] = _Sample(job.segment.job, encoded.pieces, overhead)
            done += job.segment.raw_size
            on_progress(done, raw_bytes)
    return samples


def _fill(sizes: Sequence[int], bundle_size_bytes: int) -> tuple[int, int]:
    """Return bytes and number of the bundles that hold segments of these sizes, rows included."""
    num_bundles, size = 1, HEADER_SIZE
    for added in sizes:
        if size + added > bundle_size_bytes and size > HEADER_SIZE:
            num_bundles, size = num_bundles + 1, HEADER_SIZE
        size += added
    return sum(sizes) + HEADER_SIZE * num_bundles, num_bundles


class _Seen:
    """What the samples say of one sort of pieces."""

    def __init__(self) -> None:
        self.raw_bytes = self.coded_bytes = 0
        self.guessed_bytes = 0  # raw, of the pieces that it spoke for
        self.ratios: list[float] = []
        self.raw_by_transform: dict[TransformKind, int] = defaultdict(int)

    def add(self, outcome: PieceOutcome) -> None:
        self.raw_bytes += outcome.raw_bytes
        self.coded_bytes += outcome.coded_bytes
        self.ratios.append(outcome.coded_bytes / outcome.raw_bytes)
        self.raw_by_transform[outcome.transform] += outcome.raw_bytes

    def guess(self, raw_bytes: int) -> PieceOutcome:
        self.guessed_bytes += raw_bytes
        return PieceOutcome(
            transform=max(self.raw_by_transform, key=lambda transform: self.raw_by_transform[transform]),
            raw_bytes=raw_bytes,
            coded_bytes=round(raw_bytes * self.coded_bytes / self.raw_bytes),
        )

    @property
    def variance(self) -> float | None:
        """Of the ratio of one piece, if there are samples enough to say."""
        count = len(self.ratios)
        if count < 2:
            return None
        mean = sum(self.ratios) / count
        return sum((ratio - mean) ** 2 for ratio in self.ratios) / (count - 1)


class _Ratios:
    """How much pieces shrink, by sort; what is known of a sort speaks for its kind where a sort has no sample."""

    def __init__(self, samples: Sequence[_Sample]) -> None:
        self._seen: dict[tuple[object, ...], _Seen] = defaultdict(_Seen)
        for sample in samples:
            for piece, outcome in zip(sample.job.pieces, sample.outcomes, strict=True):
                for key in self._keys(piece):
                    self._seen[key].add(outcome)

    def guess(self, piece: PieceJob) -> PieceOutcome:
        """What likely becomes of a piece that was not looked at."""
        key = next(key for key in self._keys(piece) if key in self._seen)
        return self._seen[key].guess(piece.size_bytes)

    @property
    def error_bytes(self) -> int:
        """Standard error of all guesses together."""
        variances = [seen.variance for seen in self._seen.values() if seen.variance is not None]
        usual = max(variances, default=0.0)
        total = 0.0
        for seen in self._seen.values():
            if seen.guessed_bytes:
                variance = usual if seen.variance is None else seen.variance
                total += seen.guessed_bytes**2 * variance / len(seen.ratios)
        return round(math.sqrt(total))

    @staticmethod
    def _keys(piece: PieceJob) -> Sequence[tuple[object, ...]]:
        sort = _sort_of(piece)
        return sort, sort[:3], (sort[0], sort[2]), ()
