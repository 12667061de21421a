"""Samples of tensors: whether two tensors hold much the same values, from a few KB of each.

The sample of a tensor is its values in four short windows, the same for every tensor of its size. Two samples are
alike by their correlation: near 1 for a tensor and its fine-tuned successor, near 0 for any two others. Codes and
blocks are compared nibble by nibble, or as small integers; constants are alike if they are equal.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from groundsegment.packer.tensors.catalogue import Read
from groundsegment.packer.tensors.parts import Member, Part, Role

Sample = NDArray[np.float32]

_WINDOW_BYTES = 256
_NUM_WINDOWS = 4
_ALIGNMENT = 16
_KEPT_MAX = 4096  # samples, of at most 8 KiB each
_DTYPES = {"I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "F16": "<f2", "F32": "<f4"}


class Sampler:
    """Takes samples of one release's tensors, and keeps the last ones.

    Args:
        read: reads the release's files.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._samples: dict[tuple[str, str], Sample] = {}

    def sample_run(self, part: Part, offset: int, size: int) -> Sample:
        """Return the same of a run of bytes of a part's first member; kept only if that is all of it."""
        member = part.members[0]
        if not offset and size == member.size_bytes:
            return self.sample(part, member)
        return self._take(part, member, offset, size)

    def sample(self, part: Part, member: Member) -> Sample:
        """Return the values in the windows of a member, centred and of length 1; constants keep their value."""
        key = (part.file, member.name)
        if key not in self._samples:
            if len(self._samples) >= _KEPT_MAX:
                self._samples.clear()
            self._samples[key] = self._take(part, member, 0, member.size_bytes)
        return self._samples[key]

    def _take(self, part: Part, member: Member, offset: int, size: int) -> Sample:
        start = member.offset + offset
        raw = b"".join(self._read(part.file, start + at, count) for at, count in _windows(size))
        return _normed(_values(raw, encoding(part, member)))


def likeness(one: Sample, other: Sample) -> float:
    """Return how alike two samples are, -1 .. 1, in hundredths: the last digits of a sum must not decide."""
    if one.shape != other.shape or not one.size:
        return 0.0
    return round(float(one @ other), 2)


def likeness_table(ones: list[Sample], others: list[Sample]) -> NDArray[np.float32]:
    """Return the likeness of each of `ones` (rows) and each of `others`; all of the same size."""
    return np.round(np.stack(ones) @ np.stack(others).T, 2)


def _windows(size_bytes: int) -> list[tuple[int, int]]:
    if size_bytes <= _NUM_WINDOWS * _WINDOW_BYTES:
        return [(0, size_bytes)]
    step = (size_bytes - _WINDOW_BYTES) // (_NUM_WINDOWS - 1)
    return [(i * step // _ALIGNMENT * _ALIGNMENT, _WINDOW_BYTES) for i in range(_NUM_WINDOWS)]


def encoding(part: Part, member: Member) -> str:
    """Return how a member's values are written; "" for nibbles and blocks."""
    if member.role is Role.ZEROS:
        return "" if member.dtype == "I32" else member.dtype
    return member.dtype if member.role is Role.SCALES else part.dtype


def _values(raw: bytes, written: str) -> Sample:
    if written == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if written.startswith("F8"):
        bits = np.frombuffer(raw, np.int8)
        return np.where(bits < 0, -(bits & 127), bits).astype(np.float32)
    if written in _DTYPES or written == "Q8_0":
        return np.frombuffer(raw, _DTYPES.get(written, "i1")).astype(np.float32)
    codes = np.frombuffer(raw, np.uint8)
    return np.concatenate([codes & 15, codes >> 4]).astype(np.float32)


def _normed(values: Sample) -> Sample:
    # Beyond 1e15 squares could overflow; nothing that large tells tensors apart.
    clean = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), -1e15, 1e15).astype(np.float64)
    centred = clean - clean.mean() if clean.size else clean
    length = float(np.sqrt((centred**2).sum()))
    if length <= 1e-6 * float(np.abs(clean).max(initial=0.0)):
        # A constant: a direction of its own for each value, so that only equal ones are alike.
        direction = np.zeros(clean.size)
        if clean.size:
            direction[zlib.crc32(np.float32(clean[0]).tobytes()) % clean.size] = 1
        return direction.astype(np.float32)
    return (centred / length).astype(np.float32)
