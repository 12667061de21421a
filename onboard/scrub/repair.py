"""Writing a damaged file anew: what can be repaired is, the rest stays as it is and is named.

Never in place: a worker maps the file, and a power cut tears a write. The new file is written beside it (`.repair`),
synced, read back from the medium, and takes the name; so after a power cut the name has the old file or the new one,
and the scrub after the next start finds the same damage again, or none. A file that should be whole then has to have
its signed SHA-256, or it does not take the name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onboard.errors import StoreCorruptError, StoreFailedError, StoreFullError
from onboard.scrub.blocks import Span
from onboard.scrub.core import LEAF_SIZE, leaf_hash, solve_group
from onboard.scrub.damage import Flip
from onboard.scrub.guard import PARITY_NAME, Guard
from onboard.scrub.medium import READ_SIZE, OnStep, hash_medium, open_medium
from onboard.store.disk import write_all_at

REPAIR_NAME = ".repair"
_SEARCHES_MAX = 64  # blocks searched bit by bit in one repair: seconds on a slow processor
_PARITY = -1


@dataclass(slots=True, kw_only=True)
class _Work:
    """What one repair finds."""

    flips: list[Flip] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    """Leaf hashes of what was written."""


class Repair:
    """Repairs the files of one release.

    Args:
        guard: of the release.
        on_step: see `medium.OnStep`.
    """

    def __init__(self, guard: Guard, on_step: OnStep = lambda size: None) -> None:
        self._guard, self._on_step = guard, on_step
        self._searches_left = _SEARCHES_MAX
        self._zone: tuple[int, Mapping[int, bytes]] | None = None

    def run(self, bad: tuple[int, ...]) -> tuple[tuple[Flip, ...], tuple[int, ...]]:
        """Repair what the cells `bad` belong to; returns what was found, and the cells that stay bad.

        Raises:
            StoreFullError, StoreFailedError: the disk refused, or does not hold what was written; the file that was
                being written stays as it was.
            StoreCorruptError: the guard itself is wrong: repaired by it, a file is not what was signed.
        """
        flips: list[Flip] = []
        lost: list[int] = []
        for file in self._files_of(bad):
            work = self._rewrite(file)
            flips += work.flips
            lost += work.lost
        return tuple(flips), tuple(lost)

    def _files_of(self, bad: tuple[int, ...]) -> Iterator[int]:
        block_map = self._guard.map
        files = {block_map.where(cell).file for cell in bad if cell < block_map.num_blocks}
        yield from sorted(files)
        if any(cell >= block_map.num_blocks for cell in bad):
            yield _PARITY

    def _rewrite(self, file: int) -> _Work:
        guard, disk = self._guard, self._guard.disk
        path = guard.directory / PARITY_NAME if file == _PARITY else guard.path(file)
        new = guard.directory / REPAIR_NAME
        work = _Work()
        if file != _PARITY and self._is_right(file):
            raise StoreCorruptError(path.name, expected="damage", got="what was signed", hint="the guard is wrong")
        disk.unlink(new)
        try:
            digest = self._copy(file, work)
        except StoreFullError:
            disk.unlink(new)
            raise
        if file != _PARITY and not work.lost and digest != guard.head.files[file].sha256:
            disk.unlink(new)
            raise StoreCorruptError(path.name, expected="what was signed", got="a wrong guard", hint="make it anew")
        self._read_back(work)
        if not any(flip.is_repaired for flip in work.flips) and self._has_right_size(file):
            disk.unlink(new)  # nothing was gained
            return work
        disk.rename(new, path)
        disk.sync_directory(guard.directory)
        return work

    def _copy(self, file: int, work: _Work) -> bytes:
        """Write `.repair`, durably; returns the SHA-256 of what it holds."""
        guard, disk, digest = self._guard, self._guard.disk, hashlib.sha256()
        cells = self._cells(file)
        path = guard.directory / PARITY_NAME if file == _PARITY else guard.path(file)
        size = len(cells) * LEAF_SIZE if file == _PARITY else guard.head.files[file].size_bytes
        handle = disk.open(guard.directory / REPAIR_NAME, create=True)
        try:
            disk.allocate(handle, 0, max(size, 1))
            with open_medium(path, disk) as medium:
                for at in range(0, size, READ_SIZE):
                    length = min(READ_SIZE, size - at)
                    part = cells[at // LEAF_SIZE : -(-(at + length) // LEAF_SIZE)]
                    data = self._right(file, part, bytes(medium.read(at, length)).ljust(length, b"\0"), work)
                    digest.update(data)
                    write_all_at(disk, handle, data, at)
                    self._on_step(length)
            disk.truncate(handle, size)
            disk.sync(handle)
        finally:
            disk.close(handle)
        return digest.digest()

    def _is_right(self, file: int) -> bool:
        entry = self._guard.head.files[file]
        return hash_medium(self._guard.path(file), self._guard.disk, self._on_step) == (entry.size_bytes, entry.sha256)

    def _cells(self, file: int) -> range:
        guard = self._guard
        if file == _PARITY:
            return range(guard.map.num_blocks, guard.num_cells)
        return guard.map.file_blocks(file)

    def _has_right_size(self, file: int) -> bool:
        if file == _PARITY:
            return True
        with open_medium(self._guard.path(file), self._guard.disk) as medium:
            return medium.size_bytes == self._guard.head.files[file].size_bytes

    def _right(self, file: int, cells: range, data: bytes, work: _Work) -> bytes:
        """Put what is bad right, as far as it goes."""
        guard = self._guard
        name = PARITY_NAME if file == _PARITY else guard.head.files[file].name
        first = self._cells(file).start
        leaves = []
        for number, wanted in enumerate(guard.hashes(cells)):
            leaf = data[number * LEAF_SIZE : (number + 1) * LEAF_SIZE]
            found = leaf_hash(leaf)
            if wanted is not None and found != wanted:
                offset = (cells[number] - first) * LEAF_SIZE
                repaired = self._repaired(cells[number])
                if repaired is None:
                    work.flips.append(Flip(file=name, offset=offset))
                    work.lost.append(cells[number])
                else:
                    work.flips.append(Flip.between(name, offset, leaf, repaired))
                    leaf, found = repaired, wanted
            leaves.append(leaf)
            work.written.append(found)
        return b"".join(leaves)

    def _read_back(self, work: _Work) -> None:
        """Compare what the medium holds with what was written."""
        with open_medium(self._guard.directory / REPAIR_NAME, self._guard.disk) as medium:
            for at in range(0, len(work.written), READ_SIZE // LEAF_SIZE):
                data = medium.read(at * LEAF_SIZE, READ_SIZE)
                for number, wanted in enumerate(work.written[at : at + READ_SIZE // LEAF_SIZE]):
                    if leaf_hash(data[number * LEAF_SIZE : (number + 1) * LEAF_SIZE]) != wanted:
                        raise StoreFailedError(f"{REPAIR_NAME}: not what was written", hint="check the medium")
                self._on_step(len(data))

    # -- zones ---------------------------------------------------------------------------------------------

    def _repaired(self, cell: int) -> bytes | None:
        """What a bad cell was; None if that cannot be known."""
        zone = self._guard.zone_of(cell)
        if self._zone is None or self._zone[0] != zone:
            self._zone = zone, self._solve(zone)
        return self._zone[1].get(cell)

    def _solve(self, zone: int) -> dict[int, bytes]:
        """Read a zone through, and solve every group of it that has a bad block."""
        guard = self._guard
        syndromes = np.zeros((guard.map.num_groups(zone), LEAF_SIZE // 8), np.uint64)
        bad: dict[int, dict[int, bytes]] = {}
        hashes: dict[int, bytes] = {}
        for cells, data in self._read_zone(zone):
            _fold(syndromes, data, guard.group_of(zone, cells.start))
            for number, wanted in enumerate(guard.hashes(cells)):
                leaf = data[number * LEAF_SIZE : (number + 1) * LEAF_SIZE]
                # A hash that is lost tells nothing: its block counts as right, and the file's digest has the last word.
                if wanted is not None and leaf_hash(leaf) != wanted:
                    bad.setdefault(guard.group_of(zone, cells[number]), {})[cells[number]] = leaf
                    hashes[cells[number]] = wanted
        solved: dict[int, bytes] = {}
        for group, members in bad.items():
            solved.update(self._solve_group(members, hashes, int.from_bytes(syndromes[group].tobytes(), "little")))
        return solved

    def _solve_group(self, members: dict[int, bytes], hashes: dict[int, bytes], syndrome: int) -> Mapping[int, bytes]:
        found = solve_group(members, hashes, syndrome, searches_max=self._searches_left)
        self._searches_left -= found.num_searched
        return found.blocks

    def _read_zone(self, zone: int) -> Iterator[tuple[range, bytes]]:
        """Give the cells of a zone, a megabyte at a time, and their bytes; those of the parity last."""
        guard = self._guard
        for span in guard.map.spans(guard.map.zone(zone)):
            yield from self._read_span(guard.path(span.file), span)
        parity = guard.map.parity(zone)
        offset, size = parity.start * LEAF_SIZE, len(parity) * LEAF_SIZE
        span = Span(file=_PARITY, offset=offset, size=size, block=guard.map.num_blocks + parity.start)
        yield from self._read_span(guard.directory / PARITY_NAME, span)

    def _read_span(self, path: Path, span: Span) -> Iterator[tuple[range, bytes]]:
        with open_medium(path, self._guard.disk) as medium:
            for at in range(0, span.size, READ_SIZE):
                length = min(READ_SIZE, span.size - at)
                first = span.block + at // LEAF_SIZE
                cells = range(first, first - (-length // LEAF_SIZE))
                yield cells, bytes(medium.read(span.offset + at, length)).ljust(length, b"\0")
                self._on_step(length)


def _fold(groups: "np.ndarray[tuple[int, int], np.dtype[np.uint64]]", data: bytes, group: int) -> None:
    """Add consecutive blocks, the last one perhaps short, to the exclusive or of their groups."""
    padded = data.ljust(-(-len(data) // LEAF_SIZE) * LEAF_SIZE, b"\0")
    blocks = np.frombuffer(padded, np.uint64).reshape(-1, LEAF_SIZE // 8)
    while len(blocks):
        count = min(len(blocks), len(groups) - group)
        groups[group : group + count] ^= blocks[:count]
        group, blocks = (group + count) % len(groups), blocks[count:]
