"""Frames offered to the daemon's socket at a steady rate: does our own socket drop any?

`offer_frames` starts a satellite at one end of a link without loss and this module as a process at the other:
python bench/transport/offered.py --kit KIT --address HOST:PORT --rate 20000

The frames are of bundles that no manifest has announced: the daemon authenticates, stores and solves them.
"""

import argparse
import json
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.transport.link import SPACE_ADDRESS, Link, Loss
from bench.transport.peer import PORT
from bench.transport.skyload import SYMBOL_SIZE, Skyload, Template
from onboard.config import parse_address, read_key
from protocol.blocks import block_layout, symbols_needed
from protocol.fec import BlockEncoder, best_kind
from protocol.frame import Frame, FrameCodec
from protocol.limits import MIB
from protocol.link_keys import Direction
from protocol.objects import ObjectKind, object_handle, object_prefix

TURN_S = 0.001
SETTLE_S = 1.0  # the daemon takes in what its socket still holds
OBJECT_MIB = 32
OBJECT_HEAD_SIZE = 8
EXTRA_SHARE = 1 / 9  # repair symbols, as for 10 % loss


def frames_of(data: bytes, codec: FrameCodec, symbol_size: int) -> Iterator[bytes]:
    """Every frame of an object, with repair symbols."""
    num_symbols, kind = symbols_needed(len(data), symbol_size), best_kind()
    layout = block_layout(num_symbols, symbol_size)
    padded = data.ljust(layout.padded_size, b"\0")
    for block in range(layout.num_blocks):
        at, count = layout.offset_of(block), layout.symbols_of(block)
        encoder = BlockEncoder(kind, padded[at : at + layout.size_of(block)], symbol_size)
        symbols = encoder.symbols(0, round(count * (1 + EXTRA_SHARE)))
        first = Frame(
            kind=kind, handle=object_handle(data), num_symbols=num_symbols, block=block, esi=0, payload=symbols[0]
        )
        yield from codec.encode_run(first, symbols, [esi > 0 for esi in range(len(symbols))])


def offer(frames: list[bytes], address: tuple[str, int], rate_fps: float) -> float:
    """Send them at that rate, a millisecond's worth at a time; returns the rate reached."""
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.connect(address)
    began_s, num_sent = time.monotonic(), 0
    while num_sent < len(frames):
        due = min(len(frames), int((time.monotonic() - began_s) * rate_fps) + 1)
        for frame in frames[num_sent:due]:
            link.send(frame)
        num_sent = max(num_sent, due)
        time.sleep(TURN_S)
    return len(frames) / (time.monotonic() - began_s)


def offer_frames(template: Template, rate_fps: float, mebibytes: int) -> dict[str, int]:
    """Offer frames to a real daemon; returns how many, how fast, and how many its socket dropped or it stored."""
    directory = Path(tempfile.mkdtemp(prefix="skyb-"))
    try:
        with Link(Loss()) as link:
            satellite = Skyload(template, 1e6)
            satellite.prepare(link, directory)
            command = [sys.executable, __file__, "--kit", str(satellite.kit), "--mib", str(mebibytes)]
            command += ["--address", f"{SPACE_ADDRESS}:{PORT}", "--rate", str(rate_fps)]
            link.start(link.ground, command, directory / "offered.json").wait()
            time.sleep(SETTLE_S)
            offered: dict[str, int] = json.loads((directory / "offered.json").read_text().splitlines()[-1])
            return offered | {"dropped": link.sockets_dropped(), "accepted": int(satellite.figures()["accepted"])}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Make the frames, then send them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--rate", type=float, default=20_000)
    arguments = parser.parse_args()
    codec = FrameCodec(Direction.UP, read_key(arguments.kit / "keys" / "link.key", what="the link's key"))
    frames: list[bytes] = []
    for seed in range(0, arguments.mib, OBJECT_MIB):
        size = OBJECT_MIB * MIB
        data = object_prefix(ObjectKind.BUNDLE, size) + random.Random(seed).randbytes(size - OBJECT_HEAD_SIZE)
        frames += frames_of(data, codec, SYMBOL_SIZE)
    reached = offer(frames, parse_address(arguments.address), arguments.rate)
    print(json.dumps({"offered": len(frames), "rate_fps": round(reached)}))


if __name__ == "__main__":
    main()
