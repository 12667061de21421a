"""Child processes that cannot outlive us and cannot fill the disk: start, log, kill.

A child is killed by the kernel when its parent dies, `kill -9` included (PR_SET_PDEATHSIG); it is offered to
the kernel's out-of-memory killer before its parent is; what it prints goes to a log file of bounded size.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_NETWORK = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
MAX_LOG_BYTES = 1 << 20


class CappedLog:
    """A log file of at most `max_bytes`, and one older one beside it (`.1`)."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Append; start a new file when this one is full. A log that cannot be written is dropped silently."""
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = self._path.open("ab")
            if self._file.tell() + len(data) > self._max_bytes:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._path.open("ab")
            self._file.write(data)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what was not written yet finds no space
                file.close()


class Child:
    """A running child process; made by `start_child`."""

    def __init__(self, process: asyncio.subprocess.Process, log: CappedLog) -> None:
        self._process = process
        self._log = log
        self._last_words = b""
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):  # a kernel without pidfd, or a child that has ended already
            self._pidfd = os.pidfd_open(process.pid)
        assert process.stderr is not None
        self._pump = asyncio.create_task(self._copy(process.stderr))

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What the child prints, where `start_child` was asked to keep it apart."""
        return self._process.stdout

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, as far as we have been told."""
        return self._process.returncode is None

    async def _copy(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(1 << 14):
            self._log.write(data)
            self._last_words = (self._last_words + data)[-500:]

    async def wait(self) -> str:
        """Wait for its end; return how it ended, with its last words."""
        code = await self._process.wait()
        # A grandchild may hold the pipe open; its words are not worth waiting for.
        await asyncio.wait({self._pump}, timeout=1)
        self._pump.cancel()
        self._log.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        words = self._last_words.decode(errors="replace").strip().splitlines()
        return f"{how}; last line of its log: {words[-1][-300:]}" if words and code else how

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        # Not through Process.kill: that polls first, which takes the exit code away from who waits for it.
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        elif self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self, *, grace_s: float) -> str:
        """SIGTERM, then SIGKILL after `grace_s`; returns how it ended."""
        self._send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout=grace_s)
        except TimeoutError:
            self.kill()
        return await self.wait()


async def start_child(
    argv: Sequence[str],
    *,
    log_path: Path,
    oom_score: int,
    environment: Mapping[str, str] | None = None,
    inherited: Mapping[str, str] | None = None,
    keep_stdout: bool = False,
) -> Child:
    """Start `argv` as a child that dies with this process.

    Args:
        argv: program and arguments.
        log_path: where its standard error goes (and its standard output, unless kept).
        oom_score: the kernel's out-of-memory killer takes the highest first, 0 .. 1000.
        environment: set or overridden for the child.
        inherited: what it gets of our environment; all but proxies if not given.
        keep_stdout: leave standard output readable through `Child.stdout`.

    Raises:
        OSError: it cannot be started.
    """
    if inherited is None:
        inherited = {name: value for name, value in os.environ.items() if name not in _NO_NETWORK}
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if keep_stdout else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited, **(environment or {})},
        preexec_fn=_die_with_parent(os.getpid(), oom_score),
    )
    return Child(process, CappedLog(log_path))


def _die_with_parent(parent_pid: int, oom_score: int) -> Callable[[], None]:
    def set_up() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)  # the parent died before the line above could arm
        set_oom_score(os.getpid(), oom_score)

    return set_up


def set_oom_score(pid: int, oom_score: int) -> None:
    """Tell the kernel how readily to kill `pid` when memory runs out; not being allowed to is no error."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:  # noqa: PTH123 - in a fork
        file.write(str(oom_score))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
