"""How fast the satellite's receiver takes objects: frames in to durable objects out, on one core, everything counted.

The receiver and its solver are real processes, held on one core together; the sender has another one if there is any.
Frames are made beforehand, a share of them is left out, and the rest goes over loopback as fast as the receiver takes
it (the sender keeps a bounded number in flight by the receiver's own reports). A first object warms the processes up;
the clock runs from the first frame of the others until the last of them is whole, durable and handed over.

A second run offers 20,000 frames a second, whatever the receiver says, and counts what the kernel dropped at its
socket.

Run: python -m bench.receiver_speed [--mib 128] [--symbol-size 1448] [--loss 0.1]
Prints lines for people and, as the last line, one JSON object.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onboard.receiver.events import ReportStatus, Verdict
from onboard.receiver.shell import Receiver, ReceiverOptions
from onboard.store.layout import StateLayout
from protocol.blocks import block_layout, symbols_needed
from protocol.exchange import Outbox
from protocol.fec import BlockEncoder
from protocol.frame import HANDLE_SIZE, Frame, FrameCodec, FrameKind
from protocol.limits import MIB
from protocol.link_keys import Direction
from protocol.objects import ObjectKind, object_handle, object_prefix
from protocol.report import Report

KEY = bytes(32)
SYMBOL_SIZES = (1448, 1280)  # fills Ethernet's frames; the default
OBJECT_BYTES = 64 * MIB
WARM_UP_BYTES = 16 * MIB
IN_FLIGHT_FRAMES = 3000
OFFERED_PER_S = 20_000
LISTEN_EVERY = 64
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure."""

    payload_bytes: int = 128 * MIB
    symbol_size: int = SYMBOL_SIZES[0]
    loss: float = 0.1
    frames_per_s: float | None = None  # None: as fast as it takes them
    profile: str | None = None


class CountingSink:
    """Consumes objects, remembers what and when."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.arrived = asyncio.Event()

    def is_complete(self, handle: bytes) -> bool:
        """No object is, before it comes."""
        return False

    async def object_ready(self, handle: bytes, kind: ObjectKind, path: Path, size: int, sha256: bytes) -> Verdict:
        """Note what came."""
        self.digests.append(sha256.hex())
        self.arrived.set()
        return Verdict.CONSUMED

    def report_status(self) -> ReportStatus:
        """Nothing is installed here."""
        return ReportStatus()


# The receiver's process


def peak_rss_mb(pid: int | str = "self") -> float:
    """Peak memory since exec; getrusage would count our parent's, from before."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def cpu_s() -> tuple[float, float]:
    """CPU time of this process and of its children that run."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for child in children():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return time.process_time(), total


def socket_drops(port: int) -> int:
    """Datagrams that the kernel dropped at the socket with that port, for want of room."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            return int(fields[-1])
    raise AssertionError(f"no socket on port {port}")


async def receive(folder: str, num_objects: int) -> None:
    """Take one object, then so many; tell on standard output."""
    stop, sink = asyncio.Event(), CountingSink()
    up, down = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
    options = ReceiverOptions(report_interval_s=0.01, report_bytes_per_s=1e6)
    receiver = Receiver(
        ("127.0.0.1", 0),
        StateLayout(Path(folder)),
        up,
        down,
        sink,
        sink,
        Outbox(retry_s=1.0),
        os.urandom(HANDLE_SIZE),
        options,
    )
    running = asyncio.create_task(receiver.run(stop))
    await receiver.started.wait()
    tell(receiver.address)
    await until(sink, 1)
    before = cpu_s()
    tell("warm")
    await until(sink, 1 + num_objects)
    after = cpu_s()
    rss_mb = peak_rss_mb(), max((peak_rss_mb(child) for child in children()), default=0.0)
    tell(
        {
            "digests": sink.digests,
            "cpu_s": after[0] - before[0],
            "solver_cpu_s": after[1] - before[1],
            "rss_mb": rss_mb[0],
            "solver_rss_mb": rss_mb[1],
            "drops": socket_drops(receiver.address[1]),
            "syncs": receiver.statistics().syncs,
        }
    )
    stop.set()
    await running


async def until(sink: CountingSink, num_objects: int) -> None:
    while len(sink.digests) < num_objects:
        await sink.arrived.wait()
        sink.arrived.clear()


def tell(what: object) -> None:
    print(json.dumps(what), flush=True)


# The sender's


def make_object(rng: random.Random, size: int) -> bytes:
    return object_prefix(ObjectKind.BUNDLE, size) + rng.randbytes(size - 8)


def frames_of(data: bytes, options: Options, rng: random.Random) -> Iterator[bytes]:
    """Every frame that arrives, in order, ready to send."""
    codec, handle, size = FrameCodec(Direction.UP, KEY), object_handle(data), options.symbol_size
    layout = block_layout(symbols_needed(len(data), size), size)
    padded = data.ljust(layout.padded_size, b"\0")
    for block in range(layout.num_blocks):
        start, count = layout.offset_of(block), layout.symbols_of(block)
        encoder = BlockEncoder(FrameKind.RAPTORQ, padded[start : start + layout.size_of(block)], size)
        num_sent = int(count / (1 - options.loss) * 1.1) + 20
        esis = [esi for esi in range(num_sent) if rng.random() >= options.loss][: count + 2]
        symbols = encoder.symbols(0, esis[-1] + 1)
        for esi in esis:
            frame = Frame(
                kind=FrameKind.RAPTORQ,
                handle=handle,
                num_symbols=layout.num_symbols,
                block=block,
                esi=esi,
                payload=symbols[esi],
            )
            yield codec.encode(frame)


class Sender:
    """The ground, as fast as it may."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(tuple(address))
        self._codec = FrameCodec(Direction.DOWN, KEY)
        self._num_sent = self._num_received = 0

    def send(self, frames: list[bytes]) -> None:
        """Send, never too far ahead of what the receiver says it has got."""
        for frame in frames:
            while self._num_sent - self._num_received >= IN_FLIGHT_FRAMES:
                self._socket.settimeout(PATIENCE_S)
                self._listen()
            self._socket.send(frame)
            self._num_sent += 1

    def send_at(self, frames: list[bytes], frames_per_s: float) -> None:
        """Send at that rate, whatever the receiver says."""
        started, self._num_sent = time.monotonic(), 0
        for number, frame in enumerate(frames):
            if number % 20 == 0:
                time.sleep(max(0.0, started + number / frames_per_s - time.monotonic()))
            self._socket.send(frame)

    def close(self) -> None:
        """Stop."""
        self._socket.close()

    def _listen(self) -> None:
        report = Report.decode(self._codec.decode(self._socket.recv(4096)).payload)
        self._num_received = max(self._num_received, report.frames_received)


def fly(options: Options) -> dict[str, Any]:
    """Send the payload to a receiver in a process of its own; returns what it cost."""
    rng = random.Random(1)
    num_objects = max(1, round(options.payload_bytes / OBJECT_BYTES))
    sizes = [WARM_UP_BYTES, *[options.payload_bytes // num_objects] * num_objects]
    objects = [make_object(rng, size) for size in sizes]
    digests = [hashlib.sha256(data).hexdigest() for data in objects]
    warm_up, *rest = [list(frames_of(data, options, rng)) for data in objects]
    frames = [frame for group in rest for frame in group]
    del objects, rest
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        (Path(folder) / "inbox").mkdir()
        profiler = ["-m", "cProfile", "-o", options.profile] if options.profile else []
        command = [sys.executable, *profiler, __file__, "--receive", folder, str(num_objects)]
        core, *others = sorted(os.sched_getaffinity(0))
        if others:
            os.sched_setaffinity(0, others)
        one_core = ["taskset", "-c", str(core)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen(one_core + command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            sender = Sender(json.loads(child.stdout.readline()))
            try:
                sender.send(warm_up)
                assert json.loads(child.stdout.readline()) == "warm"
                started = time.monotonic()
                if options.frames_per_s is None:
                    sender.send(frames)
                else:
                    sender.send_at(frames, options.frames_per_s)
                result: dict[str, Any] = json.loads(child.stdout.readline())
                result["wall_s"] = time.monotonic() - started
            except BaseException:
                child.kill()
                raise
            finally:
                sender.close()
                os.sched_setaffinity(0, {core, *others})
    assert result.pop("digests") == digests, "an object came out wrong"
    result["megabytes"] = sum(sizes[1:]) / 1e6
    return result


def measure_receiver(payload_bytes: int = 128 * MIB, loss: float = 0.1) -> tuple[list[str], dict[str, float]]:
    """Return lines for people, and figures."""
    lines, figures = [], {}
    for size in SYMBOL_SIZES:
        result = fly(Options(payload_bytes=payload_bytes, symbol_size=size, loss=loss))
        speed = result["megabytes"] / result["wall_s"]
        lines.append(
            f"T = {size}: {result['megabytes']:.0f} MB at {loss:.0%} loss in {result['wall_s']:.2f} s: {speed:.0f} MB/s"
            f" on one core; receiver {1e3 * result['cpu_s'] / result['megabytes']:.1f} ms/MB, {result['rss_mb']:.0f} MB"
            f" of memory; solver {1e3 * result['solver_cpu_s'] / result['megabytes']:.1f} ms/MB,"
            f" {result['solver_rss_mb']:.0f} MB; {result['drops']} dropped"
        )
        figures.setdefault("receiver_mb_s", round(speed, 1))
        figures[f"receiver_mb_s_{size}"] = round(speed, 1)
        rss_mb = result["rss_mb"] + result["solver_rss_mb"]
        figures["receiver_rss_mb"] = round(max(rss_mb, figures.get("receiver_rss_mb", 0.0)), 1)
    options = Options(payload_bytes=payload_bytes, symbol_size=1280, loss=loss, frames_per_s=OFFERED_PER_S)
    drops = fly(options)["drops"]
    lines.append(f"{OFFERED_PER_S} frames/s offered: {drops} dropped at the socket")
    return lines, figures | {"socket_drops_at_20k": drops}


def main() -> None:
    """Measure, or be the receiver of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=float, default=128)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--symbol-size", type=int, help="only this one, and only the speed")
    parser.add_argument("--profile", help="write the receiver's profile there (with --symbol-size)")
    parser.add_argument("--receive", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        folder, num_objects = arguments.receive
        asyncio.run(receive(folder, int(num_objects)))
        return
    payload_bytes = int(arguments.mib * MIB)
    if arguments.symbol_size:
        result = fly(
            Options(
                payload_bytes=payload_bytes,
                symbol_size=arguments.symbol_size,
                loss=arguments.loss,
                profile=arguments.profile,
            )
        )
        print(json.dumps({name: round(value, 2) for name, value in result.items()}))
        megabytes = result["megabytes"]
        print(
            json.dumps(
                {
                    "mb_s": round(megabytes / result["wall_s"], 1),
                    "cpu_mb_s": round(megabytes / (result["cpu_s"] + result["solver_cpu_s"]), 1),
                }
            )
        )
        return
    lines, figures = measure_receiver(payload_bytes, arguments.loss)
    print(*lines, json.dumps(figures), sep="\n")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
