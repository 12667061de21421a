"""A sealed release with its guard, on any disk, and flips in it."""

import hashlib
import random
from pathlib import Path

from onboard.installer.release import ReleaseDirectory
from onboard.scrub.guard import build_guard
from onboard.scrub.scrub import scrub_release
from onboard.store.disk import RealDisk
from protocol.manifest import FileEntry, release_digest

SMALL = {"config.json": 700, "model.safetensors": 300_001, "tokenizer.json": 9000}


class GuardedRelease:
    """Random files of certain sizes, sealed in `directory`, with a guard."""

    def __init__(self, directory, sizes=SMALL, *, seed=1, disk=None, has_guard=True):
        self.rng = random.Random(seed)
        self.directory, self.disk = Path(directory), disk or RealDisk()
        self.files = {name: self.rng.randbytes(size) for name, size in sorted(sizes.items())}
        self.entries = [
            FileEntry(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
            for name, data in self.files.items()
        ]
        self.digest = release_digest(self.entries)
        self.put(".sha256sums", ReleaseDirectory.sums(self.entries))
        for name, data in self.files.items():
            self.put(name, data)
        if has_guard:
            build_guard(self.directory, self.entries, self.digest, self.disk)

    def put(self, name, data):
        if not isinstance(self.disk, RealDisk):
            self.disk.put(self.directory / name, data)
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_bytes(data)

    def read(self, name):
        if isinstance(self.disk, RealDisk):
            return (self.directory / name).read_bytes()
        return self.disk.content(self.directory / name)

    @property
    def is_whole(self):
        return all(self.read(name) == data for name, data in self.files.items())

    def flip(self, name, *bits):
        """Flip bits of a file, counted from the lowest of its first byte."""
        data = bytearray(self.read(name))
        for bit in bits:
            data[bit >> 3] ^= 1 << (bit & 7)
        self.put(name, bytes(data))

    def flip_any(self, count, names=None):
        """Flip so many different bits, anywhere; returns where as (name, bit)."""
        names = list(names or self.files)
        sizes = [8 * len(self.read(name)) for name in names]
        flips = set()
        while len(flips) < count:
            name = self.rng.choices(names, sizes)[0]
            flips.add((name, self.rng.randrange(8 * len(self.read(name)))))
        for name in names:
            self.flip(name, *(bit for where, bit in flips if where == name))
        return flips

    def overwrite(self, name, offset, size):
        """Overwrite a run of bytes."""
        data = bytearray(self.read(name))
        data[offset : offset + size] = self.rng.randbytes(size)
        self.put(name, bytes(data))

    def scrub(self, **options):
        return scrub_release(self.directory, self.digest, self.disk, files=lambda: self.entries, **options)


class RepairScenario:
    """A repair for sweeps of power cuts, errors and kills: `prepare`, then `run`, perhaps cut; then `find_broken`.

    Args:
        directory: of the release; made by `prepare` on a real disk.
        disk: where it lies.
        damaged: names of the files with a flip; a file of each kind by default.
    """

    SIZES = {"config.json": 700, "model.safetensors": 9000}

    def __init__(self, directory, disk=None, damaged=None):
        self.release = GuardedRelease(directory, self.SIZES, disk=disk)
        self.names = [*self.release.files, ".sha256sums", ".parity", ".guard-0", ".guard-1"]
        self.right = {name: self.release.read(name) for name in self.names}
        for name in damaged or (MODEL_NAME, ".parity", ".guard-1"):
            self.release.flip(name, 8 * 100 + 3)
        self.damaged = {name: self.release.read(name) for name in self.names}

    def run(self, disk=None):
        """Scrub and repair; returns the outcome."""
        release = self.release
        return scrub_release(release.directory, release.digest, disk or release.disk, files=lambda: release.entries)

    def find_broken(self, read, *, is_done=False):
        """Yield what a power cut may not leave.

        Args:
            read: gives the bytes of a file by its name, None if it is not there.
            is_done: whether `run` had returned.
        """
        for name in self.names:
            found = read(name)
            if found not in ((self.right[name],) if is_done else (self.right[name], self.damaged[name])):
                yield f"{name} is neither as it was nor repaired"


MODEL_NAME = "model.safetensors"
