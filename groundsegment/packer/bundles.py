"""Bundle files and their index, so that an interrupted packing goes on where it was.

    DIRECTORY/bundle-00000.skb ...   whole, synced, then renamed into place
    DIRECTORY/index.jsonl            line 1: the plan's digest; then one line for each bundle, added once it is durable

A bundle of an earlier run is used again only if the index of the same plan names it and its bytes have the digest it
says; the caller keeps the release key with the plan. Memory: one bundle, at most 64 MiB.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groundsegment.errors import InputError
from protocol.bundle import HEADER_SIZE, BundleHeader, head_size, peek_num_segments
from protocol.errors import DecodeError
from protocol.limits import SEGMENTS_PER_BUNDLE_MAX
from protocol.manifest import BundleEntry, bundle_digest
from protocol.segment import ROW_SIZE, SegmentRow

INDEX_NAME = "index.jsonl"
_STAGE_AGAIN = "remove the depot's staging directory and stage again"


def bundle_name(number: int) -> str:
    """The file name of a bundle of an update."""
    return f"bundle-{number:05d}.skb"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBundle:
    """A bundle that was written.

    Attributes:
        size_bytes: of its file.
        sha256: of its file, all 32 bytes.
        num_segments: how many it holds.
    """

    size_bytes: int
    sha256: bytes
    num_segments: int

    @property
    def entry(self) -> BundleEntry:
        """What a manifest says of it."""
        digest = bundle_digest(self.sha256)
        return BundleEntry(size_bytes=self.size_bytes, digest=digest, num_segments=self.num_segments)


class Index:
    """The list of bundles that are durable."""

    def __init__(self, path: Path, entries: list[PackedBundle]) -> None:
        self.path, self.entries = path, entries

    @classmethod
    def open(cls, path: Path, plan_digest: str) -> "Index":
        """Read the index, if it is of this plan; start a new one otherwise."""
        lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
        entries = []
        for line in lines[1:]:
            try:
                size, sha256, num_segments = json.loads(line)
                entries.append(PackedBundle(size_bytes=size, sha256=bytes.fromhex(sha256), num_segments=num_segments))
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

    def holds(self, entry: PackedBundle) -> bool:
        """Whether the next bundle is on the disk as the entry says."""
        path = self.path.with_name(bundle_name(len(self.entries)))
        if not path.exists() or path.stat().st_size != entry.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == entry.sha256

    def append(self, entry: PackedBundle) -> None:
        """Add a bundle whose file is durable."""
        line = json.dumps([entry.size_bytes, entry.sha256.hex(), entry.num_segments])
        with self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)


class BundleWriter:
    """Collects sealed segments until a bundle is full, and writes it.

    Args:
        directory: of the bundles.
        index: of the same directory; what it lists stays.
        release_digest: of the target release.
        bundle_size_bytes: no bundle is larger, unless one segment alone is.
    """

    def __init__(self, directory: Path, index: Index, *, release_digest: bytes, bundle_size_bytes: int) -> None:
        self._directory, self._index = directory, index
        self._release_digest, self._bundle_size_bytes = release_digest, bundle_size_bytes
        self._rows: list[SegmentRow] = []
        self._stored: list[bytes] = []
        self._size = HEADER_SIZE

    @property
    def bundles(self) -> list[PackedBundle]:
        """The bundles written so far."""
        return self._index.entries

    def add(self, row: SegmentRow, stored: bytes) -> None:
        """Take the next segment."""
        size = ROW_SIZE + len(stored)
        if self._size + size > self._bundle_size_bytes or len(self._rows) == SEGMENTS_PER_BUNDLE_MAX:
            self.flush()
        self._rows.append(row)
        self._stored.append(stored)
        self._size += size

    def flush(self) -> None:
        """Write what was collected as a bundle."""
        if not self._rows:
            return
        number = len(self._index.entries)
        header = BundleHeader(release_digest=self._release_digest, number=number, rows=tuple(self._rows))
        parts = [header.encode(), *self._stored]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        write_durably(self._directory / bundle_name(number), *parts)
        self._index.append(
            PackedBundle(size_bytes=header.total_bytes, sha256=digest.digest(), num_segments=len(self._rows))
        )
        self._rows, self._stored, self._size = [], [], HEADER_SIZE


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
        raise InputError(f"{path}: {error}", hint=_STAGE_AGAIN) from error


def read_segments(path: Path) -> Iterator[tuple[SegmentRow, bytes]]:
    """Yield the rows of a bundle file with their stored bytes.

    Raises:
        InputError: it is not a bundle.
    """
    header = read_head(path)
    with path.open("rb") as file:
        file.seek(header.size_bytes)
        for row in header.rows:
            yield row, file.read(row.stored_size)


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
