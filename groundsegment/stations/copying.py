"""Copy a file whose size and SHA-256 are known: in steps that can be resumed, and never a wrong byte under its name.

What has arrived lies in a hidden neighbour; it takes the name once all of it is there, is what it should be, and is on
the disk. Killed or stopped in between, the next call goes on where it was.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from groundsegment.stations.letters import LetterError
from groundsegment.stations.post import open_plain, sync_directory

CHUNK_BYTES = 1 << 20


def fetch_file(
    source: Path, target: Path, *, size_bytes: int, sha256: bytes, should_stop: Callable[[], bool] = lambda: False
) -> bool:
    """Copy one file; returns whether it is there, whole and checked.

    Args:
        source: may be missing, cut or wrong: then False, or an error, and nothing under the target's name.
        target: in a directory that exists.
        size_bytes: of all of it.
        sha256: of all of it.
        should_stop: asked before every step.

    Raises:
        LetterError: all of it came, but it is not what it should be; it will be fetched anew.
        DiskError: it cannot be read.
        OSError: the target cannot be written.
    """
    if target.exists() and target.stat().st_size == size_bytes:
        return True  # it was checked before it got its name
    part = target.with_name(f".{target.name}.part")
    # On a stick the part may be anybody's link: then there is an error, and not a write elsewhere.
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644), "a+b") as file:
        if file.tell() > size_bytes:
            file.truncate(0)
        digest = _digest_of(file, should_stop)
        if digest is None:
            return False
        try:
            with open_plain(source) as found:
                found.seek(file.tell())
                _append(found, file, size_bytes, digest, should_stop)
        except FileNotFoundError:
            return False
        if file.tell() < size_bytes:
            return False
        file.flush()
        os.fsync(file.fileno())
    if digest.digest() != sha256:
        part.unlink()
        raise LetterError(
            f"{source}: not the bytes that were ordered",
            hint="the next sync fetches it anew; if it stays so, remove it there, and copy it again from home",
        )
    part.replace(target)
    sync_directory(target.parent)
    return True


def _digest_of(file: BinaryIO, should_stop: Callable[[], bool]) -> "hashlib._Hash | None":
    """The digest of what is there already, the file at its end; None if stopped."""
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(CHUNK_BYTES):
        if should_stop():
            return None
        digest.update(data)
    return digest


def _append(
    source: BinaryIO, file: BinaryIO, size_bytes: int, digest: "hashlib._Hash", should_stop: Callable[[], bool]
) -> None:
    while (left := size_bytes - file.tell()) > 0 and not should_stop():
        data = source.read(min(CHUNK_BYTES, left))
        if not data:
            return
        file.write(data)
        digest.update(data)
