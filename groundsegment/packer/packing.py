"""Packing: drives the workers, encrypts what they made, and fills bundles; goes on where an interrupted run was.

Workers encode and know no key; encryption is done here, at a gigabyte a second. So the release key stays on this
machine wherever the workers are. Memory: one bundle, the segments in flight, and what is known of each tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from groundsegment.errors import InputError
from groundsegment.packer.bundles import INDEX_NAME, BundleWriter, Index, PackedBundle, bundle_name, read_segments
from groundsegment.packer.encoding import BaseFile, EncodedSegment, EncodeJob, encode_segment
from groundsegment.packer.outcomes import outcomes_of
from groundsegment.packer.plan import PackPlan, SegmentPlan
from groundsegment.packer.tally import Tally
from groundsegment.packer.workers import Workers, run_in_order
from protocol.errors import DecodeError
from protocol.limits import BUNDLE_SIZE_DEFAULT, BUNDLES_MAX, MIB, OBJECT_SIZE_MAX
from protocol.segment import SegmentCipher, SegmentCodec, SegmentRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The outcome of a packing.

    Attributes:
        bundles: in order, as the manifest lists them.
        tally: what became of every tensor.
        num_reused: bundles of an earlier run that were used again.
    """

    bundles: tuple[PackedBundle, ...]
    tally: Tally
    num_reused: int = 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of all bundles."""
        return sum(entry.size_bytes for entry in self.bundles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the plan's files are: paths in the plan's order."""

    files: tuple[Path, ...]
    base_files: tuple[Path, ...]

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Of the release and the base."""
        return self.files + self.base_files

    def job(self, plan: PackPlan, segment: SegmentPlan) -> EncodeJob:
        """Return a segment's job, with the base files it refers to and no others."""
        numbers = {entry.name: number for number, entry in enumerate(plan.base_files)}
        pieces = segment.job.pieces
        refs = {extent.base.file for piece in pieces for extent in piece.extents if extent.base is not None}
        refs |= {piece.window.file for piece in pieces if piece.window is not None}
        return EncodeJob(
            segment=segment,
            path=self.files[segment.file],
            base={name: BaseFile(number=numbers[name], path=self.base_files[numbers[name]]) for name in sorted(refs)},
            level=plan.level,
        )

    def jobs(self, plan: PackPlan, first: int = 0) -> Iterator[EncodeJob]:
        """Yield the jobs of all segments from a number on."""
        for segment in plan.segments(first):
            yield self.job(plan, segment)


def fitting_bundle_size(raw_bytes: int) -> int:
    """Return the default bundle size, or a larger one where a manifest could not list so many bundles.

    Raises:
        InputError: no bundle size will do.
    """
    size = max(BUNDLE_SIZE_DEFAULT, -(-raw_bytes // (BUNDLES_MAX * 15 // 16) // MIB) * MIB)
    if size > OBJECT_SIZE_MAX:
        raise InputError(f"{raw_bytes} bytes are more than one update can carry", hint="quantize the model first")
    return size


def pack(
    plan: PackPlan,
    sources: Sources,
    directory: Path,
    *,
    release_key: bytes,
    workers: Workers,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Write the bundles of a plan into a directory, using those that are there already.

    Args:
        plan: what to pack.
        sources: where its files are.
        directory: must exist.
        release_key: the one that this plan was packed with before, if it was.
        workers: who encodes.
        on_progress: called with the raw bytes done so far.

    Raises:
        InputError: a file cannot be read or changed meanwhile.
        GroundError: a worker died.
    """
    index = Index.open(directory / INDEX_NAME, plan.digest())
    cipher = SegmentCipher(release_key, plan.release_digest)
    writer = BundleWriter(
        directory, index, release_digest=plan.release_digest, bundle_size_bytes=plan.bundle_size_bytes
    )
    tally = Tally(plan.survey)
    num_reused = len(index.entries)
    first = _recount(plan, directory, num_reused, cipher, tally)
    on_progress(tally.raw_bytes)
    with workers.started(plan.raw_bytes - tally.raw_bytes, sources.all_files) as executor:
        jobs = sources.jobs(plan, first)
        for job, encoded in run_in_order(executor, encode_segment, jobs, num_workers=workers.count):
            writer.add(encoded.row, _seal(cipher, encoded))
            tally.add(job.segment.job, encoded.pieces)
            on_progress(tally.raw_bytes)
    writer.flush()
    return Packed(bundles=tuple(writer.bundles), tally=tally, num_reused=num_reused)


def _seal(cipher: SegmentCipher, encoded: EncodedSegment) -> bytes:
    if encoded.row.codec is SegmentCodec.COPY:
        return b""
    stored = cipher.seal(encoded.row, encoded.payload)
    # In orbit it would be too late to learn of a bad memory cell.
    assert cipher.open(encoded.row, stored) == encoded.payload, f"segment {encoded.row.number} does not decrypt"
    return stored


def _recount(plan: PackPlan, directory: Path, num_bundles: int, cipher: SegmentCipher, tally: Tally) -> int:
    """Count what the bundles of an earlier run hold; returns the number of the first segment that is missing."""
    segments = plan.segments()
    number = 0
    for bundle in range(num_bundles):
        path = directory / bundle_name(bundle)
        for row, stored in read_segments(path):
            job = next(segments).job
            tally.add(job, outcomes_of(job, row, _open(cipher, row, stored, path)))
            number += 1
    return number


def _open(cipher: SegmentCipher, row: SegmentRow, stored: bytes, path: Path) -> bytes:
    if row.codec is SegmentCodec.COPY:
        return b""
    try:
        return cipher.open(row, stored)
    except DecodeError as error:
        hint = "remove the depot's staging directory and stage again"
        raise InputError(f"{path}: {error}", hint=hint) from error
