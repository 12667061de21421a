"""Where letters lie, and how they are written and read. A shell: files, nothing else.

    ROOT/exchange/SATELLITE/STATION/orders.letter     home writes, the station reads
    ROOT/exchange/SATELLITE/STATION/logbook.letter    the station writes, home reads
    ROOT/updates/HANDLE/...                           ciphertext and signed metadata: home writes, stations read

ROOT is the home depot, or any directory that is kept alike: by rsync of these two, or carried. A letter appears whole
or not at all. Who else may write there is not known, so what is read is a plain file of bounded size, and no link.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from groundsegment.errors import DiskError
from groundsegment.stations.letters import LETTER_BYTES_MAX, LetterError, LetterKind

EXCHANGE = "exchange"


def letter_path(root: Path, satellite: str, station: str, kind: LetterKind) -> Path:
    """Where a letter lies."""
    return root / EXCHANGE / satellite / station / f"{kind}.letter"


def read_letter(path: Path) -> bytes | None:
    """Read a letter; None if there is none.

    Raises:
        LetterError: something that is no letter lies there.
        DiskError: it cannot be read.
    """
    try:
        with open_plain(path) as file:
            data = file.read(LETTER_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    if len(data) > LETTER_BYTES_MAX:
        raise LetterError(f"{path}: larger than {LETTER_BYTES_MAX} bytes")
    return data


def write_letter(path: Path, data: bytes) -> None:
    """Write a letter, durably and whole or not at all.

    Raises:
        LetterError: a link lies in the way: whoever put it there would say where we write.
        DiskError: it cannot be written there.
    """
    try:
        make_directory(path.parent)
        write_whole(path, data)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}", hint="check space and permissions there") from error


def make_directory(path: Path) -> None:
    """Make a directory where others may write too: a link to elsewhere will not do.

    Raises:
        LetterError: a link lies in the way.
        OSError: it cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True)
    # Home and stations meet below `exchange` and `updates`: three names at most are not ours alone.
    for part in (path, *list(path.parents)[:2]):
        if part.is_symlink():
            raise LetterError(f"{part}: a link, where a directory should be")


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading: no link, no pipe that would never answer.

    Raises:
        FileNotFoundError: there is none.
        LetterError: what is there is none.
        DiskError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise LetterError(f"{path}: not a plain file") from None
        raise DiskError(f"{path}: {error.strerror or error}", hint="check the directory and its permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LetterError(f"{path}: not a plain file")
    return os.fdopen(descriptor, "rb")


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file so that a crash leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
