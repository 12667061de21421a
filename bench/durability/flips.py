"""Random bit flips in an installed release: how many are found and repaired, and what a scrub costs.

    python -m bench.durability.flips --size-mb 100 --flips 1 10 100 1000

A release is sealed with its guard on the real disk; bits are flipped anywhere in its files and in those of the guard
itself; it is scrubbed. What is reported as located has to be exactly what was flipped, and every file has to have its
bytes again. A second part ruins more than parity covers: what is asked for has to be exactly that.
"""

import argparse
import hashlib
import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from onboard.scrub.core import LEAF_SIZE
from onboard.scrub.guard import GUARD_NAMES, PARITY_NAME, Guard, build_guard
from onboard.scrub.scrub import scrub_release
from onboard.store.disk import RealDisk
from protocol.damage import LostRange
from protocol.manifest import FileEntry, release_digest

MODEL_NAME = "model.safetensors"
_COUNTS = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipRound:
    """One release with so many flips.

    Attributes:
        injected: bits flipped.
        found: bits located, each in its file and at its place.
        repaired: bits right again.
        cpu_s: of the whole scrub, repair included.
    """

    injected: int
    found: int
    repaired: int
    cpu_s: float


class InstalledRelease:
    """A model's release of a certain size, sealed with its guard."""

    def __init__(self, directory: Path, size_bytes: int, rng: random.Random) -> None:
        self.directory, self._rng, self._disk = directory, rng, RealDisk()
        directory.mkdir(parents=True)
        sizes = {"config.json": 700, MODEL_NAME: size_bytes - 2_000_703, "tokenizer.json": 2_000_003}
        self.entries = [self._write(name, size) for name, size in sizes.items()]
        self.digest = release_digest(self.entries)
        listing = "".join(f"{entry.sha256.hex()}  {entry.name}\n" for entry in self.entries)
        (directory / ".sha256sums").write_text(listing)
        started = time.process_time()
        build_guard(directory, self.entries, self.digest, self._disk)
        self.guard_cpu_s = time.process_time() - started

    @property
    def names(self) -> list[str]:
        """Everything a flip may hit."""
        return [entry.name for entry in self.entries] + [".sha256sums", PARITY_NAME, *GUARD_NAMES]

    @property
    def guard_bytes(self) -> int:
        """What the guard takes on the disk."""
        return sum((self.directory / name).stat().st_size for name in (PARITY_NAME, *GUARD_NAMES))

    def flip(self, count: int) -> set[tuple[str, int]]:
        """Flip so many different bits; returns where."""
        sizes = [(self.directory / name).stat().st_size for name in self.names]
        flips: set[tuple[str, int]] = set()
        while len(flips) < count:
            name = self._rng.choices(self.names, sizes)[0]
            flips.add((name, self._rng.randrange(8 * (self.directory / name).stat().st_size)))
        for name, bit in flips:
            with (self.directory / name).open("r+b") as file:
                file.seek(bit >> 3)
                byte = file.read(1)[0]
                file.seek(bit >> 3)
                file.write(bytes([byte ^ 1 << (bit & 7)]))
        return flips

    def scrub(self) -> tuple[set[tuple[str, int]], int, tuple[LostRange, ...], float]:
        """Scrub it; returns the bits located, how many are right again, what is lost, and CPU seconds."""
        started = time.process_time()
        outcome = scrub_release(self.directory, self.digest, self._disk, files=lambda: self.entries)
        cpu_s = time.process_time() - started
        located = {(flip.file, bit) for flip in outcome.flips for bit in flip.bits}
        return located, outcome.num_repaired, outcome.lost, cpu_s

    def ruin(self) -> tuple[LostRange, ...]:
        """Overwrite two blocks of one group of the model, and two of another; returns what that is."""
        guard = Guard.open(self.directory, self.digest, self._disk)
        assert guard is not None
        lost = []
        for group in (3, 200):
            for block in list(guard.map.group(0, group))[5:7]:
                span = guard.map.where(block)
                with (self.directory / guard.head.files[span.file].name).open("r+b") as file:
                    file.seek(span.offset)
                    file.write(self._rng.randbytes(span.size))
                lost.append(LostRange(file=span.file, offset=span.offset, size=span.size))
        return tuple(sorted(lost, key=lambda each: (each.file, each.offset)))

    def is_whole(self) -> bool:
        """Whether every file has its bytes."""
        return all(
            hashlib.sha256((self.directory / entry.name).read_bytes()).digest() == entry.sha256
            for entry in self.entries
        )

    def _write(self, name: str, size: int) -> FileEntry:
        digest = hashlib.sha256()
        with (self.directory / name).open("wb") as file:
            for at in range(0, size, 1 << 20):
                part = self._rng.randbytes(min(1 << 20, size - at))
                digest.update(part)
                file.write(part)
        return FileEntry(name=name, size_bytes=size, sha256=digest.digest())


def measure_flips(
    directory: Path | None = None, *, size_bytes: int = 100_000_000, counts: tuple[int, ...] = _COUNTS, seed: int = 1
) -> dict[str, float]:
    """Flip, scrub, compare; returns the figures of the bench.

    Args:
        directory: on the medium to measure; a temporary one by default.
        size_bytes: of the release.
        counts: flips of each round.
        seed: of everything random.
    """
    home = Path(tempfile.mkdtemp(prefix="skyload-flips-", dir=directory))
    try:
        release = InstalledRelease(home / "release", size_bytes, random.Random(seed))
        rounds = [_round(release, count) for count in counts]
        scrub_cpu_s = min(release.scrub()[3] for _ in range(3))
        ruined = release.ruin()
        requested = release.scrub()[2]
        return {
            "flips_injected": sum(each.injected for each in rounds),
            "flips_found": sum(each.found for each in rounds),
            "flips_repaired": sum(each.repaired for each in rounds),
            "repair_cpu_s": round(max(each.cpu_s for each in rounds), 3),
            "scrub_cpu_s": round(scrub_cpu_s, 3),
            "scrub_mb_per_s": round(size_bytes / 1e6 / scrub_cpu_s, 1),
            "guard_cpu_s": round(release.guard_cpu_s, 3),
            "guard_share": round(release.guard_bytes / size_bytes, 4),
            "lost_bytes": sum(each.size for each in ruined),
            "lost_ranges": len(ruined),
            "requests_exact": int(_blocks_of(requested) == _blocks_of(ruined)),
        }
    finally:
        shutil.rmtree(home)


def _round(release: InstalledRelease, count: int) -> FlipRound:
    flips = release.flip(count)
    located, repaired, lost, cpu_s = release.scrub()
    if lost or not release.is_whole():
        repaired = min(repaired, count - 1)
    return FlipRound(injected=count, found=len(located & flips), repaired=repaired, cpu_s=cpu_s)


def _blocks_of(ranges: tuple[LostRange, ...]) -> set[tuple[int, int]]:
    return {(each.file, at) for each in ranges for at in range(each.offset, each.offset + each.size, LEAF_SIZE)}


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description="Bit flips in an installed release.")
    parser.add_argument("--size-mb", type=int, default=100)
    parser.add_argument("--flips", type=int, nargs="+", default=list(_COUNTS))
    parser.add_argument("--directory", type=Path, help="on the medium to measure")
    arguments = parser.parse_args()
    figures = measure_flips(
        arguments.directory, size_bytes=arguments.size_mb * 1_000_000, counts=tuple(arguments.flips)
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
