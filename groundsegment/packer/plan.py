"""The plan of a packing: which bytes of which file become which segment, against which bytes of the base. Pure.

Segments are cut at fixed offsets of each file, in order of names, so the same inputs always give the same plan. The
plan's digest names everything that decides a segment's bytes: it says whether bundles of an interrupted run may be
used again, and under one digest no segment number is ever encrypted twice with different contents.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from protocol.limits import MIB
from protocol.manifest import FileEntry
from protocol.packing import pack_map

SEGMENT_SIZE = MIB  # decoder memory on board is a few of these; smaller ones compress worse
PACKING_VERSION = 1  # raise it with any change of what a segment's bytes become


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPlan:
    """One segment to be made.

    Attributes:
        number: over the whole update, from 0.
        file: index in the release's files.
        offset: of its first byte in that file.
        raw_size: bytes.
        base_file: index in the base's files; None if no old bytes go with it.
        base_offset: where they start.
    """

    number: int
    file: int
    offset: int
    raw_size: int
    base_file: int | None = None
    base_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """What is to be packed, and how.

    Attributes:
        satellite: whom it is for; release keys are never shared.
        release_digest: of the target release.
        files: of the target release, rising by name.
        base_digest: of the base release; None for a full update.
        base_files: of the base release, rising by name.
        bundle_size_bytes: no bundle is larger, unless one segment alone is.
        level: the highest zstd level tried.
    """

    satellite: str
    release_digest: bytes
    files: tuple[FileEntry, ...]
    base_digest: bytes | None
    base_files: tuple[FileEntry, ...]
    bundle_size_bytes: int
    level: int

    @property
    def raw_bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def num_segments(self) -> int:
        """Segments of the whole update."""
        return sum(-(-entry.size_bytes // SEGMENT_SIZE) for entry in self.files)

    def digest(self) -> str:
        """Return the plan's digest in hex."""
        decisive = {
            "version": PACKING_VERSION,
            "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
            "satellite": self.satellite,
            "release": self.release_digest,
            "base": self.base_digest,
            "segment_size": SEGMENT_SIZE,
            "bundle_size": self.bundle_size_bytes,
            "level": self.level,
        }
        return hashlib.sha256(pack_map(decisive)).hexdigest()

    def segments(self, first: int = 0) -> Iterator[SegmentPlan]:
        """Yield the segments in order, from number `first` on."""
        number = 0
        for index, entry in enumerate(self.files):
            count = -(-entry.size_bytes // SEGMENT_SIZE)
            base = match_base(entry, self.files, self.base_files)
            for i in range(max(0, first - number), count):
                yield self._segment(number + i, index, i * SEGMENT_SIZE, base)
            number += count

    def _segment(self, number: int, file: int, offset: int, base: int | None) -> SegmentPlan:
        size = min(SEGMENT_SIZE, self.files[file].size_bytes - offset)
        has_base = base is not None and offset + size <= self.base_files[base].size_bytes
        return SegmentPlan(
            number=number,
            file=file,
            offset=offset,
            raw_size=size,
            base_file=base if has_base else None,
            base_offset=offset if has_base else 0,
        )


def match_base(entry: FileEntry, files: tuple[FileEntry, ...], base_files: tuple[FileEntry, ...]) -> int | None:
    """Return the index of the base file that a file most likely grew from.

    The one of the same name; else, for the only GGUF file of both releases, that one. Matching by tensor names, for
    models that were sharded anew, belongs here.
    """
    for index, base in enumerate(base_files):
        if base.name == entry.name:
            return index
    if entry.name.endswith(".gguf"):
        old = [index for index, base in enumerate(base_files) if base.name.endswith(".gguf")]
        new = [other for other in files if other.name.endswith(".gguf")]
        if len(old) == len(new) == 1:
            return old[0]
    return None
