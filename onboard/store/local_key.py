"""The key to our control sockets: a file in the run directory that only whoever may read that directory's files has.

A socket's mode keeps other users out. An engine runs as the same user as we, on many machines, and the kernel lets what
it confines connect to any Unix socket that its user may; but it cannot read this file.
"""

import fcntl
import hmac
import os
import re
import secrets
from pathlib import Path

_NAME = "key"
_DIGITS = 64
_WHOLE = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


def ensure(run_directory: Path) -> str:
    """Return the key, made if there is none yet, or if what is there is damaged: an empty one would let everybody in.

    Raises:
        OSError: it can be neither read nor made.
    """
    path, new = run_directory / _NAME, run_directory / f"{_NAME}.new"
    directory = os.open(run_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # the daemon and its serving process begin together
        if not _WHOLE.fullmatch(read(run_directory)):
            new.unlink(missing_ok=True)
            new.touch(mode=0o600)
            with new.open("w") as file:
                file.write(secrets.token_hex(_DIGITS // 2))
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the name without the bytes
            new.replace(path)
        return path.read_text()
    finally:
        os.close(directory)


def read(run_directory: Path) -> str:
    """Return the key, empty if there is none that we may read."""
    try:
        return (run_directory / _NAME).read_text()
    except (OSError, ValueError):
        return ""


def is_key(given: object, key: str) -> bool:
    """Whether somebody knows the key."""
    return isinstance(given, str) and bool(key) and hmac.compare_digest(given.encode(), key.encode())
