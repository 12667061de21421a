"""How fast the ground sends on one core: file -> source and repair symbols -> tagged frames -> socket.

The real classes, pinned to one core, encoder process included; the frames go to a socket of ours that nobody reads, so
the kernel drops them once its buffer is full, after all the work of sending was done. Prints one JSON object.

Run: python -m bench.transport.sender_speed [--mib 64] [--loss 0.1]
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import secrets
import socket
import tempfile
import time
from pathlib import Path

import psutil

from groundsegment.downlink import SESSION_SIZE, Downlink
from groundsegment.uplink.rate.rate_search import RateSearch
from groundsegment.uplink.sender.cargo import OutgoingObject
from groundsegment.uplink.sender.headers import Headers
from groundsegment.uplink.sender.schedule import SymbolRun
from groundsegment.uplink.wire.encoder import EncoderProcess
from groundsegment.uplink.wire.link_socket import Endpoint, LinkSocket
from groundsegment.uplink.wire.symbols import ObjectFile, SymbolSource
from protocol.blocks import symbols_needed
from protocol.fec import best_kind
from protocol.frame import Frame
from protocol.limits import MIB
from protocol.objects import object_handle

SYMBOL_SIZE = 1448
RUN_SYMBOLS = 128


async def send_all(items, files, executor, port, loss):
    """Everything once, and the share of repair symbols on top, block by block."""
    downlink = Downlink(
        contact_key=bytes(32), satellite="SAT-1", identity_public=bytes(32), session=secrets.token_bytes(SESSION_SIZE)
    )
    kind, num_frames, headers, search = best_kind(), 0, Headers(), RateSearch()
    loop = asyncio.get_running_loop()
    with SymbolSource(files, kind, executor) as source:
        async with LinkSocket(Endpoint(host="127.0.0.1", port=port), lambda data: None) as link:
            for run, item in runs_of(items, loss):
                if run.first_esi == run.block == 0:
                    check(files[item.handle])
                symbols = await source.symbols(run)
                first = Frame(
                    kind=kind,
                    handle=item.handle,
                    num_symbols=item.num_symbols,
                    block=run.block,
                    esi=run.first_esi,
                    payload=b"",
                )
                frames = downlink.encode_run(first, symbols, headers.take(item.handle, run.count, loop.time()))
                await link.send_all(frames, in_trains=True)  # as the uplink does at such rates
                search.sent(len(frames), sum(map(len, frames)), loop.time())
                num_frames += len(frames)
    return num_frames


def runs_of(items, loss):
    """Runs as the core makes them: a block's source symbols, then its repair symbols."""
    for item in items:
        for block in range(item.layout.num_blocks):
            end = round(item.layout.symbols_of(block) / (1 - loss))
            for first in range(0, end, RUN_SYMBOLS):
                count = min(RUN_SYMBOLS, end - first)
                yield SymbolRun(handle=item.handle, block=block, first_esi=first, count=count), item


def check(file):
    """A bundle's bytes are looked at once before they fly."""
    with file.path.open("rb") as opened:
        assert hashlib.file_digest(opened, "sha256").digest().startswith(file.item.handle)


def cpu_of(processes):
    """CPU seconds of processes so far."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=float, default=64)
    parser.add_argument("--loss", type=float, default=0.1)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rng, items, files = random.Random(1), [], {}
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        left = int(arguments.mib * MIB)
        while left > 0:
            data = rng.randbytes(min(left, 16 * MIB))
            left -= len(data)
            path = Path(folder, str(len(items)))
            path.write_bytes(data)
            num_symbols = symbols_needed(len(data), SYMBOL_SIZE)
            item = OutgoingObject(
                handle=object_handle(data), num_symbols=num_symbols, symbol_size=SYMBOL_SIZE, bundle=len(items)
            )
            items.append(item)
            files[item.handle] = ObjectFile(item=item, path=path)
        with EncoderProcess() as executor:
            executor.submit(abs, 0).result()  # starting up is not sending
            encoder = psutil.Process().children(recursive=True)
            encoder_s, cpu_s, began_s = cpu_of(encoder), time.process_time(), time.monotonic()
            num_frames = asyncio.run(send_all(items, files, executor, sink.getsockname()[1], arguments.loss))
            wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
            encoder_s = cpu_of(encoder) - encoder_s
    megabytes = sum(path.item.num_symbols for path in files.values()) * SYMBOL_SIZE / 1e6
    figures = {
        "sender_mb_s": round(megabytes / (cpu_s + encoder_s), 1),
        "wall_mb_s": round(megabytes / wall_s, 1),
        "frames_per_s": round(num_frames / wall_s),
        "cpu_s": round(cpu_s, 3),
        "encoder_s": round(encoder_s, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
