"""A bundle as it lies in the inbox, compared with its signed digest once more when it is used.

It was compared when it had been received, but hours may lie between, and a medium that flips a bit, or gives back no
sector any more, must not look like a bundle that was signed wrong: that one is final, this one is sent again. What is
parsed is what was compared: the head is handed out as it was read, and segments carry tags of their own.

It does not know what is in a bundle, or who sends it again.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from onboard.errors import BundleSpoiltError, InstallError
from onboard.installer.threads import check_stop
from onboard.store.disk import tried
from protocol.manifest import BundleEntry, bundle_digest
from protocol.report import Reason

_READ_SIZE = 1024 * 1024
_T = TypeVar("_T")


@contextlib.contextmanager
def open_bundle(path: Path, number: int) -> Iterator[BinaryIO]:
    """Open a bundle for reading.

    Raises:
        BundleSpoiltError: it is gone, or cannot be opened.
    """
    with _tried(number, lambda: path.open("rb")) as source:
        yield source


def read_checked_head(source: BinaryIO, entry: BundleEntry, number: int, head_size: int) -> bytes:
    """Compare a bundle with its digest; return its first bytes as they were compared.

    What the kernel remembers of it may be what is wrong; then it is read from the medium before anybody sends it again.

    Raises:
        BundleSpoiltError: it is not what was received.
    """
    head, got = _read_through(source, head_size, number)
    if bundle_digest(got) != entry.digest:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        head, got = _read_through(source, head_size, number)
    if bundle_digest(got) != entry.digest:
        raise _spoilt(number, f"its SHA-256 is {got.hex()[:16]}..., not {entry.digest.hex()[:16]}...")
    return head


def read_piece(source: BinaryIO, offset: int, size: int, number: int) -> bytes:
    """Read bytes of a bundle; a short read is legal and goes on.

    Raises:
        BundleSpoiltError: they cannot be read.
        InstallError: BUNDLE_DAMAGED, it ends before; compare it again to know whose fault that is.
    """
    parts, at = [], offset
    while at < offset + size:
        part = _tried(number, partial(os.pread, source.fileno(), offset + size - at, at))
        if not part:
            problem = f"bundle {number}: it ends at {at}, {offset + size} were expected"
            raise InstallError(problem, reason=Reason.BUNDLE_DAMAGED, hint="stage the update again")
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _read_through(source: BinaryIO, head_size: int, number: int) -> tuple[bytes, bytes]:
    size = os.fstat(source.fileno()).st_size
    head = read_piece(source, 0, min(head_size, size), number)
    digest = hashlib.sha256(head)
    for at in range(len(head), size, _READ_SIZE):
        digest.update(read_piece(source, at, min(_READ_SIZE, size - at), number))
        check_stop()
    return head, digest.digest()


def _tried(number: int, call: Callable[[], _T]) -> _T:
    """What is received again costs contact time: so a call is made again first."""
    try:
        return tried(call)
    except OSError as error:
        raise _spoilt(number, error.strerror or str(error)) from error


def _spoilt(number: int, problem: str) -> BundleSpoiltError:
    return BundleSpoiltError(f"bundle {number} was damaged on board: {problem}")
