"""A rehearsal: satellite, link and ground as real processes on loopback, in one directory.

It knows how to start, kill and ask each of them, and nothing of what they do. Everything it starts it ends: with
`close()`, at exit of the `with` block, or when this process dies.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.ports import free_port

SATELLITE = "SAT-1"
_BIN = Path(sys.executable).parent
_STOP_S = 60.0
_PR_SET_PDEATHSIG = 1


class RehearsalError(Exception):
    """A process of the rehearsal did not do what it was started for; the text says where its log is."""


@dataclass(frozen=True, slots=True)
class Ports:
    """UDP and TCP ports of one rehearsal, all on 127.0.0.1."""

    ground: int
    space: int
    satellite: int
    endpoint: int


def free_ports() -> Ports:
    """Find four ports that are ours as long as this process lives."""
    return Ports(*map(free_port, (socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)))


@dataclass(slots=True)
class Rehearsal:
    """One mission in one directory.

    Attributes:
        directory: kept by the caller; kit, depot, logs and the satellite's state lie in it.
        ports: where everybody listens.
        engine_command: replaces the engine worker's command in the satellite's configuration.
        settings: more lines for the satellite's configuration, {"link.sync_interval_s": 0.2}.
        outlives_us: whether processes go on when this one ends.
    """

    directory: Path
    ports: Ports = field(default_factory=free_ports)
    engine_command: Sequence[str] = ()
    settings: dict[str, object] = field(default_factory=dict)
    outlives_us: bool = False
    satellite: subprocess.Popen[bytes] | None = None
    link: subprocess.Popen[bytes] | None = None

    @property
    def depot(self) -> Path:
        """The ground's depot."""
        return self.directory / "depot"

    @property
    def kit(self) -> Path:
        """What the satellite was given at integration."""
        return self.directory / "kit"

    @property
    def config(self) -> Path:
        """The satellite's configuration."""
        return self.kit / "satellite.toml"

    @property
    def control(self) -> Path:
        """The link emulator's control socket."""
        return self.directory / "link.sock"

    @property
    def link_statistics(self) -> Path:
        """Where the emulator keeps its statistics."""
        return self.directory / "link.json"

    @property
    def link_address(self) -> str:
        """Where the ground sends."""
        return f"127.0.0.1:{self.ports.ground}"

    @property
    def endpoint(self) -> str:
        """The satellite's inference endpoint."""
        return f"http://127.0.0.1:{self.ports.endpoint}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all that was started."""
        self.close()

    def close(self) -> None:
        """End all that was started."""
        for process in (self.link, self.satellite):
            stop(process)
        self.link = self.satellite = None

    # --- preparation

    def init_keys(self) -> None:
        """Make the depot, its keys and the satellite's kit."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.skyload("keys", "init", "--satellite", SATELLITE, "--kit", str(self.kit))
        settings: dict[str, object] = {
            "link.listen": f"127.0.0.1:{self.ports.satellite}",
            "endpoint.listen": f"127.0.0.1:{self.ports.endpoint}",
            **self.settings,
        }
        if self.engine_command:
            settings["engine.command"] = list(self.engine_command)
        text = self.config.read_text()
        for key, value in settings.items():
            text = set_key(text, key, value)
        self.config.write_text(text)

    def provision(self, model: Path, name: str) -> None:
        """Put a release on board before launch."""
        self.skyloadd("provision", str(model), "--config", str(self.config), "--name", name)

    # --- processes

    def start_satellite(self, *, wait_for_model: bool = False, timeout_s: float = 240.0) -> None:
        """Start the daemon; wait until its endpoint answers, or until a model serves."""
        self.satellite = self._start("satellite", [str(_BIN / "skyloadd"), "run", "--config", str(self.config)])
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.satellite.poll() is not None:
                raise RehearsalError(f"the satellite ended at once: see {self.log('satellite')}")
            status = self.health()
            if status == 200 or (status is not None and not wait_for_model):
                return
            time.sleep(0.1)
        raise RehearsalError(f"the satellite is not up after {timeout_s:.0f} s: see {self.log('satellite')}")

    def start_link(self, profile: str, *, seed: int, epoch: float | None = None) -> None:
        """Start the emulator."""
        arguments = [
            *("link", "run", "--profile", profile, "--seed", str(seed), "--control", str(self.control)),
            *("--ground", self.link_address, "--space", f"127.0.0.1:{self.ports.space}"),
            *("--satellite", f"127.0.0.1:{self.ports.satellite}", "--statistics-file", str(self.link_statistics)),
        ]
        if epoch is not None:
            arguments += ["--epoch", str(epoch)]
        self.link = self._start("link", [str(_BIN / "skyload"), *arguments])
        deadline = time.monotonic() + 120
        while not self.control.exists():
            if self.link.poll() is not None or time.monotonic() > deadline:
                raise RehearsalError(f"the link emulator did not start: see {self.log('link')}")
            time.sleep(0.05)

    def start_uplink(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start an uplink; its output goes to its log, its summary too."""
        return self._start("uplink", self.uplink_command(*arguments))

    def uplink_command(self, *arguments: str) -> list[str]:
        """The command that flies what is staged."""
        command = [str(_BIN / "skyload"), "uplink", "--for", SATELLITE, "--link", self.link_address]
        return [*command, "--depot", str(self.depot), *arguments]

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.directory / f"{name}.log"

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ctrl-C in the terminal is for the rehearsal, which then ends its own
                preexec_fn=None if self.outlives_us else _die_with_parent,
            )

    # --- questions

    def skyload(self, *arguments: str, timeout_s: float = 900.0) -> str:
        """Run a ground command to its end; returns its stdout."""
        return _run([str(_BIN / "skyload"), *_with_depot(arguments, self.depot)], timeout_s)

    def skyloadd(self, *arguments: str, timeout_s: float = 900.0) -> str:
        """Run an onboard command to its end; returns its stdout."""
        return _run([str(_BIN / "skyloadd"), *arguments], timeout_s)

    def onboard_status(self) -> dict[str, Any]:
        """What `skyloadd status` says."""
        result: dict[str, Any] = json.loads(self.skyloadd("status", "--config", str(self.config), "--json"))
        return result

    def health(self) -> int | None:
        """HTTP status of the endpoint's /health; None while nothing listens."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=30) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def chat(self, prompt: str, *, max_tokens: int = 40, timeout_s: float = 120.0) -> dict[str, Any]:
        """Ask the local endpoint, as any client on board would."""
        body = {
            "model": "current",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{self.endpoint}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            result: dict[str, Any] = json.load(reply)
        return result


def stop(process: subprocess.Popen[bytes] | None) -> None:
    """Ask a process to end, then make it."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill(process: subprocess.Popen[bytes] | None) -> None:
    """SIGKILL, as a power cut of the process."""
    if process is not None and process.poll() is None:
        process.kill()
    if process is not None:
        process.wait()


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the process when the block ends."""
    try:
        yield process
    finally:
        stop(process)


def set_key(text: str, key: str, value: object) -> str:
    """Set `section.name` in a TOML text, in place or at the end of its section."""
    section, name = key.split(".")
    literal = json.dumps(value)  # JSON's strings, numbers, booleans and arrays are TOML's too
    head = re.search(rf"^\[{section}\][ \t]*$", text, re.MULTILINE)
    if head is None:
        return f"{text.rstrip()}\n\n[{section}]\n{name} = {literal}\n"
    start = head.end()
    following = re.search(r"^\[", text[start:], re.MULTILINE)
    stop_at = start + following.start() if following else len(text)
    body = text[start:stop_at]
    line = re.compile(rf"^#?[ \t]*{name}[ \t]*=.*$", re.MULTILINE)
    replaced = line.sub(lambda _: f"{name} = {literal}", body, count=1)
    if replaced == body and not line.search(body):
        replaced = f"{body.rstrip()}\n{name} = {literal}\n\n"
    return text[:start] + replaced + text[stop_at:]


def _with_depot(arguments: Sequence[str], depot: Path) -> list[str]:
    takes_depot = arguments[0] not in {"link", "model"}
    return [*arguments, *(("--depot", str(depot)) if takes_depot else ())]


def _run(command: list[str], timeout_s: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RehearsalError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def _die_with_parent() -> None:
    # The child gets SIGKILL when this process dies, even by kill -9: a rehearsal leaves nothing behind.
    if os.name == "posix" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
