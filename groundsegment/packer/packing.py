"""Packing: drives the workers, fills bundles, writes them, and goes on where an interrupted run was.

    DIRECTORY/bundle-00000.skb ...   whole, synced, then renamed into place
    DIRECTORY/index.jsonl            line 1: the plan's digest; then one line for each bundle, added once it is durable

Memory: one bundle (at most 64 MiB) and the segments in flight. A bundle of an earlier run is used again only if the
index of the same plan names it and its bytes have the digest it says; the caller keeps the release key with the plan.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from groundsegment.errors import InputError
from groundsegment.packer.encoding import EncodeJob, encode_segment, measure_segment
from groundsegment.packer.plan import PackPlan
from groundsegment.packer.workers import run_in_order, worker_processes
from protocol.bundle import HEADER_SIZE, BundleHeader, head_size, peek_num_segments
from protocol.errors import DecodeError
from protocol.limits import BUNDLE_SIZE_DEFAULT, BUNDLES_MAX, MIB, OBJECT_SIZE_MAX, SEGMENTS_PER_BUNDLE_MAX
from protocol.manifest import BundleEntry
from protocol.segment import ROW_SIZE, SegmentCodec, SegmentRow

INDEX_NAME = "index.jsonl"
_READ_SIZE = MIB
_POOL_PAYS_BYTES = 16 * MIB  # starting processes takes about a second
_SAMPLES_DEFAULT = 64  # segments that an estimate looks at; a delta takes 0.2 s each at level 15


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecTotals:
    """What one codec was used for."""

    num_segments: int = 0
    raw_bytes: int = 0
    stored_bytes: int = 0

    def plus(self, raw_bytes: int, stored_bytes: int, num_segments: int = 1) -> "CodecTotals":
        """Return the totals with more segments."""
        return CodecTotals(
            num_segments=self.num_segments + num_segments,
            raw_bytes=self.raw_bytes + raw_bytes,
            stored_bytes=self.stored_bytes + stored_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The outcome of a packing.

    Attributes:
        bundles: in order, as the manifest lists them.
        by_codec: what each codec was used for.
        num_reused: bundles of an earlier run that were used again.
    """

    bundles: tuple[BundleEntry, ...]
    by_codec: dict[SegmentCodec, CodecTotals]
    num_reused: int = 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of all bundles."""
        return sum(entry.size_bytes for entry in self.bundles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a packing would come to, from a sample of its segments."""

    payload_bytes: int
    num_bundles: int
    num_sampled: int
    num_segments: int
    by_codec: dict[SegmentCodec, CodecTotals]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the plan's files are: paths in the plan's order."""

    files: tuple[Path, ...]
    base_files: tuple[Path, ...]

    def jobs(self, plan: PackPlan, release_key: bytes, first: int = 0) -> Iterator[EncodeJob]:
        """Yield the jobs of all segments from a number on."""
        for segment in plan.segments(first):
            yield EncodeJob(
                segment=segment,
                path=self.files[segment.file],
                base_path=None if segment.base_file is None else self.base_files[segment.base_file],
                level=plan.level,
                release_key=release_key,
                release_digest=plan.release_digest,
            )


def bundle_name(number: int) -> str:
    """The file name of a bundle of an update."""
    return f"bundle-{number:05d}.skb"


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
    num_workers: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Write the bundles of a plan into a directory, using those that are there already.

    Args:
        plan: what to pack.
        sources: where its files are.
        directory: must exist.
        release_key: the one that this plan was packed with before, if it was.
        num_workers: processes; 1 for none beside this one.
        on_progress: called with the raw bytes done so far.

    Raises:
        InputError: a file cannot be read or changed meanwhile.
        GroundError: a worker died.
    """
    index = _Index.open(directory / INDEX_NAME, plan.digest())
    writer = _BundleWriter(plan, directory, index)
    writer.resume()
    on_progress(writer.raw_bytes)
    left = plan.raw_bytes - writer.raw_bytes
    with worker_processes(num_workers if left >= _POOL_PAYS_BYTES else 1) as executor:
        jobs = sources.jobs(plan, release_key, writer.next_segment)
        for row, stored in run_in_order(executor, encode_segment, jobs, num_workers=num_workers):
            writer.add(SegmentRow.decode(row), stored)
            on_progress(writer.raw_bytes)
    writer.flush()
    return Packed(bundles=tuple(writer.bundles), by_codec=writer.by_codec, num_reused=writer.num_reused)


def estimate(plan: PackPlan, sources: Sources, *, num_samples: int = _SAMPLES_DEFAULT) -> Estimate:
    """Look at a sample of a plan's segments, evenly spread, and say what all would come to. Writes nothing."""
    total = plan.num_segments
    step = max(1, -(-total // num_samples))
    by_codec: dict[SegmentCodec, CodecTotals] = {}
    raw_bytes = num_sampled = 0
    for job in sources.jobs(plan, bytes(32)):
        size = job.segment.raw_size
        if job.segment.number % step and job.segment.number != total - 1:
            continue
        codec, stored = measure_segment(job)
        by_codec[codec] = by_codec.get(codec, CodecTotals()).plus(size, stored)
        raw_bytes += size
        num_sampled += 1
    factor = plan.raw_bytes / raw_bytes if raw_bytes else 1.0
    scaled = {
        codec: CodecTotals(
            num_segments=round(entry.num_segments * total / num_sampled),
            raw_bytes=round(entry.raw_bytes * factor),
            stored_bytes=round(entry.stored_bytes * factor),
        )
        for codec, entry in by_codec.items()
    }
    payload = sum(entry.stored_bytes for entry in scaled.values()) + ROW_SIZE * total
    num_bundles = max(1, -(-payload // plan.bundle_size_bytes))
    return Estimate(
        payload_bytes=payload + HEADER_SIZE * num_bundles,
        num_bundles=num_bundles,
        num_sampled=num_sampled,
        num_segments=total,
        by_codec=scaled,
    )


class _Index:
    """The list of bundles that are durable."""

    def __init__(self, path: Path, entries: list[BundleEntry]) -> None:
        self.path, self.entries = path, entries

    @classmethod
    def open(cls, path: Path, plan_digest: str) -> "_Index":
        """Read the index, if it is of this plan; start a new one otherwise."""
        lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
        entries = []
        for line in lines[1:]:
            try:
                size, sha256, num_segments = json.loads(line)
                entries.append(BundleEntry(size_bytes=size, sha256=bytes.fromhex(sha256), num_segments=num_segments))
            except (ValueError, TypeError):
                break  # torn by a power cut: what it spoke of is made again
        if not lines or lines[0] != plan_digest:
            entries = []
        index = cls(path, [])
        write_durably(path, plan_digest.encode() + b"\n")
        for entry in entries:
            if not index.holds(entry):
                break
            index.append(entry)
        return index

    def holds(self, entry: BundleEntry) -> bool:
        """Whether the next bundle is on the disk as the entry says."""
        path = self.path.with_name(bundle_name(len(self.entries)))
        if not path.exists() or path.stat().st_size != entry.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == entry.sha256

    def append(self, entry: BundleEntry) -> None:
        """Add a bundle whose file is durable."""
        line = json.dumps([entry.size_bytes, entry.sha256.hex(), entry.num_segments])
        with self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)


class _BundleWriter:
    """Collects segments until a bundle is full, and writes it."""

    def __init__(self, plan: PackPlan, directory: Path, index: _Index) -> None:
        self._plan, self._directory, self._index = plan, directory, index
        self._rows: list[SegmentRow] = []
        self._stored: list[bytes] = []
        self._size = HEADER_SIZE
        self.by_codec: dict[SegmentCodec, CodecTotals] = {}
        self.raw_bytes = 0
        self.num_reused = 0
        self.next_segment = 0

    @property
    def bundles(self) -> list[BundleEntry]:
        """The bundles written so far."""
        return self._index.entries

    def resume(self) -> None:
        """Count what an earlier run has done."""
        for number in range(len(self._index.entries)):
            for row in read_head(self._directory / bundle_name(number)).rows:
                self._count(row)
        self.num_reused = len(self._index.entries)

    def add(self, row: SegmentRow, stored: bytes) -> None:
        """Take the next segment."""
        size = ROW_SIZE + len(stored)
        if self._size + size > self._plan.bundle_size_bytes or len(self._rows) == SEGMENTS_PER_BUNDLE_MAX:
            self.flush()
        self._rows.append(row)
        self._stored.append(stored)
        self._size += size
        self._count(row)

    def flush(self) -> None:
        """Write what was collected as a bundle."""
        if not self._rows:
            return
        number = len(self._index.entries)
        header = BundleHeader(release_digest=self._plan.release_digest, number=number, rows=tuple(self._rows))
        parts = [header.encode(), *self._stored]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        write_durably(self._directory / bundle_name(number), *parts)
        self._index.append(
            BundleEntry(size_bytes=header.total_bytes, sha256=digest.digest(), num_segments=len(self._rows))
        )
        self._rows, self._stored, self._size = [], [], HEADER_SIZE

    def _count(self, row: SegmentRow) -> None:
        before = self.by_codec.get(row.codec, CodecTotals())
        self.by_codec[row.codec] = before.plus(row.raw_size, row.stored_size)
        self.raw_bytes += row.raw_size
        self.next_segment = row.number + 1


def read_head(path: Path) -> BundleHeader:
    """Read the head of a bundle file.

    Raises:
        InputError: it is not a bundle.
    """
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_SIZE)
            return BundleHeader.decode(start + file.read(head_size(peek_num_segments(start)) - HEADER_SIZE))
    except DecodeError as error:
        raise InputError(f"{path}: {error}", hint="remove the depot's staging directory and stage again") from error


def write_durably(path: Path, *parts: bytes) -> None:
    """Write a file so that a crash leaves it whole or as it was; a disk that is full gets its space back."""
    part_path = path.with_name(f".{path.name}.part")
    try:
        with part_path.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        part_path.replace(path)
    except OSError as error:
        part_path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file by itself
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
