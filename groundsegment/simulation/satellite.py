"""The satellite of a simulation: `skyloadd simulate` as a subprocess, spoken to in virtual time.

The ground never imports onboard code, so the receiver that is simulated is the very one that flies, in a process of
its own. `onboard.simulation.service` has the messages. One process can be one satellite after another.
"""

import contextlib
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgpack

from groundsegment.errors import TwinError

PROGRAM, VERB = "skyloadd", "simulate"
_LENGTH = struct.Struct(">I")
_HINT = "skyload and skyloadd must be of the same version; `skyloadd simulate` may say more on standard error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SatelliteView:
    """What a simulated satellite knows of itself.

    Attributes:
        symbols_held: source symbols there, or replaced by others.
        symbols_useful: symbols that were lacking when they came, by station.
        symbols_received: authentic symbol frames, by station.
        symbols_cut: lost in power cuts.
        arrivals: SHA-256 of each object consumed, by handle.
        arrived_s: when each object was consumed, by handle.
        confirmed: handles of updates.
        objects_poisoned: solved, but not what they should be.
        objects_dropped: gave way under the quota.
    """

    symbols_held: int
    symbols_useful: Mapping[int, int]
    symbols_received: Mapping[int, int]
    symbols_cut: int
    arrivals: Mapping[bytes, bytes]
    arrived_s: Mapping[bytes, float]
    confirmed: frozenset[bytes]
    objects_poisoned: int
    objects_dropped: int


class Satellite(Protocol):
    """A satellite in virtual time."""

    def begin(self, link_key: bytes, options: Mapping[str, Any]) -> None:
        """Be a new one."""
        ...

    def begin_step(self, now: float, datagrams: Sequence[bytes]) -> None:
        """Let time pass, then bring datagrams."""
        ...

    def end_step(self) -> tuple[list[tuple[int, bytes]], int]:
        """What that sent down (station, datagram), and how many updates are whole; before anything else is asked."""
        ...

    def kill(self, now: float) -> None:
        """The power goes, and comes back."""
        ...

    def look(self) -> SatelliteView:
        """How it is."""
        ...


class SatelliteProcess:
    """See the module. Use it in a `with`."""

    def __init__(self, command: str | None = None) -> None:
        """`command` replaces `skyloadd simulate`."""
        self._command = find_satellite(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_abandoned = False
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        # It ends when its input does, so it cannot outlive us.
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._is_abandoned:
            self._process.kill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self.clear()

    def abandon(self) -> None:
        """End it at once, from any thread, begun or not: whoever flies it has a TwinError at the next request."""
        self._is_abandoned = True
        if self._process is not None:
            self._process.kill()

    def clear(self) -> None:
        """The mission is over: what the satellite has on its disk may go."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def begin(self, link_key: bytes, options: Mapping[str, Any]) -> None:
        """See `Satellite`."""
        self.clear()
        self._directory = Path(tempfile.mkdtemp(prefix="skyload-simulated-"))
        self._ask(["begin", str(self._directory), link_key, dict(options)])

    def begin_step(self, now: float, datagrams: Sequence[bytes]) -> None:
        """See `Satellite`. It works on it while we do something else."""
        self._say(["step", float(now), datagrams])

    def end_step(self) -> tuple[list[tuple[int, bytes]], int]:
        """See `Satellite`."""
        outgoing, num_whole = self._hear()
        return [(station, data) for station, data in outgoing], num_whole

    def kill(self, now: float) -> None:
        """See `Satellite`."""
        self._ask(["kill", float(now)])

    def look(self) -> SatelliteView:
        """See `Satellite`."""
        return view_of(self._ask(["look"])[0])

    def _ask(self, request: list[Any]) -> Any:  # noqa: ANN401 - msgpack
        self._say(request)
        return self._hear()

    def _say(self, request: list[Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = msgpack.packb(request)
        try:
            self._process.stdin.write(_LENGTH.pack(len(data)) + data)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TwinError("the simulated satellite died", hint=_HINT) from None

    def _hear(self) -> Any:  # noqa: ANN401 - msgpack
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return msgpack.unpackb(self._read(size), strict_map_key=False)

    def _read(self, size: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise TwinError("the simulated satellite died", hint=_HINT)
        return data


def view_of(answer: Mapping[str, Any]) -> SatelliteView:
    """Take in the answer to `look`."""
    arrivals = answer["arrivals"]
    return SatelliteView(
        symbols_held=answer["symbols_held"],
        symbols_useful=answer["symbols_useful"],
        symbols_received=answer["symbols_received"],
        symbols_cut=answer["symbols_cut"],
        arrivals={entry["handle"]: entry["sha256"] for entry in arrivals},
        arrived_s={entry["handle"]: entry["at_s"] for entry in arrivals},
        confirmed=frozenset(answer["confirmed"]),
        objects_poisoned=answer["objects_poisoned"],
        objects_dropped=answer["objects_dropped"],
    )


def find_satellite(command: str | None) -> list[str]:
    """Return the command line of the simulated satellite; None looks beside this Python, then in PATH.

    Raises:
        TwinError: there is none.
    """
    if command:
        return command.split()
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise TwinError(
            f"no satellite to simulate: {PROGRAM} is not found",
            hint="install the onboard side beside this one: pip install 'skyload[ground,onboard]'",
        )
    return [program, VERB]
