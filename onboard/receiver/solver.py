"""The solver: one worker process that solves blocks and checks objects, one job at a time.

A solve holds the interpreter's lock for up to 0.12 s and takes 50 MB; in a process of its own it costs the receiver
neither frames nor memory. Parent and worker talk in JSON lines over the worker's standard input and output; the
worker ends when its input closes, and the kernel kills it when its parent dies. A worker that dies (the codec may
abort) or hangs costs the job it had; the next job gets a new one. A machine that can start no worker now is asked
again until it can: that is no fault of a block.

    {"op": "solve", "directory": path, "block": number}
    {"op": "check", "directory": path}
    {"outcome": ..., "num_symbols": ..., "kind": hex, "size": ..., "sha256": hex, "text": ...}

Not a process pool of the library: its workers outlive a parent that was killed.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Protocol

from onboard.receiver.rebuild import JobResult, Outcome, check_object, solve_block
from onboard.store.disk import Disk, RealDisk
from onboard.store.shape import ObjectShape
from protocol.objects import ObjectKind

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_STOP_S = 1.0
_JOB_TIMEOUT_S = 300.0  # 64 MiB read from a very slow medium; a solve takes a tenth of a second
_START_PAUSE_S = 1.0


class Solver(Protocol):
    """Solves and checks. One job at a time."""

    async def solve(self, directory: Path, block: int) -> JobResult:
        """Solve a block from its log into the data file."""
        ...

    async def check(self, directory: Path) -> JobResult:
        """Compare an object with the handle in its directory's name."""
        ...

    async def close(self) -> None:
        """End the worker."""
        ...


class ProcessSolver:
    """The solver in a process of its own, started when first needed.

    Args:
        timeout_s: a job that takes longer hangs.
    """

    def __init__(self, *, timeout_s: float = _JOB_TIMEOUT_S) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._timeout_s = timeout_s
        self.num_deaths = 0

    async def solve(self, directory: Path, block: int) -> JobResult:
        """See `Solver`."""
        return await self._run({"op": "solve", "directory": str(directory), "block": block})

    async def check(self, directory: Path) -> JobResult:
        """See `Solver`."""
        return await self._run({"op": "check", "directory": str(directory)})

    async def close(self) -> None:
        """See `Solver`."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self, job: dict[str, Any]) -> JobResult:
        process = await self._worker()
        assert process.stdin is not None
        assert process.stdout is not None
        line, text = b"", "the solver's worker died"
        try:
            async with asyncio.timeout(self._timeout_s):
                process.stdin.write(json.dumps(job).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            text = f"the solver's worker did not end within {self._timeout_s:.0f} s"
        except OSError as error:
            text = str(error)
        if not line.endswith(b"\n"):
            self.num_deaths += 1
            await self.close()
            return JobResult(outcome=Outcome.DIED, text=text)
        return _decode_result(line)

    async def _worker(self) -> asyncio.subprocess.Process:
        while True:
            try:
                return await self._started()
            except OSError as error:
                logger.warning("no process for the solver error=%s", error)
                await asyncio.sleep(_START_PAUSE_S)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing is imported from wherever the daemon was started
                "-m",
                "onboard.receiver.solver",
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
        return self._process


class InlineSolver:
    """The solver in this process: for tests and for machines too small for a second process."""

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk: Disk = disk or RealDisk()

    async def solve(self, directory: Path, block: int) -> JobResult:
        """See `Solver`."""
        return solve_block(self._disk, directory, _shape(directory), block)

    async def check(self, directory: Path) -> JobResult:
        """See `Solver`."""
        return check_object(self._disk, directory, _shape(directory))

    async def close(self) -> None:
        """See `Solver`."""


def run_worker(parent: int) -> None:
    """Do jobs until the input closes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent, which closes our input
    if os.getppid() != parent:
        return  # it died before the kernel was told
    disk = RealDisk()
    for line in sys.stdin.buffer:
        job = json.loads(line)
        directory = Path(job["directory"])
        shape = _shape(directory)
        if job["op"] == "solve":
            result = solve_block(disk, directory, shape, job["block"])
        else:
            result = check_object(disk, directory, shape)
        sys.stdout.buffer.write(_encode_result(result))
        sys.stdout.buffer.flush()


def _shape(directory: Path) -> ObjectShape:
    shape = ObjectShape.parse(directory.name)
    assert shape is not None, "whoever asks has parsed the name"
    return shape


def _encode_result(result: JobResult) -> bytes:
    value = {
        "outcome": result.outcome.value,
        "num_symbols": result.num_symbols,
        "kind": result.kind.value.hex() if result.kind else "",
        "size": result.size,
        "sha256": result.sha256.hex(),
        "text": result.text,
    }
    return json.dumps(value).encode() + b"\n"


def _decode_result(line: bytes) -> JobResult:
    value = json.loads(line)
    return JobResult(
        outcome=Outcome(value["outcome"]),
        num_symbols=value["num_symbols"],
        kind=ObjectKind(bytes.fromhex(value["kind"])) if value["kind"] else None,
        size=value["size"],
        sha256=bytes.fromhex(value["sha256"]),
        text=value["text"],
    )


if __name__ == "__main__":
    run_worker(int(sys.argv[1]))
