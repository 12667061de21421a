"""How fast the satellite's receiver takes an object: payload per second of its CPU and of the wall, and its memory.

Frames are made beforehand, a share of them is left out, and the rest is sent over loopback as fast as the receiver
takes them (the sender keeps a bounded number in flight by the receiver's own reports). The receiver runs in a process
of its own, its solver in another. Prints one line for people and, as the last line, one JSON object.

Run: python bench/receiver_speed.py [--mib 64] [--loss 0.1]
"""

import argparse
import asyncio
import hashlib
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onboard.receiver.events import ReportStatus, Verdict
from onboard.receiver.shell import Receiver, ReceiverOptions
from onboard.store.layout import StateLayout
from protocol.blocks import block_layout, symbols_needed
from protocol.exchange import Outbox
from protocol.fec import BlockEncoder
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.limits import MIB
from protocol.link_keys import Direction
from protocol.objects import ObjectKind, object_handle, object_prefix
from protocol.report import Report

KEY = bytes(32)
SYMBOL_SIZE = 1280
IN_FLIGHT_FRAMES = 4000


class OneObject:
    """Stops the receiver when its object is there."""

    def __init__(self, stop):
        self._stop, self.sha256 = stop, b""

    def is_complete(self, handle):
        """No object is, before it comes."""
        return False

    async def object_ready(self, handle, kind, path, size, sha256):
        """Note what came and end the measurement."""
        self.sha256 = sha256
        self._stop.set()
        return Verdict.CONSUMED

    def report_status(self):
        """Nothing is installed here."""
        return ReportStatus()


def peak_rss_mb():
    """Peak memory since exec; getrusage would count our parent's, from before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


async def receive(folder):
    stop = asyncio.Event()
    sink = OneObject(stop)
    up, down = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
    layout = StateLayout(Path(folder))
    options = ReceiverOptions(report_interval_s=0.01, report_bytes_per_s=1e6)
    receiver = Receiver(("127.0.0.1", 0), layout, up, down, sink, sink, Outbox(retry_s=1.0), b"sessions", options)
    running = asyncio.create_task(receiver.run(stop))
    await receiver.started.wait()
    print(json.dumps(receiver.address), flush=True)
    cpu_before = time.process_time()
    await running
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "cpu_s": time.process_time() - cpu_before,
        "solver_cpu_s": children.ru_utime + children.ru_stime,
        "rss_mb": peak_rss_mb(),
        "solver_rss_mb": children.ru_maxrss / 1024,
        "sha256": sink.sha256.hex(),
        "syncs": receiver.statistics().syncs,
    }
    print(json.dumps(result), flush=True)


def frames_of(data, loss, rng):
    """Every frame that arrives, in order, ready to send."""
    codec, handle = FrameCodec(Direction.UP, KEY), object_handle(data)
    num_symbols = symbols_needed(len(data), SYMBOL_SIZE)
    layout = block_layout(num_symbols, SYMBOL_SIZE)
    padded = data.ljust(layout.padded_size, b"\0")
    for block in range(layout.num_blocks):
        start = layout.offset_of(block)
        count = layout.symbols_of(block)
        encoder = BlockEncoder(FrameKind.RAPTORQ, padded[start : start + layout.size_of(block)], SYMBOL_SIZE)
        esis = [esi for esi in range(int(count / (1 - loss) * 1.1) + 20) if rng.random() >= loss][: count + 2]
        symbols = encoder.symbols(0, esis[-1] + 1)
        for esi in esis:
            frame = Frame(
                kind=FrameKind.RAPTORQ,
                handle=handle,
                num_symbols=num_symbols,
                block=block,
                esi=esi,
                payload=symbols[esi],
            )
            yield codec.encode(frame)


def send(frames, address):
    """Send everything, never too far ahead of what the receiver says it has got; the wall time it took."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect(tuple(address))
    codec = FrameCodec(Direction.DOWN, KEY)
    num_received = 0
    started = time.monotonic()
    for num_sent, frame in enumerate(frames):
        while num_sent - num_received >= IN_FLIGHT_FRAMES:
            link.settimeout(5.0)
            num_received = Report.decode(codec.decode(link.recv(4096)).payload).frames_received
        link.send(frame)
    return started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=float, default=64)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--receive", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        asyncio.run(receive(arguments.receive))
        return
    rng = random.Random(1)
    size = int(arguments.mib * MIB)
    data = object_prefix(ObjectKind.BUNDLE, size) + rng.randbytes(size - 8)
    frames = list(frames_of(data, arguments.loss, rng))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inbox").mkdir()
        command = [sys.executable, __file__, "--receive", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            started = send(frames, json.loads(child.stdout.readline()))
            result = json.loads(child.stdout.readline())
            wall_s = time.monotonic() - started
    assert result.pop("sha256") == hashlib.sha256(data).hexdigest(), "the object came out wrong"
    megabytes = size / 1e6
    figures = {
        "payload_mb_s": round(megabytes / result["cpu_s"], 1),
        "wall_mb_s": round(megabytes / wall_s, 1),
        **{name: round(value, 2) for name, value in result.items()},
    }
    print(f"{megabytes:.0f} MB, {arguments.loss:.0%} loss: {figures['payload_mb_s']} MB/s of receiver CPU")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
