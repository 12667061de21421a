"""The trusted root on the disk: three copies of a file named by its digest, as the record is kept three times.

    root-DIGEST16.1.json, .2.json, .3.json      the same bytes; the record holds their whole SHA-256

A new root is written before the record names it, and the old one deleted after, so whichever root the record names is
there. A copy that is lost or differs is made again from one that is right; if none is, bit by bit, two against one.
Roots with post-quantum keys have some 23 kB: too much for the record's slots.

It does not know what a root means (`protocol.roots`).
"""

import hashlib
from pathlib import Path

from onboard.errors import StoreError
from onboard.store.disk import Disk, RealDisk, read_start, replace_file
from onboard.store.layout import StateLayout
from onboard.store.slots import NUM_COPIES
from protocol.limits import ROOT_SIZE_MAX

_DIGEST_CHARACTERS = 16
_PATTERN = "root-*.json*"


def root_digest(data: bytes) -> bytes:
    """What the record holds of a root."""
    return hashlib.sha256(data).digest()


def root_paths(layout: StateLayout, digest: bytes) -> tuple[Path, ...]:
    """Where the copies of a root lie."""
    name = digest.hex()[:_DIGEST_CHARACTERS]
    return tuple(layout.state_dir / f"root-{name}.{number}.json" for number in range(1, NUM_COPIES + 1))


def keep_root(layout: StateLayout, data: bytes, disk: Disk | None = None) -> bytes:
    """Make a root durable in all its copies; returns its digest. Copies that are right already are left alone.

    Raises:
        StoreError: the disk refused; what the record names is untouched.
    """
    digest = root_digest(data)
    for path in root_paths(layout, digest):
        if _read(path) != data:
            replace_file(path, data, disk)
    return digest


def read_root_copies(layout: StateLayout, digest: bytes) -> bytes | None:
    """Return the root with that digest, None if its copies do not give it. Changes nothing."""
    copies = [_read(path) for path in root_paths(layout, digest)]
    candidates = [copy for copy in copies if copy is not None]
    if len(candidates) == NUM_COPIES and len({len(copy) for copy in candidates}) == 1:
        candidates.append(_majority(candidates))
    return next((copy for copy in candidates if root_digest(copy) == digest), None)


def has_root_copies(layout: StateLayout) -> bool:
    """Whether a copy of any root lies there, damaged or not."""
    return any(layout.state_dir.glob(_PATTERN))


def mend_root(layout: StateLayout, data: bytes, disk: Disk | None = None) -> int:
    """Make the copies of a root again that are lost or differ; returns how many could be."""
    num_mended = 0
    for path in root_paths(layout, root_digest(data)):
        if _read(path) == data:
            continue
        try:
            replace_file(path, data, disk)
        except StoreError:
            continue  # there are others; the next start tries again
        num_mended += 1
    return num_mended


def forget_roots(layout: StateLayout, *, but: bytes, disk: Disk | None = None) -> None:
    """Delete the copies of other roots, and what a cut left of a write."""
    kept = set(root_paths(layout, but))
    for path in layout.state_dir.glob(_PATTERN):
        if path not in kept:
            (disk or RealDisk()).unlink(path)


def _read(path: Path) -> bytes | None:
    try:
        data = read_start(path, ROOT_SIZE_MAX)
    except OSError:
        return None
    return data if len(data) <= ROOT_SIZE_MAX else None


def _majority(copies: list[bytes]) -> bytes:
    a, b, c = (int.from_bytes(copy, "big") for copy in copies)
    return (a & b | a & c | b & c).to_bytes(len(copies[0]), "big")
