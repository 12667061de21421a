"""The key to our control sockets: a file in the run directory that only whoever may read that directory's files has.

A socket's mode keeps other users out. An engine runs as the same user as we, on many machines, and the kernel lets what
it confines connect to any Unix socket that its user may; but it cannot read this file.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path

_NAME = "key"
_DIGITS = 64


def ensure(run_directory: Path) -> str:
    """Return the key, made if there is none yet.

    Raises:
        OSError: it can be neither read nor made.
    """
    path = run_directory / _NAME
    if not path.exists():
        new = run_directory / f"{_NAME}.{os.getpid()}.new"
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(_DIGITS // 2))
        with contextlib.suppress(FileExistsError):  # somebody else made one just now
            os.link(new, path)  # whole or not at all
        new.unlink()
    return path.read_text()


def read(run_directory: Path) -> str:
    """Return the key, empty if there is none that we may read."""
    try:
        return (run_directory / _NAME).read_text()
    except OSError:
        return ""


def is_key(given: object, key: str) -> bool:
    """Whether somebody knows the key."""
    return isinstance(given, str) and hmac.compare_digest(given.encode(), key.encode())
