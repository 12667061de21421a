"""kill -9 at random moments: what was reported is there in the next life, and every object comes out whole."""

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocol.frame import FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.objects import ObjectKind
from protocol.report import SOLVED, Report
from tests.fakes.receiving import KEY, Source, make_object

ROOT = Path(__file__).parents[2]
UP, DOWN = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
ESIS_AT_ONCE = 64


class Process:
    """One life."""

    def __init__(self, state_dir):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.receiver_process", state_dir],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", int(self._process.stdout.readline())))
        self._socket.settimeout(0.001)

    def send(self, frames):
        for frame in frames:
            self._socket.send(UP.encode(frame))

    def reports(self):
        try:
            while True:
                frame = DOWN.decode(self._socket.recv(4096))
                if frame.kind is FrameKind.REPORT:
                    yield Report.decode(frame.payload)
        except TimeoutError:
            return

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._socket.close()


class Sender:
    """Sends ever new symbols of what is not complete, with loss, and remembers what reports said."""

    def __init__(self, sources, rng, taken):
        self._rng, self._taken = rng, taken
        self._sources = {source.handle: source for source in sources}
        self._next = {(s.handle, block): 0 for s in sources for block in range(s.layout.num_blocks)}
        self.complete, self.claims = set(), {}

    @property
    def is_done(self):
        return self.complete == set(self._sources)

    def fly(self, process, for_s):
        """Send for so long, or until all is complete."""
        until = time.monotonic() + for_s
        if not self.is_done:
            self._probe(process)
        while time.monotonic() < until and not self.is_done:
            process.send(self._frames())
            for report in process.reports():
                self._note(report)

    def _probe(self, process):
        """Make a new life report before it is given anything that it did not have."""
        source = next(source for handle, source in self._sources.items() if handle not in self.complete)
        first = source.frames(0, 0, 1)
        report = None
        while report is None:
            process.send(first)
            report = next(process.reports(), None)
        found = {(entry.handle, entry.block): entry.have for entry in report.open_blocks}
        for (handle, block), have in self.claims.items():
            is_used = (self._taken / handle.hex()).exists()
            assert is_used or found.get((handle, block), 0) >= have, "less than was reported"

    def _frames(self):
        waiting = [key for key in self._next if key[0] not in self.complete and self.claims.get(key) != SOLVED]
        for handle, block in waiting[:2]:
            first = self._next[handle, block]
            self._next[handle, block] += ESIS_AT_ONCE
            frames = self._sources[handle].frames(block, first, ESIS_AT_ONCE)
            yield from (frame for frame in frames if self._rng.random() > 0.1)

    def _note(self, report):
        self.complete |= set(report.complete)
        self.claims.update({(entry.handle, entry.block): entry.have for entry in report.open_blocks})


def fly_through_kills(state_dir, seed, num_kills):
    rng = random.Random(seed)
    sources = [
        Source(make_object(rng, size, ObjectKind.BUNDLE), symbol_size=1280) for size in (300_000, 30_000, 700_000)
    ]
    sender = Sender(sources, rng, state_dir / "taken")
    for _ in range(num_kills):
        process = Process(state_dir)
        sender.fly(process, rng.uniform(0.02, 0.3))
        process.kill()
    process = Process(state_dir)
    sender.fly(process, 45)
    process.kill()

    taken = {path.name: path.read_bytes() for path in (state_dir / "taken").iterdir()}
    assert taken == {source.handle.hex(): source.data for source in sources}


def test_three_kills_cost_nothing_that_was_reported(tmp_path):
    fly_through_kills(tmp_path, seed=7, num_kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_kills_cost_nothing_that_was_reported(tmp_path, seed):
    fly_through_kills(tmp_path, seed, num_kills=12)
