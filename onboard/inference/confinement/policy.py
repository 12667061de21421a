"""What one engine worker may do: plain values, on their way from the supervisor to the program that enforces them.

An engine reads its own release and what every program on this machine may read to run at all; it writes into one
directory of its own. It has no business with keys, records, other releases, sockets of others, or any network.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

# Where programs and their libraries lie. Of /etc only what a dynamic program asks for: keys may lie beside it.
_SYSTEM_PATHS = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/proc", "/sys",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
    "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
    "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
)  # fmt: skip
GIB = 1 << 30
_MEMORY_BASE = 2 * GIB  # an interpreter with its libraries, and room to answer
_MEMORY_PER_BYTE = 5  # int8 weights unpacked to float32, and a copy while they are


class Mode(StrEnum):
    """How much of it has to be in force for an engine to start."""

    REQUIRED = "required"
    BEST_EFFORT = "best-effort"
    OFF = "off"


class Lock(StrEnum):
    """What keeps an engine in, by the name that status shows."""

    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    CAPABILITIES = "no-capabilities"
    LIMITS = "limits"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """One engine's bounds.

    Attributes:
        readable: files and directories, with all that lies under them, that may be read and run.
        writable: likewise, that may be written too.
        devices: device files that may be read, written and controlled, such as a GPU's.
        secret: must not be readable from inside; checked from inside before the engine starts.
        guarded: must not be writable from inside; checked likewise.
        memory_bytes_max: of private writable memory (RLIMIT_DATA); 0 for what a release of its size needs.
        file_bytes_max: of any file that it writes.
        open_files_max: at once.
        tasks_max: processes and threads, beside those that our user has when it starts; root's are not counted.
        user: account to become, empty to stay who we are; only root can.
        allows_network: for engines whose own processes talk over TCP.
        mode: what happens where a lock cannot be had.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    devices: tuple[str, ...] = ("/dev/null",)
    secret: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()
    memory_bytes_max: int = 0
    file_bytes_max: int = 1 << 24
    open_files_max: int = 1024
    tasks_max: int = 1024
    user: str = ""
    allows_network: bool = False
    mode: Mode = Mode.BEST_EFFORT

    def to_json(self) -> str:
        """For the command line of the enforcing program."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Undo `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists, "mode": Mode(fields["mode"])})


BEST_EFFORT = Confinement(readable=(), writable=())
"""For an engine of which nothing is known; its paths and its memory are filled in when it starts."""


def program(module: str) -> tuple[str, ...]:
    """Return the command of a program of ours.

    It imports nothing from where it was started (`-P`): what lies there, our keys perhaps, an engine could read.
    """
    return (sys.executable, "-P", "-m", module)


def system_paths() -> tuple[str, ...]:
    """What any engine reads to run: the system's libraries, this Python and its packages."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    packages = {path for path in sys.path if path and Path(path).exists()}
    return tuple(path for path in (*_SYSTEM_PATHS, *sorted(python | packages)) if Path(path).exists())


def memory_for(release_bytes: int) -> int:
    """Return how much memory an engine may take for a release of a size."""
    return _MEMORY_BASE + _MEMORY_PER_BYTE * release_bytes
