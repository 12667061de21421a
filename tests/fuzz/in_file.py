"""Input for parsers that want a file: one in memory, written over for each case."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path


@cache
def home() -> Path:
    """A directory of our own, in memory where there is some to be had; gone when this process ends."""
    path = Path(tempfile.mkdtemp(prefix="skyload-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class Paper:
    """A file that is written over again and again; a handle kept open makes that cheap."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle = -1

    @property
    def path(self) -> Path:
        """Where it lies."""
        return home() / self._name

    def write(self, data: bytes) -> Path:
        """Let it hold these bytes alone; returns where."""
        if self._handle < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._handle, len(data))
        os.pwrite(self._handle, data, 0)
        return self.path


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A parser of bytes, of one of files. The path's last part is `name`, which may have a directory of its own."""
    paper = Paper(name)

    def parse(data: bytes) -> None:
        read(paper.write(data))

    return parse
