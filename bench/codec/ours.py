"""Skyload's own codec on a release: the packer's plan, chooser and encoder, and the decoder that flies, both timed.

Times are CPU seconds of this one process (the machine may be busy with other work): what one core takes. Encoding
includes that every segment is decoded again and compared. Decoding is what is done on board with a segment: open it
(AES-256-GCM), read the base, rebuild, digest the file's bytes (SHA-256). What is timed is a process that goes on: a
first run, with what is imported and allocated once, does not count. A sample of 2 MB is done in 10 ms, so it is done
again until half a second is full; the median counts.
"""

import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer import encoding
from groundsegment.packer.encoding import EncodeJob
from groundsegment.packer.outcomes import coded_together
from groundsegment.packer.packing import Sources
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.packer.tensors.parts import PartKind
from protocol.codec.rebuild import rebuild
from protocol.limits import MIB, OBJECT_SIZE_MAX
from protocol.manifest import FileEntry
from protocol.segment import ROW_SIZE, SegmentCipher, SegmentCodec, SegmentRow, expand

LEVEL = 15  # what `skyload stage` uses unless told
_REPORT_NAME = "requantize.json"  # stays on the ground
_ENOUGH_S, _RUNS_MAX = 0.5, 50
_KEY, _DIGEST = bytes(32), bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A release as it would fly.

    Attributes:
        segments: rows and sealed bytes.
        base_paths: files of the base, by their number.
        sizes: bytes on the link of every tensor or family, rows and tags of its segments included, by its name.
        coded: the same without rows and tags: heads and streams.
        pieces: names of the tensors or families of every piece.
        transforms: how many bytes of the release each transform rebuilds, by its name.
        raw_bytes: of all segments.
        encode_s: CPU seconds.
    """

    segments: tuple[tuple[SegmentRow, bytes], ...]
    base_paths: tuple[Path, ...]
    sizes: Mapping[str, float]
    coded: Mapping[str, float]
    pieces: frozenset[tuple[str, ...]]
    transforms: Mapping[str, int]
    raw_bytes: int
    encode_s: float

    @property
    def stored_bytes(self) -> int:
        """Bytes on the link of all segments, their rows included."""
        return sum(ROW_SIZE + row.stored_size for row, _ in self.segments)

    def size_of(self, name: str) -> float:
        """Return the bytes on the link of a matrix: a piece of several tensors is shared out by their sizes."""
        return sum(size for part, size in self.sizes.items() if _belongs(part, name))

    def coded_of(self, name: str) -> float:
        """Return the same without rows and tags: what is said of the matrix, as a peer says it."""
        return sum(size for part, size in self.coded.items() if _belongs(part, name))

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Return the matrices in groups that share no piece: only of these the size is a fact."""
        groups: list[list[str]] = []
        for name in names:
            joint = {other for parts in self.pieces if any(_belongs(part, name) for part in parts) for other in parts}
            met = [group for group in groups if any(_belongs(part, other) for part in joint for other in group)]
            groups = [group for group in groups if group not in met]
            groups.append([*(other for group in met for other in group), name])
        return groups


def pack(release: Path, base: Path | None, *, level: int = LEVEL, runs: int = 1) -> Packed:
    """Encode all files of a directory, whole or against the same files of a base's directory.

    Args:
        release: the directory.
        base: the base's.
        level: how hard to try.
        runs: at least, of which the median is timed; with one there is no other before it, nor after.
    """
    files = _files(release)
    base_files = _files(base) if base else {}
    plan = PackPlan(
        satellite="bench",
        release_digest=_DIGEST,
        files=_entries(files),
        base_digest=_DIGEST if base else None,
        base_files=_entries(base_files),
        bundle_size_bytes=OBJECT_SIZE_MAX,
        level=level,
        survey=survey(files, base_files),
    )
    sources = Sources(files=tuple(files.values()), base_files=tuple(base_files.values()))
    jobs = list(sources.jobs(plan))
    encoded: list[encoding.EncodedSegment] = []

    def encode() -> float:
        began = time.process_time()
        encoded[:] = [encoding.encode_segment(job) for job in jobs]
        return time.process_time() - began

    encode_s = _median_s(encode, runs)
    cipher = SegmentCipher(_KEY, _DIGEST)
    sizes: dict[str, float] = {}
    coded: dict[str, float] = {}
    transforms: dict[str, int] = {}
    part_sizes = {part.name: part.size_bytes for part in plan.survey.parts}
    for job, segment in zip(jobs, encoded, strict=True):
        _count(job, segment, part_sizes, (sizes, coded), transforms)
    return Packed(
        segments=tuple(
            (each.row, b"" if each.row.codec is SegmentCodec.COPY else cipher.seal(each.row, each.payload))
            for each in encoded
        ),
        base_paths=tuple(base_files.values()),
        sizes=sizes,
        coded=coded,
        pieces=frozenset(
            parts for job, segment in zip(jobs, encoded, strict=True) for parts in _together(job, segment)
        ),
        transforms=transforms,
        raw_bytes=sum(each.row.raw_size for each in encoded),
        encode_s=encode_s,
    )


def decode(packed: Packed) -> float:
    """Decode every segment once; returns CPU seconds."""
    cipher = SegmentCipher(_KEY, _DIGEST)
    descriptors = [os.open(path, os.O_RDONLY) for path in packed.base_paths]
    try:
        began = time.process_time()
        for row, stored in packed.segments:
            digest = hashlib.sha256()
            for run in decode_segment(cipher, row, stored, descriptors):
                digest.update(run)
        return time.process_time() - began
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def sha256_mb_s() -> float:
    """Return the speed of SHA-256, the best of a few runs: a yardstick for the speeds beside it."""
    data, best = bytes(4 * MIB), math.inf
    for _ in range(5):
        began = time.process_time()
        hashlib.sha256(data).digest()
        best = min(best, time.process_time() - began)
    return len(data) / 1e6 / best


def decode_mb_s(packed: Packed, runs: int) -> float:
    """Return the median speed of so many runs or more; see `pack`."""
    return packed.raw_bytes / 1e6 / _median_s(lambda: decode(packed), runs)


def decode_segment(
    cipher: SegmentCipher, row: SegmentRow, stored: bytes, descriptors: list[int]
) -> list[NDArray[np.uint8] | bytes]:
    """Return the runs of bytes that a segment stands for."""
    payload = b"" if row.codec is SegmentCodec.COPY else cipher.open(row, stored)
    if row.codec is SegmentCodec.TENSOR:
        runs = rebuild(payload, row.raw_size, lambda file, at, size: os.pread(descriptors[file], size, at))
        return [run for _, run in runs]
    old = os.pread(descriptors[row.base_file], row.raw_size, row.base_offset) if row.needs_base else None
    return [expand(row, payload, old)]


def _median_s(run: Callable[[], float], runs: int) -> float:
    """Return the median of the seconds that runs say they took."""
    first_s = run()
    if runs <= 1:
        return first_s
    runs = max(runs, min(_RUNS_MAX, math.ceil(_ENOUGH_S / max(first_s, 1e-6))))
    return statistics.median(run() for _ in range(runs))


def _count(
    job: EncodeJob,
    segment: encoding.EncodedSegment,
    part_sizes: Mapping[str, int],
    counts: tuple[dict[str, float], dict[str, float]],
    transforms: dict[str, int],
) -> None:
    """Share a segment's bytes among its parts: each its pieces, and of one count row, tag and payload's head, too."""
    raw_size = segment.row.raw_size
    shared = ROW_SIZE + segment.row.stored_size - sum(outcome.coded_bytes for outcome in segment.pieces)
    for piece, outcome in zip(job.segment.job.pieces, segment.pieces, strict=True):
        whole = sum(part_sizes[part] for part in piece.parts)  # of joined ones each is whole
        for count, size in zip(counts, (shared * piece.size_bytes / raw_size, 0.0), strict=True):
            for part in piece.parts:
                count[part] = count.get(part, 0.0) + (outcome.coded_bytes + size) * part_sizes[part] / whole
        name = outcome.transform.name if piece.kind is not PartKind.BYTES else f"{outcome.transform.name} (no tensor)"
        transforms[name] = transforms.get(name, 0) + piece.size_bytes


def _together(job: EncodeJob, segment: encoding.EncodedSegment) -> Iterator[tuple[str, ...]]:
    """Yield the names of parts that share a piece of the payload."""
    pieces = job.segment.job.pieces
    if segment.row.codec is not SegmentCodec.TENSOR:
        yield from (piece.parts for piece in pieces)
        return
    for _, members in coded_together(job.segment.job, segment.row, segment.payload):
        yield tuple(part for member in members for part in member.parts)


def _belongs(part: str, name: str) -> bool:
    """Tell whether a part of the release is of a matrix; its shape is not counted, for peers do not get it."""
    return part == name or (part.startswith((f"{name}_", f"{name}.")) and not part.endswith("_shape"))


def _files(directory: Path) -> dict[str, Path]:
    found = sorted(path for path in directory.iterdir() if path.is_file() and path.name != _REPORT_NAME)
    return {path.name: path for path in found}


def _entries(files: Mapping[str, Path]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(name=name, size_bytes=path.stat().st_size, sha256=bytes(32)) for name, path in files.items())
