"""Damage of a release on board that only the ground can undo: the body of a `damage` message.

release    bin32   digest of the release
lost       [[file int, offset int, size int], ...]   rising; files count as its file list does. None: it is whole again.
           Offset and size 0: the whole file, whose length the satellite does not know (it has no guard)
is_all     bool    False: there is more than a message takes
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from protocol.errors import DecodeError
from protocol.limits import FILES_MAX
from protocol.packing import Fields

RANGES_MAX = 2048  # of one message: 40 kB
WHOLE = 0  # as a size: all of the file, however long it should be
_UNIT = "damage"


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRange:
    """Bytes that cannot be repaired on board.

    Attributes:
        file: index in the release's file list.
        offset: where they begin.
        size: how many; WHOLE for all of the file.
    """

    file: int
    offset: int
    size: int

    @property
    def end(self) -> float:
        """Where they end."""
        return math.inf if self.size == WHOLE else self.offset + self.size

    def covers(self, offset: int) -> bool:
        """Whether a byte of that file is among them."""
        return self.offset <= offset < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageReport:
    """What a satellite asks for.

    Attributes:
        release: digest of the release.
        lost: what is missing of it; nothing if it is whole again.
        is_all: whether that is all of it.
    """

    release: bytes
    lost: tuple[LostRange, ...]
    is_all: bool = True

    @property
    def num_bytes(self) -> int:
        """Bytes that are lost, without those of files whose length is not known."""
        return sum(each.size for each in self.lost)

    def to_body(self) -> dict[str, Any]:
        """Return the body of the message; ranges beyond RANGES_MAX are left out."""
        return {
            "release": self.release,
            "lost": [[each.file, each.offset, each.size] for each in self.lost[:RANGES_MAX]],
            "is_all": self.is_all and len(self.lost) <= RANGES_MAX,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Parse the body of a message.

        Raises:
            DecodeError: it is none.
        """
        fields = Fields(dict(body), unit=_UNIT)
        report = cls(
            release=fields.data("release", size=32),
            lost=tuple(_lost(item) for item in fields.items("lost", length_max=RANGES_MAX)),
            is_all=fields.boolean("is_all"),
        )
        fields.finish()
        ends = [(each.file, each.offset, each.end) for each in report.lost]
        if any((a[0], a[2]) > (b[0], b[1]) for a, b in pairwise(ends)):
            raise DecodeError(f"{_UNIT}: its ranges do not rise")
        return report


def _lost(item: object) -> LostRange:
    if not isinstance(item, list) or len(item) != 3:
        raise DecodeError(f"{_UNIT}: a range has a file, an offset and a size")
    fields = Fields(dict(zip(("file", "offset", "size"), item, strict=True)), unit=_UNIT)
    lost = LostRange(
        file=fields.integer("file", highest=FILES_MAX - 1),
        offset=fields.integer("offset", highest=2**47),
        size=fields.integer("size", highest=2**47),
    )
    if lost.size == WHOLE and lost.offset:
        raise DecodeError(f"{_UNIT}: a range of no bytes")
    return lost
