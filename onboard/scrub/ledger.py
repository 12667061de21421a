"""The ledger of flips: how many there were, where the last ones were, what is still lost, how far a scrub has come.

One file, `scrub.ledger`, replaced as a whole. Losing it loses numbers and a place to go on, never a release; so one
that cannot be read is begun anew, and a disk that refuses it stops nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from onboard.scrub.damage import Flip, ScrubOutcome
from onboard.store.disk import Disk, read_start, replace_file
from protocol.damage import LostRange
from protocol.errors import DecodeError
from protocol.packing import Fields, pack_map, unpack_map

ENTRIES_MAX = 256  # of the last flips; older ones are in the counts
LOST_MAX = 4096  # ranges, of one release
_RELEASES_MAX = 32
_SIZE_MAX = 8 << 20
_UNIT = "scrub ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One block that was not right.

    Attributes:
        release: first 8 bytes of the digest of the release.
        flip: where, and how many bits.
        boot: in which life of the daemon.
        uptime_s: how old that was.
        is_memory: in a worker's memory, and not on the medium.
    """

    release: bytes
    flip: Flip
    boot: int
    uptime_s: int
    is_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """See the module.

    Attributes:
        num_found: flipped bits ever found on the medium; a block that is lost counts as one.
        num_repaired: of them.
        num_memory: flips found in workers' memory.
        num_scrubs: whole releases read.
        entries: the last flips, newest first.
        lost: what is lost of each release, by its digest.
        release: which release is being read, all zero for none.
        cell: how far.
    """

    num_found: int = 0
    num_repaired: int = 0
    num_memory: int = 0
    num_scrubs: int = 0
    entries: tuple[Entry, ...] = ()
    lost: tuple[tuple[bytes, tuple[LostRange, ...]], ...] = ()
    release: bytes = bytes(32)
    cell: int = 0

    def lost_of(self, digest: bytes) -> tuple[LostRange, ...]:
        """What is lost of a release."""
        return next((ranges for release, ranges in self.lost if release == digest), ())

    def with_outcome(self, outcome: ScrubOutcome, *, boot: int, uptime_s: float) -> Self:
        """Return a ledger after a scrub. What was lost before, and still is, is not counted again."""
        known = {(each.file, each.offset) for each in _blocks(self._entries_of(outcome.release))}
        new = [flip for flip in outcome.flips if flip.is_repaired or (flip.file, flip.offset) not in known]
        entries = (Entry(release=outcome.release[:8], flip=flip, boot=boot, uptime_s=int(uptime_s)) for flip in new)
        kept = tuple((release, ranges) for release, ranges in self.lost if release != outcome.release)
        lost = ((outcome.release, outcome.lost[:LOST_MAX]), *kept) if outcome.lost else kept
        return replace(
            self,
            num_found=self.num_found + sum(max(flip.num_bits, 1) for flip in new),
            num_repaired=self.num_repaired + outcome.num_repaired,
            num_scrubs=self.num_scrubs + 1,
            entries=(*entries, *self.entries)[:ENTRIES_MAX],
            lost=lost[:_RELEASES_MAX],
        )

    def with_memory_flip(self, release: bytes, flip: Flip, *, boot: int, uptime_s: float) -> Self:
        """Return a ledger that knows of a flip in a worker's memory."""
        entry = Entry(release=release[:8], flip=flip, boot=boot, uptime_s=int(uptime_s), is_memory=True)
        return replace(
            self,
            num_memory=self.num_memory + max(flip.num_bits, 1),
            entries=(entry, *self.entries)[:ENTRIES_MAX],
        )

    def without(self, known: Iterable[bytes]) -> Self:
        """Return a ledger that has forgotten what is lost of releases that are no longer on board."""
        stay = set(known)
        return replace(self, lost=tuple((release, ranges) for release, ranges in self.lost if release in stay))

    def _entries_of(self, digest: bytes) -> list[Entry]:
        return [entry for entry in self.entries if entry.release == digest[:8] and not entry.is_memory]

    def encode(self) -> bytes:
        """Return the ledger as msgpack."""
        return pack_map(
            {
                "v": 1,
                "found": self.num_found,
                "repaired": self.num_repaired,
                "memory": self.num_memory,
                "scrubs": self.num_scrubs,
                "entries": [_packed(entry) for entry in self.entries],
                "lost": [[digest, [[r.file, r.offset, r.size] for r in ranges]] for digest, ranges in self.lost],
                "release": self.release,
                "cell": self.cell,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a ledger.

        Raises:
            DecodeError: it is none.
        """
        fields = Fields(unpack_map(data, unit=_UNIT, size_max=_SIZE_MAX), unit=_UNIT)
        fields.version(1)
        ledger = cls(
            num_found=fields.integer("found"),
            num_repaired=fields.integer("repaired"),
            num_memory=fields.integer("memory"),
            num_scrubs=fields.integer("scrubs"),
            entries=tuple(_entry(item) for item in fields.items("entries", length_max=ENTRIES_MAX)),
            lost=tuple(_lost(item) for item in fields.items("lost", length_max=_RELEASES_MAX)),
            release=fields.data("release", size=32),
            cell=fields.integer("cell"),
        )
        fields.finish()
        return ledger


@dataclass(slots=True)
class LedgerFile:
    """The ledger on its disk.

    Attributes:
        path: of the file.
        disk: where it lies.
        ledger: as it is now.
        durable: as a restart would find it.
    """

    path: Path
    disk: Disk
    ledger: Ledger = field(default_factory=Ledger)
    durable: Ledger = field(default_factory=Ledger)

    def load(self) -> None:
        """Read the file, if there is one that can be read."""
        try:
            self.ledger = Ledger.decode(read_start(self.path, _SIZE_MAX))
        except (OSError, DecodeError):
            self.ledger = Ledger()
        self.durable = self.ledger

    def store(self, ledger: Ledger) -> None:
        """Keep a ledger; it counts from now on, durable or not.

        Raises:
            StoreError: it is not durable.
        """
        self.ledger = ledger
        if ledger != self.durable:
            replace_file(self.path, ledger.encode(), self.disk)
            self.durable = ledger


def _blocks(entries: list[Entry]) -> list[Flip]:
    return [entry.flip for entry in entries if not entry.flip.is_repaired]


def _packed(entry: Entry) -> list[Any]:
    flip = entry.flip
    where = [flip.file, flip.offset, flip.num_bits, list(flip.bits), flip.is_repaired]
    return [entry.release, entry.boot, entry.uptime_s, entry.is_memory, *where]


def _entry(item: object) -> Entry:
    names = ("release", "boot", "uptime", "memory", "file", "offset", "num", "bits", "repaired")
    fields = _row(item, names)
    bits = fields.items("bits", length_max=64)
    if not all(type(bit) is int for bit in bits):
        raise DecodeError(f"{_UNIT}: bits are numbers")
    flip = Flip(
        file=fields.text("file", length_max=512),
        offset=fields.integer("offset"),
        num_bits=fields.integer("num"),
        bits=tuple(bits),
        is_repaired=fields.boolean("repaired"),
    )
    return Entry(
        release=fields.data("release", size=8),
        flip=flip,
        boot=fields.integer("boot"),
        uptime_s=fields.integer("uptime"),
        is_memory=fields.boolean("memory"),
    )


def _lost(item: object) -> tuple[bytes, tuple[LostRange, ...]]:
    fields = _row(item, ("release", "ranges"))
    rows = [_row(row, ("file", "offset", "size")) for row in fields.items("ranges", length_max=LOST_MAX)]
    ranges = tuple(
        LostRange(file=row.integer("file"), offset=row.integer("offset"), size=row.integer("size")) for row in rows
    )
    return fields.data("release", size=32), ranges


def _row(item: object, names: tuple[str, ...]) -> Fields:
    if not isinstance(item, list) or len(item) != len(names):
        raise DecodeError(f"{_UNIT}: a row has {', '.join(names)}")
    return Fields(dict(zip(names, item, strict=True)), unit=_UNIT)
