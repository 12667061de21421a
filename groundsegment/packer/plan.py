"""The plan of a packing: which bytes of which file become which segment, against which bytes of the base.

Segments are cut along tensors (`tensors.cut`), file by file, so the same inputs always give the same plan, and their
number is known before anything is packed. The plan's digest names everything that decides a segment's bytes: it says
whether bundles of an interrupted run may be used again, and under one digest no segment number is ever encrypted twice
with different contents. So every version of what codes is in it: another pcodec packs anew.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import zstandard

from groundsegment.packer.tensors.apart import take_apart
from groundsegment.packer.tensors.catalogue import catalogue, reader
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.jobs import SegmentJob
from groundsegment.packer.tensors.matching import Match, match, removed, why_unmatched
from groundsegment.packer.tensors.parts import Part
from protocol.codec.payload import VERSION as CODEC_VERSION
from protocol.damage import LostRange
from protocol.limits import KIB, OBJECT_SIZE_MAX, SEGMENT_SIZE_MAX
from protocol.manifest import FileEntry, release_digest
from protocol.packing import pack_map

_SEGMENT_SIZE_MIN = 64 * KIB  # tables cost some hundred bytes a segment
PACKING_VERSION = 6  # raise it with any change of what a segment's bytes become


def coder_versions() -> dict[str, str]:
    """Return the versions of everything that decides what a segment's bytes become."""
    return {
        "packing": str(PACKING_VERSION),
        "codec": str(CODEC_VERSION),
        "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "pcodec": version("pcodec"),
        "numpy": np.__version__,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """One segment to be made.

    Attributes:
        number: over the whole update, from 0.
        file: index in the release's files.
        job: which bytes, and what they are.
    """

    number: int
    file: int
    job: SegmentJob

    @property
    def raw_size(self) -> int:
        """Bytes it turns into."""
        return self.job.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survey:
    """What a release is made of, and what of it the base has.

    Attributes:
        parts: of the release: tensors, families of them, other bytes.
        matches: the part of the base that a part most likely grew from; no key: none.
        unmatched: why a part has no such counterpart, in words; empty without a base.
        removed: parts of the base that no part grew from.
        segment_bytes: what a segment should turn into at most.
        num_segments: that the parts are cut into.
    """

    parts: tuple[Part, ...]
    matches: Mapping[Part, Match]
    unmatched: Mapping[Part, str]
    removed: tuple[Part, ...]
    segment_bytes: int
    num_segments: int

    def jobs(self) -> Iterator[SegmentJob]:
        """Yield the jobs of all segments, in order."""
        return cut(self.parts, self.matches, segment_bytes=self.segment_bytes)


def survey(
    files: Mapping[str, Path], base_files: Mapping[str, Path], *, bundle_size_bytes: int = OBJECT_SIZE_MAX
) -> Survey:
    """Read the headers of a release and its base, and match their tensors.

    Args:
        files: of the release, by name.
        base_files: of the base; none for a full update.
        bundle_size_bytes: segments are no larger than a bundle should be, nor than the decoder's memory allows.

    Raises:
        OSError: a file cannot be read.
    """
    parts, base_parts = catalogue(files), catalogue(base_files)
    if base_files:
        parts = take_apart(parts, base_parts, reader(files), reader(base_files))
    segment_bytes = min(SEGMENT_SIZE_MAX, max(_SEGMENT_SIZE_MIN, bundle_size_bytes))
    matches = match(parts, base_parts, reader(files), reader(base_files)) if base_files else {}
    return Survey(
        parts=parts,
        matches=matches,
        unmatched=why_unmatched(parts, base_parts, matches) if base_files else {},
        removed=removed(base_parts, matches),
        segment_bytes=segment_bytes,
        num_segments=sum(1 for _ in cut(parts, matches, segment_bytes=segment_bytes)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackPlan:
    """What is to be packed, and how.

    Attributes:
        satellite: whom it is for; release keys are never shared.
        release_digest: of the target release.
        files: of the target release, rising by name.
        base_digest: of the base release; None for a full update.
        base_files: of the base release, rising by name.
        bundle_size_bytes: no bundle is larger, unless one segment alone is.
        level: how hard the coders try, as a zstd level.
        survey: what both releases are made of.
        lost: of a repair, what it brings back; it decides what is in which segment.
    """

    satellite: str
    release_digest: bytes
    files: tuple[FileEntry, ...]
    base_digest: bytes | None
    base_files: tuple[FileEntry, ...]
    bundle_size_bytes: int
    level: int
    survey: Survey
    lost: tuple[LostRange, ...] = ()

    @property
    def raw_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def num_segments(self) -> int:
        """Segments of the whole update."""
        return self.survey.num_segments

    def digest(self) -> str:
        """Return the plan's digest in hex."""
        decisive = {
            **coder_versions(),
            "satellite": self.satellite,
            "release": self.release_digest,
            "files": release_digest(self.files),  # of an adapter that is merged they are not the release's
            "base": self.base_digest,
            "bundle_size": self.bundle_size_bytes,
            "level": self.level,
            "segments": self._segments_digest(),
            **({"lost": [[each.file, each.offset, each.size] for each in self.lost]} if self.lost else {}),
        }
        return hashlib.sha256(pack_map(decisive)).hexdigest()

    def _segments_digest(self) -> bytes:
        """What is in which segment: matching compares floats, and machines differ in how they round."""
        found = hashlib.sha256()
        for job in self.survey.jobs():
            found.update(ascii(job).encode() + b"\n")
        return found.digest()

    def segments(self, first: int = 0) -> Iterator[SegmentPlan]:
        """Yield the segments in order, from number `first` on."""
        numbers = {entry.name: number for number, entry in enumerate(self.files)}
        for number, job in enumerate(islice(self.survey.jobs(), first, None), first):
            yield SegmentPlan(number=number, file=numbers[job.file], job=job)
