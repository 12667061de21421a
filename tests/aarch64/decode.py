"""Sealed segments in a directory, and what they decode to: run natively and emulated, it must print the same.

Imports the protocol alone, as a satellite does. `python -m tests.aarch64.decode DIRECTORY` prints, for each case below,
its name and the digest of all bytes that its segments are rebuilt to.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from protocol.codec.rebuild import rebuild
from protocol.segment import SegmentCipher, SegmentCodec, SegmentRow, expand

_INDEX = "segments.json"
_KEY = _DIGEST = bytes(32)


def save(case: Path, segments: Sequence[tuple[SegmentRow, bytes]], base_paths: Sequence[Path]) -> None:
    """Write a case: rows and stored bytes, and where its base is."""
    case.mkdir()
    rows = [[row.encode().hex(), stored.hex()] for row, stored in segments]
    (case / _INDEX).write_text(json.dumps({"segments": rows, "base": [str(path) for path in base_paths]}))


def digest(case: Path) -> str:
    """Open and rebuild every segment of a case; returns the digest of offsets and bytes, in hex."""
    index = json.loads((case / _INDEX).read_text())
    cipher = SegmentCipher(_KEY, _DIGEST)
    base = [os.open(path, os.O_RDONLY) for path in index["base"]]
    total = hashlib.sha256()
    for row_hex, stored_hex in index["segments"]:
        row, stored = SegmentRow.decode(bytes.fromhex(row_hex)), bytes.fromhex(stored_hex)
        payload = b"" if row.codec is SegmentCodec.COPY else cipher.open(row, stored)
        if row.codec is SegmentCodec.TENSOR:
            runs = [
                (offset, run.tobytes())
                for offset, run in rebuild(payload, row.raw_size, lambda file, at, size: os.pread(base[file], size, at))
            ]
        else:
            old = os.pread(base[row.base_file], row.raw_size, row.base_offset) if row.needs_base else None
            runs = [(row.offset, expand(row, payload, old))]
        for offset, run in runs:
            total.update(offset.to_bytes(8, "big") + run)
    for descriptor in base:
        os.close(descriptor)
    return total.hexdigest()


if __name__ == "__main__":
    for found in sorted(Path(sys.argv[1]).glob(f"*/{_INDEX}")):
        print(found.parent.name, digest(found.parent))
