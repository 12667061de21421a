"""Landlock: a process gives up its right to files, TCP and signals, for ever, with no privilege needed (Linux 5.13).

What is not allowed here is forbidden, to root as well, and children inherit it. The kernel's documentation
(userspace-api/landlock) names the rights and the ABI that brought each; an older kernel enforces those that it knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_ABI_FULL_FILES = 3  # before it, a file could be truncated

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # the others are a directory's
_FILES_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect
_TCP_ABI = 4
_SCOPES = 0b11  # abstract Unix sockets, signals
_SCOPES_ABI = 6

_LIBC = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version that this kernel enforces, 0 for none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def restrict(*, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str], allows_network: bool) -> int:
    """Confine this process; returns the ABI in force.

    The caller must have set no_new_privs.

    Raises:
        OSError: this kernel has no Landlock, or too old a one.
    """
    version = abi()
    if version < _ABI_FULL_FILES:
        raise OSError(f"the kernel has Landlock {version}, {_ABI_FULL_FILES} is needed" if version else "no Landlock")
    files = _FILES_BY_ABI[max(known for known in _FILES_BY_ABI if known <= version)]
    tcp = _TCP if version >= _TCP_ABI and not allows_network else 0
    num_fields = 1 + (version >= _TCP_ABI) + (version >= _SCOPES_ABI)  # an older kernel refuses what it does not know
    attributes = struct.pack("=QQQ", files, tcp, _SCOPES)[: 8 * num_fields]
    ruleset = _checked(_LIBC.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        reading = _EXECUTE | _READ_FILE | _READ_DIR
        control = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
        for paths, rights in ((readable, reading), (writable, files & ~_EXECUTE & ~_IOCTL_DEV), (devices, control)):
            for path in paths:
                _allow(ruleset, path, rights & files)
        _checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # what is not there needs no right
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):  # noqa: PTH112 - pathlib would be imported for this alone
                rights &= _FILE_RIGHTS
            _checked(_LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, handle), 0))
        finally:
            os.close(handle)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
