"""The model satellite on a UDP socket, in a thread: for tests of shells that want a real address to talk to."""

import random
import select
import socket
import threading
import time

from tests.fakes.satellite import FakeSatellite

SO_RCVBUFFORCE = 33  # of Linux; the socket module does not name it


def make_roomy(receiver, size_bytes=8 << 20):
    """Let a socket hold what comes while its thread waits for a busy machine; beyond the usual only root may."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size_bytes)
    except OSError:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)


class SatelliteOnUdp:
    """Use it in a `with`; `address` is where it listens.

    Args:
        satellite: what answers.
        loss: share of datagrams lost on the way up.
        on_command: called with (satellite, handle, bytes) of each whole command object.
    """

    def __init__(self, satellite: FakeSatellite, *, loss=0.0, seed=1, on_command=None):
        self.satellite, self.loss, self.rng, self.on_command = satellite, loss, random.Random(seed), on_command
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        make_roomy(self.socket)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.peer = None
        self.num_up = 0
        self.bytes_up = 0
        self.lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self):
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.socket.close()

    def _run(self):
        while not self._stop.is_set():
            select.select([self.socket], [], [], 0.01)
            with self.lock:
                self._turn(time.monotonic())
        with self.lock:  # what was sent before the end is counted, however late this thread had its turns
            while select.select([self.socket], [], [], 0)[0]:
                self._turn(time.monotonic())

    def _turn(self, now):
        for _ in range(256):
            try:
                data, self.peer = self.socket.recvfrom(65535)
            except OSError:
                break
            self.num_up += 1
            self.bytes_up += len(data)
            if self.rng.random() >= self.loss:
                self.satellite.receive(data, now)
        for data in self.satellite.advance(now):
            self.socket.sendto(data, self.peer)
        if self.on_command is not None:
            for handle, data in self.satellite.take_commands():
                self.on_command(self.satellite, handle, data, now)
