"""Names that become file names or travel in manifests: one path component, nothing clever.

Names that Windows keeps for devices (`aux`, `con.json`) are let through: no end of ours runs there, and a model may
have such a file.
"""

import re

from protocol.errors import DecodeError
from protocol.limits import NAME_LENGTH_MAX

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)


def is_safe_name(name: str) -> bool:
    """Whether a name is one path component of `[A-Za-z0-9._-]`, without a leading dot, at most 128 long."""
    return len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name) is not None


def check_name(name: object, *, unit: str) -> str:
    """Return a safe name.

    Raises:
        DecodeError: not a string, or not safe.
    """
    if not isinstance(name, str) or not is_safe_name(name):
        raise DecodeError(f"{unit}: {name!r} is not a safe name (one component of A-Z a-z 0-9 . _ -)")
    return name
