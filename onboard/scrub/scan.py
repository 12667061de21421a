"""Comparing what the medium holds with the hashes of a guard, a megabyte at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from onboard.scrub.blocks import Span
from onboard.scrub.core import LEAF_SIZE, leaf_hash
from onboard.scrub.guard import PARITY_NAME, Guard
from onboard.scrub.medium import READ_SIZE, DirectMedium, open_medium

_STEP_BLOCKS = READ_SIZE // LEAF_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStep:
    """One step of a scan.

    Attributes:
        cells: that were read.
        bad: of them, those that are not what they were.
        num_bytes: read.
        is_direct: whether the medium was read past the kernel's memory.
    """

    cells: range
    bad: tuple[int, ...]
    num_bytes: int
    is_direct: bool


def scan(guard: Guard, start: int = 0) -> Iterator[ScanStep]:
    """Read a release from a cell on: its files in order, then the parity.

    A file of another length is bad in its last block, or in the blocks that are missing.
    """
    num_blocks = guard.map.num_blocks
    for file in range(len(guard.head.files)):
        blocks = guard.map.file_blocks(file)
        if blocks.stop > start:
            yield from _scan_file(guard, file, range(max(start, blocks.start), blocks.stop))
    yield from _scan_parity(guard, range(max(start, num_blocks), guard.num_cells))


def _scan_file(guard: Guard, file: int, blocks: range) -> Iterator[ScanStep]:
    size = guard.head.files[file].size_bytes
    with open_medium(guard.path(file), guard.disk) as medium:
        for first in range(blocks.start, blocks.stop, _STEP_BLOCKS):
            cells = range(first, min(first + _STEP_BLOCKS, blocks.stop))
            span = next(guard.map.spans(cells))
            data = medium.read(span.offset, span.size)
            bad = _compare(guard, cells, data, span)
            if cells.stop == blocks.stop and medium.size_bytes > size and cells[-1] not in bad:
                bad = (*bad, cells[-1])  # something hangs on behind
            yield ScanStep(cells=cells, bad=bad, num_bytes=len(data), is_direct=_is_direct(medium))


def _scan_parity(guard: Guard, cells: range) -> Iterator[ScanStep]:
    with open_medium(guard.directory / PARITY_NAME, guard.disk) as medium:
        for first in range(cells.start, cells.stop, _STEP_BLOCKS):
            part = range(first, min(first + _STEP_BLOCKS, cells.stop))
            offset = (first - guard.map.num_blocks) * LEAF_SIZE
            data = medium.read(offset, len(part) * LEAF_SIZE)
            span = Span(file=-1, offset=offset, size=len(part) * LEAF_SIZE, block=first)
            bad = _compare(guard, part, data, span)
            yield ScanStep(cells=part, bad=bad, num_bytes=len(data), is_direct=_is_direct(medium))


def _compare(guard: Guard, cells: range, data: memoryview, span: Span) -> tuple[int, ...]:
    bad = []
    for number, wanted in enumerate(guard.hashes(cells)):
        at = number * LEAF_SIZE
        leaf = data[at : min(at + LEAF_SIZE, span.size)]
        if wanted is not None and leaf_hash(leaf) != wanted:
            bad.append(cells[number])
    return tuple(bad)


def _is_direct(medium: object) -> bool:
    return not isinstance(medium, DirectMedium) or medium.is_direct


def read_right(guard: Guard, file: int, offset: int, size: int) -> bytes | None:
    """Read bytes of a file from the medium; None unless every leaf that they lie in is right."""
    first, last = offset // LEAF_SIZE, -(-(offset + size) // LEAF_SIZE)
    start, blocks, parts = first * LEAF_SIZE, guard.map.file_blocks(file), []
    with open_medium(guard.path(file), guard.disk) as medium:
        for at in range(first, last, _STEP_BLOCKS):
            cells = range(blocks.start + at, blocks.start + min(at + _STEP_BLOCKS, last))
            span = next(guard.map.spans(cells))
            data = medium.read(span.offset, span.size)
            if _compare(guard, cells, data, span):
                return None
            parts.append(bytes(data))
    return b"".join(parts)[offset - start : offset - start + size]
