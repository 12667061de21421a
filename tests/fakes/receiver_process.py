"""A receiver in a process of its own, to be killed: python -m tests.fakes.receiver_process STATE_DIR

Prints its port, then receives for ever. What it consumes lies in STATE_DIR/taken, by handle.
"""

import asyncio
import sys
from pathlib import Path

from onboard.receiver.events import ReportStatus, Verdict
from onboard.receiver.shell import Receiver, ReceiverOptions
from onboard.store.disk import RealDisk, replace_file
from onboard.store.layout import StateLayout, make_state_directories
from protocol.exchange import Outbox
from protocol.frame import FrameCodec
from protocol.link_keys import Direction

KEY = bytes(range(32))


class TakingSink:
    """Consumes everything, durably and idempotently."""

    def __init__(self, folder):
        self._folder = folder

    def is_complete(self, handle):
        return (self._folder / handle.hex()).exists()

    async def object_ready(self, handle, kind, path, size, sha256):
        replace_file(self._folder / handle.hex(), path.read_bytes())
        return Verdict.CONSUMED

    def report_status(self):
        return ReportStatus()


async def main(state_dir):
    layout = StateLayout(state_dir)
    make_state_directories(layout, RealDisk())
    taken = state_dir / "taken"
    taken.mkdir(exist_ok=True)
    sink = TakingSink(taken)
    receiver = Receiver(
        ("127.0.0.1", 0),
        layout,
        FrameCodec(Direction.UP, KEY),
        FrameCodec(Direction.DOWN, KEY),
        sink,
        sink,
        Outbox(retry_s=1.0),
        b"sessn!",
        ReceiverOptions(report_interval_s=0.01, report_bytes_per_s=1e6, sync_interval_s=0.25),
    )
    running = asyncio.create_task(receiver.run(asyncio.Event()))
    await receiver.started.wait()
    print(receiver.address[1], flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
