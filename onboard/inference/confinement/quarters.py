"""One engine's quarters: the only directory that it may write into, with its socket and the report of its locks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onboard.inference.confinement.policy import Confinement, Mode, memory_for, program, system_paths

_NUMBERS = itertools.count(1)
_PREFIX, _OUTSIDE = "engine-", "skyload-engine-"
_SOCKET = "seam.sock"
_MAX_SOCKET_PATH_BYTES = 100
_REPORT_BYTES_MAX = 1 << 16
# What an engine needs to know of where it runs; passphrases and tokens may be in the rest.
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "VIRTUAL_ENV")
_FAMILIES: tuple[str, ...] = ("LC_", "PYTHON", "OMP_", "MKL_", "KMP_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "TORCH_")
_FAMILIES += ("GGML_", "LLAMA_", "VLLM_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What holds an engine.

    Attributes:
        in_force: locks, and how each was had.
        missing: locks that could not be had, and why.
        leaks: what was tried from inside and should not have worked.
    """

    in_force: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)

    def troubles(self) -> list[str]:
        """Everything that is not as it should be, in words; empty where all locks hold."""
        return [*(f"no {lock}: {why}" for lock, why in self.missing.items()), *self.leaks]


class Quarters:
    """A directory for one engine; made by `make`, gone after `remove`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, run_directory: Path, *, user: str = "") -> Quarters:
        """Make a directory, outside the run directory if that is too deep for a socket or the engine is another user.

        Raises:
            OSError: it cannot be made.
        """
        path = run_directory / f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
        if user or len(os.fsencode(path / _SOCKET)) > _MAX_SOCKET_PATH_BYTES:
            outside = Path(tempfile.mkdtemp(prefix=_OUTSIDE))  # another user could not enter the run directory
            outside.chmod(0o711)
            path = outside / "engine"
        path.mkdir(mode=0o700)
        _give(path, user)
        return cls(path)

    @property
    def socket_path(self) -> Path:
        """Where the supervisor listens for it."""
        return self.path / _SOCKET

    def command(self, template: Confinement, engine: Sequence[str], *, reads: Sequence[Path]) -> list[str]:
        """Return the command that starts an engine in here.

        Args:
            template: what holds for every engine; paths and memory are completed for this one.
            engine: program and arguments.
            reads: directories of its release and what that is served with.
        """
        if template.mode is Mode.OFF:
            return list(engine)
        policy = replace(
            template,
            readable=(*system_paths(), *_program_paths(engine[0]), *template.readable, *map(str, reads)),
            writable=(*template.writable, str(self.path)),
            memory_bytes_max=template.memory_bytes_max or memory_for(sum(map(_size_bytes, reads))),
        )
        enforce = program("onboard.inference.confinement.enforce")
        return [*enforce, policy.to_json(), str(self._report_path), "--", *engine]

    def environment(self) -> dict[str, str]:
        """Return all variables that the engine gets: what it needs, and no secrets of ours."""
        known = {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_FAMILIES)}
        return known | {"HOME": str(self.path), "TMPDIR": str(self.path)}

    @property
    def _report_path(self) -> Path:
        """Beside the quarters: what is confined must not be able to change it."""
        return self.path.with_name(self.path.name + ".json")

    def report(self) -> Report:
        """Return what holds the engine, once it runs; empty where nothing was asked for."""
        try:
            with self._report_path.open("rb") as file:
                return Report(**json.loads(file.read(_REPORT_BYTES_MAX)))
        except (OSError, ValueError, TypeError, RecursionError):
            return Report()

    def remove(self) -> None:
        """Delete the directory with all that the engine left in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._report_path.unlink(missing_ok=True)
        if self.path.parent.name.startswith(_OUTSIDE):
            self.path.parent.rmdir()


def remove_left_behind(run_directory: Path) -> None:
    """Delete the quarters of engines whose supervisor was killed."""
    for path in run_directory.glob(f"{_PREFIX}*/"):
        Quarters(path).remove()


def open_socket_to(path: Path, user: str) -> None:
    """Let the engine's user connect."""
    path.chmod(0o600)
    _give(path, user)


def _give(path: Path, user: str) -> None:
    if user and os.geteuid() == 0:
        with contextlib.suppress(KeyError):  # no such user: the enforcing program reports that
            account = pwd.getpwnam(user)
            os.chown(path, account.pw_uid, account.pw_gid)


def _program_paths(program: str) -> list[str]:
    """Return where a program lies: a link may lead out of the directories that all programs are in."""
    found = shutil.which(program)
    return [] if found is None else [found, str(Path(found).resolve())]


def _size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
