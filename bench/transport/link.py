"""A link between two network namespaces: a veth pair, MTU 1500, random or bursty loss by iptables, exact counters.

No traffic control module is needed: `iptables -m statistic` draws the loss, and for bursts two of its rules and the
`recent` list (which holds the sender's address while a burst lasts) are a Gilbert-Elliott chain, stepped once per
packet. Both directions are alike and draw on their own. `go_dark` takes the link down as the sky does: nobody is told.

Namespaces are named after our process; those of processes that are gone are swept away when the next link is made.
"""

import atexit
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bench.transport.counters import LARGE_BYTES, DirectionCounts, direction_counts, parse_counts

MTU = 1500  # of a veth pair, unless told otherwise
DEVICE = "sky0"
ROOT = Path(__file__).resolve().parent.parent.parent
GROUND_ADDRESS, SPACE_ADDRESS = "10.77.0.1", "10.77.0.2"
START_S_MAX = 60.0
_PREFIX = "skyb"
_PR_SET_PDEATHSIG = 1
_NEEDED = ("ip", "iptables", "iptables-save")


class LinkSetupError(Exception):
    """The machine does not give us namespaces, or iptables lacks a match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the link takes, alike in both directions.

    Attributes:
        share: of all packets, in the long run.
        burst_packets: mean length of a burst; None for losses that know nothing of each other.
        one_way: whether nothing at all comes down.
    """

    share: float = 0.0
    burst_packets: float | None = None
    one_way: bool = False


def why_impossible() -> str:
    """Say what this machine lacks; empty if a link can be made."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Link(Loss(share=0.1, burst_packets=5)):
            return ""
    except LinkSetupError as error:
        return str(error)


class Link:
    """A link; use it in a `with`."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._number = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ground = f"{_PREFIX}-{os.getpid()}-g"
        self.space = f"{_PREFIX}-{os.getpid()}-s"

    def __enter__(self) -> Self:
        """Make the namespaces."""
        sweep()
        atexit.register(self._remove)
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs in them, and remove them."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._remove()
        atexit.unregister(self._remove)

    # Processes

    def start(
        self, namespace: str, command: Sequence[str], log: Path, stdout: "IO[bytes] | int | None" = None
    ) -> subprocess.Popen[bytes]:
        """Start a process at one end; it ends with the link, or with us."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads here
                cwd=log.parent,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        self._processes.append(process)
        return process

    def wait_for_socket(self, namespace: str, port: int) -> None:
        """Wait until somebody listens on a UDP port there."""
        deadline_s = time.monotonic() + START_S_MAX
        while f":{port:04X} " not in _run("ip", "netns", "exec", namespace, "cat", "/proc/net/udp"):
            if time.monotonic() > deadline_s:
                raise LinkSetupError(f"nobody listens on port {port} in {namespace}")
            time.sleep(0.05)

    # The sky

    def go_dark(self) -> None:
        """Take the link down, both ways."""
        for namespace in (self.ground, self.space):
            self._iptables(namespace, "-A", "DARK", "-j", "DROP")

    def light_up(self) -> None:
        """Bring it back."""
        for namespace in (self.ground, self.space):
            self._iptables(namespace, "-F", "DARK")

    # Counters

    def bytes_up(self) -> int:
        """What the ground's interface has sent, Ethernet headers included: cheap, for polling."""
        text = _run("ip", "-n", self.ground, "-s", "-j", "link", "show", "dev", DEVICE)
        return int(json.loads(text)[0]["stats64"]["tx"]["bytes"])

    def counts(self) -> tuple[DirectionCounts, DirectionCounts]:
        """Up and down, since the link was made."""
        ends = []
        for namespace in (self.ground, self.space):
            ends.append(parse_counts(_run("ip", "netns", "exec", namespace, "iptables-save", "-c", "-t", "filter")))
        ground, space = ends
        return direction_counts(ground, space), direction_counts(space, ground)

    def sockets_dropped(self) -> int:
        """Datagrams that UDP sockets at either end had no room for: such a loss is the machine's, not the link's."""
        total = 0
        for namespace in (self.ground, self.space):
            lines = _run("ip", "netns", "exec", namespace, "cat", "/proc/net/udp").splitlines()[1:]
            total += sum(int(line.split()[-1]) for line in lines)
        return total

    # Making

    def _build(self) -> None:
        for namespace in (self.ground, self.space):
            _run("ip", "netns", "add", namespace)
        pair = ("name", DEVICE, "netns", self.ground, "type", "veth", "peer", "name", DEVICE)
        _run("ip", "link", "add", *pair, "netns", self.space)
        down = Loss(share=1.0) if self._loss.one_way else self._loss
        for namespace, address, loss in (
            (self.ground, GROUND_ADDRESS, down),
            (self.space, SPACE_ADDRESS, self._loss),
        ):
            _run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _run("ip", "-n", namespace, "link", "set", device, "up")
            _run("ip", "-n", namespace, "route", "add", "224.0.0.0/4", "dev", DEVICE)
            for rule in firewall_rules(loss):
                self._iptables(namespace, *rule)

    def _iptables(self, namespace: str, *rule: str) -> None:
        _run("ip", "netns", "exec", namespace, "iptables", *rule)

    def _remove(self) -> None:
        for namespace in (self.ground, self.space):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def firewall_rules(loss: Loss) -> list[list[str]]:
    """What one end does to what arrives, and how it counts what it sends."""
    large = ["-m", "length", "--length", f"{LARGE_BYTES}:"]
    rules: list[list[str]] = [
        ["-A", "OUTPUT", "-o", DEVICE, *_named("sent")],
        ["-A", "OUTPUT", "-o", DEVICE, "-m", "length", "--length", f"{MTU + 1}:", *_named("in-two")],
        ["-N", "DARK"],
        ["-A", "INPUT", "-i", DEVICE, *_named("arriving")],
        ["-A", "INPUT", "-i", DEVICE, "-j", "DARK"],
        ["-A", "INPUT", "-i", DEVICE, *_named("lit")],
        ["-A", "INPUT", "-i", DEVICE, *large, *_named("lit-large")],
    ]
    rules += _burst_rules(loss.share, loss.burst_packets) if loss.burst_packets else _random_rules(loss.share)
    return [*rules, ["-A", "INPUT", "-i", DEVICE, *large, *_named("passed-large")]]


def _random_rules(share: float) -> list[list[str]]:
    return [["-A", "INPUT", "-i", DEVICE, *_with_chance(share), "-j", "DROP"]] if share else []


def _burst_rules(share: float, burst_packets: float) -> list[list[str]]:
    """Gilbert-Elliott: the state turns, or not, before each packet, and a bad state takes it."""
    ends = 1 / burst_packets
    begins = share * ends / (1 - share)
    in_burst = ["-m", "recent", "--name", "burst", "--rsource"]
    return [
        ["-N", "BURST"],
        ["-N", "CALM"],
        ["-A", "INPUT", "-i", DEVICE, *in_burst, "--rcheck", "-g", "BURST"],
        ["-A", "INPUT", "-i", DEVICE, *_with_chance(begins), *in_burst, "--set", "-j", "DROP"],
        # Whoever comes back from a burst goes on in CALM, since a goto does not return to the rule after it.
        ["-A", "BURST", *_with_chance(ends), *in_burst, "--remove", "-g", "CALM"],
        ["-A", "BURST", "-j", "DROP"],
        ["-A", "CALM", "-m", "length", "--length", f"{LARGE_BYTES}:", *_named("passed-large")],
    ]


def _named(comment: str) -> list[str]:
    return ["-m", "comment", "--comment", comment]


def _with_chance(share: float) -> list[str]:
    return ["-m", "statistic", "--mode", "random", "--probability", f"{share:.9f}"]


def sweep() -> None:
    """Remove the namespaces of runs that were killed."""
    for line in _run("ip", "netns", "list").splitlines():
        match = re.match(rf"{_PREFIX}-(\d+)-[gs]\b", line)
        if match and not Path("/proc", match[1]).exists():
            subprocess.run(["ip", "netns", "del", line.split()[0]], check=False, capture_output=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LinkSetupError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
