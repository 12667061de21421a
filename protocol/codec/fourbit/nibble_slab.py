"""From the extents of slabs of four-bit codes to cells and fields in the order of their groups, and back.

Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.codec.fourbit import cells
from protocol.codec.fourbit.nibble_layout import NibbleLayout, Packing, Zeros

Bytes = NDArray[np.uint8]
Values = NDArray[Any]  # unsigned
_DTYPES: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_AWQ_COLUMNS = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # of a word's nibbles, lowest bits first
_AWQ_NIBBLES = np.argsort(_AWQ_COLUMNS)


@dataclass(frozen=True, slots=True)
class Fields:
    """Scales and zero points of a slab, in the order of its groups; empty where it has none."""

    scales: Values
    zeros: Values

    def take(self, groups: NDArray[np.intp]) -> "Fields":
        """Return those of some groups."""
        return Fields(*(values[groups] if values.size else values for values in (self.scales, self.zeros)))


def read_cells(extents: list[Bytes], layout: NibbleLayout) -> Bytes:
    """Return the cells of packed codes, a new array.

    Args:
        extents: of all slabs, of each the codes first.
        layout: what they look like.
    """
    return _joined([_unpack(own[0], slab) for own, slab in _slabs(extents, layout)])


def read_fields(extents: list[Bytes], layout: NibbleLayout) -> Fields:
    """Return scales and zero points in the order of the groups; arguments as for `read_cells`."""
    fields = [_read_fields(own, slab) for own, slab in _slabs(extents, layout)]
    return Fields(_joined([each.scales for each in fields]), _joined([each.zeros for each in fields]))


def write(table: Bytes, fields: Fields, layout: NibbleLayout) -> list[Bytes]:
    """Return all extents; undoes `read_cells` and `read_fields`."""
    extents, done = [], 0
    for slab in layout.slabs:
        groups = slice(done, done + slab.num_groups)
        done = groups.stop
        extents.append(_pack(table[groups], slab))
        extents.extend(_write_fields(Fields(fields.scales[groups], fields.zeros[groups]), slab))
    return extents


def _slabs(extents: list[Bytes], layout: NibbleLayout) -> Iterator[tuple[list[Bytes], NibbleLayout]]:
    slabs = layout.slabs
    number = len(extents) // len(slabs)
    return ((extents[at * number : (at + 1) * number], slab) for at, slab in enumerate(slabs))


def _joined(parts: list[Values]) -> Values:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _unpack(codes: Bytes, layout: NibbleLayout) -> Bytes:
    shape = layout.rows, layout.columns, layout.group
    if layout.packing is Packing.ROW:
        return codes.reshape(-1, layout.group // 2).copy()
    if layout.packing is Packing.GPTQ:
        return cells.from_words(codes, *shape)
    return cells.from_rows(codes, *shape)


def _pack(table: Bytes, layout: NibbleLayout) -> Bytes:
    """Undo `_unpack`."""
    shape = layout.rows, layout.columns, layout.group
    if layout.packing is Packing.ROW:
        return table.reshape(-1)
    if layout.packing is Packing.GPTQ:
        return cells.to_words(table, *shape)
    return cells.to_rows(table, *shape)


def _read_fields(extents: list[Bytes], layout: NibbleLayout) -> Fields:
    scales = zeros = np.empty(0, np.uint8)
    if layout.scales is not None:
        scales = _read_values(extents[1], layout.scale_size, layout)
    if layout.zeros is Zeros.PACKED:
        zeros = _read_packed(extents[-1], layout)
    elif layout.zeros is not Zeros.NONE:
        zeros = _read_values(extents[-1], layout.zero_size, layout)
    return Fields(scales, zeros)


def _write_fields(fields: Fields, layout: NibbleLayout) -> list[Bytes]:
    extents = []
    if layout.scales is not None:
        extents.append(_write_values(fields.scales, layout))
    if layout.zeros is Zeros.PACKED:
        extents.append(_write_packed(fields.zeros, layout))
    elif layout.zeros is not Zeros.NONE:
        extents.append(_write_values(fields.zeros, layout))
    return extents


def _read_values(data: Bytes, size: int, layout: NibbleLayout) -> Values:
    """Return one value for each group, in the order of the groups."""
    values = np.frombuffer(data, f"<u{size}").astype(_DTYPES[size])
    if layout.packing is Packing.AWQ:
        return values.reshape(-1, 8)[:, _AWQ_COLUMNS].reshape(-1)
    return values


def _write_values(values: Values, layout: NibbleLayout) -> Bytes:
    if layout.packing is Packing.AWQ:
        values = values.reshape(-1, 8)[:, _AWQ_NIBBLES].reshape(-1)
    return values.astype(f"<u{values.itemsize}", copy=False).view(np.uint8)


def _read_packed(data: Bytes, layout: NibbleLayout) -> Values:
    """Return packed zero points in the order of the groups; AWQ packs them in the order of its codes."""
    zeros = cells.nibbles_of(data)
    if layout.packing is not Packing.ROW:
        return zeros
    rows, columns = layout.grid
    return zeros.reshape(rows // 8, columns, 8).transpose(0, 2, 1).reshape(-1)


def _write_packed(zeros: Values, layout: NibbleLayout) -> Bytes:
    if layout.packing is Packing.ROW:
        rows, columns = layout.grid
        zeros = zeros.reshape(rows // 8, 8, columns).transpose(0, 2, 1).reshape(-1)
    return cells.bytes_of(zeros)
