"""A model directory that appears whole or not at all.

Files are written into a hidden neighbour, which takes the wanted name at the end. A kill leaves the
neighbour, which the next run removes; whatever had the name before stays until then.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundsegment.errors import BusyError, DiskError, InputError


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output directory that would be overwritten without leave.

    Raises:
        InputError: it exists and is not empty, and `force` is off or it is not a model's directory.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: exists and is not a directory", hint="choose another --out")
    if not any(out.iterdir()):
        return
    if not (out / "config.json").is_file():
        raise InputError(f"{out}: holds something that is not a model", hint="choose another --out")
    if not force:
        raise InputError(f"{out}: exists already", hint="choose another --out, or replace it with --force")


def check_space(out: Path, size_bytes: int) -> None:
    """Refuse before work starts that the disk cannot hold.

    Raises:
        DiskError: less than `size_bytes` is free where `out` will be.
    """
    existing = next(parent for parent in [out, *out.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size_bytes:
        raise DiskError(
            f"{out}: needs {size_bytes / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            hint="free some space or choose a directory on another disk",
        )


@contextmanager
def whole_directory(out: Path, *, force: bool) -> Iterator[Path]:
    """Yield a directory to fill; it becomes `out` when the block ends without an exception."""
    check_output(out, force=force)
    part = out.absolute().with_name(f".{out.absolute().name}.part")
    old = part.with_suffix(".old")
    part.mkdir(parents=True, exist_ok=True)
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise BusyError(f"{out}: another process is writing it", hint="wait for it to end") from error
    try:
        for leftover in [old, *part.iterdir()]:
            _remove(leftover)
        yield part
        if out.exists():
            out.rename(old)
        part.rename(out)
        _sync_directory(out.absolute().parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
