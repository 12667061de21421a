"""ggml's blocks taken apart: scales, minima and codes of each group, and put together again, bit for bit.

Each type is a layout of fields, laid down by ggml (block_q4_0 ... block_q6_K in ggml-common.h). A *group* is the run of
codes that share a scale: the block itself, or a sub-block of the K types. Groups are ordered so that taking apart works
on whole planes: first by their place in the block (`outer`), then by block, then, for Q6_K's pairs, by half (`inner`).

Pure. Every bit of a block is in exactly one field, so any bytes come back.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]
_NOTHING: Bytes = np.empty(0, np.uint8)
_NO_WORDS: Words = np.empty(0, np.uint16)
_LOW, _HIGH = np.uint8(0x0F), np.uint8(0xF0)
_SIGN = np.uint8(0x80)
_FOUR = np.uint8(4)
_SIXTEEN = np.uint8(16)  # a shift of bytes to the left takes numpy ten times as long as a product


class BlockType(IntEnum):
    """ggml's numbers of the types that are understood."""

    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of some blocks; empty where the type has none.

    Attributes:
        scales: d of each block: bits of a float16.
        minima: m or dmin of each block, likewise.
        factors: of each group, K types only: what `scales` is multiplied by; of Q6_K two's complement.
        min_factors: of each group, Q4_K and Q5_K: what `minima` is multiplied by.
        rows: codes of each group: two in a byte if they are of four bits, the first half of them below the second; one
            byte each else, as unsigned numbers.
        num_blocks: how many there are.
    """

    scales: Words
    minima: Words
    factors: Bytes
    min_factors: Bytes
    rows: Bytes
    num_blocks: int

    @classmethod
    def of_none(cls, num_blocks: int) -> Self:
        """Return fields of blocks of which nothing is known yet."""
        return cls(_NO_WORDS, _NO_WORDS, _NOTHING, _NOTHING, _NOTHING, num_blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """The facts of a type.

    Attributes:
        size: bytes of a block.
        num_values: weights of a block.
        width: bytes of a row: see `Fields.rows`.
        bits: of a code.
        outer: places of groups in a block that lie planes apart.
        inner: groups that lie side by side.
        has_minima: whether a block has a second float.
        middle: code of weight zero, of types without minima.
    """

    size: int
    num_values: int
    width: int
    bits: int
    outer: int = 1
    inner: int = 1
    has_minima: bool = False
    middle: int = 0

    @property
    def code_max(self) -> int:
        """Highest code."""
        return (1 << self.bits) - 1

    @property
    def is_packed(self) -> bool:
        """Whether a byte of the rows holds two codes."""
        return self.bits == 4

    @property
    def num_groups(self) -> int:
        """Groups of a block."""
        return self.outer * self.inner

    @property
    def has_factors(self) -> bool:
        """Whether groups have scales of their own."""
        return self.num_groups > 1

    @property
    def has_min_factors(self) -> bool:
        """Whether groups have minima of their own."""
        return self.has_factors and self.has_minima

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return for each group what is said of its block."""
        if self.num_groups == 1:
            return values
        return np.tile(np.repeat(values, self.inner), self.outer)

    def block_of(self, groups: NDArray[np.intp], num_blocks: int) -> NDArray[np.intp]:
        """Return the block of each of some groups, that rise."""
        blocks = groups if self.inner == 1 else groups // self.inner
        if self.outer == 1:
            return blocks
        # A division by a number that is no constant takes as long as ten of these steps.
        planes = np.arange(self.outer) * num_blocks
        counts = np.diff(np.searchsorted(blocks, planes), append=blocks.size)
        return blocks - np.repeat(planes, counts)


FORMATS = {
    BlockType.Q4_0: BlockFormat(size=18, num_values=32, width=16, bits=4, middle=8),
    BlockType.Q4_1: BlockFormat(size=20, num_values=32, width=16, bits=4, has_minima=True),
    BlockType.Q5_0: BlockFormat(size=22, num_values=32, width=32, bits=5, middle=16),
    BlockType.Q5_1: BlockFormat(size=24, num_values=32, width=32, bits=5, has_minima=True),
    BlockType.Q8_0: BlockFormat(size=34, num_values=32, width=32, bits=8, middle=128),
    BlockType.Q4_K: BlockFormat(size=144, num_values=256, width=16, bits=4, outer=8, has_minima=True),
    BlockType.Q5_K: BlockFormat(size=176, num_values=256, width=32, bits=5, outer=8, has_minima=True),
    BlockType.Q6_K: BlockFormat(size=210, num_values=256, width=16, bits=6, outer=8, inner=2, middle=32),
}
_K_FIELDS = [("d", "<u2"), ("m", "<u2"), ("factors", "V12")]
_DTYPES = {
    BlockType.Q4_0: np.dtype([("d", "<u2"), ("qs", "V16")]),
    BlockType.Q4_1: np.dtype([("d", "<u2"), ("m", "<u2"), ("qs", "V16")]),
    BlockType.Q5_0: np.dtype([("d", "<u2"), ("qh0", "V2"), ("qh1", "V2"), ("qs", "V16")]),
    BlockType.Q5_1: np.dtype([("d", "<u2"), ("m", "<u2"), ("qh0", "V2"), ("qh1", "V2"), ("qs", "V16")]),
    BlockType.Q8_0: np.dtype([("d", "<u2"), ("qs", "V32")]),
    BlockType.Q4_K: np.dtype([*_K_FIELDS, *((f"qs{at}", "V16") for at in range(8))]),
    BlockType.Q5_K: np.dtype([*_K_FIELDS, ("qh", "V32"), *((f"qs{at}", "V32") for at in range(4))]),
    BlockType.Q6_K: np.dtype(
        [*((f"ql{at}", "V32") for at in range(4)), ("qh0", "V32"), ("qh1", "V32"), ("factors", "V16"), ("d", "<u2")]
    ),
}
_HALVES = np.dtype([("low", "V16"), ("high", "V16")])  # of a row of 32 codes


def split_blocks(data: Bytes, block_type: BlockType) -> Fields:
    """Return the fields of blocks, all of them new arrays.

    Args:
        data: whole blocks.
        block_type: what they are.
    """
    blocks: NDArray[Any] = np.ascontiguousarray(data).view(_DTYPES[block_type])
    names = blocks.dtype.names or ()
    fields = Fields(
        scales=blocks["d"].astype(np.uint16),
        minima=blocks["m"].astype(np.uint16) if "m" in names else _NO_WORDS,
        factors=_NOTHING,
        min_factors=_NOTHING,
        rows=_SPLIT_ROWS[block_type](blocks),
        num_blocks=blocks.size,
    )
    if block_type is BlockType.Q6_K:
        table = _plane(blocks, "factors").reshape(-1, 8, 2)
        return replace(fields, factors=table.transpose(1, 0, 2).reshape(-1))
    if "factors" in names:
        factors, min_factors = _split_factors(_plane(blocks, "factors"))
        return replace(fields, factors=factors, min_factors=min_factors)
    return fields


def join_blocks(fields: Fields, block_type: BlockType) -> Bytes:
    """Return the blocks; undoes `split_blocks`. The rows may be used up."""
    blocks: NDArray[Any] = np.empty(fields.scales.size, _DTYPES[block_type])
    blocks["d"] = fields.scales
    if fields.minima.size:
        blocks["m"] = fields.minima
    if block_type is BlockType.Q6_K:
        _put(blocks, "factors", fields.factors.reshape(8, -1, 2).transpose(1, 0, 2))
    elif fields.factors.size:
        _put(blocks, "factors", _join_factors(fields.factors, fields.min_factors))
    _JOIN_ROWS[block_type](blocks, fields.rows)
    return blocks.view(np.uint8)


def _split_factors(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Take apart the 12 bytes of a block that hold 8 factors and 8 minimum factors of six bits.

    Bytes 0-3 hold factors 0-3 and, above, the upper two bits of factors 4-7; bytes 4-7 the same of the minima; bytes
    8-11 the lower four bits of factors 4-7 and, above, of minima 4-7. In the order of the groups: even ones first.
    """
    table = packed.reshape(-1, 12)
    first, second, low = (np.ascontiguousarray(table[:, at : at + 4].T) for at in (0, 4, 8))
    factors = np.concatenate([first & 0x3F, (low & _LOW) | ((first >> 2) & 0x30)])
    min_factors = np.concatenate([second & 0x3F, (low >> 4) | ((second >> 2) & 0x30)])
    return tuple(np.concatenate([each[0::2], each[1::2]]).reshape(-1) for each in (factors, min_factors))  # type: ignore[return-value]


def _join_factors(factors: Bytes, min_factors: Bytes) -> Bytes:
    """Undo `_split_factors`; of factors above 63 the upper bits are cut off."""
    halves = []
    for flat in (factors, min_factors):
        table = flat.reshape(8, -1) & np.uint8(0x3F)
        ordered = np.empty_like(table)
        ordered[0::2], ordered[1::2] = table[:4], table[4:]
        halves.append(ordered)
    scale, minimum = halves
    first = scale[:4] | ((scale[4:] & 0x30) * np.uint8(4))
    second = minimum[:4] | ((minimum[4:] & 0x30) * np.uint8(4))
    low = (scale[4:] & _LOW) | (minimum[4:] * _SIXTEEN)
    return np.ascontiguousarray(np.concatenate([first, second, low]).T)


def _split_nibbles(blocks: NDArray[Any]) -> Bytes:
    return _plane(blocks, "qs").reshape(-1, 16)


def _join_nibbles(blocks: NDArray[Any], rows: Bytes) -> None:
    _put(blocks, "qs", rows)


def _split_bytes(blocks: NDArray[Any]) -> Bytes:
    rows = _plane(blocks, "qs")
    rows ^= _SIGN
    return rows.reshape(-1, 32)


def _join_bytes(blocks: NDArray[Any], rows: Bytes) -> None:
    _put(blocks, "qs", rows ^ _SIGN)


def _split_fives(blocks: NDArray[Any]) -> Bytes:
    """Low nibbles are values 0-15, high ones 16-31; bit i of qh is the fifth of value i."""
    qs = _plane(blocks, "qs")
    rows: NDArray[Any] = np.empty(blocks.size, _HALVES)
    rows["low"] = _items((qs & _LOW) | _split_bits(blocks, "qh0"), 16)
    rows["high"] = _items((qs >> _FOUR) | _split_bits(blocks, "qh1"), 16)
    return rows.view(np.uint8).reshape(-1, 32)


def _join_fives(blocks: NDArray[Any], rows: Bytes) -> None:
    halves = np.ascontiguousarray(rows).reshape(-1).view(_HALVES)
    low, high = _plane(halves, "low"), _plane(halves, "high")
    _put(blocks, "qh0", np.packbits(low >> _FOUR, bitorder="little"))
    _put(blocks, "qh1", np.packbits(high >> _FOUR, bitorder="little"))
    _put(blocks, "qs", (low & _LOW) | (high * _SIXTEEN))


def _split_bits(blocks: NDArray[Any], name: str) -> Bytes:
    bits = np.unpackbits(_plane(blocks, name), bitorder="little")
    bits *= _SIXTEEN
    return bits


def _split_k4(blocks: NDArray[Any]) -> Bytes:
    """Byte l of the j-th 32 holds value l of groups 2j and 2j + 1."""
    rows = np.empty((8, blocks.size * 16), np.uint8)
    for at in range(4):
        first, second = _plane(blocks, f"qs{2 * at}"), _plane(blocks, f"qs{2 * at + 1}")
        np.bitwise_or(first & _LOW, second * _SIXTEEN, out=rows[at])
        np.bitwise_or(first >> _FOUR, second & _HIGH, out=rows[4 + at])
    return rows.reshape(-1, 16)


def _join_k4(blocks: NDArray[Any], rows: Bytes) -> None:
    planes = rows.reshape(8, -1)
    for at in range(4):
        low, high = planes[at], planes[4 + at]
        _put(blocks, f"qs{2 * at}", (low & _LOW) | (high * _SIXTEEN))
        _put(blocks, f"qs{2 * at + 1}", (low >> _FOUR) | (high & _HIGH))


def _split_low_fours(blocks: NDArray[Any]) -> Bytes:
    """As Q4_K, but one byte each."""
    rows = np.empty((8, blocks.size * 32), np.uint8)
    for at in range(4):
        qs = _plane(blocks, f"qs{at}")
        np.bitwise_and(qs, _LOW, out=rows[at])
        np.right_shift(qs, 4, out=rows[4 + at])
    return rows.reshape(-1, 32)


def _join_low_fours(blocks: NDArray[Any], rows: Bytes) -> None:
    planes = rows.reshape(8, -1)
    for at in range(4):
        _put(blocks, f"qs{at}", (planes[at] & _LOW) | (planes[4 + at] * _SIXTEEN))


def _split_k5(blocks: NDArray[Any]) -> Bytes:
    """As Q4_K; bit g of byte l of qh is the fifth of value l of group g."""
    rows = _split_low_fours(blocks)
    planes, qh = rows.reshape(8, -1), _plane(blocks, "qh")
    for at in range(4):
        planes[at] |= ((qh >> np.uint8(2 * at)) & 1) * _SIXTEEN
        planes[4 + at] |= ((qh >> np.uint8(2 * at + 1)) & 1) * _SIXTEEN
    return rows


def _join_k5(blocks: NDArray[Any], rows: Bytes) -> None:
    _join_low_fours(blocks, rows)
    planes = rows.reshape(8, -1)
    qh = np.zeros(planes.shape[1], np.uint8)
    for at in range(4):
        qh |= (planes[at] >> 4) * np.uint8(1 << 2 * at)
        qh |= (planes[4 + at] >> 4) * np.uint8(2 << 2 * at)
    _put(blocks, "qh", qh)


def _split_k6(blocks: NDArray[Any]) -> Bytes:
    """In each half of 128: ql byte l holds values l and 64 + l; qh byte l two bits of l, 32 + l, 64 + l and 96 + l."""
    rows = np.empty((8, blocks.size * 32), np.uint8)
    for half in range(2):
        qh = _plane(blocks, f"qh{half}")
        for at in range(2):
            ql = _plane(blocks, f"ql{2 * half + at}")
            rows[4 * half + at] = (ql & _LOW) | (((qh >> np.uint8(2 * at)) & 3) * _SIXTEEN)
            rows[4 * half + 2 + at] = (ql >> 4) | (((qh >> np.uint8(4 + 2 * at)) & 3) * _SIXTEEN)
    return rows.reshape(-1, 16)


def _join_k6(blocks: NDArray[Any], rows: Bytes) -> None:
    planes = rows.reshape(8, -1)
    for half in range(2):
        qh = np.zeros(planes.shape[1], np.uint8)
        for at in range(2):
            low, high = planes[4 * half + at], planes[4 * half + 2 + at]
            _put(blocks, f"ql{2 * half + at}", (low & _LOW) | (high * _SIXTEEN))
            qh |= (low >> 4) * np.uint8(1 << 2 * at)
            qh |= (high >> 4) * np.uint8(16 << 2 * at)
        _put(blocks, f"qh{half}", qh)


def _plane(blocks: NDArray[Any], name: str) -> Bytes:
    """Return a field of all blocks, one after another: a new array. Fields are void: moved as wholes."""
    plane: Bytes = blocks[name].copy().view(np.uint8).reshape(-1)
    return plane


def _put(blocks: NDArray[Any], name: str, plane: Bytes) -> None:
    """Undo `_plane`."""
    blocks[name] = np.ascontiguousarray(plane).reshape(-1).view(blocks.dtype[name])


def _items(plane: Bytes, size: int) -> NDArray[np.void]:
    return plane.view(f"V{size}")


_SPLIT_ROWS = {
    BlockType.Q4_0: _split_nibbles,
    BlockType.Q4_1: _split_nibbles,
    BlockType.Q5_0: _split_fives,
    BlockType.Q5_1: _split_fives,
    BlockType.Q8_0: _split_bytes,
    BlockType.Q4_K: _split_k4,
    BlockType.Q5_K: _split_k5,
    BlockType.Q6_K: _split_k6,
}
_JOIN_ROWS = {
    BlockType.Q4_0: _join_nibbles,
    BlockType.Q4_1: _join_nibbles,
    BlockType.Q5_0: _join_fives,
    BlockType.Q5_1: _join_fives,
    BlockType.Q8_0: _join_bytes,
    BlockType.Q4_K: _join_k4,
    BlockType.Q5_K: _join_k5,
    BlockType.Q6_K: _join_k6,
}
