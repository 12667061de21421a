"""One system call of a story fails, or is where the process is killed: by strace, in the kernel's place.

The story's process is traced from before its first step. The n-th call of a kind, in each of its threads, returns an
error, or writes but one byte, or brings a SIGKILL. However the story ends, what it said must hold, and a
new life without faults must recover and come to the same end as one in peace.
"""

import os
import re
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.power.images import Cut, Lab
from tests.power.lives import Life, Say, Story, live
from tests.power.stories import Scenario
from tests.power.sweep import Sweep, Tally

STORY_S_MAX = 30.0
# What changes a disk, and what reads it back.
CALLS = (
    "openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "unlink", "rmdir", "mkdir",
    "symlink", "link", "read", "pread64", "close", "getdents64", "sendfile", "copy_file_range",
)  # fmt: skip


class Kind(StrEnum):
    """What happens at the call."""

    KILL = "signal=KILL"
    EIO = "error=EIO"
    ENOSPC = "error=ENOSPC"
    SHORT = "short"  # strace could only claim it, without a byte written; it is done in the process


_KINDS = {
    "read": (Kind.KILL, Kind.EIO),
    "pread64": (Kind.KILL, Kind.EIO),
    "getdents64": (Kind.KILL, Kind.EIO),
    "close": (Kind.KILL,),
    "write": tuple(Kind),
    "pwrite64": tuple(Kind),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One."""

    call: str
    number: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind.name.lower()} at {self.call} {self.number}"


def missing() -> str | None:
    """Why there can be none here; None if there can."""
    return None if shutil.which("strace") else "needs strace"


class FaultSweep:
    """One scenario on one kind of file system.

    Args:
        lab: where.
        scenario: what.
    """

    def __init__(self, lab: Lab, scenario: Scenario) -> None:
        self._lab, self._scenario = lab, scenario
        self._sweep = Sweep(lab, scenario, Cut.LOST)
        self._log = lab.directory / "strace"
        self.calls = self._count()

    @property
    def tally(self) -> Tally:
        """What came of it; its `cuts` are faults."""
        return self._sweep.tally

    def close(self) -> None:
        """Let go of the image."""
        self._sweep.close()

    def faults(self) -> Iterator[Fault]:
        """All that there are: each call of each kind, of the thread that has most of them."""
        for call, count in self.calls.items():
            for number in range(1, count + 1):
                for kind in _KINDS.get(call, (Kind.KILL, Kind.EIO, Kind.ENOSPC)):
                    yield Fault(call=call, number=number, kind=kind)

    def run(self, faults: Iterable[Fault]) -> Tally:
        """Make some of them, each in a life of its own."""
        for fault in faults:
            image = self._lab.copy(self._sweep.image)
            if fault.kind is Kind.SHORT:
                with self._lab.mounted(image) as mount_point:
                    life = live(mount_point, _cut_short(self._scenario.run, fault), seconds_max=STORY_S_MAX)
            else:
                inject = f"inject={fault.call}:{fault.kind}:when={fault.number}"
                life = self._live(image, ["-e", f"trace={fault.call}", "-e", inject])
            said: dict[str, list] = defaultdict(list)
            for what, value, _ in life.said:
                said[what].append(value)
            self.tally.cuts += 1
            self._sweep.take_up(image, f"{self._scenario.name} on {self._lab.kind.name}, {fault}", said)
        return self.tally

    def _count(self) -> dict[str, int]:
        image = self._lab.copy(self._sweep.image)
        life = self._live(image, ["-e", f"trace={','.join(CALLS)}"])
        image.unlink()
        assert not life.error, life.error
        of_threads = Counter(re.findall(r"^(\d+) +(?:<\.\.\. )?(\w+)\(", self._log.read_text(), re.MULTILINE))
        most: dict[str, int] = {}
        for (_, call), count in of_threads.items():
            most[call] = max(most.get(call, 0), count)
        return {call: most[call] for call in CALLS if call in most}

    def _live(self, image: Path, options: list[str]) -> Life:
        tracers = []

        def watch(pid: int) -> None:
            command = ["strace", "-f", "-qq", "-o", str(self._log), *options, "-p", str(pid)]
            tracers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
                assert tracers[0].poll() is None, "strace cannot attach"
                time.sleep(0.001)

        with self._lab.mounted(image) as mount_point:
            life = live(mount_point, self._scenario.run, watch=watch, seconds_max=STORY_S_MAX)
            tracers[0].wait(20)
        return life


def _cut_short(story: Story, fault: Fault) -> Story:
    """A story in which one write writes a single byte, and says so."""

    def run(mount_point: Path, say: Say) -> None:
        name = {"write": "write", "pwrite64": "pwrite"}[fault.call]
        inner, num_calls = getattr(os, name), 0

        def write(handle: int, data: bytes, *rest: int) -> int:
            nonlocal num_calls
            num_calls += 1
            written: int = inner(handle, data[:1] if num_calls == fault.number else data, *rest)
            return written

        setattr(os, name, write)
        story(mount_point, say)

    return run
