"""Files that are written whole and durably, or not at all."""

import os
from pathlib import Path

from groundsegment.errors import InputError, KeyStoreError


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not exist, whole or not at all, and make it durable.

    Raises:
        KeyStoreError: it exists.
    """
    part = _write_part(path, data, mode=mode)
    try:
        os.link(part, path)  # unlike rename, it refuses to overwrite
    except FileExistsError:
        hint = "another skyload made it meanwhile; run the same command again"
        raise KeyStoreError(f"{path}: is there already and is never overwritten", hint=hint) from None
    finally:
        part.unlink()
    sync_directory(path.parent)


def replace_durably(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file in the place of another, whole or not at all, and make it durable."""
    _write_part(path, data, mode=mode).replace(path)
    sync_directory(path.parent)


def check_directory(path: Path) -> None:
    """Make sure that a path is a directory, or may become one.

    Raises:
        InputError: a file is there.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; a directory is wanted", hint="name a directory: it is made if not there")


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_part(path: Path, data: bytes, *, mode: int) -> Path:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file by itself
    return part
