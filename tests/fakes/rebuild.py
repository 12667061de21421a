"""Rebuilds a release from bundle files with the protocol alone: the oracle for the packer. Small releases only."""

import hashlib
from pathlib import Path

from protocol.bundle import BundleHeader
from protocol.codec.rebuild import rebuild as rebuild_tensors
from protocol.manifest import BundleEntry, FileEntry, bundle_digest
from protocol.segment import SegmentCipher, SegmentCodec, expand


def rebuild(
    directory: Path,
    bundles: tuple[BundleEntry, ...],
    files: tuple[FileEntry, ...],
    *,
    release_key: bytes,
    release_digest: bytes,
    base: dict[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Return the contents of every file, having checked every digest, number and size on the way."""
    old_files = [content for _, content in sorted((base or {}).items())]
    cipher = SegmentCipher(release_key, release_digest)
    result = {entry.name: bytearray(entry.size_bytes) for entry in files}
    covered = dict.fromkeys(result, 0)
    next_segment = 0
    for number, entry in enumerate(bundles):
        data = (directory / f"bundle-{number:05d}.skb").read_bytes()
        assert (len(data), bundle_digest(hashlib.sha256(data).digest())) == (entry.size_bytes, entry.digest)
        header = BundleHeader.decode(data)
        assert (header.number, header.release_digest, len(header.rows)) == (number, release_digest, entry.num_segments)
        at = header.size_bytes
        for row in header.rows:
            assert row.number == next_segment
            next_segment += 1
            stored = data[at : at + row.stored_size]
            at += row.stored_size
            payload = b"" if row.codec is SegmentCodec.COPY else cipher.open(row, stored)
            name = files[row.file].name
            for offset, raw in _runs(row, payload, old_files):
                result[name][offset : offset + len(raw)] = raw
                covered[name] += len(raw)
        assert at == len(data)
    assert covered == {entry.name: entry.size_bytes for entry in files}
    return {name: bytes(content) for name, content in result.items()}


def _runs(row, payload, old_files):
    if row.codec is SegmentCodec.TENSOR:
        runs = rebuild_tensors(payload, row.raw_size, lambda file, at, size: bytes(old_files[file][at : at + size]))
        return [(offset, raw.tobytes()) for offset, raw in runs]
    old = None
    if row.needs_base:
        old = old_files[row.base_file][row.base_offset : row.base_offset + row.raw_size]
    return [(row.offset, expand(row, payload, old))]
