"""Weights in memory: hashed once after loading, compared for ever; a flipped bit is located, and the worker goes.

Runs in a thread of low priority in the engine worker, for any engine that can show its bytes. It covers parameters and
buffers, which nobody writes while a model answers; what an engine keeps besides (caches, tokenizers, code) it does not
know. The same leaves as on the medium: `onboard.scrub.core`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onboard.scrub.core import HASH_SIZE, LEAF_SIZE, find_flip, leaf_hash

READ_SIZE = 1 << 20
_NICENESS = 15
_PAUSE_S_MAX = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPart:
    """Bytes that hold weights.

    Attributes:
        name: of the first tensor in them.
        size_bytes: how many.
        read: gives some of them; the view is let go of before the next read.
    """

    name: str
    size_bytes: int
    read: Callable[[int, int], memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFlip:
    """A leaf that is not what it was.

    Attributes:
        where: name of the tensor whose bytes these are, or begin.
        offset: of the leaf in them.
        bit: which one of its bits; None if it was more than one.
    """

    where: str
    offset: int
    bit: int | None


class WeightsWatch:
    """Learns weights, then compares them.

    Args:
        parts: what holds them.
    """

    def __init__(self, parts: Sequence[WeightsPart]) -> None:
        self._parts = [part for part in parts if part.size_bytes]
        self._hashes: list[bytes] = []

    @property
    def size_bytes(self) -> int:
        """All of them."""
        return sum(part.size_bytes for part in self._parts)

    def learn(self) -> None:
        """Take what is there as right."""
        for _ in self.learning():
            pass

    def learning(self) -> Iterator[int]:
        """Learn, a step at a time; yields the bytes of each."""
        self._hashes = []
        for part in self._parts:
            hashes = bytearray()
            for at in range(0, part.size_bytes, READ_SIZE):
                size = min(READ_SIZE, part.size_bytes - at)
                with part.read(at, size) as data:
                    hashes += _hashes(data)
                yield size
            self._hashes.append(bytes(hashes))

    def compare(self) -> Iterator[WeightsFlip | int]:
        """Compare everything once, a step at a time: the bytes of a step that is right, or the first flip."""
        for part, known in zip(self._parts, self._hashes, strict=True):
            for at in range(0, part.size_bytes, READ_SIZE):
                size = min(READ_SIZE, part.size_bytes - at)
                first = at // LEAF_SIZE * HASH_SIZE
                with part.read(at, size) as data:
                    found = _hashes(data)
                    if found != known[first : first + len(found)]:
                        yield _locate(part, at, data, known)
                        return
                yield size

    def find_flip(self) -> WeightsFlip | None:
        """Compare everything now."""
        return next((found for found in self.compare() if isinstance(found, WeightsFlip)), None)


def watch_weights(
    watch: WeightsWatch, tell: Callable[[WeightsFlip], None], *, period_s: float, wait: Callable[[float], object]
) -> None:
    """Learn, then compare everything once in each period, until there is a flip to be told; then end.

    Args:
        watch: of the weights.
        tell: told of the flip.
        period_s: of one comparison of everything.
        wait: for so many seconds.
    """
    with contextlib.suppress(OSError):  # this thread alone, as Linux has it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    watch.learn()
    total = watch.size_bytes
    while total:
        for found in watch.compare():
            if isinstance(found, WeightsFlip):
                tell(found)
                return
            wait(min(period_s * found / total, _PAUSE_S_MAX))


def _hashes(data: memoryview) -> bytes:
    return b"".join(leaf_hash(data[at : at + LEAF_SIZE]) for at in range(0, len(data), LEAF_SIZE))


def _locate(part: WeightsPart, start: int, data: memoryview, known: bytes) -> WeightsFlip:
    for at in range(0, len(data), LEAF_SIZE):
        first = (start + at) // LEAF_SIZE * HASH_SIZE
        wanted, leaf = known[first : first + HASH_SIZE], bytes(data[at : at + LEAF_SIZE])
        if leaf_hash(leaf) != wanted:
            return WeightsFlip(where=part.name, offset=start + at, bit=find_flip(leaf, wanted))
    raise AssertionError("the hashes differ, and none of them does")
